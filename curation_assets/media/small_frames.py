"""Small frames: every displayed frame of a stretch of video, in order of display, scaled straight to a small size. What shot detection looks at.

One small frame per displayed frame of the packet index, whatever the decoder: frame k of the stretch is frame `first + k` of `index.display_times_ns`, so that
what is found in the frames has real times. Scaling is by swscale with exact rounding, bit for bit the same everywhere for the same decoded frame: bicubic,
widened to what an output pixel covers; or the nearest pixel, which is a fifth of the work and near to what PySceneDetect's own scaling (two pixels on each
axis, however much the picture shrinks) gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation

from curation_assets.media.color import FrameScaler, display_size
from curation_assets.media.decode import decode_targets
from curation_assets.media.errors import MediaError
from curation_assets.media.packets import PacketIndex
from curation_assets.media.plan import DisplayOrder
from curation_assets.media.source import MediaSource
from curation_assets.schemas.outcomes import Outcome

Decoder = Literal["auto", "cpu", "nvdec"]
_PYSCENEDETECT_SIDE_PX = 256


@dataclass(frozen=True, slots=True)
class SmallFrame:
    """One displayed frame.

    Attributes:
        rank: its place among the video's displayed frames.
        pixels: uint8 (H, W, 3), RGB, upright.
        problem: why it could not be decoded, "" when it was; it then is a copy of the frame before, or at the start of the stretch the one after.
    """

    rank: int
    pixels: npt.NDArray[np.uint8]
    problem: str = ""


class Stretch:
    """The displayed frames [first, stop) of a video; iterate once.

    Args:
        source: the indexed video.
        index: its packets.
        first: rank of the first frame in `index.display_times_ns`.
        stop: rank after the last.
        output_hw: (height, width) in pixels; None scales the longer side down to 256, as PySceneDetect does, by the first frame that is decoded.
        num_threads: decoder threads.
        decoder: `nvdec` decodes on a GPU, `auto` too where there is one that takes the codec.
        scaling: of pictures that shrink; others grow by bicubic.

    Attributes:
        output_hw: the size, known after the first frame.
        num_filled: frames so far that could not be decoded.
        problem: of the first of these.
        note: why `auto` decodes on the CPU, "" when it does not.
    """

    def __init__(
        self, source: MediaSource, index: PacketIndex, first: int, stop: int, *,
        output_hw: tuple[int, int] | None = None, num_threads: int = 1, decoder: Decoder = "cpu",
        scaling: Literal["bicubic", "nearest"] = "bicubic",
    ) -> None:  # fmt: skip
        self.output_hw = output_hw
        self.num_filled = 0
        self.problem = ""
        self.note = ""
        self._source, self._index, self._num_threads, self._decoder = source, index, num_threads, decoder
        self._first, self._stop = first, stop
        self._scaler = FrameScaler(shrinking=Interpolation.BICUBIC if scaling == "bicubic" else Interpolation.POINT)

    def __iter__(self) -> Iterator[SmallFrame]:
        """Yield each frame of the stretch once, in order of display; nothing when none of them can be decoded.

        Raises:
            MediaError: as `decode_targets`; UNSUPPORTED when `nvdec` is demanded and the GPU is missing or does not take the codec.
        """
        last: npt.NDArray[np.uint8] | None = None
        skipped: list[tuple[int, str]] = []  # missing before the first frame that is there
        for rank, pixels, problem in self._in_order():
            if problem:
                self.num_filled += 1
                self.problem = self.problem or problem
            if pixels is None and last is None:
                skipped.append((rank, problem))
                continue
            if pixels is not None:
                yield from (SmallFrame(early, pixels, why) for early, why in skipped)
                skipped = []
                last = pixels
            if last is not None:
                yield SmallFrame(rank, last, problem)

    def _in_order(self) -> Iterator[tuple[int, npt.NDArray[np.uint8] | None, str]]:
        """Yield rank, pixels or None, and what is wrong, in the order of ranks."""
        times_ns = self._index.display_times_ns[self._first : self._stop]
        order = DisplayOrder(self._index)
        places = np.searchsorted(
            order.times_ns, times_ns
        )  # frames of one time share a packet: the first can be told apart, the others look like it
        positions = order.positions[places].tolist()
        waiting: dict[int, tuple[npt.NDArray[np.uint8] | None, str]] = {}
        ready = 0
        for position, pixels, problem in self._decoded(sorted(set(positions))):
            waiting[position] = (pixels, problem)
            while ready < len(positions) and positions[ready] in waiting:
                pixels, problem = waiting[positions[ready]]
                yield self._first + ready, pixels, problem
                if ready + 1 == len(positions) or positions[ready + 1] != positions[ready]:
                    del waiting[positions[ready]]
                ready += 1

    def _decoded(self, targets: list[int]) -> Iterator[tuple[int, npt.NDArray[np.uint8] | None, str]]:
        """Yield position, pixels or None, and what is wrong, as the decoder gives them."""
        on_gpu = self._decoder != "cpu"
        frames = decode_targets(self._source, index=self._index, targets=targets, num_threads=self._num_threads, on_gpu=on_gpu)
        is_first = True
        while True:
            try:
                target = next(frames, None)
            except MediaError as error:
                if not (is_first and self._decoder == "auto" and error.outcome is Outcome.UNSUPPORTED):
                    raise
                self.note = f"decoded on the CPU: {error.detail}"
                frames = decode_targets(self._source, index=self._index, targets=targets, num_threads=self._num_threads)
                target = next(frames, None)
            if target is None:
                return
            is_first = False
            if target.frame is None:
                yield target.position, None, target.problem
                continue
            if self.output_hw is None:
                self.output_hw = downscaled(*display_size(target.frame))
            pixels = self._scaler.to_rgb(target.frame, height_px=self.output_hw[0], width_px=self.output_hw[1])
            yield target.position, pixels, ""


def downscaled(height_px: int, width_px: int) -> tuple[int, int]:
    """Compute (height, width) as PySceneDetect scales by default: the longer side down to 256, never up."""
    factor = max(1.0, max(height_px, width_px) / _PYSCENEDETECT_SIDE_PX)
    return max(1, round(height_px / factor)), max(1, round(width_px / factor))


def plan_ranges(index: PacketIndex, first: int, stop: int, *, num_frames: int) -> list[tuple[int, int]]:
    """Divide the displayed frames [first, stop) into ranges of about `num_frames`, where it can be at keyframes, so that no frame is decoded twice.

    A range ends at the first keyframe after `num_frames`; where none comes, after twice as many.
    """
    keyframes = np.searchsorted(index.display_times_ns, index.keyframe_times_ns)
    ranges = []
    at = first
    while at < stop:
        after = keyframes[np.searchsorted(keyframes, at + num_frames) :][:1]
        end = min(int(after[0]) if len(after) else stop, at + 2 * num_frames, stop)
        ranges.append((at, end))
        at = end
    return ranges
