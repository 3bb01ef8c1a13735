"""Pictures: from a decoded frame to what an encoder takes: 8-bit 4:2:0 of even size, colours right, everything else as it was.

A frame that is so already passes untouched. Rotation and sample aspect stay with the file, not the pixels, so that encoded and copied clips are alike;
only tone-mapped frames are turned upright, because the mapping works on upright pictures. An odd side loses its last row or column: a crop moves no
pixel, where scaling would blur all and padding would make up some.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from curation_assets.media.color import FrameScaler, display_matrix, display_size, is_hdr, matrix_of, scaling, without_alpha

HdrMode = Literal["tonemap", "keep"]
_UNSPECIFIED = 2  # of primaries, transfer and matrix, ITU-T H.273
_BT709 = 1
_CODES = {Colorspace.ITU709: 1, Colorspace.FCC: 4, Colorspace.ITU601: 6, Colorspace.SMPTE240M: 7, Colorspace.BT2020: 9}


@dataclass(frozen=True, slots=True)
class PictureFormat:
    """What the encoder is told of its pictures.

    Attributes:
        width_px: width in stored pixels, even.
        height_px: height, even.
        pix_fmt: yuv420p, or yuv420p10le for HDR that is kept.
        colour: codes of primaries, transfer function and matrix (ITU-T H.273); the range is always limited.
        display_matrix: how the player turns and mirrors the picture, as the source has it; None for not at all.
        sample_aspect: width of a pixel in heights.
    """

    width_px: int
    height_px: int
    pix_fmt: str
    colour: tuple[int, int, int]
    display_matrix: tuple[int, ...] | None
    sample_aspect: Fraction


class FramePreparer:
    """Prepares the frames of one clip; the first one decides the format, should the video change its own.

    Args:
        sample_aspect: of the source's pixels.
        hdr: tonemap maps PQ and HLG to 8-bit BT.709, keep keeps 10 bits and the tags.
        max_side_px: a longer side is scaled down to this; None for the source's size.
    """

    def __init__(self, *, sample_aspect: Fraction | None, hdr: HdrMode, max_side_px: int | None) -> None:
        self._sample_aspect = sample_aspect or Fraction(1)
        self._hdr = hdr
        self._max_side_px = max_side_px
        self._scaler = FrameScaler()
        self._reformatter = VideoReformatter()
        self._crops: dict[tuple[int, int, str], Graph] = {}
        self.format: PictureFormat | None = None

    def prepare(self, frame: VideoFrame) -> VideoFrame:
        """Return the frame as the encoder takes it; its pts and time base are the caller's to set."""
        self.format = target = self.format or self._choose(frame)
        size = (target.width_px, target.height_px)
        if is_hdr(frame) and self._hdr == "tonemap":
            return self._tone_mapped(frame, *size)
        frame = without_alpha(frame)
        is_full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
        if frame.format.name == target.pix_fmt and (frame.width, frame.height) == size and not is_full:
            return frame
        if 0 <= frame.width - size[0] <= 1 and 0 <= frame.height - size[1] <= 1 and (frame.width, frame.height) != size:
            frame = self._cropped(frame, *size)
        matrix = matrix_of(frame)
        return self._reformatter.reformat(
            frame,
            *size,
            target.pix_fmt,
            src_colorspace=matrix,
            dst_colorspace=matrix or Colorspace.ITU709,
            interpolation=scaling(frame, height_px=size[1], width_px=size[0]),
            src_color_range=ColorRange.JPEG if is_full or frame.format.is_rgb else ColorRange.MPEG,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )

    def _choose(self, frame: VideoFrame) -> PictureFormat:
        is_mapped = is_hdr(frame) and self._hdr == "tonemap"
        height_px, width_px = display_size(frame) if is_mapped else (frame.height, frame.width)
        longest = max(height_px, width_px)
        is_resized = self._max_side_px is not None and longest > self._max_side_px
        if is_resized and self._max_side_px is not None:
            width_px, height_px = (round(side * self._max_side_px / longest / 2) * 2 for side in (width_px, height_px))
        even = max(2, width_px - width_px % 2), max(2, height_px - height_px % 2)
        sample_aspect = self._sample_aspect
        if is_mapped and round(frame.rotation / 90) % 2:
            sample_aspect = 1 / sample_aspect
        if is_mapped:
            return PictureFormat(*even, "yuv420p", (_BT709, _BT709, _BT709), None, sample_aspect)
        keeps_10bit = is_hdr(frame)
        matrix = matrix_of(frame)
        colorspace = int(frame.colorspace)
        if matrix is None:
            colorspace = _BT709  # RGB becomes YCbCr by this matrix
        elif colorspace == _UNSPECIFIED and is_resized:
            colorspace = _CODES[matrix]  # players guess by the size, which is another one now
        colour = (int(frame.color_primaries), int(frame.color_trc), colorspace)
        return PictureFormat(*even, "yuv420p10le" if keeps_10bit else "yuv420p", colour, display_matrix(frame), sample_aspect)

    def _tone_mapped(self, frame: VideoFrame, width_px: int, height_px: int) -> VideoFrame:
        shown = display_size(frame)
        is_cropped = 0 <= shown[0] - height_px <= 1 and 0 <= shown[1] - width_px <= 1
        size = shown if is_cropped else (height_px, width_px)
        rgb = self._scaler.to_rgb(frame, height_px=size[0], width_px=size[1])[:height_px, :width_px]
        mapped = VideoFrame.from_ndarray(rgb.copy(), format="rgb24")
        return self._reformatter.reformat(
            mapped,
            width_px,
            height_px,
            "yuv420p",
            dst_colorspace=Colorspace.ITU709,
            interpolation=scaling(mapped, height_px=height_px, width_px=width_px),
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )

    def _cropped(self, frame: VideoFrame, width_px: int, height_px: int) -> VideoFrame:
        """Leave out the last row or column."""
        key = (frame.width, frame.height, frame.format.name)
        if key not in self._crops:
            graph = Graph()
            source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000))
            crop = graph.add("crop", f"{width_px}:{height_px}:0:0:exact=1")
            graph.link_nodes(source, crop, graph.add("buffersink")).configure()
            self._crops[key] = graph
        colour = (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc)
        graph = self._crops[key]
        graph.vpush(frame)
        cropped = graph.vpull()
        cropped.colorspace, cropped.color_range, cropped.color_primaries, cropped.color_trc = colour
        return cropped
