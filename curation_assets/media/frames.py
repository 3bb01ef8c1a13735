"""Frames: frame sets and pixel scores of a video's spans, in one decode.

The frames are chosen from the packet index (`plan`), decoded once each (`decode`), scaled once per size (`color`) and encoded as they come (`images`).
What grows is the encoded frames of unfinished spans: a clip's for clips, all of them for the whole video (2 fps at 224 px as JPEG: some 100 MB an hour).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation

from curation_assets.media.color import FrameScaler, crop_plan, display_size, is_hdr, output_size
from curation_assets.media.decode import decode_targets
from curation_assets.media.images import ImageCodec, encode_image
from curation_assets.media.motion import MotionSpec, PixelScorer, PixelScores
from curation_assets.media.packets import PacketIndex
from curation_assets.media.plan import DisplayOrder, Fit, FrameSetSpec, GridChoice, SampleSpan, Scaling, choose_frames, sample_grid
from curation_assets.media.source import MediaSource

_FILTERS: Mapping[Scaling, Interpolation] = {"area": Interpolation.AREA, "bicubic": Interpolation.BICUBIC}


@dataclass(frozen=True, slots=True, repr=False)
class SampledSet:
    """One frame set of one span.

    Attributes:
        span_id: the span's id; None for the whole video.
        name: the frame set's.
        fps: rate of the grid that was used, after any resampling; None for the policy `middle`.
        height_px: height of the frames; 0 when there is none.
        width_px: their width.
        time_ns: time of each frame on the video's timeline, ascending.
        frames: the encoded frames, as many.
        codec: how they are encoded.
        num_missing: chosen frames that could not be decoded.
        detail: why frames are missing, or why there is none; "" when all is well.
    """

    span_id: str | None
    name: str
    fps: float | None
    height_px: int
    width_px: int
    time_ns: tuple[int, ...]
    frames: tuple[bytes, ...]
    codec: ImageCodec
    num_missing: int
    detail: str

    def __repr__(self) -> str:
        """Say the sizes, not the bytes."""
        return f"SampledSet({self.name} of {self.span_id}: {len(self.frames)} x {self.height_px}x{self.width_px} {self.codec}, {self.num_missing} missing)"


@dataclass(frozen=True, slots=True)
class SampledSpan:
    """All that was sampled from one span.

    Attributes:
        span: the span.
        sets: its frame sets, in the order of the specs.
        scores: pixel scores; None when none were asked for, or the span is the whole video.
        num_missing: distinct frames, for sets or scores, that could not be decoded.
        detail: why, in words; "" when none is missing.
        is_hdr_tone_mapped: whether the frames were mapped from HDR to 8-bit BT.709.
    """

    span: SampleSpan
    sets: tuple[SampledSet, ...]
    scores: PixelScores | None
    num_missing: int
    detail: str
    is_hdr_tone_mapped: bool


def sample_frames(
    source: MediaSource,
    *,
    index: PacketIndex,
    spans: Sequence[SampleSpan],
    frame_sets: Sequence[FrameSetSpec],
    motion: MotionSpec | None,
    num_threads: int = 1,
) -> Iterator[SampledSpan]:
    """Sample frame sets and scores from the spans of a video, decoding each frame at most once.

    Spans may overlap, leave gaps, lie anywhere, and come in any order; in order of time is best, for a span is handed out only after those before it.
    Spans with an id get the frame sets of the scope clip, and scores; spans without one (the whole video) get those of the scope video.

    Args:
        source: local path or seekable reader.
        index: the video's packets.
        spans: what to sample.
        frame_sets: what to take from each span; names must differ.
        motion: how to score; None for no scores.
        num_threads: decoder threads; 1 costs the least processor time.

    Yields:
        Each span as soon as it and all before it are complete, in the order given. A span that shows no frame gives sets of no frames.

    Raises:
        MediaError: the source cannot be opened, or no longer holds the indexed packets.
        ValueError: two frame sets have one name.
    """
    names = [spec.name for spec in frame_sets]
    if len(set(names)) != len(names):
        raise ValueError(f"names of frame sets must differ, are {', '.join(names)}")
    order = DisplayOrder(index)
    scalers = {scaling: FrameScaler(shrinking=filter_) for scaling, filter_ in _FILTERS.items()}
    waiting = [_OpenSpan.plan(span, order, frame_sets, motion) for span in spans]
    users: dict[int, list[_OpenSpan]] = defaultdict(list)
    for open_span in waiting:
        for rank in open_span.ranks_left:
            users[rank].append(open_span)
    rank_of = {int(order.positions[rank]): rank for rank in users}
    waiting.reverse()
    yield from _complete(waiting)
    for decoded in decode_targets(source, index=index, targets=list(rank_of), num_threads=num_threads):
        rank = rank_of[decoded.position]
        picture = None if decoded.frame is None else _Picture(decoded.frame, scalers)
        for open_span in users.pop(rank):
            open_span.add(rank, picture, decoded.problem)
        yield from _complete(waiting)


def _complete(waiting: list[_OpenSpan]) -> Iterator[SampledSpan]:
    """Take finished spans off the end of the list."""
    while waiting and not waiting[-1].ranks_left:
        yield waiting.pop().finish()


class _Picture:
    """One decoded frame, and what was made of it: each size is scaled once, each encoding made once."""

    def __init__(self, frame: VideoFrame, scalers: Mapping[Scaling, FrameScaler]) -> None:
        self._frame, self._scalers = frame, scalers
        self._rgb: dict[tuple[tuple[int, int], Fit, Scaling], npt.NDArray[np.uint8]] = {}
        self._luma: dict[tuple[int, int], npt.NDArray[np.uint8]] = {}
        self._encoded: dict[tuple[tuple[int, int], Fit, Scaling, str, int], bytes] = {}
        self.display_size = display_size(frame)
        self.is_hdr = is_hdr(frame)

    def luma(self, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        if size not in self._luma:
            self._luma[size] = self._scalers["area"].to_luma(self._frame, height_px=size[0], width_px=size[1])
        return self._luma[size]

    def encoded(self, size: tuple[int, int], spec: FrameSetSpec) -> bytes:
        key = (size, spec.fit, spec.scaling, spec.codec, spec.quality if spec.codec == "jpeg" else 0)
        if key not in self._encoded:
            shape = key[:3]
            if shape not in self._rgb:
                self._rgb[shape] = self._scaled(*shape)
            self._encoded[key] = encode_image(self._rgb[shape], spec.codec, spec.quality)
        return self._encoded[key]

    def _scaled(self, size: tuple[int, int], fit: Fit, scaling: Scaling) -> npt.NDArray[np.uint8]:
        scaler = self._scalers[scaling]
        if fit == "squash":
            return scaler.to_rgb(self._frame, height_px=size[0], width_px=size[1])
        height_px, width_px, top, left = crop_plan(size, height_px=self.display_size[0], width_px=self.display_size[1])
        rgb = scaler.to_rgb(self._frame, height_px=height_px, width_px=width_px)
        return np.ascontiguousarray(rgb[top : top + size[0], left : left + size[1]])


@dataclass(slots=True)
class _OpenSet:
    """A frame set that is being filled. All its frames have the size that its first one asks for, should the video change its own."""

    spec: FrameSetSpec
    choice: GridChoice
    wanted: set[int]
    size: tuple[int, int] | None = None
    frames: dict[int, bytes] = field(default_factory=dict)

    def add(self, rank: int, picture: _Picture) -> None:
        if self.size is None:
            height_px, width_px = picture.display_size
            self.size = output_size(self.spec.target_res, height_px=height_px, width_px=width_px)
        self.frames[rank] = picture.encoded(self.size, self.spec)

    def finish(self, span_id: str | None, order: DisplayOrder, problem: str) -> SampledSet:
        num_missing = len(self.wanted) - len(self.frames)
        detail = "" if self.wanted else "the video shows no frame in the span"
        if num_missing:
            detail = f"{num_missing} of {len(self.wanted)} frames could not be decoded: {problem}"
        ranks = sorted(self.frames)
        height_px, width_px = self.size or (0, 0)
        return SampledSet(
            span_id=span_id,
            name=self.spec.name,
            fps=self.choice.fps,
            height_px=height_px,
            width_px=width_px,
            time_ns=tuple(order.times_ns[ranks].tolist()),
            frames=tuple(self.frames[rank] for rank in ranks),
            codec=self.spec.codec,
            num_missing=num_missing,
            detail=detail,
        )


@dataclass(slots=True)
class _OpenSpan:
    """A span some of whose frames are still to come."""

    span: SampleSpan
    order: DisplayOrder
    sets: list[_OpenSet]
    scorer: PixelScorer | None
    motion: MotionSpec | None
    scored_ranks: set[int]
    ranks_left: set[int]
    display_size: tuple[int, int] | None = None
    num_missing: int = 0
    problem: str = ""
    is_hdr_tone_mapped: bool = False

    @classmethod
    def plan(cls, span: SampleSpan, order: DisplayOrder, frame_sets: Sequence[FrameSetSpec], motion: MotionSpec | None) -> _OpenSpan:
        """Choose the span's frames."""
        scope = "video" if span.id is None else "clip"
        sets = []
        for spec in frame_sets:
            if spec.scope == scope:
                choice = choose_frames(spec, order, start_ns=span.start_ns, end_ns=span.end_ns)
                if span.window_ns is not None:
                    times_ns = order.times_ns[choice.ranks]
                    choice = GridChoice(choice.fps, choice.ranks[(times_ns >= span.window_ns[0]) & (times_ns < span.window_ns[1])])
                sets.append(_OpenSet(spec, choice, set(choice.ranks.tolist())))
        scorer = None
        if motion is not None and span.id is not None:
            # After the end of the video nothing is shown, so nothing is still.
            end_ns = max(min(span.end_ns, order.end_ns), span.start_ns)
            scorer = PixelScorer(motion, points=sample_grid(order.times_ns, motion.motion_fps, start_ns=span.start_ns, end_ns=end_ns))
        scored_ranks = set(scorer.ranks) if scorer else set[int]()
        return cls(span, order, sets, scorer, motion, scored_ranks, scored_ranks.union(*(s.wanted for s in sets)))

    def add(self, rank: int, picture: _Picture | None, problem: str) -> None:
        """Take one frame, None when it is missing."""
        self.ranks_left.discard(rank)
        if picture is None:
            self.num_missing += 1
            self.problem = self.problem or problem
        else:
            for open_set in self.sets:
                if rank in open_set.wanted:
                    open_set.add(rank, picture)
                    self.is_hdr_tone_mapped |= picture.is_hdr
        if rank in self.scored_ranks:
            self._score(rank, picture)

    def _score(self, rank: int, picture: _Picture | None) -> None:
        """Hand the luma of one frame to the scorer. Its size is what the first frame asks for, should the video change its own."""
        if self.scorer is None or self.motion is None:
            return
        if picture is None:
            self.scorer.add(rank, None)
            return
        height_px, width_px = self.display_size = self.display_size or picture.display_size
        fine_luma = None
        if self.scorer.is_fine_wanted(rank):
            fine_luma = picture.luma(self.motion.fine_luma_size(height_px=height_px, width_px=width_px))
        self.scorer.add(rank, picture.luma(self.motion.luma_size(height_px=height_px, width_px=width_px)), fine_luma=fine_luma)

    def finish(self) -> SampledSpan:
        """Close the span."""
        return SampledSpan(
            span=self.span,
            sets=tuple(s.finish(self.span.id, self.order, self.problem) for s in self.sets),
            scores=None if self.scorer is None else self.scorer.finish(),
            num_missing=self.num_missing,
            detail=f"{self.num_missing} frames could not be decoded: {self.problem}" if self.num_missing else "",
            is_hdr_tone_mapped=self.is_hdr_tone_mapped,
        )
