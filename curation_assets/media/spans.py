"""Spans: half-open stretches [start, end) of a video on its real frame times, and the splitter that lays a fixed grid.

A span starts when one of its frames is shown and ends when the first frame after it is shown (or the video ends). Spans that meet on the grid therefore
meet exactly: no gap, no overlap, no frame lost or twice, at any frame rate, constant or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from curation_assets.media.timing import NS_PER_S

if TYPE_CHECKING:
    from curation_assets.media.packets import PacketIndex

# Times that went through a container with millisecond ticks (Matroska, FLV) are up to this far off, also after a remux into a finer one.
_MILLISECOND_NS = 1_000_000


@dataclass(frozen=True, slots=True)
class Span:
    """One clip's half-open span.

    Attributes:
        start_ns: when the first frame is shown, nanoseconds on the video's timeline.
        end_ns: when the first frame after the span is shown, or the video ends.
        num_frames: frames shown in [start_ns, end_ns).
        is_vfr: whether frame intervals in the span differ by more than the container's rounding.
        shot_index: shot within the video, from zero; None where the splitter knows no shots.
    """

    start_ns: int
    end_ns: int
    num_frames: int
    is_vfr: bool
    shot_index: int | None = None

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            ValueError: empty, negative, or without frames.
        """
        if not 0 <= self.start_ns < self.end_ns:
            raise ValueError(f"a span needs 0 <= start_ns < end_ns, has [{self.start_ns}, {self.end_ns})")
        if self.num_frames < 1:
            raise ValueError(f"a span needs a frame, has {self.num_frames}")
        if self.shot_index is not None and self.shot_index < 0:
            raise ValueError(f"shot_index must be at least 0, is {self.shot_index}")


def span_of_frames(index: PacketIndex, first: int, stop: int, *, shot_index: int | None = None) -> Span:
    """Build the span of the displayed frames [first, stop), counted in order of display.

    Args:
        index: the video's packets.
        first: position of the first frame in `index.display_times_ns`.
        stop: position after the last.
        shot_index: shot within the video.

    Raises:
        ValueError: the range is empty or leaves the video.
    """
    times_ns = index.display_times_ns
    if not 0 <= first < stop <= len(times_ns):
        raise ValueError(f"frames [{first}, {stop}) of {len(times_ns)}")
    end_ns = int(times_ns[stop]) if stop < len(times_ns) else index.end_ns
    # The next frame's start closes the last interval; at the video's end that interval is an estimate and says nothing.
    is_vfr = has_variable_intervals(times_ns[first : stop + 1], tick_ns=float(index.time_base * NS_PER_S))
    return Span(int(times_ns[first]), end_ns, stop - first, is_vfr, shot_index)


def has_variable_intervals(times_ns: npt.NDArray[np.int64], *, tick_ns: float) -> bool:
    """Say whether frame intervals differ by more than rounding.

    Rounding is one tick of the time base where an interval has at least two (else a tick more is a frame left out), or a millisecond where an interval
    has at least four (the times were in a Matroska or FLV file before).

    Args:
        times_ns: int64 (N,), sorted.
        tick_ns: nanoseconds per tick of the time base.
    """
    intervals_ns = np.diff(times_ns)
    if len(intervals_ns) < 2:
        return False
    shortest_ns, longest_ns = int(intervals_ns.min()), int(intervals_ns.max())
    rounding_ns = 0.0
    if shortest_ns >= 2 * tick_ns - 1:
        rounding_ns = tick_ns
    if shortest_ns >= 4 * _MILLISECOND_NS:
        rounding_ns = max(rounding_ns, _MILLISECOND_NS + tick_ns if tick_ns < _MILLISECOND_NS else 0.0)
    return longest_ns - shortest_ns > rounding_ns + 2  # times in whole nanoseconds are each off by half of one


def fixed_stride_spans(
    index: PacketIndex,
    *,
    clip_len_s: float = 10,
    clip_stride_s: float = 10,
    min_clip_len_s: float = 2,
    start_offset_s: float = 0,
    end_offset_s: float = 0,
    snap_to_keyframes: bool = False,
    regions_ns: Sequence[tuple[int, int]] | None = None,
) -> list[Span]:
    """Lay a grid over the video and cut it at the frames that the grid points fall on.

    Clip k of a region that begins at `a` is nominally [a + k * stride, a + k * stride + len), ended by the region. It starts at the first frame shown at
    or after its nominal start and ends when the first frame at or after its nominal end is shown. Where a frame stays on longer than a stride, the clip
    that holds it is as long as the frame, and grid points under it begin no clip. A stride shorter than the length gives overlaps, a longer one gaps.

    With `snap_to_keyframes` each grid point inside a region moves to the nearest keyframe in the region (the earlier of two as near), unless that lies
    less than `min_clip_len_s` after the previous one's, whose place it then takes. A region's own bounds do not move, so nothing is lost or
    added; where keyframes are rare, clips are as long as they leave them.

    Clips shorter than `min_clip_len_s` by more than a tick are left out: at a constant frame rate, only the last of a region can be.

    Args:
        index: the video's packets.
        clip_len_s: nominal length in seconds.
        clip_stride_s: from one nominal start to the next, seconds.
        min_clip_len_s: shortest clip to keep, seconds of real time.
        start_offset_s: seconds to leave out at the video's start.
        end_offset_s: seconds to leave out at its end.
        snap_to_keyframes: move the grid to keyframes.
        regions_ns: spans [start, end) to keep to, nanoseconds on the video's timeline, each with its own grid; None for the whole video.

    Returns:
        Spans ordered by start, then end, no two the same; the same index and settings give the same spans.

    Raises:
        ValueError: a length or stride that is not positive, a negative offset or minimum, a minimum above the length, or an empty region.
    """
    _check_settings(clip_len_s, clip_stride_s, min_clip_len_s, start_offset_s, end_offset_s)
    len_ns, stride_ns, min_ns = _to_ns(clip_len_s), _to_ns(clip_stride_s), _to_ns(min_clip_len_s)
    tick_ns = -(-NS_PER_S * index.time_base.numerator // index.time_base.denominator)
    times_ns = index.display_times_ns
    low_ns, high_ns = _to_ns(start_offset_s), index.end_ns - _to_ns(end_offset_s)
    found: set[tuple[int, int]] = set()
    for region_start_ns, region_end_ns in regions_ns if regions_ns is not None else [(0, index.end_ns)]:
        if not 0 <= region_start_ns < region_end_ns:
            raise ValueError(f"a region needs 0 <= start < end, is [{region_start_ns}, {region_end_ns})")
        start_ns, end_ns = max(region_start_ns, low_ns), min(region_end_ns, high_ns)
        if start_ns >= end_ns:
            continue
        starts_ns = np.arange(start_ns, end_ns, stride_ns, dtype=np.int64)
        ends_ns = np.minimum(starts_ns + len_ns, end_ns)
        points_ns = np.unique(np.concatenate([starts_ns, ends_ns]))
        cuts = np.searchsorted(times_ns, points_ns)
        if snap_to_keyframes:
            cuts = _snap(times_ns, points_ns, cuts, keyframe_times_ns=index.keyframe_times_ns, min_ns=min_ns)
        first = cuts[np.searchsorted(points_ns, starts_ns)].tolist()
        stop = cuts[np.searchsorted(points_ns, ends_ns)].tolist()
        found.update(pair for pair in zip(first, stop, strict=True) if pair[0] < pair[1])
    spans = (span_of_frames(index, first, stop) for first, stop in sorted(found))
    return [span for span in spans if span.end_ns - span.start_ns >= min_ns - tick_ns]


def _snap(
    times_ns: npt.NDArray[np.int64],
    points_ns: npt.NDArray[np.int64],
    cuts: npt.NDArray[np.intp],
    *,
    keyframe_times_ns: npt.NDArray[np.int64],
    min_ns: int,
) -> npt.NDArray[np.intp]:
    """Move the cuts between the first and the last to keyframes, at least `min_ns` apart."""
    inside = keyframe_times_ns[(keyframe_times_ns > points_ns[0]) & (keyframe_times_ns < points_ns[-1])]
    snapped = cuts.copy()
    previous_cut, previous_ns = int(cuts[0]), int(points_ns[0])
    for at in range(1, len(points_ns) - 1):
        if len(inside):
            after = min(int(np.searchsorted(inside, points_ns[at])), len(inside) - 1)
            before = max(after - 1, 0)
            is_before = points_ns[at] - inside[before] <= abs(int(inside[after] - points_ns[at]))
            nearest_ns = int(inside[before] if is_before else inside[after])
            if nearest_ns - previous_ns >= min_ns:
                previous_cut, previous_ns = int(np.searchsorted(times_ns, nearest_ns)), nearest_ns
        snapped[at] = previous_cut
    return snapped


def _check_settings(clip_len_s: float, clip_stride_s: float, min_clip_len_s: float, start_offset_s: float, end_offset_s: float) -> None:
    """Refuse settings that no grid can follow."""
    for name, value in (("clip_len_s", clip_len_s), ("clip_stride_s", clip_stride_s)):
        if not value > 0 or _to_ns(value) < 1:
            raise ValueError(f"{name} must be positive, is {value}")
    for name, value in (("min_clip_len_s", min_clip_len_s), ("start_offset_s", start_offset_s), ("end_offset_s", end_offset_s)):
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0, is {value}")
    if min_clip_len_s > clip_len_s:
        raise ValueError(f"min_clip_len_s ({min_clip_len_s}) must not be above clip_len_s ({clip_len_s})")


def _to_ns(seconds: float) -> int:
    """Seconds from the settings, to the nearest nanosecond."""
    return round(seconds * NS_PER_S)
