"""Project: the whole tree, and what a source is."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from curation_assets.presets import PRESETS
from curation_assets.schemas.names import MAX_SHARDS, SHARD_NAME
from curation_assets.settings.automation import AutomationSettings, KubernetesSettings
from curation_assets.settings.base import NAME, Model, StorageOptions, Uri
from curation_assets.settings.engine import EngineSettings
from curation_assets.settings.maintenance import MaintenanceSettings
from curation_assets.settings.queue import QueueSettings
from curation_assets.settings.stages import (
    ClipScoresSettings,
    ClipsSettings,
    DedupSettings,
    EmbeddingsSettings,
    FrameSetsSettings,
    ModelsSettings,
    Preview,
    RawVideosSettings,
    SearchSettings,
    TranscodedClipsSettings,
)
from curation_assets.settings.watch import MAX_WATCH_NAME_LEN, SensorSettings, WatchSettings


class ProcessingSettings(Model):
    """The tree that a source, a command or a run may override."""

    presets: list[str] = Field(
        default_factory=list,
        json_schema_extra={"items": {"enum": list(PRESETS)}},
        description="Named parts of the tree that lie under this one: its own keys win. " + ", ".join(PRESETS),
    )
    raw_videos: RawVideosSettings = RawVideosSettings()
    clips: ClipsSettings = ClipsSettings()
    frame_sets: FrameSetsSettings = FrameSetsSettings()
    clip_scores: ClipScoresSettings = ClipScoresSettings()
    embeddings: EmbeddingsSettings = EmbeddingsSettings()
    models: ModelsSettings = ModelsSettings()
    transcoded_clips: TranscodedClipsSettings = TranscodedClipsSettings()
    previews: dict[str, Preview] = Field({"240p": Preview()}, description="Previews by name; each gets its own asset and table.")
    dedup: DedupSettings = DedupSettings()
    search: SearchSettings = SearchSettings()
    engine: EngineSettings = EngineSettings()
    max_failed_fraction: float = Field(1.0, ge=0, le=1, description="`run` exits with 1 when a larger share of the items failed.")

    @field_validator("previews")
    @classmethod
    def _names_of_previews(cls, value: dict[str, Preview]) -> dict[str, Preview]:
        for name in value:
            if not NAME.fullmatch(name):
                raise ValueError(f"preview name {name!r}: use lower-case letters, digits, '_' and '-'")
        views: dict[str, str] = {}
        for name in value:
            if (other := views.setdefault(name.replace("-", "_"), name)) != name:
                raise ValueError(f"previews {other!r} and {name!r} would have one SQL view, previews_{name.replace('-', '_')}: rename one")
        return value

    @model_validator(mode="after")
    def _thresholds_have_scores(self) -> ProcessingSettings:
        for scorer, limits in self.clip_scores.thresholds.by_scorer().items():
            if scorer not in self.clip_scores.scorers:
                raise ValueError(
                    f"clip_scores.thresholds has {', '.join(limits)}, but the scorer {scorer} does not run; name it in clip_scores.scorers"
                )
        return self

    @model_validator(mode="after")
    def _ranks_have_scores(self) -> ProcessingSettings:
        ranks = self.dedup.which_to_keep
        if (
            isinstance(ranks, list)
            and "aesthetic_score" in [rank.removeprefix("-") for rank in ranks]
            and "aesthetic" not in self.clip_scores.scorers
        ):
            raise ValueError(
                "dedup.which_to_keep ranks by aesthetic_score, but the scorer aesthetic does not run; name it in clip_scores.scorers"
            )
        return self

    @model_validator(mode="after")
    def _embeddings_have_frames(self) -> ProcessingSettings:
        name = self.embeddings.frame_set
        if self.embeddings.models and name is not None:
            if name not in self.frame_sets.sets:
                raise ValueError(
                    f"embeddings.frame_set is {name!r}, frame_sets.sets has {sorted(self.frame_sets.sets)}: add the set or name one of these"
                )
            if self.frame_sets.sets[name].scope != "clip":
                raise ValueError(f"embeddings.frame_set {name!r} has scope 'video'; embeddings need a set of scope 'clip'")
        return self

    @model_validator(mode="after")
    def _previews_have_frames(self) -> ProcessingSettings:
        for name, preview in self.previews.items():
            known = [key for key, item in self.frame_sets.sets.items() if item.scope == "clip"]
            if preview.origin == "frames" and preview.frame_set not in known:
                raise ValueError(
                    f"previews.{name}.frame_set is {preview.frame_set!r}, the frame sets of scope 'clip' are {known}: name one of these, "
                    "or take the pictures from the video with from: clip"
                )
        return self


class SourceSettings(Model):
    """What a source is."""

    uri: Uri = Field(
        description="A folder, an s3:// gs:// az:// prefix, or a manifest (.csv .json .jsonl .parquet) listing keys or URLs.",
    )
    kind: Literal["auto", "prefix", "manifest"] = Field("auto", description="auto: a manifest when the URI ends like one.")
    storage_options: StorageOptions
    settings: dict[str, Any] = Field(default_factory=dict, description="Overrides of the processing settings for this source.")
    shards: int = Field(
        1,
        ge=1,
        le=MAX_SHARDS,
        description="Partitions that the source is split into by a hash of its keys, for sources of very many videos; each lists the whole source. "
        "The number stays: with another one the source is removed and curated anew.",
    )


class Config(ProcessingSettings):
    """A whole `curation.yaml`."""

    warehouse: Uri = Field(
        "./warehouse",
        description="Where tables and media lie: a folder, or an s3:// gs:// az:// prefix. Relative to the file.",
    )
    storage_options: StorageOptions
    sources: dict[str, SourceSettings] = Field(default_factory=dict, description="Sources by name; each is one Dagster partition.")
    watch: dict[str, WatchSettings] = Field(
        default_factory=dict, description="Watched roots by name; the sources that they make are called <name>-<folder>."
    )
    queues: dict[str, QueueSettings] = Field(
        default_factory=dict, description="SQS queues by name, which tell of uploads into watched buckets at once; a listing takes longer."
    )
    sensors: SensorSettings = SensorSettings()
    maintenance: MaintenanceSettings = MaintenanceSettings()
    automation: AutomationSettings = AutomationSettings()
    kubernetes: KubernetesSettings = KubernetesSettings()

    @field_validator("watch")
    @classmethod
    def _names_of_watches(cls, value: dict[str, WatchSettings]) -> dict[str, WatchSettings]:
        for name in value:
            if not NAME.fullmatch(name) or len(name) > MAX_WATCH_NAME_LEN:
                raise ValueError(f"watch name {name!r}: use up to {MAX_WATCH_NAME_LEN} lower-case letters, digits, '_' and '-'")
            if SHARD_NAME.fullmatch(name):
                raise ValueError(f"watch name {name!r}: such a name is that of a shard of a source; rename the watch")
            if longer := next((other for other in value if other.startswith(f"{name}-")), None):
                raise ValueError(f"watches {name!r} and {longer!r} could make sources of one name ({longer}-…): rename one")
        return value

    @model_validator(mode="after")
    def _watches_make_no_sharded_source(self) -> Config:
        for name, source in self.sources.items():
            if source.shards > 1 and (watch := self.watch_of(name)):
                raise ValueError(
                    f"the source {name!r} has shards, and the watch {watch!r} could make another source of that name: rename one"
                )
        return self

    def watch_of(self, name: str) -> str | None:
        """Name the watch that could make a source of a name, None when none could."""
        return next((watch for watch in self.watch if name == watch or name.startswith(f"{watch}-")), None)

    @field_validator("queues")
    @classmethod
    def _names_of_queues(cls, value: dict[str, QueueSettings]) -> dict[str, QueueSettings]:
        for name in value:
            if not NAME.fullmatch(name):
                raise ValueError(f"queue name {name!r}: use lower-case letters, digits, '_' and '-'")
        return value

    @model_validator(mode="after")
    def _queues_have_buckets(self) -> Config:
        if self.queues and not any(root.uri.startswith("s3://") for root in self.watch.values()):
            raise ValueError("queues tell of uploads into watched buckets, and nothing under `watch` is one: name an s3:// root there")
        return self

    _base: dict[str, Any] | None = PrivateAttr(default=None)

    def processing(self) -> dict[str, Any]:
        """Return the processing part as a plain tree, without a run's overrides: those lie over the sources' own settings."""
        return self._base if self._base is not None else self.model_dump(mode="json", include=set(ProcessingSettings.model_fields))

    def based_on(self, base: dict[str, Any]) -> Config:
        """Return the same settings, to which a run's overrides were applied, with the tree that they were applied to."""
        copy = self.model_copy()
        copy._base = base
        return copy
