"""Clip files: what the modules that make them share: how they are to be made, which frames belong to one, and how it came out."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from curation_assets.media.audio import ClipAudio
from curation_assets.media.encoders import TRAITS, EncoderSpec
from curation_assets.media.packets import PacketIndex
from curation_assets.media.pictures import HdrMode
from curation_assets.media.plan import DisplayOrder
from curation_assets.media.timing import pts_array_to_ns
from curation_assets.media.verify import VerifiedFile
from curation_assets.schemas.outcomes import Outcome

Way = Literal["auto", "encode", "copy", "smart_cut"]
How = Literal["copy", "encode", "smart_cut"]
NO_AUDIO = ClipAudio([], "", None)


@dataclass(frozen=True, slots=True)
class TranscodeSpec:
    """How clips are made.

    Attributes:
        way: auto copies where that is exact and encodes elsewhere; encode always encodes; copy never does; smart_cut encodes only up to the first
            keyframe where that works.
        encoder: what encodes.
        max_side_px: a longer side is scaled down to this, and nothing larger is copied; None for the source's size.
        has_audio: whether sound is kept.
        hdr: tonemap makes 8-bit BT.709 of PQ and HLG; keep keeps them.
    """

    way: Way = "auto"
    encoder: EncoderSpec = field(default_factory=EncoderSpec)
    max_side_px: int | None = None
    has_audio: bool = True
    hdr: HdrMode = "tonemap"

    def __post_init__(self) -> None:
        """Check that HDR can be kept.

        Raises:
            ValueError: the encoder has 8 bits only.
        """
        if self.hdr == "keep" and not TRAITS[self.encoder.name].takes_10bit:
            raise ValueError(
                f"hdr 'keep' needs an encoder of 10 bits: {', '.join(name for name, traits in TRAITS.items() if traits.takes_10bit)}"
            )


@dataclass(frozen=True, slots=True)
class ClipSpan:
    """A span [start_ns, end_ns) of the video's timeline, and the caller's name for it, which the file takes."""

    id: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class TranscodedClip:
    """How one clip came out.

    Attributes:
        span: the clip.
        outcome: ok; truncated when frames of the span could not be had from the source; else why there is no file.
        detail: what was seen, "" for nothing.
        path: the file, which is the caller's; None without one.
        how: how it was made.
        file: what it holds, as found by opening it.
    """

    span: ClipSpan
    outcome: Outcome
    detail: str
    path: Path | None = None
    how: How | None = None
    file: VerifiedFile | None = None


@dataclass(slots=True)
class WantedClip:
    """A span, and the frames that belong to it.

    Attributes:
        ranks: of its frames in display order, without gaps.
        pts: of these frames.
        end_pts: when the frame after the last one is shown.
        shortfall: what of the span the video does not give, beyond its end or as damaged packets, in words.
        is_damaged: packets of the span are damaged, so that what follows them may be too.
        note: why it was not copied or cut, where that was asked for.
    """

    span: ClipSpan
    ranks: range
    pts: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    end_pts: int
    shortfall: str
    is_damaged: bool = False
    note: str = ""

    @classmethod
    def of(cls, span: ClipSpan, order: DisplayOrder, index: PacketIndex) -> WantedClip:
        """Find the frames of a span."""
        low, high = (int(place) for place in np.searchsorted(order.times_ns, [span.start_ns, span.end_ns]))
        positions = order.positions[low:high]
        end_pts = int(index.pts[order.positions[high]]) if high < len(order.positions) else index.end_pts
        is_short = index.is_truncated and span.end_ns > index.end_ns
        shortfall = [f"the span goes on to {span.end_ns / 1e9:.3f} s; {index.detail}"] if is_short else []
        num_lost = _num_lost(span, index) if index.has_damage else 0
        if num_lost:
            shortfall.append(f"{num_lost} of {num_lost + high - low} frames in it are damaged, or rest on damaged ones")
        return cls(span, range(low, high), index.pts[positions], positions, end_pts, "; ".join(shortfall), is_damaged=num_lost > 0)

    def times_ns(self, index: PacketIndex, kept: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.int64]:
        """Times of the frames relative to the first one."""
        pts = self.pts if kept is None else kept
        return pts_array_to_ns(pts, time_base=index.time_base, origin_pts=int(pts[0]))

    def duration_ns(self, index: PacketIndex, first_pts: int | None = None) -> int:
        """Time from the first frame, or a later one, to the end of the last."""
        start_ns, end_ns = self.zero_ns(index, int(self.pts[0]) if first_pts is None else first_pts)
        return end_ns - start_ns

    def rate(self, index: PacketIndex) -> Fraction:
        """About how many frames per second."""
        ticks = self.end_pts - int(self.pts[0])
        return max(Fraction(len(self.pts), max(1, ticks)) / index.time_base, Fraction(1, 1000)).limit_denominator(1001)

    def last(self, zero_pts: int) -> tuple[int, int]:
        """Ticks from a first frame to the last one, and for how many that is shown."""
        return int(self.pts[-1]) - zero_pts, self.end_pts - int(self.pts[-1])

    def zero_ns(self, index: PacketIndex, first_pts: int) -> tuple[int, int]:
        """Time of a first frame, and of the end of the last one, on the video's timeline."""
        return tuple(round(Fraction(pts - index.origin_pts) * index.time_base * 10**9) for pts in (first_pts, self.end_pts))  # type: ignore[return-value]


def _num_lost(span: ClipSpan, index: PacketIndex) -> int:
    """Count the packets of a span that are not shown."""
    times_ns = pts_array_to_ns(index.pts[~index.is_displayed], time_base=index.time_base, origin_pts=index.origin_pts)
    return int(((times_ns >= max(0, span.start_ns)) & (times_ns < span.end_ns)).sum())
