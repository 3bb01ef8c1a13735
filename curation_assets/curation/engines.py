"""Engines: which one the settings choose for a source."""

from __future__ import annotations

import importlib.util

from curation_assets.curation.sources import SourceRecord
from curation_assets.curation.warehouse import Warehouse
from curation_assets.engine.local import LocalEngine
from curation_assets.engine.ray import RayEngine
from curation_assets.settings import EngineSettings, SettingsError
from curation_assets.storage.objects import split_uri

EngineKey = tuple[str, tuple[str, ...]]


def engine_key(settings: EngineSettings, record: SourceRecord, warehouse: Warehouse) -> EngineKey:
    """Give what an engine depends on: sources with the same key share one."""
    return settings.model_dump_json(include={"kind", "workers", "timeout_s", "ray"}), _local_paths(settings, record, warehouse)


def build_engine(settings: EngineSettings, record: SourceRecord, warehouse: Warehouse) -> LocalEngine | RayEngine:
    """Make the engine that the settings choose; nothing starts before the first piece.

    Args:
        settings: `engine`.
        record: the source; where it is a local folder, every node has to see that.
        warehouse: where files go; the same.

    Raises:
        SettingsError: the package that it needs is not installed.
    """
    if settings.kind == "local":
        return LocalEngine(workers=settings.workers, timeout_s=settings.timeout_s)
    if importlib.util.find_spec("ray") is None:
        raise SettingsError(
            "engine.kind is ray, and Ray is not installed here: pip install 'curation_assets[ray]', or set engine.kind: local"
        )
    paths = _local_paths(settings, record, warehouse)
    return RayEngine(workers=settings.workers, timeout_s=settings.timeout_s, paths=paths, **settings.ray.model_dump())


def _local_paths(settings: EngineSettings, record: SourceRecord, warehouse: Warehouse) -> tuple[str, ...]:
    """List the folders that nodes have to share. A manifest is read here, and its objects may lie anywhere."""
    if settings.kind == "local":
        return ()
    parts = [split_uri(uri) for uri in ([] if record.is_manifest else [record.uri]) + [warehouse.uri]]
    return tuple(key for scheme, _, key in parts if scheme == "file")
