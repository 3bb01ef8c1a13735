"""fingerprint: a descriptor of a clip for finding near-duplicates. No weights, NumPy on the CPU only.

Two clips are near-duplicates when the dot product of their vectors is at least `NEAR_DUPLICATE_SIMILARITY`. Copies that were re-encoded, resized, toned or
recoloured, letterboxed, shifted by up to 0.25 s, overlaid with a small logo or cropped by a few percent lie above it; other content lies around 0. A mirrored
copy does not match, nor is an equal subject enough: this is about the same pictures. Recall and precision: benchmarks/fingerprint.py.

How: luma; black bars and flat margins cut off; a 32 x 32 grid per frame; gradients over the local contrast, so that tone curves cancel; their first two angular
harmonics, which average to nothing over unrelated content; low frequencies in time (DCT) and soft cells in space, so that small shifts change little; a
soft sign, so that no single edge decides. Kin: HOG (Dalal and Triggs 2005), power normalisation (Perronnin et al. 2010).

Sums run over arrays of fixed shape, clip by clip and without BLAS, so that a vector depends on neither the batch nor the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from curation_assets.models.embedder import EmbedderSpec

Array = npt.NDArray[np.float64]

NEAR_DUPLICATE_SIMILARITY = 0.7
"""Recommended threshold: the benchmark has no false pair above it. A higher one finds fewer of the cropped copies, a lower one joins slides of one template."""

# Changing any number below changes the vectors: change `revision` with it.
_NUM_FRAMES = 8
_FRAME_PX = 224
_LUMA_PX = _FRAME_PX // 2
_GRID = 32
_CELLS = 6
_CELL_SIGMA = 0.5  # of a cell; wide enough that a shift by half a cell keeps most of the weight
_TIME_TERMS = 3
_CHANNELS = 4  # two angular harmonics, each with a real and an imaginary part
_SMALL_CELL = 0.1  # cells far above this count by their sign only, far below (codec noise of still pictures) they fade out
_SMALL_CONTRAST = 4.0  # luma steps added to the local contrast: what is flatter than this fades out
_INVISIBLE_CONTRAST = 0.5  # root mean square gradient in luma steps at which the structure and the fixed vector weigh the same

_BLACK_LUMA = 44  # black bars, even after a brightening
_FLAT_LUMA = 6.0  # how far a bar's pixels may lie from its colour: ringing of strong quantisation
_FLAT_SHARE = 0.85  # of a row: a logo may reach into the bar
_PAPER_SHARE = 0.55  # of the picture: only so much of one colour counts as a margin when it is not black
_MAX_MARGIN = 0.4  # of the picture, on each side

SPEC = EmbedderSpec(
    name="fingerprint",
    dim=_TIME_TERMS * _CHANNELS * _CELLS * _CELLS,
    frames=_NUM_FRAMES,
    height_px=_FRAME_PX,
    width_px=_FRAME_PX,
    resize="squash",
    selection="uniform",
    has_text=False,
    revision="1",
    licence="Apache-2.0",
    gpu_memory_gb=0.0,
    duplicate_eps=round(1.0 - NEAR_DUPLICATE_SIMILARITY, 6),
)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The `fingerprint` model. Holds no state."""

    spec: EmbedderSpec = SPEC

    def embed_frames(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Embed clips; see `Embedder.embed_frames`.

        Clips in which nothing can be seen (black, or one flat colour) get one fixed unit vector: they are near-duplicates of each other and of nothing else.
        """
        self.spec.check_frames(frames)
        vectors = np.empty((len(frames), self.spec.dim), dtype=np.float32)
        for row, clip in enumerate(frames):
            vectors[row] = _describe(_luma(clip))
        return vectors


def build(*, weights: str | Path | None, device: str, dtype: str) -> Fingerprint:
    """Build the model.

    Raises:
        ValueError: weights are given (there are none), or a device or dtype other than the CPU and float32.
    """
    if weights is not None:
        raise ValueError(f"fingerprint has no weights; leave weights out (given: {weights})")
    if device not in ("auto", "cpu"):
        raise ValueError(f"fingerprint runs on the CPU only; device must be 'auto' or 'cpu', not {device!r}")
    if dtype not in ("auto", "float32"):
        raise ValueError(f"fingerprint gives float32 only; dtype must be 'auto' or 'float32', not {dtype!r}")
    return Fingerprint()


def _luma(clip: npt.NDArray[np.uint8]) -> Array:
    """Turn uint8 (T, H, W, 3) into BT.601 luma 0 to 255, float64 (T, H/2, W/2), exact: integers until the last division."""
    pairs = clip.reshape(_NUM_FRAMES, _LUMA_PX, 2, _FRAME_PX * 3)
    rows = np.add(pairs[:, :, 0], pairs[:, :, 1], dtype=np.int32)  # (T, H/2, W * 3)
    red, green, blue = (rows[:, :, channel::6] + rows[:, :, channel + 3 :: 6] for channel in range(3))
    return np.asarray((77 * red + 150 * green + 29 * blue) / 1024.0)


def _describe(luma: Array) -> Array:
    """Compute the unit vector of one clip from its luma (T, H/2, W/2)."""
    top, bottom, left, right = _content_box(luma)
    grid = _resample(_resample(luma, top, bottom, axis=1), left, right, axis=2)
    grid = _box_mean(_box_mean(grid, 1), 1)
    dx, dy = np.zeros_like(grid), np.zeros_like(grid)
    dx[:, :, 1:-1] = grid[:, :, 2:] - grid[:, :, :-2]
    dy[:, 1:-1] = grid[:, 2:] - grid[:, :-2]
    energy = dx * dx + dy * dy
    # Means from differences of running sums may come out just below zero.
    contrast = np.sqrt(np.maximum(_box_mean(_box_mean(energy, 4), 4), 0)) + _SMALL_CONTRAST
    strength = np.sqrt(energy) * contrast + 1e-9
    channels = np.stack([dx / contrast, dy / contrast, (dx * dx - dy * dy) / strength, 2 * dx * dy / strength], axis=1)
    terms = np.einsum("kt,tcyx->kcyx", _TIME_BASIS, channels)
    cells = np.einsum("kciX,Xj->kcij", np.einsum("kcyx,yi->kcix", terms, _CELL_WEIGHTS), _CELL_WEIGHTS)
    features = (cells / np.sqrt(cells * cells + _SMALL_CELL**2)).ravel()  # (time terms, channels, cells, cells) -> (D,)

    visible = energy.mean() / (energy.mean() + _INVISIBLE_CONTRAST**2)
    length = np.sqrt(np.sum(features * features))
    vector = np.full(features.size, (1 - visible) / np.sqrt(features.size))
    if length > 0:
        vector += visible / length * features
    return np.asarray(vector / np.sqrt(np.sum(vector * vector)))


def _content_box(luma: Array) -> tuple[int, int, int, int]:
    """Find the part of the picture inside bars and flat margins, as [top, bottom) and [left, right).

    Black bars come in pairs and go wherever they are; a margin of another colour goes only where that colour fills most of the picture (slides, screens), so
    that skies and walls stay. Two rounds, for a letterboxed slide. A box that would leave too little keeps the one before.
    """
    size = luma.shape[1]
    smallest = size * (1 - 2 * _MAX_MARGIN)
    box = (0, size, 0, size)
    for _ in range(2):
        top, bottom, left, right = box
        inner = luma[:, top:bottom, left:right]
        above, below = _margins(inner.transpose(1, 0, 2))
        before, after = _margins(inner.transpose(2, 0, 1))
        found = (top + above, bottom - below, left + before, right - after)
        if found[1] - found[0] < smallest or found[3] - found[2] < smallest:
            break
        box = found
    return box


def _margins(lines: Array) -> tuple[int, int]:
    """Count the lines to cut off at both ends of (lines, T, length)."""
    (first, is_first_paper), (last, is_last_paper) = _margin(lines), _margin(lines[::-1])
    if not (is_first_paper or is_last_paper) and 2 * min(first, last) < max(first, last):
        return 0, 0  # black at one end only, or much more than at the other: a dark part of the scene
    return first, last


def _margin(lines: Array) -> tuple[int, bool]:
    """Count the lines from the first on that have one flat colour through the whole clip, and the blurred line after them; say if it is the paper's colour."""
    middle = lines[0].size // 2
    colour = float(np.partition(lines[0], middle, axis=None)[middle])
    count = 0
    while count < len(lines) and np.mean(np.abs(lines[count] - colour) <= _FLAT_LUMA) >= _FLAT_SHARE:
        count += 1
    if count == 0:
        return 0, False
    is_paper = bool(np.mean(np.abs(lines - colour) <= _FLAT_LUMA) >= _PAPER_SHARE)
    return (count + 1, is_paper) if is_paper or colour <= _BLACK_LUMA else (0, False)


def _resample(values: Array, start: int, stop: int, *, axis: int) -> Array:
    """Average [start, stop) of an axis into `_GRID` equal parts, parts of pixels counted by area."""
    sums = np.insert(np.cumsum(values, axis=axis), 0, 0.0, axis=axis)
    edges = start + (stop - start) * np.arange(_GRID + 1) / _GRID
    whole = np.minimum(edges.astype(np.int64), values.shape[axis] - 1)
    part = np.expand_dims(edges - whole, tuple(a for a in range(values.ndim) if a != axis))
    at_edges = np.take(sums, whole, axis) * (1 - part) + np.take(sums, whole + 1, axis) * part
    return np.asarray(np.diff(at_edges, axis=axis) * (_GRID / (stop - start)))


def _box_mean(values: Array, radius: int) -> Array:
    """Average over squares of 2 * radius + 1 cells of the last two axes, cut off at the border."""
    index = np.arange(_GRID)
    low, high = np.maximum(index - radius, 0), np.minimum(index + radius + 1, _GRID)
    for axis in (1, 2):
        sums = np.insert(np.cumsum(values, axis=axis), 0, 0.0, axis=axis)
        width = np.expand_dims(high - low, 1) if axis == 1 else high - low
        values = (np.take(sums, high, axis) - np.take(sums, low, axis)) / width
    return values


def _time_basis() -> Array:
    """First terms of the orthonormal DCT-II over the frames, (time terms, T)."""
    phase = (np.arange(_NUM_FRAMES) + 0.5) / _NUM_FRAMES
    basis = np.cos(np.pi * np.arange(_TIME_TERMS)[:, None] * phase) * np.sqrt(2 / _NUM_FRAMES)
    basis[0] *= np.sqrt(0.5)
    return np.asarray(basis)


def _cell_weights() -> Array:
    """Gaussian weight of each grid line in each cell, (grid, cells), columns sum to 1."""
    position = (np.arange(_GRID) + 0.5) / _GRID * _CELLS
    weights = np.exp(-0.5 * ((position[:, None] - np.arange(_CELLS) - 0.5) / _CELL_SIGMA) ** 2)
    return np.asarray(weights / weights.sum(axis=0))


_TIME_BASIS = _time_basis()
_CELL_WEIGHTS = _cell_weights()
