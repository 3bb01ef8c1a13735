"""Motion: scores of a clip from the luma of its frames on a fixed time grid. Scores only; what is too little is decided elsewhere.

Everything is measured on small luma pictures of one size, frames one motion step apart, so that neither codec, GOP, resolution nor (above the motion
rate) frame rate enters. Definitions, for luma from 0 (black) to 1 (white):

- A pair is two neighbouring grid points. Its motion is the mean over the cells of the grid, outside the letterbox, of the absolute difference of the
  cells' mean luma. A frame that serves two neighbouring points makes a pair without motion. `motion_mean` and `motion_p95` are taken over the pairs.
- A pair is still when at most 1% of the cells differ by more than 0.03: a cell averages some hundred source pixels, so encoding noise and grain stay
  below that.
- A frame is black when at least 98% of its cells are darker than 0.1 (the thresholds of FFmpeg's blackdetect).
- Sharpness is the variance of the Laplacian of a frame without its dark margins, about once per second; black frames have none.
- The letterbox is made of the rows and columns at the edges that stay darker than 0.1 in every frame. Bars count only in opposite pairs, the thinner at
  least half the thicker: a night sky is no bar. A clip that is black throughout has no letterbox.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import numpy as np
import numpy.typing as npt

_CELL_PX = 4  # side of a cell in the luma pictures
_FINE_SCALE = 2  # sharpness is measured on pictures this much larger: detail that most viewers see is gone in the small ones
_STILL_DIFFERENCE = 0.03
_STILL_CELL_SHARE = 0.01
_BLACK_LUMA = 0.1
_BLACK_CELL_SHARE = 0.98
_MIN_SHARP_PX = 16


@dataclass(frozen=True, slots=True)
class MotionSpec:
    """How pixel scores are measured.

    Attributes:
        motion_fps: rate of the grid, frames per second; pairs are 1 / motion_fps apart.
        grid: (short side, long side) in cells; the longer side lies along the longer side of the displayed picture.
    """

    motion_fps: float = 4.0
    grid: tuple[int, int] = (36, 64)

    def __post_init__(self) -> None:
        """Check the rate and the grid.

        Raises:
            ValueError: a value is outside its range.
        """
        if not 0.01 <= self.motion_fps <= 60:
            raise ValueError(f"motion_fps must be between 0.01 and 60, is {self.motion_fps}")
        if not all(4 <= side <= 256 for side in self.grid):
            raise ValueError(f"grid must be two numbers of cells between 4 and 256, is {self.grid}")

    def luma_size(self, *, height_px: int, width_px: int) -> tuple[int, int]:
        """Return (height, width) in pixels of the luma pictures for a video displayed with this size."""
        short, long = (side * _CELL_PX for side in self.grid)
        return (long, short) if height_px > width_px else (short, long)

    def fine_luma_size(self, *, height_px: int, width_px: int) -> tuple[int, int]:
        """Return (height, width) in pixels of the larger luma pictures, from which sharpness is measured."""
        height, width = self.luma_size(height_px=height_px, width_px=width_px)
        return height * _FINE_SCALE, width * _FINE_SCALE


@dataclass(frozen=True, slots=True)
class PixelScores:
    """Scores of one clip; None where undefined, never NaN.

    Attributes:
        motion_mean: mean motion of the pairs, 0 to 1; None without a pair.
        motion_p95: 95th percentile of the same, linearly interpolated.
        still_share: share of pairs that are still, 0 to 1; None without a pair.
        black_share: share of frames that are black, 0 to 1; None without a frame.
        sharpness: median over frames of the variance of the Laplacian; None when every frame is black.
        letterbox_share: share of the picture that is bars, 0 to 1; None without a frame.
        num_frames: distinct frames that were looked at.
        num_pairs: pairs that were compared.
    """

    motion_mean: float | None
    motion_p95: float | None
    still_share: float | None
    black_share: float | None
    sharpness: float | None
    letterbox_share: float | None
    num_frames: int
    num_pairs: int


class PixelScorer:
    """Scores one clip while its frames arrive; holds the cells of frames whose neighbours are still to come, and a few numbers per pair.

    Args:
        spec: what to measure.
        points: int64 (K,), a frame's number for each grid point, ascending, repeated where neighbouring points share a frame.
    """

    def __init__(self, spec: MotionSpec, *, points: npt.NDArray[np.int64]) -> None:
        ranks, counts = np.unique(points, return_counts=True)
        self._place = {int(rank): place for place, rank in enumerate(ranks)}
        self._repeats = (counts - 1).tolist()
        sharp_points = points[:: max(1, round(spec.motion_fps))]
        self._sharp_ranks = {int(rank) for rank in sharp_points}
        self._cells: dict[int, npt.NDArray[np.float32] | None] = {}
        self._pair_sums: list[float] = []  # sum over cells
        self._num_still = self._num_black = self._num_frames = 0
        self._sharpness: list[float] = []
        self._row_peaks: npt.NDArray[np.uint8] | None = None
        self._column_peaks: npt.NDArray[np.uint8] | None = None
        self._num_cells = spec.grid[0] * spec.grid[1]

    @property
    def ranks(self) -> tuple[int, ...]:
        """Numbers of the frames that `add` waits for."""
        return tuple(self._place)

    def is_fine_wanted(self, rank: int) -> bool:
        """Say whether sharpness is measured on this frame: about one per second."""
        return rank in self._sharp_ranks

    def add(self, rank: int, luma: npt.NDArray[np.uint8] | None, *, fine_luma: npt.NDArray[np.uint8] | None = None) -> None:
        """Take one frame, each once, in any order.

        Args:
            rank: the frame's number.
            luma: uint8, of the size that `MotionSpec.luma_size` gives; None when the frame is missing, which leaves out its pairs.
            fine_luma: uint8, of the size that `MotionSpec.fine_luma_size` gives, when `is_fine_wanted`.
        """
        place = self._place[rank]
        cells = None
        if luma is not None:
            cells = _cell_means(luma)
            self._pair_sums += [0.0] * self._repeats[place]
            self._num_still += self._repeats[place]
            self._measure_frame(luma, cells, fine_luma)
        self._cells[place] = cells
        for first in (place - 1, place):
            if first in self._cells and first + 1 in self._cells:
                self._measure_pair(self._cells[first], self._cells[first + 1])
        for near in (place - 1, place, place + 1):
            if near in self._cells and all(n in self._cells or not 0 <= n < len(self._place) for n in (near - 1, near + 1)):
                # The cells themselves are done with; the entry stays as a mark until the frame after has come.
                self._cells[near] = None

    def finish(self) -> PixelScores:
        """Return the scores of what was added."""
        num_pairs = len(self._pair_sums)
        letterbox = self._letterbox_share()
        if not num_pairs or letterbox is None:
            mean = p95 = still = None
        else:
            motion = np.minimum(np.array(self._pair_sums) / (self._num_cells * (1 - letterbox)), 1.0)
            mean, p95, still = float(motion.mean()), float(np.percentile(motion, 95)), self._num_still / num_pairs
        return PixelScores(
            motion_mean=mean,
            motion_p95=p95,
            still_share=still,
            black_share=self._num_black / self._num_frames if self._num_frames else None,
            sharpness=median(self._sharpness) if self._sharpness else None,
            letterbox_share=letterbox,
            num_frames=self._num_frames,
            num_pairs=num_pairs,
        )

    def _measure_frame(self, luma: npt.NDArray[np.uint8], cells: npt.NDArray[np.float32], fine_luma: npt.NDArray[np.uint8] | None) -> None:
        self._num_frames += 1
        is_black = bool(np.mean(cells < _BLACK_LUMA) >= _BLACK_CELL_SHARE)
        self._num_black += is_black
        row_peaks, column_peaks = luma.max(axis=1), luma.max(axis=0)
        if self._row_peaks is None or self._column_peaks is None or self._row_peaks.shape != row_peaks.shape:
            self._row_peaks, self._column_peaks = row_peaks, column_peaks
        else:
            np.maximum(self._row_peaks, row_peaks, out=self._row_peaks)
            np.maximum(self._column_peaks, column_peaks, out=self._column_peaks)
        if fine_luma is not None and not is_black:
            picture = fine_luma[_inside_margins(fine_luma.max(axis=1)), _inside_margins(fine_luma.max(axis=0))]
            if min(picture.shape) >= _MIN_SHARP_PX:
                self._sharpness.append(_laplacian_variance(picture))

    def _measure_pair(self, first: npt.NDArray[np.float32] | None, second: npt.NDArray[np.float32] | None) -> None:
        if first is None or second is None or first.shape != second.shape:
            return
        difference = np.abs(second - first)
        self._pair_sums.append(float(difference.sum()))
        self._num_still += bool(np.mean(difference > _STILL_DIFFERENCE) <= _STILL_CELL_SHARE)

    def _letterbox_share(self) -> float | None:
        if self._row_peaks is None or self._column_peaks is None:
            return None
        if self._row_peaks.max() < 255 * _BLACK_LUMA:
            return 0.0
        return 1 - _picture_share(self._row_peaks) * _picture_share(self._column_peaks)


def _cell_means(luma: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Average over cells of 4 x 4 pixels: uint8 (H, W) -> float32 (H / 4, W / 4), 0 to 1."""
    rows, columns = luma.shape[0] // _CELL_PX, luma.shape[1] // _CELL_PX
    by_row = luma.reshape(rows, _CELL_PX, columns * _CELL_PX).sum(axis=1, dtype=np.uint16)
    # Sums of whole strided rows are several times faster than a sum over a short last axis.
    sums: npt.NDArray[np.uint16] = np.sum([by_row[:, k::_CELL_PX] for k in range(_CELL_PX)], axis=0, dtype=np.uint16)
    return np.multiply(sums, 1 / (255 * _CELL_PX**2), dtype=np.float32)


def _laplacian_variance(luma: npt.NDArray[np.uint8]) -> float:
    """Variance of the 4-neighbour Laplacian in every second row, of luma as 0 to 1. In whole numbers: exact, and faster than ndarray.var."""
    values = luma.astype(np.int16)
    rows = values[1:-1:2]
    laplacian = rows[:, 1:-1] * np.int16(-4)
    for neighbour in (values[:-2:2, 1:-1], values[2::2, 1:-1], rows[:, :-2], rows[:, 2:]):
        laplacian += neighbour
    total, squares = int(laplacian.sum(dtype=np.int64)), int(np.square(laplacian, dtype=np.int32).sum(dtype=np.int64))
    return (squares - total**2 / laplacian.size) / laplacian.size / 255**2


def _margins(peaks: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Count the dark lines before the first and after the last that is not dark; (0, 0) when all are."""
    bright = np.flatnonzero(peaks >= 255 * _BLACK_LUMA)
    return (int(bright[0]), len(peaks) - 1 - int(bright[-1])) if bright.size else (0, 0)


def _inside_margins(peaks: npt.NDArray[np.uint8]) -> slice:
    """Lines between the dark margins, without the two where margin and picture mix."""
    before, after = _margins(peaks)
    return slice(before + 2 if before else 0, len(peaks) - (after + 2 if after else 0))


def _picture_share(peaks: npt.NDArray[np.uint8]) -> float:
    """Share of lines between two bars; 1 when the dark margins are no pair of bars."""
    before, after = _margins(peaks)
    if 2 * min(before, after) < max(before, after):
        return 1.0
    return 1 - (before + after) / len(peaks)
