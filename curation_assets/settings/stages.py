"""Stages: the settings of each stage, in the order of the data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from curation_assets.schemas.ranks import RANK_COLUMNS
from curation_assets.settings.base import NAME, Model, Seconds
from curation_assets.settings.splitters import FixedStride, Splitter

VIDEO_EXTENSIONS = ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .m2ts .mts .flv .wmv .gif .3gp .3g2 .ogv .mxf .vob .f4v .asf".split()


class Limits(Model):
    """Which objects are taken at all; None means no limit. Judged from the header probe."""

    min_side_px: int | None = Field(None, ge=1, description="Shorter side at least this many pixels.")
    max_side_px: int | None = Field(None, ge=1, description="Longer side at most this many pixels.")
    min_aspect: float | None = Field(None, gt=0, description="Display width / height at least this.")
    max_aspect: float | None = Field(None, gt=0, description="Display width / height at most this.")
    min_duration_s: Seconds | None = Field(None, ge=0, description="Header duration at least this many seconds.")
    max_duration_s: Seconds | None = Field(None, gt=0, description="Header duration at most this many seconds.")
    max_size_bytes: int | None = Field(None, ge=1, description="Object size at most this many bytes.")


class RawVideosSettings(Model):
    """Listing and probing."""

    extensions: list[str] = Field(
        list(VIDEO_EXTENSIONS), min_length=1, description="File name endings that are videos, lower case, with the dot."
    )
    limits: Limits = Limits()
    quiet_period_s: Seconds = Field(
        0.0,
        ge=0,
        description="A local file that was written to less than so many seconds ago is left for a later run; 0 takes all. "
        "Objects of a bucket appear when they are whole.",
    )

    @field_validator("extensions")
    @classmethod
    def _dotted(cls, value: list[str]) -> list[str]:
        return [ending.lower() if ending.startswith(".") else f".{ending.lower()}" for ending in value]


class ClipsSettings(Model):
    """Splitting."""

    splitter: Splitter = Field(FixedStride(), description="By method; in a settings file a bare name stands for {method: name}.")
    on_truncated: Literal["keep", "refuse"] = Field(
        "keep", description="keep: clips of the readable part; refuse: the video fails as truncated_refused."
    )


_PURPOSE_DEFAULTS: dict[str | None, tuple[float, int]] = {
    "embeddings": (2.0, 8),
    "aesthetics": (1.0, 1),
    None: (2.0, 1),
}


_MAX_SIDE_PX = 16384  # as the media package has it


class FrameSet(Model):
    """One stored set of frames."""

    purpose: Literal["embeddings", "aesthetics"] | None = Field(
        None, description="embeddings: 2 fps and at least 8 frames, for models; aesthetics: 1 fps; where those are not given."
    )
    policy: Literal["sequence", "middle"] = Field(
        "sequence", description="sequence: a grid of target_fps; middle: the one frame nearest the middle."
    )
    target_fps: float | None = Field(None, gt=0, le=240, description="Frames per second of the grid; None takes the purpose's, else 2.")
    target_res: int | tuple[int, int] | None = Field(
        224,
        description="N for N x N; [height, width] with -1 for one of them to keep the aspect; null for the source size.",
    )
    fit: Literal["squash", "crop"] = Field(
        "squash",
        description="A picture of another aspect: squash stretches it, crop cuts the middle out; with both sides of target_res given.",
    )
    scaling: Literal["area", "bicubic"] = Field(
        "area", description="How pictures shrink: area is smooth; bicubic is sharper, and near to how most models were trained."
    )
    codec: Literal["jpeg", "png", "raw"] = "jpeg"
    quality: int = Field(90, ge=1, le=100, description="JPEG quality.")
    scope: Literal["clip", "video"] = Field("clip", description="video: one set over the whole video.")
    min_frames: int | None = Field(
        None,
        ge=1,
        description="A clip with fewer frames is sampled again at doubled fps, up to 20. None: what embeddings.too_few_frames asks for, where a model reads the set "
        "or its purpose is embeddings; else 1.",
    )
    max_frames: int = Field(
        1024,
        ge=1,
        le=65536,
        description="A set that would hold more has its fps halved until it fits; bounds memory for whole videos.",
    )

    @field_validator("target_res")
    @classmethod
    def _sides(cls, value: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
        sides = () if value is None else (value,) if isinstance(value, int) else value
        free = [side for side in sides if side == -1]
        if len(free) == 2 or (isinstance(value, int) and free) or any(side != -1 and not 1 <= side <= _MAX_SIDE_PX for side in sides):
            raise ValueError(f"is {value}; sides are 1 to {_MAX_SIDE_PX} pixels, and one of two may be -1")
        return value

    @model_validator(mode="after")
    def _least_below_most(self) -> FrameSet:
        if self.min_frames is not None and self.min_frames > self.max_frames:
            raise ValueError(f"min_frames {self.min_frames} is above max_frames {self.max_frames}")
        return self

    @model_validator(mode="after")
    def _crop_has_both_sides(self) -> FrameSet:
        if self.fit == "crop" and self.size is None:
            raise ValueError(f"fit crop needs both sides of target_res, which is {self.target_res}")
        return self

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) in pixels where the settings give both."""
        sides = (self.target_res, self.target_res) if isinstance(self.target_res, int) else self.target_res
        return None if sides is None or -1 in sides else sides

    @property
    def fps(self) -> float:
        """Frames per second of the grid, the purpose's default applied."""
        return self.target_fps if self.target_fps is not None else _PURPOSE_DEFAULTS[self.purpose][0]

    @property
    def least_frames(self) -> int:
        """Frames below which a clip is sampled again, the purpose's default applied."""
        return self.min_frames if self.min_frames is not None else min(_PURPOSE_DEFAULTS[self.purpose][1], self.max_frames)


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
            if not NAME.fullmatch(name):
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
    min_aesthetic_score: float | None = Field(None, description="Of the scorer aesthetic, whose scores lie about between 1 and 10.")

    def by_scorer(self) -> dict[str, list[str]]:
        """Name the thresholds that are set, by the scorer whose scores they judge."""
        found: dict[str, list[str]] = {}
        for name in self.model_dump(exclude_none=True):
            found.setdefault("aesthetic" if name == "min_aesthetic_score" else "pixels", []).append(name)
        return found


class PixelsSettings(Model):
    """The `pixels` scorer."""

    motion_fps: float = Field(4.0, gt=0, le=60, description="Pairs of frames per second for motion, 1/motion_fps apart.")


class AestheticSettings(Model):
    """The `aesthetic` scorer. Needs the extra `models`."""

    reduction: Literal["min", "mean"] = Field("min", description="How a clip's score comes from those of its frames.")
    device: Literal["auto", "cuda", "cpu"] = Field("auto", description="cuda is an error without a GPU.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="What the network computes in; the others are faster on a GPU and less exact; another one recomputes."
    )
    batch_size: int = Field(
        64,
        ge=1,
        le=4096,
        description="Frames that are decoded together (more, where one clip has more) and, on a GPU, go through the model in one call; halved when its memory does "
        "not hold so many. On the CPU the model takes one after another. Recomputes nothing.",
    )


class ClipScoresSettings(Model):
    """Scores and the thresholds on them."""

    scorers: list[Literal["pixels", "aesthetic"]] = Field(["pixels"], description="Scorers to run.")
    pixels: PixelsSettings = PixelsSettings()
    aesthetic: AestheticSettings = AestheticSettings()
    thresholds: Thresholds = Thresholds()


class EmbeddingsSettings(Model):
    """Embedding models."""

    models: list[str] = Field(["fingerprint"], description="Registry names; each gets its own asset and table.")
    frame_set: str | None = Field(
        None,
        description="The frame set that all models read; its scope must be clip. None: each model reads frames of its own size, from the first set that has it "
        "with purpose embeddings, else from a set that is added for it, named after its shape, for example crop-224x224.",
    )
    target_fps: float = Field(2.0, gt=0, le=240, description="Frames per second of the sets that are added for models.")
    scopes: list[Literal["clip", "video"]] = Field(
        ["clip", "video"], min_length=1, description="video: the renormalised mean of the clips' vectors. Changing it embeds again."
    )
    too_few_frames: Literal["re_extract", "repeat", "refuse"] = Field(
        "re_extract",
        description="A clip with fewer frames than the model takes. re_extract: its frame set samples such a clip again at doubled fps, up to 20, and only where "
        "the video has no more frames are the nearest repeated. repeat: the nearest are repeated at once. refuse: the clip is refused at once. The last two leave "
        "a frame set without min_frames at its target_fps.",
    )
    selection: Literal["uniform", "curator"] = Field(
        "uniform",
        description="Which of a clip's frames a model gets. uniform: spread over the whole clip. curator: every k-th from the first, k = frames // wanted, as NeMo "
        "Curator and cosmos-curator choose them, for vectors that must mix with theirs; the end of a clip is often not seen.",
    )
    device: Literal["auto", "cuda", "cpu"] = Field(
        "auto",
        description="Where models with weights run. auto: the GPU where there is one. cuda: without a GPU the run does not start. Recomputes nothing.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="What models with weights compute in; vectors are float32 in any case. auto: bfloat16 on a GPU, float32 on the CPU. Naming another one recomputes.",
    )
    batch_size: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = Field(
        "auto",
        description="Clips that are decoded together and, on a GPU, go through the model in one call; halved when the GPU's memory does not hold so many. On the CPU "
        "the model takes one after another. auto: on a GPU by trial, as many as are faster and fit; 16 on the CPU. Recomputes nothing.",
    )
    gpu_memory_gb: float | None = Field(
        None, gt=0, description="Most GPU memory that the process takes, in GB of 1e9 bytes; None: no limit beside num_gpus_per_worker."
    )
    num_gpus_per_worker: float = Field(
        1.0, gt=0, le=1, description="Share of the GPU's memory that the process may take; below 1, several can share a card."
    )
    compile: bool = Field(
        False, description="Compile models with torch.compile before use: minutes at the start, faster after. Recomputes nothing."
    )
    texts_to_verify: list[str] = Field(
        [],
        description="Two or more texts that each vector is compared with, by models that have texts: the softmax of 100 times the cosines is stored as "
        "text_scores. Other texts compare the stored vectors again, and recompute none.",
    )
    allow_remote_code: list[str] = Field(
        [],
        description="Models that may run the Python code of their checkpoint, with all the rights of the run; without it such a model is refused.",
    )

    @field_validator("models")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        if twice := sorted({name for name in value if value.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} is named twice")
        return value

    @field_validator("texts_to_verify")
    @classmethod
    def _different_texts(cls, value: list[str]) -> list[str]:
        if value and (len(value) < 2 or len(set(value)) < len(value) or not all(text.strip() for text in value)):
            raise ValueError("name at least two texts, each different and none empty: a score says how well a text fits against the others")
        return value


class ModelsSettings(Model):
    """Where the weights of models lie."""

    cache_dir: str | None = Field(
        None, pattern=r"^/", description="Full path of the Hugging Face cache; None is its own default (HF_HUB_CACHE, HF_HOME)."
    )
    offline: bool = Field(False, description="Never fetch weights: `curation-assets models download` only says what is missing.")


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

    skip_duplicates: bool = Field(
        False,
        description="Make no files of clips that the last committed duplicates of dedup.model name; those are not made anew for this.",
    )

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
    seconds: Seconds | None = Field(None, gt=0, description="Only the beginning of the clip; None for all of it.")
    origin: Literal["frames", "clip"] = Field(
        "frames", alias="from", description="frames: the stored frame set, cheap, no sharper than that. clip: decoded again from the video."
    )
    frame_set: str = Field("embeddings", description="Which frame set, with from: frames.")


class SearchSettings(Model):
    """Search by a text, a clip or a video."""

    index_from: int = Field(
        100_000,
        ge=1000,
        description="Vectors of all sources together from which on search_index/<model> holds an index; with fewer every vector is looked at.",
    )


_KEEP_BY_CENTRE = ("hard", "easy", "random")
_RANKS = tuple(column for columns in RANK_COLUMNS.values() for column in columns)
RankColumn = Annotated[str, Field(pattern=f"^-?({'|'.join(_RANKS)})$")]


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
        description="Of near-duplicates, the one to keep: by columns (-column: the largest first), "
        "or hard (far from its cluster's centre), easy (near it), random.",
    )
    n_clusters: int | None = Field(None, ge=1, le=65536, description="k-means clusters; None is one per 512 clips, at most 8192.")
    n_probes: int = Field(16, ge=1, description="Most clusters in which a clip is compared with kept ones.")
    exact_max_clips: int = Field(20_000, ge=0, description="Up to so many clips, each is compared with every kept one.")

    @field_validator("which_to_keep", mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        if isinstance(value, list) and value:
            for rank in value:
                if not isinstance(rank, str) or rank.removeprefix("-") not in _RANKS:
                    raise ValueError(f"no column {rank!r}; there are {', '.join(sorted(_RANKS))}")
        elif value not in _KEEP_BY_CENTRE:
            raise ValueError(f"expected {', '.join(_KEEP_BY_CENTRE)}, or a list of columns such as [-num_pixels, source, key]")
        return value
