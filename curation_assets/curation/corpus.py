"""Corpus: one run over all sources, for the tables that are made as a whole: made anew when what they are made from has changed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from curation_assets.configuration import resolve_settings
from curation_assets.curation.sources import SourceRecord
from curation_assets.curation.summaries import Summaries
from curation_assets.curation.warehouse import SourceRun, Warehouse, table_specs
from curation_assets.engine.local import LocalEngine
from curation_assets.schemas.clip_scores import SCORER_TABLES
from curation_assets.schemas.table import TableSpec
from curation_assets.schemas.transcoded_clips import TRANSCODED_CLIPS
from curation_assets.settings import Config, ProcessingSettings
from curation_assets.storage.corpus import CorpusTable
from curation_assets.storage.layout import shard_index, shard_name, shard_of

if TYPE_CHECKING:
    from curation_assets.storage.views import SqlConnection


@dataclass(frozen=True, slots=True)
class CorpusReport:
    """What one run of a corpus stage did.

    Attributes:
        num_rows: of the table.
        is_unchanged: what the table is made from had not changed, so that nothing was done.
        facts: numbers about the rows, kept with the table.
        seconds: wall time.
    """

    num_rows: int
    is_unchanged: bool
    facts: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True)
class CorpusRun:
    """All sources in one run.

    Attributes:
        config: settings, this run's overrides applied.
        overrides: this run's, which win over the sources' own settings.
        run_id: Dagster run, or None.
        log: gets a line now and then.
    """

    config: Config
    overrides: Mapping[str, Any] = field(default_factory=dict)
    run_id: str | None = None
    log: Callable[[str], None] = field(default=lambda _: None)

    @cached_property
    def warehouse(self) -> Warehouse:
        """Where tables lie."""
        return Warehouse.of(self.config)

    @cached_property
    def sources(self) -> dict[str, tuple[SourceRecord, ProcessingSettings]]:
        """Every source with its own settings, by name, sorted."""
        base = self.config.processing()
        resolved: dict[str, ProcessingSettings] = {}  # thousands of sources have few different settings
        found = {}
        for name, record in self.warehouse.registry.records().items():
            own = json.dumps(record.settings, sort_keys=True)
            if own not in resolved:
                resolved[own] = resolve_settings(base, record.settings, self.overrides, where=f"source {name!r}")
            found[name] = (record, resolved[own])
        return found

    @cached_property
    def _shards(self) -> dict[str, int]:
        found = ((record.plain_name, shard_of(name)) for name, (record, _) in self.sources.items())
        return {name: shard[1] for name, shard in found if shard is not None}

    def partition_of(self, source: str, video_id: str) -> str:
        """Name the partition whose tables have a video: its source, or one of its source's shards.

        Args:
            source: as the column `source` has it.
            video_id: of the video.
        """
        num_shards = self._shards.get(source)
        return source if num_shards is None else shard_name(source, shard_index(video_id, num_shards), num_shards)

    @cached_property
    def summaries(self) -> Summaries:
        """What is remembered of the sources' tables, as they are when it is first asked."""
        specs = (*table_specs(self.config), *SCORER_TABLES.values(), TRANSCODED_CLIPS)
        return Summaries(self.warehouse, list({spec.asset for spec in specs}), log=self.log)

    def table(self, spec: TableSpec) -> CorpusTable:
        """One corpus table."""
        return self.warehouse.corpus_table(spec)

    def source_run(self, name: str) -> SourceRun:
        """One source, for reading its tables."""
        record, settings = self.sources[name]
        return SourceRun(record, settings, self.warehouse, LocalEngine(workers=0), run_id=self.run_id, log=self.log)

    def connect(self) -> SqlConnection:
        """Open all tables for SQL."""
        from curation_assets.curation.query import connect_config  # DuckDB is not needed to load the definitions

        return connect_config(self.config, self.overrides)

    def data_versions(self, spec: TableSpec) -> dict[str, str]:
        """Hash what one table says, by source; of sources that have none, of nothing."""
        return self.summaries.values(
            f"version of {spec.asset}", list(self.sources), lambda name: self.warehouse.table(spec, name).data_version()
        )

    @contextmanager
    def writing(self, spec: TableSpec) -> Iterator[CorpusTable]:
        """Hold the lease of a corpus table; another run that holds it is waited for."""
        with self.warehouse.lease(spec, None, run_id=self.run_id or "no run", on_wait=self.log):
            yield self.table(spec)


def unchanged(table: CorpusTable, expected: str, started: float) -> CorpusReport | None:
    """Report a table that was made from the same, None when it has to be made."""
    if table.fingerprint() != expected:
        return None
    return CorpusReport(table.num_rows(), True, table.facts(), time.monotonic() - started)
