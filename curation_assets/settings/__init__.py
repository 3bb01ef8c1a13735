"""Settings: the one owner of every default.

The tree is the same at every level: `Config` holds the warehouse, the sources and the processing settings; a source's `settings`, `--set key=value` and the Dagster
Launchpad override parts of the processing settings. Credentials never stand here: they come from the environment. `configuration.py` reads and merges.
"""

from curation_assets.settings.automation import AutomationSettings, KubernetesSettings, NotifySettings
from curation_assets.settings.base import Model, SettingsError
from curation_assets.settings.project import Config, EngineSettings, ProcessingSettings, SourceSettings
from curation_assets.settings.splitters import SPLITTERS, Content, FixedStride, Splitter, TransNetV2
from curation_assets.settings.stages import (
    VIDEO_EXTENSIONS,
    ClipScoresSettings,
    ClipsSettings,
    DedupSettings,
    EmbeddingsSettings,
    FrameSet,
    FrameSetsSettings,
    Limits,
    ModelsSettings,
    Preview,
    RawVideosSettings,
    SearchSettings,
    Thresholds,
    TranscodedClipsSettings,
)
from curation_assets.settings.watch import SensorSettings, WatchSettings

__all__ = [
    "SPLITTERS",
    "VIDEO_EXTENSIONS",
    "AutomationSettings",
    "ClipScoresSettings",
    "ClipsSettings",
    "Config",
    "Content",
    "DedupSettings",
    "EmbeddingsSettings",
    "EngineSettings",
    "FixedStride",
    "FrameSet",
    "FrameSetsSettings",
    "KubernetesSettings",
    "Limits",
    "Model",
    "ModelsSettings",
    "NotifySettings",
    "Preview",
    "ProcessingSettings",
    "RawVideosSettings",
    "SearchSettings",
    "SensorSettings",
    "SettingsError",
    "SourceSettings",
    "Splitter",
    "Thresholds",
    "TransNetV2",
    "TranscodedClipsSettings",
    "WatchSettings",
]
