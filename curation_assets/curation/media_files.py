"""Media files: what lies under `<warehouse>/media`, and that nothing lies there which no row names."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import psutil

from curation_assets.curation.fingerprints import fingerprint
from curation_assets.curation.warehouse import SourceRun
from curation_assets.schemas.table import TableSpec
from curation_assets.settings import EngineSettings
from curation_assets.storage.errors import NotFound
from curation_assets.storage.objects import ObjectInfo

ORPHAN_AGE = timedelta(hours=1)
"""A younger file may be one that a worker has just put there, and whose row comes with the next commit."""


def media_sizes(run: SourceRun, spec: TableSpec) -> dict[str, int]:
    """List one asset's media of one source: bytes by key."""
    prefix = run.warehouse.layout.media_prefix(spec.asset, run.source)
    try:
        return {info.key: info.size_bytes for page in run.warehouse.store.list_pages(prefix) for info in page}
    except NotFound:
        return {}


def delete_media(run: SourceRun, keys: Collection[str]) -> None:
    """Delete media files; those that do not exist are fine."""
    for key in sorted(keys):
        run.warehouse.store.delete(key)


def sweep_media(run: SourceRun, spec: TableSpec, *, older_than: timedelta = ORPHAN_AGE) -> int:
    """Delete the media of one asset and source that no row names: what killed runs have put there. Call it while holding the table's lease.

    Args:
        run: the source.
        spec: the table whose rows name the files.
        older_than: younger ones stay.

    Returns:
        How many were deleted.
    """
    store, before = run.warehouse.store, datetime.now(UTC) - older_than
    num_deleted: int = store.delete_temporary(run.warehouse.layout.media_prefix(spec.asset, run.source), before=before)
    for info in orphaned_media(run, spec, before=before):
        store.delete(info.key)
        num_deleted += 1
    return num_deleted


def orphaned_media(run: SourceRun, spec: TableSpec, *, before: datetime) -> Iterator[ObjectInfo]:
    """List the media of one asset and source that no row names.

    Args:
        run: the source.
        spec: the table whose rows name the files.
        before: younger ones are left out.
    """
    snapshot = run.table(spec).snapshot()
    named: list[int] = []
    if snapshot is not None:
        for batch in snapshot.all_items(["uri"], where="uri IS NOT NULL"):
            named.extend(_short(uri) for uri in batch.column("uri").to_pylist())
    # eight bytes each: a source may have millions. Two keys with one hash would only keep a file too long
    known = np.unique(np.array(named, dtype=np.uint64))
    try:
        for page in run.warehouse.store.list_pages(run.warehouse.layout.media_prefix(spec.asset, run.source)):
            for info in page:
                place = int(np.searchsorted(known, np.uint64(_short(info.key))))
                is_named = place < len(known) and int(known[place]) == _short(info.key)
                if not is_named and info.last_modified <= before:
                    yield info
    except NotFound:
        return


def work_folder(engine: EngineSettings) -> str:
    """Return the folder in which workers make files before they are put into the warehouse, less what killed workers have left there."""
    folder = Path(engine.cache_dir or tempfile.gettempdir()) / f"curation-assets-work-{os.geteuid()}"  # others may not write in ours
    for left in folder.glob("*-*"):
        pid = left.name.partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    return os.fspath(folder)


def _short(key: str) -> int:
    return int(fingerprint(key)[:16], 16)
