from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange

from curation_assets.media.color import FrameScaler, output_size, tone_map

# Kr, Kb of ITU-T H.273 by AVColorSpace
LUMA_WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}


def flat_frame(pix_fmt: str, codes: tuple[int, ...], *, height: int = 64, width: int = 64) -> VideoFrame:
    """A frame of one colour; codes per plane, in the format's own bits."""
    frame = VideoFrame(width, height, pix_fmt)
    dtype = np.uint16 if pix_fmt.endswith("le") else np.uint8
    for plane, code in zip(frame.planes, codes, strict=True):
        plane.update(np.full(plane.buffer_size // dtype().itemsize, code, dtype).tobytes())
    return frame


def expected_rgb(codes: tuple[int, int, int], *, matrix: int, is_full: bool, bits: int = 8) -> npt.NDArray[np.float64]:
    """YCbCr to RGB by the definition."""
    kr, kb = LUMA_WEIGHTS[matrix]
    scale = 1 << (bits - 8)
    y, cb, cr = codes
    luma = y / (256 * scale - 1) if is_full else (y / scale - 16) / 219
    blue, red = ((c - 128 * scale) / (256 * scale - 1) if is_full else (c / scale - 128) / 224 for c in (cb, cr))
    r, b = luma + 2 * (1 - kr) * red, luma + 2 * (1 - kb) * blue
    return np.clip(255 * np.array([r, (luma - kr * r - kb * b) / (1 - kr - kb), b]), 0, 255)


@pytest.mark.parametrize("is_full", [False, True])
@pytest.mark.parametrize("matrix", sorted(LUMA_WEIGHTS))
@pytest.mark.parametrize(("pix_fmt", "bits"), [("yuv420p", 8), ("yuv444p", 8), ("yuv422p10le", 10)])
def test_rgb_follows_matrix_and_range(pix_fmt: str, bits: int, matrix: int, is_full: bool) -> None:
    codes = tuple(c << (bits - 8) for c in (120, 100, 160))
    frame = flat_frame(pix_fmt, codes)
    frame.colorspace, frame.color_range = matrix, ColorRange.JPEG if is_full else ColorRange.MPEG
    rgb = FrameScaler().to_rgb(frame, height_px=16, width_px=16)
    assert np.abs(rgb - expected_rgb(codes, matrix=matrix, is_full=is_full, bits=bits)).max() <= 1.5  # type: ignore[arg-type]


@pytest.mark.parametrize(("height", "width", "matrix"), [(576, 720, 5), (480, 640, 5), (720, 1280, 1), (1280, 720, 1), (576, 1200, 1)])
def test_the_size_decides_where_no_matrix_is_tagged(height: int, width: int, matrix: int) -> None:
    frame = flat_frame("yuv420p", (120, 100, 160), height=height, width=width)
    rgb = FrameScaler().to_rgb(frame, height_px=16, width_px=16)
    assert np.abs(rgb - expected_rgb((120, 100, 160), matrix=matrix, is_full=False)).max() <= 1.5


@pytest.mark.parametrize("matrix", [1, 5, 9])
@pytest.mark.parametrize("is_full", [False, True])
def test_luma_is_in_full_range_whatever_the_matrix(matrix: int, is_full: bool) -> None:
    for y in (16, 120, 235):
        frame = flat_frame("yuv420p", (y, 90, 170))
        frame.colorspace, frame.color_range = matrix, ColorRange.JPEG if is_full else ColorRange.MPEG
        luma = FrameScaler().to_luma(frame, height_px=16, width_px=16)
        assert abs(int(luma[8, 8]) - (y if is_full else (y - 16) * 255 / 219)) <= 1


def test_gray_in_limited_range_is_expanded() -> None:
    frame = flat_frame("gray", (120,))
    frame.color_range = ColorRange.MPEG
    assert np.abs(FrameScaler().to_rgb(frame, height_px=8, width_px=8) - (120 - 16) * 255 / 219).max() <= 1
    assert FrameScaler().to_luma(frame, height_px=8, width_px=8)[0, 0] == round((120 - 16) * 255 / 219)
    frame.color_range = ColorRange.JPEG
    assert (FrameScaler().to_rgb(frame, height_px=8, width_px=8) == 120).all()


def test_pixels_are_means_of_what_they_cover() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    rgb = FrameScaler().to_rgb(VideoFrame.from_ndarray(picture), height_px=8, width_px=12)
    assert np.abs(rgb - picture.reshape(8, 8, 12, 8, 3).mean(axis=(1, 3))).max() <= 2.5


def test_transparent_parts_are_black_and_hide_their_colour() -> None:
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[:, :32] = (200, 100, 50, 255)
    rgba[:, 32:] = (255, 255, 255, 0)
    rgb = FrameScaler().to_rgb(VideoFrame.from_ndarray(rgba, format="rgba"), height_px=9, width_px=9)  # the middle column lies on the edge
    assert np.abs(rgb[:, :4] - np.array([200, 100, 50])).max() <= 1
    assert rgb[:, 5:].max() == 0
    assert np.abs(rgb[:, 4] - np.array([100, 50, 25])).max() <= 8


@pytest.mark.parametrize("size", [(64, 64), (33, 17), (1, 1), (200, 300)])
def test_any_output_size_of_odd_frames(size: tuple[int, int]) -> None:
    frame = VideoFrame.from_ndarray(np.full((61, 97, 3), 90, np.uint8)).reformat(format="yuv444p")
    rgb = FrameScaler().to_rgb(frame, height_px=size[0], width_px=size[1])
    assert rgb.shape == (*size, 3)
    assert np.abs(rgb.astype(int) - 90).max() <= 2


@pytest.mark.parametrize(
    ("target_res", "expected"),
    [
        (224, (224, 224)),
        (None, (720, 1280)),
        ((100, 50), (100, 50)),
        ((-1, 320), (180, 320)),
        ((99, -1), (99, 176)),
        ((1, -1), (1, 2)),
        ((-1, 101), (56, 101)),
    ],
)
def test_output_sizes(target_res: int | tuple[int, int] | None, expected: tuple[int, int]) -> None:
    assert output_size(target_res, height_px=720, width_px=1280) == expected


def pq_code(nits: float) -> float:
    """Inverse of the PQ curve (ITU-R BT.2100 table 4)."""
    y = (nits / 10000) ** 0.1593017578125
    return float(((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375)


def test_pq_keeps_greys_below_the_knee_and_rolls_off_above() -> None:
    nits = np.array([0, 20.3, 50.75, 101.5, 203, 1000, 10000])
    signal = np.array([[[pq_code(n)] * 3 for n in nits]], np.float32)
    sdr = tone_map(signal, is_pq=True, is_bt2020=True)[0]
    assert np.ptp(sdr, axis=1).max() <= 1  # greys stay grey
    light = (sdr[:, 1] / 255) ** 2.4
    assert light[:4] == pytest.approx(nits[:4] / 203, abs=0.01)
    assert light[4:] == pytest.approx([0.75, 0.5 + 0.5 * 4.426 / 4.926, 1], abs=0.01)
    assert (np.diff(sdr[:, 1].astype(int)) > 0).all()


def test_hlg_puts_reference_white_at_three_quarters_of_the_signal() -> None:
    """BT.2408: HLG 75% is 203 nits on a display of 1000 nits."""
    sdr = tone_map(np.full((1, 1, 3), 0.75, np.float32), is_pq=False, is_bt2020=True)
    assert ((sdr[0, 0] / 255) ** 2.4) == pytest.approx([0.75] * 3, abs=0.01)


def test_bt2020_colours_become_bt709() -> None:
    """The red of BT.709 at 80 nits, coded in BT.2020 PQ, is pure red again."""
    light = 80 * np.array([0.6274, 0.0691, 0.0164])  # ITU-R BT.2087: first column of BT.709 to BT.2020
    signal = np.array([[[pq_code(v) for v in light]]], np.float32)
    red, green, blue = (int(v) for v in tone_map(signal, is_pq=True, is_bt2020=True)[0, 0])
    assert red > 160
    assert max(green, blue) < 12
