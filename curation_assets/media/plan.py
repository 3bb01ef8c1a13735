"""Plan: which frames to decode, decided from the packet index alone.

The sampling rule, for frame sets and scores alike. The grid of a span [start, end) is t_k = start + k / fps for t_k < end. Each grid point takes the
displayed frame of the span that is nearest in time, of two equally near the earlier; a frame taken by several points is kept once. Frames outside the
span are never taken. The policy `middle` is one grid point, halfway through the span.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

from curation_assets.media.packets import PacketIndex
from curation_assets.media.timing import NS_PER_S, pts_array_to_ns

MAX_RESAMPLED_FPS = 20.0
"""Clips with too few frames are sampled again at doubled rates up to this one, as the peers do."""

MAX_SIDE_PX = 16384
"""Largest side of a stored frame."""

# Start, grid point and both frame times are each rounded to a nanosecond, so that exact ties may look up to this far apart.
_TIE_NS = 3


Fit = Literal["squash", "crop"]
Scaling = Literal["area", "bicubic"]


@dataclass(frozen=True, slots=True)
class FrameSetSpec:
    """What one frame set holds.

    Attributes:
        name: its name in the settings; letters, digits, `_`, `-` and `.`.
        policy: `sequence` samples on a grid, `middle` takes the one frame nearest to the middle of the span.
        target_fps: grid rate, frames per second; `middle` ignores it.
        target_res: N for N x N pixels, (height, width) where one may be -1 to keep the display aspect (made even), None for the display size.
        fit: how a picture of another aspect comes to a size with both sides given: `squash` stretches it, `crop` scales the side that needs the least
            shrinking to its length and cuts the middle out.
        scaling: how pictures shrink: `area` averages what a pixel covers, `bicubic` is sharper (widened to what a pixel covers, as training pipelines do).
        codec: how frames are stored; raw is uint8 height x width x 3, RGB.
        quality: of JPEG, 1 to 100.
        scope: one set per clip, or one for the whole video.
        min_frames: a span whose grid gives fewer distinct frames is sampled at doubled rates up to 20 fps.
        max_frames: a span whose grid gives more is sampled at halved rates; bounds the memory of whole-video sets.
    """

    name: str
    policy: Literal["sequence", "middle"] = "sequence"
    target_fps: float = 2.0
    target_res: int | tuple[int, int] | None = 224
    fit: Fit = "squash"
    scaling: Scaling = "area"
    codec: Literal["jpeg", "png", "raw"] = "jpeg"
    quality: int = 90
    scope: Literal["clip", "video"] = "clip"
    min_frames: int = 1
    max_frames: int = 1024

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: a field is outside its range; says which and what is allowed.
        """
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", self.name):
            raise ValueError(f"name must be 1 to 64 letters, digits, '_', '-' or '.', is {self.name!r}")
        if not 1e-6 <= self.target_fps <= 1000:
            raise ValueError(f"{self.name}: target_fps must be between 0.000001 and 1000, is {self.target_fps}")
        if not _is_resolution(self.target_res):
            raise ValueError(
                f"{self.name}: target_res must be N, (height, width) with at most one -1, or None, with sides of 1 to {MAX_SIDE_PX}; is {self.target_res}"
            )
        for field, allowed in (
            ("policy", ("sequence", "middle")),
            ("fit", ("squash", "crop")),
            ("scaling", ("area", "bicubic")),
            ("codec", ("jpeg", "png", "raw")),
            ("scope", ("clip", "video")),
        ):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{self.name}: {field} must be one of {', '.join(allowed)}, is {getattr(self, field)!r}")
        if self.fit == "crop" and (self.target_res is None or (isinstance(self.target_res, tuple) and -1 in self.target_res)):
            raise ValueError(f"{self.name}: fit crop needs both sides, target_res is {self.target_res}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"{self.name}: quality must be 1 to 100, is {self.quality}")
        if not 1 <= self.min_frames <= self.max_frames:
            raise ValueError(f"{self.name}: min_frames must be between 1 and max_frames {self.max_frames}, is {self.min_frames}")


def _is_resolution(target_res: object) -> bool:
    """Say whether a value is an allowed `target_res`."""
    match target_res:
        case None:
            return True
        case bool():
            return False
        case int():
            return 1 <= target_res <= MAX_SIDE_PX
        case (int() as height_px, int() as width_px):
            sides = [side for side in (height_px, width_px) if side != -1]
            return bool(sides) and all(1 <= side <= MAX_SIDE_PX for side in sides)
    return False


@dataclass(frozen=True, slots=True)
class SampleSpan:
    """A clip, or the whole video, to sample.

    Attributes:
        id: the caller's name for it; None for the whole video, which frame sets of the scope video sample.
        start_ns: start of the half-open span, nanoseconds on the video's timeline.
        end_ns: its end.
        window_ns: of the frames that the grid over the whole span takes, only those in this part [start, end) are decoded; None for all. A long video's
            whole-video set is put together from windows.
    """

    id: str | None
    start_ns: int
    end_ns: int
    window_ns: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Check that the span is not empty."""
        if self.end_ns <= self.start_ns:
            raise ValueError(f"a span must end after its start, is [{self.start_ns}, {self.end_ns})")


@dataclass(frozen=True, slots=True)
class GridChoice:
    """Frames that a grid takes from a span.

    Attributes:
        fps: the grid's rate; None for the middle.
        ranks: int64 (N,), places of the frames in the video's frames in display order, ascending.
    """

    fps: float | None
    ranks: npt.NDArray[np.int64]


class DisplayOrder:
    """The displayed frames of a video by time, and the packet of each.

    Attributes:
        times_ns: int64 (M,), ascending and distinct.
        positions: int64 (M,), index of each frame's packet in decode order.
        end_ns: end of the last frame.
    """

    __slots__ = ("end_ns", "positions", "times_ns")

    def __init__(self, index: PacketIndex) -> None:
        shown = np.flatnonzero(index.is_displayed)
        # Of packets with one pts only the first can be told apart in the decoder's output.
        pts, first = np.unique(index.pts[shown], return_index=True)
        times_ns = pts_array_to_ns(pts, time_base=index.time_base, origin_pts=index.origin_pts)
        self.times_ns, distinct = np.unique(times_ns, return_index=True)
        self.positions: npt.NDArray[np.int64] = shown[first[distinct]].astype(np.int64)
        self.end_ns = index.end_ns


def choose_frames(spec: FrameSetSpec, order: DisplayOrder, *, start_ns: int, end_ns: int) -> GridChoice:
    """Choose the frames of a frame set from one span [start_ns, end_ns).

    Args:
        spec: the frame set.
        order: the video's frames.
        start_ns: start of the span.
        end_ns: its end.
    """
    if spec.policy == "middle":
        return GridChoice(None, nearest_frames(order.times_ns, [(start_ns + end_ns) // 2], start_ns=start_ns, end_ns=end_ns))
    fps = spec.target_fps
    while True:
        ranks = np.unique(sample_grid(order.times_ns, fps, start_ns=start_ns, end_ns=end_ns))
        if len(ranks) > spec.max_frames:
            fps /= 2
        elif len(ranks) >= spec.min_frames or fps >= MAX_RESAMPLED_FPS or fps < spec.target_fps:
            return GridChoice(fps, ranks)
        else:
            fps = min(2 * fps, MAX_RESAMPLED_FPS)


def sample_grid(times_ns: npt.NDArray[np.int64], fps: float, *, start_ns: int, end_ns: int) -> npt.NDArray[np.int64]:
    """Find the frame of every grid point of a span [start_ns, end_ns).

    Args:
        times_ns: int64 (M,), ascending times of the video's frames.
        fps: grid rate; the nearest fraction with a small denominator is meant, so that 23.976024 is 24000/1001. No error builds up over the grid.
        start_ns: start of the span.
        end_ns: its end.

    Returns:
        int64 (K,), index into `times_ns` per grid point, ascending, repeated where neighbouring points take one frame; empty when the span shows none.
    """
    rate = exact_rate(fps)
    step_ns = NS_PER_S * rate.denominator  # times k / rate.numerator
    # A point that only rounding puts before the end is at the end.
    num_points = max(1, -((start_ns - end_ns + _TIE_NS) * rate.numerator // step_ns))
    ks = np.arange(num_points, dtype=np.int64)
    if num_points * step_ns * 2 < 2**62:
        grid_ns = start_ns + (2 * ks * step_ns + rate.numerator) // (2 * rate.numerator)
    else:
        grid_ns = np.array(
            [start_ns + (2 * k * step_ns + rate.numerator) // (2 * rate.numerator) for k in range(num_points)], dtype=np.int64
        )
    return nearest_frames(times_ns, grid_ns, start_ns=start_ns, end_ns=end_ns)


def nearest_frames(times_ns: npt.NDArray[np.int64], grid_ns: npt.ArrayLike, *, start_ns: int, end_ns: int) -> npt.NDArray[np.int64]:
    """Find the nearest frame of [start_ns, end_ns) for each point; of two equally near (within 3 ns, which is rounding) the earlier.

    Args:
        times_ns: int64 (M,), ascending times of the video's frames.
        grid_ns: int64 (K,), points in time.
        start_ns: frames before it are not taken.
        end_ns: frames from it on are not taken.

    Returns:
        int64 (K,), index into `times_ns`; empty when the span shows no frame.
    """
    low, high = (int(i) for i in np.searchsorted(times_ns, [start_ns, end_ns]))
    points = np.asarray(grid_ns, dtype=np.int64)
    if low >= high:
        return np.zeros(0, dtype=np.int64)
    later = np.clip(np.searchsorted(times_ns, points), low, high - 1)
    earlier = np.maximum(later - 1, low)
    is_later_nearer = np.abs(times_ns[later] - points) + _TIE_NS < np.abs(points - times_ns[earlier])
    return np.where(is_later_nearer | (later == earlier), later, earlier).astype(np.int64)


def exact_rate(fps: float) -> Fraction:
    """Read a rate as the fraction that is meant: 29.97 as 2997/100, 23.976023976 as 24000/1001, 1/3600 as it is."""
    if fps < 1:
        return 1 / Fraction(1 / fps).limit_denominator(1001)
    return Fraction(fps).limit_denominator(1001)


@dataclass(frozen=True, slots=True)
class DecodeRun:
    """Packets [start, stop) in decode order that are decoded in one go, and the frames wanted from them.

    Attributes:
        start: packet where decoding begins, a keyframe or the first packet.
        stop: packet after the last one needed.
        targets: packets whose frames are wanted.
    """

    start: int
    stop: int
    targets: tuple[int, ...]


def plan_runs(index: PacketIndex, targets: list[int]) -> list[DecodeRun]:
    """Group targets into runs, each from the latest keyframe that serves, leaving out all packets that no target needs.

    Args:
        index: the video's packets.
        targets: distinct positions in decode order, in any order.

    Returns:
        Runs in decode order; they do not overlap.
    """
    runs: list[DecodeRun] = []
    for target, entry in sorted(entry_points(index, targets).items(), key=lambda item: (item[1], item[0])):
        if runs and entry < runs[-1].stop:
            last = runs.pop()
            runs.append(DecodeRun(last.start, max(last.stop, target + 1), (*last.targets, target)))
        else:
            runs.append(DecodeRun(entry, target + 1, (target,)))
    return runs


def entry_points(index: PacketIndex, targets: list[int]) -> dict[int, int]:
    """Find for each target the latest keyframe from which its frame decodes exactly, 0 where there is none.

    A frame that follows a keyframe in decode order but is shown before it (open GOP) may need what lies before that keyframe.
    """
    keyframes = np.flatnonzero(index.is_keyframe).tolist()
    pts = index.pts
    entries = {}
    for target in targets:
        at = bisect_left(keyframes, target + 1) - 1
        while at >= 0 and pts[keyframes[at]] > pts[target]:
            at -= 1
        entries[target] = keyframes[at] if at >= 0 else 0
    return entries
