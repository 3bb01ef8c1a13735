"""Shots: from cuts between displayed frames to clips on real frame times.

A shot is a run of displayed frames between two transitions, or between a transition and an end of what is looked at. Only a transition may be cropped: neither
the ends of the video or of a region, nor the places where a long shot is merely divided.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from curation_assets.media.packets import PacketIndex
from curation_assets.media.spans import Span, span_of_frames
from curation_assets.media.timing import NS_PER_S

MaxLengthMode = Literal["stride", "truncate", "balanced"]


@dataclass(frozen=True, slots=True)
class Shot:
    """Displayed frames [first, stop) of one shot.

    Attributes:
        first: rank of its first frame in `PacketIndex.display_times_ns`.
        stop: rank after its last.
        follows_transition: it begins at a transition, not at an end of what was looked at.
        precedes_transition: it ends at one.
    """

    first: int
    stop: int
    follows_transition: bool
    precedes_transition: bool

    def __post_init__(self) -> None:
        """Check that there is a frame."""
        if not 0 <= self.first < self.stop:
            raise ValueError(f"a shot needs 0 <= first < stop, has [{self.first}, {self.stop})")


@dataclass(frozen=True, slots=True)
class ClipRules:
    """How shots become clips; meaning and defaults are those of the settings (`ShotSplitter`).

    Attributes:
        min_len_s: a shorter clip is left out (a tick of the time base is forgiven).
        max_len_s: a longer shot is divided; None for no limit.
        max_length_mode: balanced, stride or truncate.
        crop_s: seconds cut off at each transition.
    """

    min_len_s: float = 2.0
    max_len_s: float | None = 60.0
    max_length_mode: MaxLengthMode = "balanced"
    crop_s: float = 0.0


def wanted_frames(
    index: PacketIndex, *, start_offset_s: float = 0, end_offset_s: float = 0, regions_ns: Sequence[tuple[int, int]] | None = None
) -> list[tuple[int, int]]:
    """List the parts of the video that clips may come from, as ranks [first, stop), in the order of the regions; empty ones are left out.

    Args:
        index: the video's packets.
        start_offset_s: seconds to leave out at the video's start.
        end_offset_s: seconds to leave out at its end.
        regions_ns: spans [start, end) to keep to, nanoseconds on the video's timeline; None for the whole video.
    """
    low_ns, high_ns = round(start_offset_s * NS_PER_S), index.end_ns - round(end_offset_s * NS_PER_S)
    parts = []
    for start_ns, end_ns in regions_ns if regions_ns is not None else [(0, index.end_ns)]:
        bounds = [max(start_ns, low_ns), min(end_ns, high_ns)]
        first, stop = np.searchsorted(index.display_times_ns, bounds).tolist()
        if first < stop:
            parts.append((first, stop))
    return parts


def joined(parts: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join parts that overlap; what is looked at, each frame once."""
    result: list[tuple[int, int]] = []
    for first, stop in sorted(parts):
        if result and first < result[-1][1]:
            result[-1] = (result[-1][0], max(stop, result[-1][1]))
        else:
            result.append((first, stop))
    return result


def shots_from_probabilities(probabilities: npt.NDArray[np.float32], *, threshold: float, offset: int = 0) -> list[Shot]:
    """Find shots as the original's `predictions_to_scenes` does, with exact half-open ranges.

    A run of frames above the threshold is a transition. Its first frame still ends the shot before it, and the next shot begins with the frame after its
    last; so a hard cut loses no frame, and a gradual transition its own frames after the first. A run at the very start precedes no shot.

    Args:
        probabilities: float32 (N,), per frame.
        threshold: a higher probability means transition.
        offset: rank of the first of these frames.

    Returns:
        Shots in order; one of all frames when every frame is above the threshold, none when there are no frames.
    """
    if not len(probabilities):
        return []
    above = probabilities > threshold
    changes = np.flatnonzero(np.diff(above.astype(np.int8), prepend=np.int8(0)))
    starts, ends = changes[::2].tolist(), changes[1::2].tolist()  # transitions [start, end); the last may have no end
    shots: list[Shot] = []
    first = 0
    for place, start in enumerate(starts):
        if start > 0:
            shots.append(Shot(offset + first, offset + start + 1, first > 0, True))
        first = ends[place] if place < len(ends) else len(above)
    if first < len(above):
        shots.append(Shot(offset + first, offset + len(above), first > 0, False))
    return shots or [Shot(offset, offset + len(above), False, False)]


def shots_from_cuts(cuts: Sequence[int], *, first: int, stop: int) -> list[Shot]:
    """Divide the frames [first, stop) at cuts, each the rank of the first frame after it; others than those inside are no cuts."""
    bounds = [first, *sorted({cut for cut in cuts if first < cut < stop}), stop]
    return [Shot(a, b, a > first, b < stop) for a, b in pairwise(bounds)] if first < stop else []


def clip_shots(index: PacketIndex, shots: Sequence[Shot], parts: Sequence[tuple[int, int]], rules: ClipRules) -> list[Span]:
    """Make the clips of a video from its shots.

    Each part that is wanted takes its share of each shot; then transitions are cropped, long shots divided, short clips left out.

    Args:
        index: the video's packets.
        shots: in order, without overlap.
        parts: from `wanted_frames`; the ends of a part are no transitions.
        rules: how.

    Returns:
        Spans ordered by start, then end, no two the same. `shot_index` counts the shots of the video, also those that give no clip.
    """
    times_ns = np.append(index.display_times_ns, index.end_ns)
    tick_ns = -(-NS_PER_S * index.time_base.numerator // index.time_base.denominator)
    min_ns, crop_ns = round(rules.min_len_s * NS_PER_S), round(rules.crop_s * NS_PER_S)
    found: dict[tuple[int, int], int] = {}
    for part_first, part_stop in parts:
        for shot_index, shot in enumerate(shots):
            first, stop = max(shot.first, part_first), min(shot.stop, part_stop)
            if crop_ns and first < stop:
                start_ns, end_ns = int(times_ns[first]), int(times_ns[stop])
                if shot.follows_transition and first == shot.first and first > part_first:
                    first = int(np.searchsorted(times_ns, start_ns + crop_ns))
                if shot.precedes_transition and stop == shot.stop and stop < part_stop:
                    stop = int(np.searchsorted(times_ns, end_ns - crop_ns, side="right")) - 1
            for a, b in _divided(times_ns, first, stop, rules, tick_ns) if first < stop else ():
                if times_ns[b] - times_ns[a] >= min_ns - tick_ns:
                    found.setdefault((a, b), shot_index)
    return [span_of_frames(index, a, b, shot_index=shot_index) for (a, b), shot_index in sorted(found.items())]


def _divided(times_ns: npt.NDArray[np.int64], first: int, stop: int, rules: ClipRules, tick_ns: int) -> Iterator[tuple[int, int]]:
    """Divide the frames [first, stop) so that no part is longer than allowed, unless one frame is.

    Equal parts that would be too short, and so left out, lose the whole shot: then parts of full length lose less.
    """
    length_ns = int(times_ns[stop] - times_ns[first])
    if rules.max_len_s is None or length_ns <= (max_ns := round(rules.max_len_s * NS_PER_S)) + tick_ns:
        yield first, stop
        return
    if rules.max_length_mode == "balanced":
        min_ns = round(rules.min_len_s * NS_PER_S)
        least = -(-length_ns // max_ns)
        for count in range(least, least + 3):  # cutting at frames may take one more
            points_ns = times_ns[first] + np.arange(1, count) * length_ns // count
            cuts = [first, *sorted(set(_nearest(times_ns, points_ns).tolist()) - {first, stop}), stop]
            if all(min_ns - tick_ns <= times_ns[b] - times_ns[a] <= max_ns + tick_ns for a, b in pairwise(cuts)):
                yield from pairwise(cuts)
                return
    # stride; or no equal parts can be had: they are too short, or a frame is shown for too long
    while first < stop:
        end = int(np.searchsorted(times_ns, times_ns[first] + max_ns + tick_ns, side="right")) - 1
        end = min(max(end, first + 1), stop)
        yield first, end
        if rules.max_length_mode == "truncate":
            return
        first = end


def _nearest(times_ns: npt.NDArray[np.int64], points_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
    after = np.clip(np.searchsorted(times_ns, points_ns), 1, len(times_ns) - 1)
    is_before = points_ns - times_ns[after - 1] <= times_ns[after] - points_ns
    return np.where(is_before, after - 1, after)
