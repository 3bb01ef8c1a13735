"""Warehouse: one place that knows the store, the layout and the tables, and the state of one source in one run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import pyarrow as pa

from curation_assets.curation.incremental import Engine, Writer
from curation_assets.curation.progress import Listener, Progress
from curation_assets.curation.sources import SourceRecord, SourceRegistry
from curation_assets.models import registry
from curation_assets.schemas.clip_scores import SCORER_TABLES
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.curated_clips import CURATED_CLIPS
from curation_assets.schemas.duplicates import duplicates_table
from curation_assets.schemas.embeddings import embeddings_table
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.schemas.previews import previews_table
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.schemas.search_index import search_index_table
from curation_assets.schemas.table import TableSpec
from curation_assets.schemas.transcoded_clips import TRANSCODED_CLIPS
from curation_assets.settings import Config, ProcessingSettings, SettingsError
from curation_assets.storage.changes import ChangeMarks
from curation_assets.storage.corpus import CorpusTable
from curation_assets.storage.layout import Layout
from curation_assets.storage.leases import Lease
from curation_assets.storage.objects import open_store
from curation_assets.storage.tables import VideoTable


class Header(NamedTuple):
    """What a video's header row says."""

    fingerprint: str
    outcome: str
    content_hash: str
    num_rows: int


class Warehouse:
    """Tables, registry and leases of one warehouse.

    Args:
        uri: local folder or object store prefix.
        storage_options: options of the object store, no credentials.
    """

    def __init__(self, uri: str, storage_options: Mapping[str, str] | None = None) -> None:
        self.uri = uri
        self.storage_options = dict(storage_options or {})
        self.layout = Layout(uri)

    @classmethod
    def of(cls, config: Config) -> Warehouse:
        """Open the warehouse that the settings name."""
        return cls(config.warehouse, config.storage_options)

    @cached_property
    def store(self) -> Any:
        """The object store that holds everything."""
        return open_store(self.uri, options=self.storage_options)

    @cached_property
    def registry(self) -> SourceRegistry:
        """What the sources are."""
        return SourceRegistry(self.store, self.layout)

    @cached_property
    def changes(self) -> ChangeMarks:
        """What tells, without a table being opened, whether a source's tables changed."""
        return ChangeMarks(lambda: self.store, self.layout)

    def table(self, spec: TableSpec, source: str) -> VideoTable:
        """One source's table; opened when it is used."""
        uri = self.layout.table_uri(spec.asset, source)
        announce = functools.partial(self.changes.begin, spec.asset, source)
        return VideoTable(uri, spec, source=source, storage_options=self.storage_options, before_write=announce)

    def corpus_table(self, spec: TableSpec) -> CorpusTable:
        """One table over all sources; opened when it is used."""
        return CorpusTable(self.layout.table_uri(spec.asset), spec, storage_options=self.storage_options)

    def headers(self, spec: TableSpec, source: str) -> dict[str, Header]:
        """Read the header rows of one source's table, by video_id."""
        rows = self.table(spec, source).headers(["video_id", "fingerprint", "outcome", "content_hash", "num_rows"])
        columns = (rows.column(name).to_pylist() for name in ("fingerprint", "outcome", "content_hash", "num_rows"))
        return dict(zip(rows.column("video_id").to_pylist(), map(Header, *columns), strict=True))

    def lease(self, spec: TableSpec, source: str | None, *, run_id: str, on_wait: Callable[[str], None]) -> Lease:
        """The right to write one source's table, or a corpus table (source None)."""
        return Lease(self.store, self.layout.lease_prefix(spec.asset, source), run_id=run_id, on_wait=on_wait)


@dataclass(frozen=True)
class SourceRun:
    """One source in one run: what every stage needs to know.

    Attributes:
        record: the source.
        settings: with the source's and the run's overrides.
        warehouse: where tables lie.
        engine: where pieces of work run.
        run_id: Dagster run, or None.
        limit: most videos that a stage works on, None for all.
        retry_failed: try failed items again although nothing changed.
        listener: gets progress.
        log: gets a line now and then.
    """

    record: SourceRecord
    settings: ProcessingSettings
    warehouse: Warehouse
    engine: Engine
    run_id: str | None = None
    limit: int | None = None
    retry_failed: bool = False
    listener: Listener | None = None
    log: Callable[[str], None] = field(default=lambda _: None)

    @property
    def source(self) -> str:
        """Name of the partition: the source's, or of a shard of it."""
        return self.record.name

    @property
    def plain_name(self) -> str:
        """Name of the source as the column `source` and the ids have it."""
        return self.record.plain_name

    def table(self, spec: TableSpec) -> VideoTable:
        """This source's table."""
        return self.warehouse.table(spec, self.source)

    def read(self, spec: TableSpec, columns: Sequence[str], *, where: str | None = None) -> pa.Table:
        """Read item rows of this source's complete videos; small columns only."""
        schema = pa.schema([spec.schema.field(name) for name in columns])
        return pa.Table.from_batches(self.table(spec).scan(columns, where=where), schema=schema)

    def headers(self, spec: TableSpec) -> dict[str, Header]:
        """Header rows of this source's table, by video_id."""
        return self.warehouse.headers(spec, self.source)

    def limited(self, work: list[str]) -> list[str]:
        """Cut a work list to the run's limit."""
        return work if self.limit is None else work[: self.limit]

    def progress(self, spec: TableSpec, num_total: int) -> Progress:
        """Start counting."""
        return Progress(spec.asset, self.source, num_total, self.listener)

    @contextmanager
    def writing(self, *specs: TableSpec) -> Iterator[Writer]:
        """Hold the leases of some tables and give a writer for them.

        Another run that holds one is waited for. Tables are compacted at the end, when they have many fragments.
        """
        tables = {spec.asset: self.table(spec) for spec in specs}
        with ExitStack() as held:
            leases = [
                held.enter_context(self.warehouse.lease(spec, self.source, run_id=self.run_id or "no run", on_wait=self.log))
                for spec in specs
            ]
            for spec, lease in zip(specs, leases, strict=True):
                held.enter_context(self.warehouse.changes.ending(spec.asset, self.source, check=lease.check))

            def check() -> None:
                for lease in leases:
                    lease.check()

            writer = Writer(tables, source=self.plain_name, run_id=self.run_id, check=check)
            yield writer
            writer.compact()


def corpus_specs(settings: ProcessingSettings) -> list[TableSpec]:
    """List the tables over all sources that these settings make."""
    models = settings.embeddings.models
    return [
        *(duplicates_table(model) for model in models),
        *(search_index_table(model, registry.spec(model).dim) for model in models),
        CURATED_CLIPS,
    ]


def deciding_model(settings: ProcessingSettings) -> str | None:
    """Return the model whose duplicates are left out, None for none.

    Raises:
        SettingsError: `dedup.model` is not among `embeddings.models`.
    """
    models, wanted = settings.embeddings.models, settings.dedup.model
    if wanted == "none" or (wanted == "auto" and not models):
        return None
    if wanted != "auto" and wanted not in models:
        raise SettingsError(f"dedup.model is {wanted!r}; it must be one of embeddings.models {models}, auto, or none")
    return models[0] if wanted == "auto" else wanted


def table_specs(settings: ProcessingSettings) -> list[TableSpec]:
    """List the tables per source that these settings make, in the order of the data.

    Raises:
        SettingsError: a model that the registry does not have.
    """
    try:
        models = {model: registry.spec(model) for model in settings.embeddings.models}
    except ValueError as error:
        raise SettingsError(f"embeddings.models: {error}") from error
    deciding_model(settings)
    return [
        RAW_VIDEOS,
        CLIPS,
        FRAME_SETS,
        *(SCORER_TABLES[name] for name in settings.clip_scores.scorers),
        *(embeddings_table(model, spec.dim) for model, spec in models.items()),
        *([TRANSCODED_CLIPS] if settings.transcoded_clips.enabled else []),
        *(previews_table(name) for name in settings.previews),
    ]
