"""Project: a folder of videos, a warehouse, and the stages in order, without Dagster."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curation_assets.configuration import merge, resolve_settings
from curation_assets.curation.clips import update_clips
from curation_assets.curation.embeddings import update_embeddings
from curation_assets.curation.frame_sets import update_frame_sets
from curation_assets.curation.incremental import StageReport
from curation_assets.curation.previews import update_previews
from curation_assets.curation.raw_videos import update_raw_videos
from curation_assets.curation.sources import SourceRecord
from curation_assets.curation.status import failures, source_status
from curation_assets.curation.transcoded_clips import update_transcoded_clips
from curation_assets.curation.warehouse import SourceRun, Warehouse, table_specs
from curation_assets.engine.local import LocalEngine
from curation_assets.settings import Config, SourceSettings

STAGES = {
    "raw_videos": update_raw_videos,
    "clips": update_clips,
    "frame_sets": update_frame_sets,
    "embeddings": lambda run: update_embeddings(run, "fingerprint"),
}
MEDIA_STAGES = {**STAGES, "transcoded_clips": update_transcoded_clips, "previews": lambda run: update_previews(run, "240p")}
# most tests are about tables, and writing files of clips takes its time
WITHOUT_MEDIA = Config(storage_options={}, transcoded_clips={"enabled": False}, previews={})
WITH_MEDIA = Config(storage_options={})


@dataclass
class Project:
    """One source and its warehouse."""

    videos: Path
    warehouse_uri: str
    settings: dict[str, Any] = field(default_factory=dict)
    uri: str | None = None
    storage_options: dict[str, str] = field(default_factory=dict)
    engine: LocalEngine = field(default_factory=lambda: LocalEngine(workers=0))
    config: Config = WITHOUT_MEDIA

    @property
    def warehouse(self) -> Warehouse:
        return Warehouse(self.warehouse_uri, self.storage_options)

    def source(self, settings: dict[str, Any] | None = None, **extra: Any) -> SourceRun:
        record = SourceRecord.from_settings("test", SourceSettings(uri=self.uri or str(self.videos), storage_options=self.storage_options))
        resolved = resolve_settings(self.config.processing(), None, merge(self.settings, settings or {}))
        return SourceRun(record, resolved, self.warehouse, self.engine, **extra)

    def run(self, settings: dict[str, Any] | None = None, stages: tuple[str, ...] | None = None, **extra: Any) -> dict[str, StageReport]:
        source = self.source(settings, **extra)
        known = MEDIA_STAGES if self.config is WITH_MEDIA else STAGES
        return {name: known[name](source) for name in stages or known}

    def work(self, settings: dict[str, Any] | None = None, **extra: Any) -> dict[str, int]:
        """Run, and say how many videos each stage worked on."""
        return {name: report.num_work for name, report in self.run(settings, **extra).items()}

    def versions(self, settings: dict[str, Any] | None = None) -> dict[str, str]:
        source = self.source(settings)
        return {spec.asset: source.table(spec).data_version() for spec in table_specs(source.settings)}

    def status(self, settings: dict[str, Any] | None = None) -> dict[str, Any]:
        return source_status(self.source(settings))

    def failures(self) -> list[dict[str, Any]]:
        return list(failures(self.source()))

    def rows(self, asset: str, columns: list[str], settings: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        source = self.source(settings)
        spec = next(spec for spec in table_specs(source.settings) if spec.asset == asset)
        return [row for batch in source.table(spec).scan_blobs(columns) for row in batch.to_pylist()]
