"""Maintain: keeps a warehouse small and quick: merges small files of tables, and removes what nothing needs any more.

Nothing here waits for a run or stands in its way: a table that a run is writing is left for the next time. Every step is one that may end anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from curation_assets.curation.corpus import CorpusRun
from curation_assets.curation.media_files import ORPHAN_AGE, orphaned_media
from curation_assets.curation.shards import with_shards
from curation_assets.curation.warehouse import Warehouse, corpus_specs, table_specs
from curation_assets.schemas.table import TableSpec
from curation_assets.settings import Config, SettingsError
from curation_assets.storage.errors import LeaseHeld, LeaseLost, NotFound, StoreError
from curation_assets.storage.leases import Lease
from curation_assets.storage.upkeep import Dropped, drop_old_versions

LEAST_AGE = timedelta(hours=6)
LEASE_AGE = timedelta(days=1)
"""A run writes its lease anew every few seconds: one that nobody has written to for a day is nobody's."""
TEMPORARY_AGE = timedelta(days=1)
_WRITTEN = ("sources/", "tables/", "media/", "leases/", "changes/", "watch/", "queues/")  # all folders of a warehouse
_MOST_DELETED = 0.1
_RUN_ID = "maintain"


@dataclass(frozen=True, slots=True)
class MaintainOptions:
    """What to do.

    Attributes:
        older_than: time since a version of a table was replaced, after which it is dropped.
        is_dry_run: say what would go, and change nothing.
        is_alone: nothing else uses the warehouse: any age is allowed, and files of killed writes go at once.
        remove_left_over: delete the tables and media of sources, models and stages that the settings do not have any more.
        sources: only tables of these; empty for all, and for all that is not of one source.

    Raises:
        SettingsError: `older_than` is too short for a warehouse that others may be using, or of one source with `remove_left_over`.
    """

    older_than: timedelta
    is_dry_run: bool = False
    is_alone: bool = False
    remove_left_over: bool = False
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.older_than < LEAST_AGE and not self.is_alone:
            raise SettingsError(
                f"versions that were replaced less than {LEAST_AGE / timedelta(hours=1):g} hours ago may still be read by a run or a search: give at least "
                f"--older-than {LEAST_AGE / timedelta(days=1):g}, or stop everything that uses the warehouse and add --alone"
            )
        if self.remove_left_over and self.sources:
            raise SettingsError("--remove-left-over is for the whole warehouse; leave --source out")


@dataclass(frozen=True, slots=True)
class TableUpkeep:
    """What was done for one table.

    Attributes:
        table: folder in the warehouse.
        state: done; busy: a run is writing it; failed; left_over: of a source, model or stage that is not there any more; removed: one of these, now gone.
        detail: why not, in words.
        fragments_merged: small files that were merged into larger ones; always 0 in a dry run.
        versions_dropped: old versions.
        files_removed: media that no row names; of a table that is removed, all its objects.
        bytes_freed: of both.
    """

    table: str
    state: str
    detail: str | None = None
    fragments_merged: int = 0
    versions_dropped: int = 0
    files_removed: int = 0
    bytes_freed: int = 0


@dataclass(slots=True)
class MaintenanceReport:
    """What was done.

    Attributes:
        is_dry_run: nothing was changed; the numbers say what would be.
        tables: one entry each.
        temporary_removed: files of writes that were killed.
        leases_removed: leases of runs that are gone.
    """

    is_dry_run: bool
    tables: list[TableUpkeep] = field(default_factory=list)
    temporary_removed: int = 0
    leases_removed: int = 0

    def of_state(self, state: str) -> list[TableUpkeep]:
        """List the tables of one state."""
        return [table for table in self.tables if table.state == state]

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready document."""
        totals = ("fragments_merged", "versions_dropped", "files_removed", "bytes_freed")
        gone = [table for table in self.tables if table.state != "left_over"]
        return {**asdict(self), **{name: sum(getattr(table, name) for table in gone) for name in totals}}


def maintain(config: Config, options: MaintainOptions, *, log: Callable[[str], None] = lambda _: None) -> MaintenanceReport:
    """Maintain a warehouse.

    Args:
        config: settings.
        options: what to do.
        log: gets a line per table to which something was done.

    Raises:
        SettingsError: an unknown source.
        StoreError: the warehouse cannot be listed; what fails for one table is said of that table.
    """
    if not options.is_dry_run:
        Warehouse.of(config).registry.sync(config)  # a source that the settings file has is not left over
    run = CorpusRun(config, run_id=_RUN_ID, log=log)
    options = replace(options, sources=tuple(with_shards(options.sources, run.sources)))
    if unknown := set(options.sources) - set(run.sources):
        raise SettingsError(f"no source named {min(unknown)!r}; known: {', '.join(run.sources) or 'none yet'}")
    report = MaintenanceReport(options.is_dry_run)

    def add(done: TableUpkeep) -> None:
        report.tables.append(done)
        if any((done.detail, done.fragments_merged, done.versions_dropped, done.files_removed)):
            log(_line(done))

    store = run.warehouse.store
    found = set(_lance_folders(store, "tables/"))
    found |= {f"tables/{folder.removeprefix('media/').rstrip('/')}.lance" for folder in _leaf_folders(store, "media/")}
    wanted: set[str] = set()
    for key, keep in _wanted_tables(run, options):
        wanted.add(key)
        if key in found and (not options.sources or key.split("/")[-1].removesuffix(".lance") in options.sources):
            add(_guarded(key, keep))
    if options.sources:
        return report
    for key in sorted(found - wanted):
        done = _guarded(key, lambda key=key: _left_over(run.warehouse, key, options))  # type: ignore[misc]
        if done.files_removed or done.state in ("busy", "failed"):  # on a disk, the folders of a table that was deleted stay
            add(done)
    before = datetime.now(UTC) - (timedelta(0) if options.is_alone else TEMPORARY_AGE)
    for prefix in _WRITTEN:
        report.temporary_removed += store.delete_temporary(prefix, before=before, is_dry_run=options.is_dry_run)
    report.leases_removed = _drop_leases(store, datetime.now(UTC) - LEASE_AGE, is_dry_run=options.is_dry_run)
    return report


def _wanted_tables(run: CorpusRun, options: MaintainOptions) -> Iterator[tuple[str, Callable[[], TableUpkeep]]]:
    """Yield the folder of every table that the settings make, and what is to be done for it."""
    layout = run.warehouse.layout
    for name, (_, settings) in run.sources.items():
        for spec in table_specs(settings):
            yield layout.table_key(spec.asset, name), lambda name=name, spec=spec: _keep_table(run, spec, name, options)  # type: ignore[misc]
    for spec in corpus_specs(run.config):
        yield layout.table_key(spec.asset), lambda spec=spec: _keep_table(run, spec, None, options)  # type: ignore[misc]


def _guarded(key: str, keep: Callable[[], TableUpkeep]) -> TableUpkeep:
    """Do what is to be done for one table; what goes wrong is said of it, and the others get theirs."""
    try:
        return keep()
    except LeaseHeld as error:
        return TableUpkeep(key, "busy", f"left for the next time: {error}")
    except LeaseLost as error:
        return TableUpkeep(key, "busy", str(error))
    except StoreError as error:
        return TableUpkeep(key, "failed", str(error))


def _keep_table(run: CorpusRun, spec: TableSpec, source: str | None, options: MaintainOptions) -> TableUpkeep:
    """Merge small files, drop old versions, and sweep the media of one table."""
    layout, store = run.warehouse.layout, run.warehouse.store
    done = TableUpkeep(layout.table_key(spec.asset, source), "done")
    with _lease(run.warehouse, layout.lease_prefix(spec.asset, source), options) as lease:
        table = run.table(spec) if source is None else run.warehouse.table(spec, source)
        if source is not None and lease is not None:
            while merged := run.warehouse.table(spec, source).compact(max_fragments=1, max_deleted_share=_MOST_DELETED):
                done = replace(done, fragments_merged=done.fragments_merged + merged)
                lease.check()
        snapshot = table.snapshot()
        dropped = Dropped()
        if snapshot is not None:
            dropped = drop_old_versions(snapshot, options.older_than, is_dry_run=options.is_dry_run, is_alone=options.is_alone)
        num_files = num_bytes = 0
        if source is not None and spec.media_keys:
            before = datetime.now(UTC) - (timedelta(0) if options.is_alone else ORPHAN_AGE)
            for info in orphaned_media(run.source_run(source), spec, before=before):
                num_files += 1
                num_bytes += info.size_bytes
                if not options.is_dry_run:
                    store.delete(info.key)
    return replace(done, versions_dropped=dropped.num_versions, files_removed=num_files, bytes_freed=dropped.num_bytes + num_bytes)


def _left_over(warehouse: Warehouse, key: str, options: MaintainOptions) -> TableUpkeep:
    """Count, or remove where that was asked for, a table and its media that the settings do not have any more."""
    path = key.removeprefix("tables/").removesuffix(".lance")
    is_removed = options.remove_left_over and not options.is_dry_run
    num_files = num_bytes = 0
    with _lease(warehouse, f"leases/{path}/", options) if is_removed else nullcontext():
        for prefix in (f"{key}/", f"media/{path}/"):
            for info in _objects(warehouse.store, prefix):
                num_files += 1
                num_bytes += info.size_bytes
                if is_removed:
                    warehouse.store.delete(info.key)
    detail = None if options.remove_left_over else "no source, model or stage of the settings makes it; --remove-left-over deletes it"
    return TableUpkeep(key, "removed" if options.remove_left_over else "left_over", detail, files_removed=num_files, bytes_freed=num_bytes)


def _lease(warehouse: Warehouse, prefix: str, options: MaintainOptions) -> AbstractContextManager[Lease | None]:
    """Hold a table's lease, if nobody does; a dry run holds none."""
    return nullcontext() if options.is_dry_run else Lease(warehouse.store, prefix, run_id=_RUN_ID, wait_s=0)


def _drop_leases(store: Any, before: datetime, *, is_dry_run: bool) -> int:
    stale = [info.key for info in _objects(store, "leases/") if info.last_modified <= before]
    for key in stale if not is_dry_run else ():
        store.delete(key)
    return len(stale)


def _objects(store: Any, prefix: str) -> Iterator[Any]:
    try:
        for page in store.list_pages(prefix):
            yield from page
    except NotFound:
        return


def _lance_folders(store: Any, prefix: str) -> Iterator[str]:
    """Yield the folders of all tables, without looking into them."""
    for name in store.folders(prefix):
        if name.endswith(".lance"):
            yield prefix + name
        else:
            yield from _lance_folders(store, f"{prefix}{name}/")


def _leaf_folders(store: Any, prefix: str) -> Iterator[str]:
    names = store.folders(prefix)
    if not names and prefix != "media/":
        yield prefix
    for name in names:
        yield from _leaf_folders(store, f"{prefix}{name}/")


def _line(done: TableUpkeep) -> str:
    said = [
        f"{done.fragments_merged} files merged" if done.fragments_merged else "",
        f"{done.versions_dropped} old versions" if done.versions_dropped else "",
        f"{done.files_removed} files" if done.files_removed else "",
        f"{done.bytes_freed / 1e6:.1f} MB" if done.bytes_freed else "",
        done.detail or "",
    ]
    return f"{done.table}: {', '.join(word for word in said if word)}"
