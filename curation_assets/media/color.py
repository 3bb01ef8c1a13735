"""Color: from a decoded frame, of any size, pixel format, range and matrix, to a small upright 8-bit picture in one scaling step.

swscale goes from the decoder's planes to the output size at once, averaging by area where the picture shrinks (each output pixel is the mean of what it
covers) and bicubic where it grows, bit for bit the same on every processor. Stored pixels are taken as square. Rotation and mirroring are applied to the small picture.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

EXACT = Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
# AVColorSpace (ITU-T H.273 table 4) to the matrices that swscale knows.
_MATRICES = {
    1: Colorspace.ITU709, 4: Colorspace.FCC, 5: Colorspace.ITU601, 6: Colorspace.ITU601, 7: Colorspace.SMPTE240M, 9: Colorspace.BT2020, 10: Colorspace.BT2020,
}  # fmt: skip
_PQ, _HLG = 16, 18  # AVColorTransferCharacteristic, H.273 table 3
_BT2020 = 9  # AVColorPrimaries, H.273 table 2

# Linear light BT.2020 to BT.709 (ITU-R BT.2087-0, rounded as there).
_BT2020_TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)
_REFERENCE_WHITE_NITS = 203.0  # ITU-R BT.2408: where diffuse white lies in PQ and HLG
_HLG_PEAK_NITS = 1000.0
_KNEE = 0.5  # linear light up to here, in units of reference white, stays as it is; what is above is rolled off below 1


def output_size(target_res: int | tuple[int, int] | None, *, height_px: int, width_px: int) -> tuple[int, int]:
    """Compute the size of stored frames.

    Args:
        target_res: as in `FrameSetSpec`.
        height_px: height of the displayed picture.
        width_px: its width.

    Returns:
        (height, width) in pixels. A side that keeps the aspect is rounded to an even number.
    """
    match target_res:
        case None:
            return height_px, width_px
        case int():
            return target_res, target_res
        case (-1, width):
            return _even(width * height_px / width_px), width
        case (height, -1):
            return height, _even(height * width_px / height_px)
        case (height, width):
            return height, width


def crop_plan(size: tuple[int, int], *, height_px: int, width_px: int) -> tuple[int, int, int, int]:
    """Plan how a picture comes to a size without changing its aspect, as torchvision's Resize and CenterCrop do.

    Args:
        size: (height, width) of the result.
        height_px: height of the picture.
        width_px: its width.

    Returns:
        (height, width) to scale the picture to, then (top, left) of the part to cut out of that.
    """
    if size[0] * width_px >= size[1] * height_px:
        scaled = size[0], max(size[1], size[0] * width_px // height_px)
    else:
        scaled = max(size[0], size[1] * height_px // width_px), size[1]
    return *scaled, round((scaled[0] - size[0]) / 2), round((scaled[1] - size[1]) / 2)


def display_size(frame: VideoFrame) -> tuple[int, int]:
    """Return (height, width) of the frame as displayed, after rotation, in stored pixels."""
    return (frame.width, frame.height) if _orientation(frame)[0] % 2 else (frame.height, frame.width)


def display_matrix(frame: VideoFrame) -> tuple[int, ...] | None:
    """Read the matrix by which the player turns and mirrors the picture, nine numbers as in MP4; None where there is none."""
    # Not `frame.side_data`: the frame would keep that, and that the frame, so that full-size frames pile up until the garbage collector comes by.
    matrix = SideDataContainer(frame).get(Type.DISPLAYMATRIX)  # type: ignore[call-arg]  # PyAV 18's stub has no constructor
    return None if matrix is None else tuple(np.frombuffer(bytes(matrix), np.int32).tolist())


def is_hdr(frame: VideoFrame) -> bool:
    """Say whether the transfer function is PQ or HLG."""
    return int(frame.color_trc) in (_PQ, _HLG)


def scaling(frame: VideoFrame, *, height_px: int, width_px: int, shrinking: Interpolation = Interpolation.AREA) -> Interpolation:
    """Choose how to scale a frame: by area (or as told) where it shrinks, bicubic where it grows."""
    shrinks = height_px <= frame.height and width_px <= frame.width
    return EXACT | (shrinking if shrinks else Interpolation.BICUBIC)


class FrameScaler:
    """Scales frames; keeps one swscale context per output, which is what makes a call cheap.

    Args:
        shrinking: for pictures that shrink: AREA, BICUBIC (widened to what an output pixel covers) or POINT.
    """

    def __init__(self, *, shrinking: Interpolation = Interpolation.AREA) -> None:
        self._shrinking = shrinking
        self._reformatters: dict[tuple[str, int, int], VideoReformatter] = {}

    def to_rgb(self, frame: VideoFrame, *, height_px: int, width_px: int) -> npt.NDArray[np.uint8]:
        """Scale a frame to RGB as displayed.

        The matrix is the frame's own; without a tag BT.709 for more than 576 lines or 1024 columns, else BT.601. Transparent parts are black. PQ and HLG
        are tone-mapped (`tone_map`).

        Args:
            frame: as the decoder gives it.
            height_px: height of the result.
            width_px: its width.

        Returns:
            uint8 (height_px, width_px, 3), contiguous.
        """
        turns, is_mirrored, frame = *_orientation(frame), without_alpha(frame)
        if is_hdr(frame):
            signal = self._scale(frame, "rgb48le", height_px, width_px, matrix_of(frame), turns, is_mirrored)
            rgb = tone_map(
                signal.astype(np.float32) / np.float32(65535),
                is_pq=int(frame.color_trc) == _PQ,
                is_bt2020=int(frame.color_primaries) == _BT2020,
            )
        else:
            rgb = self._scale(frame, "rgb24", height_px, width_px, matrix_of(frame), turns, is_mirrored)
            if _is_limited_gray(frame):
                rgb = _expand_range()[rgb]
        return np.ascontiguousarray(rgb)

    def to_luma(self, frame: VideoFrame, *, height_px: int, width_px: int) -> npt.NDArray[np.uint8]:
        """Scale a frame's luma as displayed, 0 (black) to 255 (white) whatever the stream's range. PQ and HLG stay as they are coded.

        Args:
            frame: as the decoder gives it.
            height_px: height of the result.
            width_px: its width.

        Returns:
            uint8 (height_px, width_px).
        """
        turns, is_mirrored, frame = *_orientation(frame), without_alpha(frame)
        # One matrix on both sides lets luma pass as it is; swscale would otherwise convert to the luma of BT.601.
        luma = self._scale(frame, "gray", height_px, width_px, Colorspace.ITU601, turns, is_mirrored)
        return _expand_range()[luma] if _is_limited_gray(frame) else luma

    def _scale(
        self, frame: VideoFrame, pix_fmt: str, height_px: int, width_px: int, matrix: Colorspace | None, turns: int, is_mirrored: bool
    ) -> npt.NDArray[Any]:
        if turns % 2:
            height_px, width_px = width_px, height_px
        is_full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
        scaled = self._reformatters.setdefault((pix_fmt, height_px, width_px), VideoReformatter()).reformat(
            frame,
            width_px,
            height_px,
            pix_fmt,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            interpolation=scaling(frame, height_px=height_px, width_px=width_px, shrinking=self._shrinking),
            src_color_range=ColorRange.JPEG if is_full else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            threads=1,
        )
        pixels: npt.NDArray[Any] = scaled.to_ndarray()
        pixels = np.fliplr(pixels) if is_mirrored else pixels
        return np.rot90(pixels, turns) if turns else pixels


def tone_map(signal: npt.NDArray[np.float32], *, is_pq: bool, is_bt2020: bool) -> npt.NDArray[np.uint8]:
    """Map HDR to 8-bit SDR.

    The signal becomes display light (PQ: SMPTE ST 2084; HLG: ITU-R BT.2100 for a display of 1000 nits) in units of reference white, 203 nits
    (ITU-R BT.2408), and BT.2020 colours become BT.709. The largest of R, G, B goes through a curve that is straight up to 0.5 and then approaches 1,
    y = 0.5 + 0.5 d / (d + 0.5) with d = x - 0.5; the other two keep their ratio to it, so hues stay. The result is coded for gamma 2.4 (BT.1886).

    Args:
        signal: float32 (H, W, 3), coded RGB, 0 to 1.
        is_pq: PQ, else HLG.
        is_bt2020: whether the primaries are BT.2020.

    Returns:
        uint8 (H, W, 3).
    """
    nits = _pq_to_nits(signal) if is_pq else _hlg_to_nits(signal)
    light = nits / np.float32(_REFERENCE_WHITE_NITS)
    if is_bt2020:
        light = np.maximum(light @ _BT2020_TO_BT709.T, 0)
    peak = light.max(axis=-1, keepdims=True)
    above = np.maximum(peak - _KNEE, 0)
    mapped = np.minimum(peak, _KNEE) + (1 - _KNEE) * above / (above + (1 - _KNEE))
    sdr = light * (mapped / np.maximum(peak, 1e-6))
    coded: npt.NDArray[np.uint8] = np.rint(255 * np.clip(sdr, 0, 1) ** (1 / 2.4)).astype(np.uint8)
    return coded


def _pq_to_nits(signal: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Electro-optical transfer function of SMPTE ST 2084."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 4096 * 128, 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    power = signal ** np.float32(1 / m2)
    ratio = np.maximum(power - np.float32(c1), 0) / (np.float32(c2) - np.float32(c3) * power)
    nits: npt.NDArray[np.float32] = np.float32(10000) * ratio ** np.float32(1 / m1)
    return nits


def _hlg_to_nits(signal: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Inverse transfer function and system gamma 1.2 of HLG (ITU-R BT.2100 table 5), for a display of 1000 nits."""
    a, b, c = np.float32(0.17883277), np.float32(0.28466892), np.float32(0.55991073)
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593], np.float32)
    nits: npt.NDArray[np.float32] = np.float32(_HLG_PEAK_NITS) * np.maximum(luminance, 1e-9)[..., None] ** np.float32(0.2) * scene
    return nits


def without_alpha(frame: VideoFrame) -> VideoFrame:
    """Put a frame that has transparent parts on black; at full size, for scaling would mix hidden colours in."""
    if not any(component.is_alpha for component in frame.format.components):
        return frame
    rgba = VideoReformatter().reformat(frame, format="rgba", src_colorspace=matrix_of(frame), interpolation=EXACT, threads=1).to_ndarray()
    alpha = rgba[..., 3:].astype(np.uint16)
    opaque = VideoFrame.from_ndarray(((rgba[..., :3] * alpha + 127) // 255).astype(np.uint8), format="rgb24")
    opaque.color_trc, opaque.color_primaries = frame.color_trc, frame.color_primaries
    return opaque


def matrix_of(frame: VideoFrame) -> Colorspace | None:
    """Choose the matrix of a YCbCr frame, None for frames that have none."""
    if frame.format.is_rgb or frame.format.has_palette:
        return None
    tagged = _MATRICES.get(int(frame.colorspace))
    if tagged is not None:
        return tagged
    return Colorspace.ITU709 if min(frame.height, frame.width) > 576 or max(frame.height, frame.width) > 1024 else Colorspace.ITU601


def _orientation(frame: VideoFrame) -> tuple[int, bool]:
    """Return how many counter-clockwise quarter turns the player applies, 0 to 3, and whether it mirrors the picture left to right before that."""
    matrix = display_matrix(frame)
    is_mirrored = matrix is not None and matrix[0] * matrix[4] < matrix[1] * matrix[3]  # a negative determinant
    return round(frame.rotation / 90 + 2 * is_mirrored) % 4, is_mirrored


def _is_limited_gray(frame: VideoFrame) -> bool:
    """Say whether a frame is gray in limited range, which swscale takes for full."""
    return frame.format.name.startswith("gray") and frame.color_range == ColorRange.MPEG


@lru_cache(maxsize=1)
def _expand_range() -> npt.NDArray[np.uint8]:
    """uint8 (256,), from limited range to full."""
    full: npt.NDArray[np.uint8] = np.clip(np.rint((np.arange(256) - 16) * (255 / 219)), 0, 255).astype(np.uint8)
    return full


def _even(side_px: float) -> int:
    """Round to the nearest even number, at least 2."""
    return max(2, 2 * round(side_px / 2))
