"""Frames sensor: lets the part `gpu` follow the part `cpu` by itself. Dagster's sensors, over the events of `frame_sets`.

Not here: what is stale though no frames are new, such as after another model revision; that is a schedule's to repair.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from curation_assets.configuration import load_config, resolve_settings
from curation_assets.curation.status import is_behind
from curation_assets.curation.warehouse import SourceRun, Warehouse
from curation_assets.defs.partitions import video_sources
from curation_assets.defs.run_history import is_waited_for
from curation_assets.engine.local import LocalEngine
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.schemas.table import TableSpec
from curation_assets.settings import Config, SettingsError
from curation_assets.storage.errors import StoreError

EVENTS_PER_TICK = 1000
TICK_TIME_S = 40.0  # Dagster ends ticks after 60 s
INTERVAL_S = 30


def build_frames_sensor(
    job_name: str, tables: Sequence[TableSpec], *, path: Path | None, overrides: Mapping[str, Any] | None
) -> dg.SensorDefinition:
    """Build the sensor.

    Args:
        job_name: the job that it requests, for one source.
        tables: what the job makes.
        path: settings file.
        overrides: of the definitions.
    """

    @dg.sensor(
        name="frame_sets_stored_sensor",
        job_name=job_name,
        minimum_interval_seconds=INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Requests {job_name} for a source whose frames were stored, when the models' tables are behind them.",
    )
    def frame_sets_stored_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        """Look at the sources of new events."""
        try:
            return _tick(context, job_name, load_config(path, overrides), overrides or {}, tables)
        except StoreError as error:  # the cursor stays, so that the next tick sees the same events
            return dg.SensorResult(skip_reason=dg.SkipReason(f"the warehouse could not be read: {error}"), cursor=context.cursor)

    return frame_sets_stored_sensor


def _tick(
    context: dg.SensorEvaluationContext, job_name: str, config: Config, overrides: Mapping[str, Any], tables: Sequence[TableSpec]
) -> dg.SensorResult:
    """Request the sources that are behind, in the order of their events, until the time is up."""
    deadline = time.monotonic() + TICK_TIME_S
    events = _events(context.instance, after=int(context.cursor or 0))
    newest = dict(events)
    known = set(video_sources.get_partition_keys(dynamic_partitions_store=context.instance))
    warehouse, requests, cursor = Warehouse.of(config), [], context.cursor
    seen: set[str] = set()
    for name, event in events:
        if name not in seen:
            if seen and time.monotonic() > deadline:
                break
            seen.add(name)
            if (
                name in known
                and not is_waited_for(context.instance, job_name, name)
                and _is_behind(context, name, config, overrides, warehouse, tables)
            ):
                requests.append(dg.RunRequest(run_key=f"{name}:{newest[name]}", partition_key=name))
        cursor = str(event)
    reason = None if requests else dg.SkipReason(f"{len(seen)} sources have new frames, none is behind with them")
    return dg.SensorResult(run_requests=requests, skip_reason=reason, cursor=cursor)


def _events(instance: dg.DagsterInstance, *, after: int) -> list[tuple[str, int]]:
    """List the sources whose frames were stored, with the number of the event, in that order."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(dg.AssetKey(FRAME_SETS.asset_key), after_storage_id=after), limit=EVENTS_PER_TICK, ascending=True
    ).records
    return [(record.partition_key, record.storage_id) for record in records if record.partition_key]


def _is_behind(
    context: dg.SensorEvaluationContext,
    name: str,
    config: Config,
    overrides: Mapping[str, Any],
    warehouse: Warehouse,
    tables: Sequence[TableSpec],
) -> bool:
    try:
        record = warehouse.registry.get(name)
        settings = resolve_settings(config.processing(), record.settings, overrides, where=f"settings of source {name!r}")
    except SettingsError as error:  # removed meanwhile, or its settings are wrong, which its runs tell
        context.log.warning(f"{name}: {error}")
        return False
    run = SourceRun(record, settings, warehouse, LocalEngine(workers=0))
    return any(is_behind(run, spec) for spec in tables)
