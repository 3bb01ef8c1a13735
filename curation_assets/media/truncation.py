"""Truncation: what a container promised beyond what its packets gave.

Each container promises in its own way: MP4 lists every sample, Matroska and AVI state their own size, a GIF ends with a trailer. MPEG-TS and MPEG-PS
promise no more than whole packets. Streams of unequal length, edit lists and unknown durations are no loss either.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from curation_assets.media.probe import header_duration_s, stream_tick_s
from curation_assets.media.source import MediaSource, container_signature, mp4_boxes, read_at, read_head, size_bytes

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

_TAIL_BYTES = 1024
_GIF_TRAILER = b"\x3b"
_EBML_SEGMENT = b"\x18\x53\x80\x67"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demuxed:
    """What a finished demux and the container's header say, for comparison.

    Attributes:
        num_packets: packets that the demux gave.
        num_damaged: those of them that the demuxer marks as damaged.
        num_missing_samples: entries of an MP4 sample table without a packet; 0 for other containers.
        duration_s: seconds that the header promises for the stream, else for the container; None where it says nothing.
        time_base: seconds per tick of the stream.
        error: the demuxer's last error, "" for none.
    """

    num_packets: int
    num_damaged: int
    num_missing_samples: int
    duration_s: Fraction | None
    time_base: Fraction
    error: str

    @classmethod
    def of(cls, container: InputContainer, stream: VideoStream, *, num_packets: int, num_damaged: int, error: str) -> Demuxed:
        """Gather from a container that has just been read to its end."""
        name, tick_s = container.format.name, stream_tick_s(stream)
        duration_s = header_duration_s(container, stream) if name != "gif" else None  # the GIF demuxer adds up what it finds: no promise
        if (
            name == "avi" and stream.frames and stream.average_rate
        ):  # FFmpeg shortens an AVI's duration to what it finds, not its count of frames
            duration_s = max(duration_s or Fraction(0), stream.frames / stream.average_rate)
        return cls(
            num_packets=num_packets,
            num_damaged=num_damaged,
            num_missing_samples=max(0, len(stream.index_entries) - num_packets) if name.startswith("mov,") else 0,
            duration_s=duration_s,
            time_base=tick_s,
            error=error,
        )


def find_loss(source: MediaSource, demuxed: Demuxed, *, origin_pts: int, end_pts: int) -> str:
    """Say in words what is missing, "" when nothing is.

    Args:
        source: the object, for what its structure promises.
        demuxed: what the demux gave.
        origin_pts: pts of the first displayed frame.
        end_pts: tick after the last one.
    """
    seen_s = (end_pts - origin_pts) * demuxed.time_base
    promised_s = demuxed.duration_s
    ends = f"packets end at {float(seen_s):.1f} s"
    if promised_s is not None and promised_s > seen_s:
        ends += f" of {float(promised_s):.1f} s"
    if demuxed.num_missing_samples:
        return f"{ends}, {demuxed.num_missing_samples} of {demuxed.num_packets + demuxed.num_missing_samples} samples are missing"
    frame_s = seen_s / max(1, demuxed.num_packets)
    # some containers count their duration from zero, not from the first frame
    ends_early = promised_s is None or max(seen_s, end_pts * demuxed.time_base) < promised_s - 2 * frame_s
    if ends_early and _is_cut(source):
        return f"{ends}, the file is shorter than it says"
    if demuxed.num_damaged:
        return f"{ends}, {demuxed.num_damaged} of {demuxed.num_packets} packets are damaged"
    if demuxed.error and ends_early:
        return f"{ends}, then: {demuxed.error}"
    return ""


def _is_cut(source: MediaSource) -> bool:
    """Say whether the file's own structure goes on after its last byte."""
    head, size = read_head(source), size_bytes(source)
    match container_signature(head):
        case "mp4":
            return _is_mp4_cut(source, size)
        case "matroska" | "webm":
            end = _segment_end(head)
            return end is not None and end > size
        case "avi":
            return 8 + int.from_bytes(head[4:8], "little") > size and head[4:8] != b"\xff\xff\xff\xff"
        case "gif":
            return not read_at(source, max(0, size - _TAIL_BYTES)).rstrip(b"\x00").endswith(_GIF_TRAILER)
        case "flv":
            return _is_flv_cut(source, size)
    return False


def _is_mp4_cut(source: MediaSource, size: int) -> bool:
    """Walk the boxes of the top level; only a fragmented file is cut at its last box without its sample table telling."""
    boxes = list(mp4_boxes(source))
    return boxes[-1][1] > size and any(kind == b"moof" for kind, _ in boxes)


def _is_flv_cut(source: MediaSource, size: int) -> bool:
    """Say whether the last four bytes are not the size of a tag that stands right before them."""
    tag_bytes = int.from_bytes(read_at(source, size - 4, 4), "big")
    if not 11 <= tag_bytes <= size - 17:
        return True
    tag = read_at(source, size - 4 - tag_bytes, 4)
    return tag[0] & 0x1F not in (8, 9, 18) or int.from_bytes(tag[1:4], "big") != tag_bytes - 11


def _segment_end(head: bytes) -> int | None:
    """Read where a Matroska segment says that it ends; None where it does not say (live recordings)."""
    at = head.find(_EBML_SEGMENT)
    if at < 0 or at + 5 > len(head):
        return None
    at += 4
    length = 9 - head[at].bit_length()
    if length > 8 or at + length > len(head):
        return None
    size = int.from_bytes(head[at : at + length], "big") & ((1 << 7 * length) - 1)
    return None if size == (1 << 7 * length) - 1 else at + length + size
