"""Probe: what a video's header says, cheap and bounded, and which of its streams is the video.

Sizes are those of the displayed picture in stored pixels: rotation is applied, a sample aspect ratio is not (anamorphic video keeps the pixels it has,
as frames and clips made from it do). Durations and rates come from the header and may be wrong or missing: only the packets tell (`packets`).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING

import av
import av.error
from av.stream import Discard, Disposition

from curation_assets.media.errors import MediaError
from curation_assets.media.source import MediaSource, container_signature, open_container, read_head
from curation_assets.media.timing import pts_to_ns
from curation_assets.schemas.outcomes import Outcome

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_HDR_TRANSFERS = (16, 18)  # SMPTE ST 2084 (PQ) and ARIB STD-B67 (HLG), ITU-T H.273 table 3
# Packets fed to the decoder to get one frame: covers the reorder delay of every codec and a stream that begins with a few undecodable packets.
_FIRST_FRAME_PACKETS = 64
MAX_PIXELS = 2**26
"""Largest picture that is decoded: twice 8K. A header may claim anything, and memory goes with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoHeader:
    """What the header says of the best video stream; None where it says nothing.

    Attributes:
        container: demuxer's short name, such as mp4, mov, matroska, webm, avi, mpegts.
        codec: codec name, such as h264, hevc, av1.
        width_px: width as displayed, after rotation.
        height_px: height as displayed, after rotation.
        rotation_deg: clockwise turn that the player applies: 0, 90, 180 or 270.
        fps_num: numerator of the average frame rate.
        fps_den: denominator of the average frame rate.
        duration_ns: duration of the video stream, else of the container.
        bit_rate_bps: bit rate of the container.
        has_audio: whether there is an audio stream.
        audio_codec: codec name of the first audio stream.
        is_hdr: whether the transfer function is PQ or HLG.
        pix_fmt: pixel format as the decoder names it.
    """

    container: str
    codec: str
    width_px: int | None
    height_px: int | None
    rotation_deg: int
    fps_num: int | None
    fps_den: int | None
    duration_ns: int | None
    bit_rate_bps: int | None
    has_audio: bool
    audio_codec: str | None
    is_hdr: bool
    pix_fmt: str | None

    def __post_init__(self) -> None:
        """Check the rotation."""
        if self.rotation_deg not in (0, 90, 180, 270):
            raise ValueError(f"rotation_deg must be 0, 90, 180 or 270, is {self.rotation_deg}")


def probe_header(source: MediaSource) -> VideoHeader:
    """Read the header, and decode one frame for what only the decoder says (rotation).

    Reads at most some megabytes, wherever the header lies. A first frame that cannot be decoded is no error here.

    Args:
        source: local path or seekable reader.

    Raises:
        MediaError: as `open_container`, and NO_VIDEO_STREAM or UNSUPPORTED as `best_video_stream`.
    """
    head = read_head(source)
    with open_container(source) as container:
        stream = best_video_stream(container)
        context = stream.codec_context
        if context.width * context.height > MAX_PIXELS:
            raise MediaError(
                Outcome.UNSUPPORTED, f"pictures of {context.width} x {context.height}; at most {MAX_PIXELS:,} pixels are decoded"
            )
        frame = _first_frame(container, stream)
        turn_deg = 0 if frame is None else round(-frame.rotation / 90) * 90 % 360
        width_px, height_px = (context.width, context.height) if frame is None else (frame.width, frame.height)
        if turn_deg in (90, 270):
            width_px, height_px = height_px, width_px
        rate, duration_s = stream.average_rate or stream.guessed_rate, header_duration_s(container, stream)
        audio = container.streams.audio
        return VideoHeader(
            container=_container_name(container, head),
            codec=context.codec.canonical_name,
            width_px=width_px or None,
            height_px=height_px or None,
            rotation_deg=turn_deg,
            fps_num=rate.numerator if rate else None,
            fps_den=rate.denominator if rate else None,
            duration_ns=None if duration_s is None else pts_to_ns(1, time_base=duration_s, origin_pts=0),
            bit_rate_bps=container.bit_rate or None,
            has_audio=bool(audio),
            audio_codec=audio[0].codec_context.codec.canonical_name if audio and audio[0].codec_context else None,
            is_hdr=(context.color_trc if frame is None else frame.color_trc) in _HDR_TRANSFERS,
            pix_fmt=context.pix_fmt if frame is None else frame.format.name,
        )


def best_video_stream(container: InputContainer) -> VideoStream:
    """Choose the stream that is the video.

    Cover art and thumbnails never are. Then in this order: a decoder exists, the container's default flag, the larger picture, the lower index.

    Args:
        container: an open container.

    Raises:
        MediaError: NO_VIDEO_STREAM when there is none, UNSUPPORTED when no decoder is there for any.
    """
    not_video = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    streams = [s for s in container.streams.video if not s.disposition & not_video]
    if not streams:
        kinds = sorted({"cover art" if s.type == "video" else s.type for s in container.streams})
        raise MediaError(Outcome.NO_VIDEO_STREAM, f"streams: {', '.join(kinds) or 'none'}")
    decodable = [s for s in streams if s.codec_context is not None]
    if not decodable:
        raise MediaError(Outcome.UNSUPPORTED, "no decoder for the video stream's codec")

    def rank(stream: VideoStream) -> tuple[bool, int, int]:
        area_px = stream.codec_context.width * stream.codec_context.height
        return bool(stream.disposition & Disposition.default), area_px, -stream.index

    return max(decodable, key=rank)


def discard_others(container: InputContainer, stream: VideoStream) -> None:
    """Tell the demuxer to skip every stream but one."""
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all


def stream_tick_s(stream: VideoStream) -> Fraction:
    """Return the seconds per tick of a stream.

    Raises:
        MediaError: CORRUPT when the container gives none.
    """
    if not stream.time_base or stream.time_base < 0:
        raise MediaError(Outcome.CORRUPT, f"the stream's time base is {stream.time_base}")
    return stream.time_base


def header_duration_s(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """Read the seconds that the header gives for the stream, else for the container; None when it gives none."""
    if stream.duration and stream.duration > 0:
        return stream.duration * stream_tick_s(stream)
    if container.duration and container.duration > 0:
        return Fraction(container.duration, av.time_base)
    return None


def _first_frame(container: InputContainer, stream: VideoStream) -> VideoFrame | None:
    """Decode the first frame that decodes, None when there is none near the start."""
    discard_others(container, stream)
    stream.codec_context.thread_count = 1
    try:
        for packet in islice(container.demux(stream), _FIRST_FRAME_PACKETS):
            try:
                frames = stream.codec_context.decode(packet)
            except av.error.InvalidDataError:
                continue
            if frames:
                return frames[0]
    except av.error.FFmpegError:
        return None
    return None


def _container_name(container: InputContainer, head: bytes) -> str:
    """Choose the one short name that fits where the demuxer answers to several."""
    name = container.format.name
    if name.startswith("mov,"):
        return "mov" if container.metadata.get("major_brand", "").startswith("qt") else "mp4"
    if name.startswith("matroska,"):
        return container_signature(head) or "matroska"
    return name.split(",")[0]
