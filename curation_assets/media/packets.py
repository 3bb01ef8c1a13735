"""PacketIndex: what one full demux of a video stream tells, kept for every later stage.

Header index entries of containers are decode times, or one entry only; the demux alone gives presentation times for every container. Nothing is decoded
here, except for the few streams whose packets do not say when, or whether, they are shown (`demux.display_order`).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from curation_assets.media.demux import NO_TIME, Columns, demux_columns, display_order, iterate_packets, seek_packets
from curation_assets.media.errors import MediaError
from curation_assets.media.probe import best_video_stream, discard_others, stream_tick_s
from curation_assets.media.source import MediaSource, open_container, translate_errors
from curation_assets.media.timing import pts_array_to_ns, pts_to_ns
from curation_assets.media.truncation import Demuxed, find_loss
from curation_assets.schemas.outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

_MAGIC = b"PKI1"
_FIXED = struct.Struct("<4sIiqqqqqBI")  # magic, crc, stream, time base, origin, end, count, flags, bytes of detail
_MAX_PACKETS = 2**31
# Decode times that fall back by more than this join recordings, as concatenated MPEG-TS and VOB files do; less is a muxer's jitter.
_JOIN_S = 1
_MAX_HELD_S = 86_400  # a frame shown for longer than a day stands before damaged times
# Containers that store no presentation times. FFmpeg makes some up, which are right only where its parser tells B-frames.
_WITHOUT_PTS = ("avi", "h264", "hevc", "vvc")
# MPEG-PS has times for some packets alone. FFmpeg guesses the others, and after a seek not as it did from the start.
_GUESSED_PTS = ("mpeg",)
_UNTOLD_REORDERING = ("h264", "hevc", "vvc")
# Enough packets to see whether frames come out as the packets say.
_TRIAL_PACKETS = 96
_PROGRESSIVE = (0, 1)  # AV_FIELD_UNKNOWN, AV_FIELD_PROGRESSIVE
_MAX_SEEKS = 4
_MATCHED_PACKETS = 3  # pts in a row that say where a seek has landed
_REWIND_S = 10  # more than any reorder delay between decode and presentation times


@dataclass(frozen=True, eq=False)
class PacketIndex:
    """Packets of the best video stream, in decode order.

    Read the packets themselves with `read_packets`, which gives each the pts that stands here.

    Attributes:
        stream_index: index of the stream in its container.
        time_base: seconds per tick.
        pts: int64 (N,), presentation times in ticks, as the demuxer gives them (not moved to zero).
        durations: int64 (N,), ticks; what the container says, 0 where it says nothing.
        is_keyframe: bool (N,), packets where decoding may begin: every frame shown at or after such a packet, and later in decode order, needs
            nothing before it. In an open GOP, frames shown before it may follow it in decode order; those do.
        is_displayed: bool (N,), False for packets that an edit list or the container discards, alternate references, damaged packets and what
            follows them up to the next keyframe, and frames at the stream's start whose references it lacks. A decoder may give frames for
            these; they are not to be used.
        origin_pts: pts of the first displayed frame; the video's timeline is zero there.
        end_pts: tick after the last displayed frame's duration.
        is_truncated: True when the container promised more than the demux gave.
        detail: what was seen when `is_truncated`, else "".
        is_seekable: False when the demuxer's pts after a seek do not tell the packets, which are then found by counting from the start.
        is_joined: recordings that follow each other with clocks of their own were put one after the other; the other streams' times were not.
        has_damage: the demuxer marks packets as damaged.
    """

    stream_index: int
    time_base: Fraction
    pts: npt.NDArray[np.int64]
    durations: npt.NDArray[np.int64]
    is_keyframe: npt.NDArray[np.bool_]
    is_displayed: npt.NDArray[np.bool_]
    origin_pts: int
    end_pts: int
    is_truncated: bool
    detail: str
    is_seekable: bool = True
    is_joined: bool = False
    has_damage: bool = False

    def __post_init__(self) -> None:
        """Check the shapes and freeze the arrays.

        Raises:
            ValueError: arrays of different length or type, or a time base that is not positive.
        """
        if self.time_base <= 0:
            raise ValueError(f"time_base must be positive, is {self.time_base}")
        for name, dtype in (("pts", np.int64), ("durations", np.int64), ("is_keyframe", np.bool_), ("is_displayed", np.bool_)):
            array: npt.NDArray[np.generic] = getattr(self, name)
            if array.dtype != dtype or array.shape != self.pts.shape or array.ndim != 1:
                raise ValueError(f"{name} must be {np.dtype(dtype)} {self.pts.shape}, is {array.dtype} {array.shape}")
            array.flags.writeable = False

    def __len__(self) -> int:
        """Return the number of packets."""
        return len(self.pts)

    def __repr__(self) -> str:
        """Say the sizes, not the arrays."""
        shown, keys = int(self.is_displayed.sum()), int(self.is_keyframe.sum())
        return f"PacketIndex(stream {self.stream_index}, {len(self)} packets, {shown} shown, {keys} keyframes, {self.end_ns / 1e9:.3f} s)"

    @cached_property
    def display_pts(self) -> npt.NDArray[np.int64]:
        """int64 (M,), sorted presentation times in ticks of the frames that are shown."""
        return np.sort(self.pts[self.is_displayed])

    @cached_property
    def display_times_ns(self) -> npt.NDArray[np.int64]:
        """int64 (M,), sorted times of the frames that are shown, nanoseconds on the video's timeline; the first is 0."""
        return self._to_ns(self.display_pts)

    @cached_property
    def keyframe_times_ns(self) -> npt.NDArray[np.int64]:
        """int64 (K,), sorted times of the shown keyframes, nanoseconds on the video's timeline."""
        return self._to_ns(np.sort(self.pts[self.is_displayed & self.is_keyframe]))

    @property
    def end_ns(self) -> int:
        """End of the last shown frame, nanoseconds on the video's timeline."""
        return pts_to_ns(self.end_pts, time_base=self.time_base, origin_pts=self.origin_pts)

    def packet_range(self, start_ns: int, end_ns: int) -> tuple[int, int]:
        """Find the packets [first, stop) in decode order that decode every shown frame of the span [start_ns, end_ns).

        `first` is a keyframe, the latest from which all of them decode exactly (the one before, where an open GOP's leading frames are wanted), or 0.

        Args:
            start_ns: start of the half-open span on the video's timeline.
            end_ns: its end.

        Returns:
            The range; (0, 0) when no frame is shown in the span.
        """
        low, high = np.searchsorted(self.display_times_ns, [start_ns, end_ns])
        if low >= high:
            return 0, 0
        first_pts, last_pts = int(self.display_pts[low]), int(self.display_pts[high - 1])
        wanted = np.flatnonzero(self.is_displayed & (self.pts >= first_pts) & (self.pts <= last_pts))
        entries = np.flatnonzero(self.is_keyframe[: wanted[0] + 1] & (self.pts[: wanted[0] + 1] <= first_pts))
        return (int(entries[-1]) if entries.size else 0), int(wanted[-1]) + 1

    def slice_for_span(self, start_ns: int, end_ns: int) -> PacketIndex:
        """Cut out the packets of `packet_range` as an index on the same timeline.

        Frames that are led in but not exactly decodable from its first packet on are not displayed in it. `end_pts` is when the frame after the slice's
        last one is shown.

        Args:
            start_ns: start of the half-open span on the video's timeline.
            end_ns: its end.
        """
        first, stop = self.packet_range(start_ns, end_ns)
        is_displayed = self.is_displayed[first:stop].copy()
        if first:
            is_displayed &= self.pts[first:stop] >= self.pts[first]
        shown = self.pts[first:stop][is_displayed]
        after = self.display_pts[np.searchsorted(self.display_pts, shown.max(), side="right") :] if shown.size else self.display_pts[:0]
        return replace(
            self,
            pts=self.pts[first:stop].copy(),
            durations=self.durations[first:stop].copy(),
            is_keyframe=self.is_keyframe[first:stop].copy(),
            is_displayed=is_displayed,
            end_pts=int(after[0]) if after.size else self.end_pts,
        )

    def to_bytes(self) -> bytes:
        """Pack into bytes; about two bytes per packet, less for constant frame rates."""
        deltas = np.concatenate([_columns(_differences(self.pts)), _columns(_differences(self.durations))])
        flags = np.concatenate([np.packbits(self.is_keyframe), np.packbits(self.is_displayed)])
        detail = self.detail.encode()
        body = zlib.compress(deltas.tobytes() + flags.tobytes() + detail, 6)
        fields = (
            self.stream_index, self.time_base.numerator, self.time_base.denominator, self.origin_pts, self.end_pts, len(self),
            self.is_truncated | self.is_seekable << 1 | self.is_joined << 2 | self.has_damage << 3, len(detail),
        )  # fmt: skip
        unchecked = _FIXED.pack(_MAGIC, 0, *fields)
        return _FIXED.pack(_MAGIC, zlib.crc32(unchecked + body), *fields) + body

    @classmethod
    def from_bytes(cls, packed: bytes) -> PacketIndex:
        """Unpack what `to_bytes` gave.

        Raises:
            ValueError: the bytes are something else, damaged, or of another version.
        """
        if len(packed) < _FIXED.size or packed[:4] != _MAGIC:
            raise ValueError("not a packed packet index of this version")
        _, checksum, stream_index, numerator, denominator, origin_pts, end_pts, count, flags, detail_bytes = _FIXED.unpack_from(packed)
        body = packed[_FIXED.size :]
        fields = (stream_index, numerator, denominator, origin_pts, end_pts, count, flags, detail_bytes)
        if zlib.crc32(_FIXED.pack(_MAGIC, 0, *fields) + body) != checksum or not 0 <= count < _MAX_PACKETS:
            raise ValueError("the packed packet index is damaged")
        bit_bytes = -(-count // 8)
        expected = 16 * count + 2 * bit_bytes + detail_bytes
        try:
            plain = zlib.decompress(body)
        except zlib.error as error:
            raise ValueError("the packed packet index is damaged") from error
        if len(plain) != expected or denominator <= 0:
            raise ValueError("the packed packet index is damaged")
        bits = np.frombuffer(plain, np.uint8, 2 * bit_bytes, 16 * count)
        return cls(
            stream_index=stream_index,
            time_base=Fraction(numerator, denominator),
            pts=np.cumsum(_rows(plain[: 8 * count])),
            durations=np.cumsum(_rows(plain[8 * count : 16 * count])),
            is_keyframe=np.unpackbits(bits[:bit_bytes], count=count).astype(np.bool_),
            is_displayed=np.unpackbits(bits[bit_bytes:], count=count).astype(np.bool_),
            origin_pts=origin_pts,
            end_pts=end_pts,
            is_truncated=bool(flags & 1),
            detail=plain[16 * count + 2 * bit_bytes :].decode(),
            is_seekable=bool(flags & 2),
            is_joined=bool(flags & 4),
            has_damage=bool(flags & 8),
        )

    def _to_ns(self, pts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        times_ns = pts_array_to_ns(pts, time_base=self.time_base, origin_pts=self.origin_pts)
        times_ns.flags.writeable = False
        return times_ns


def index_packets(source: MediaSource) -> PacketIndex:
    """Demux the best video stream once, from start to end, and index its packets.

    The other streams are skipped. Nothing is decoded, unless the packets cannot tell the order of display: with B-frames in containers without
    presentation times (AVI, raw streams), and interlaced H.264, whose packets may be single fields. Of these, the first packets are decoded, and all of
    them if they turn out not to tell.

    Args:
        source: local path or seekable reader.

    Raises:
        MediaError: as `open_container` and `best_video_stream`; CORRUPT when no frame can be shown.
    """
    with open_container(source) as container, translate_errors(Outcome.CORRUPT):
        stream = best_video_stream(container)
        discard_others(container, stream)
        columns = demux_columns(container, stream)
        if not len(columns.pts):
            raise MediaError(Outcome.CORRUPT, f"no packet can be read{': ' + columns.error if columns.error else ''}")
        index = _build_index(source, container, stream, columns)
        demuxed = Demuxed.of(container, stream, num_packets=len(index), num_damaged=sum(columns.is_damaged), error=columns.error)
    detail = find_loss(source, demuxed, end_pts=index.end_pts, origin_pts=index.origin_pts)
    detail = "; ".join(filter(None, [index.detail, detail]))
    return replace(index, is_truncated=bool(detail), detail=detail)


def read_packets(
    container: InputContainer, index: PacketIndex, *, first: int = 0, stop: int | None = None
) -> Iterator[Packet[VideoStream]]:
    """Read the packets [first, stop) of an index, in decode order, each with the pts that stands in the index.

    Args:
        container: the indexed video, open; fresh from `open_container` when `first` is 0 or the index is not seekable.
        index: from `index_packets` on the same object.
        first: position of the first packet, as `PacketIndex.packet_range` gives it.
        stop: position after the last; None for all.

    Raises:
        MediaError: CORRUPT when the container no longer gives the packets, or was read before where it must be fresh.
    """
    stream = next((s for s in container.streams.video if s.index == index.stream_index), None)
    if stream is None:
        raise MediaError(Outcome.CORRUPT, f"there is no video stream {index.stream_index} any more")
    discard_others(container, stream)
    stop = len(index) if stop is None else stop
    if first >= stop:
        return
    if index.is_seekable and first:
        keyframes = np.flatnonzero(index.is_keyframe[: first + 1])[: -_MAX_SEEKS - 1 : -1]
        targets_pts = [*index.pts[keyframes].tolist(), int(index.pts.min()) - int(_REWIND_S / index.time_base)]
        packets = seek_packets(container, stream, index.pts[first : first + _MATCHED_PACKETS].tolist(), targets_pts=targets_pts)
    else:
        packets = islice(iterate_packets(container, stream), first, None)
    for position in range(first, stop):
        packet = next(packets, None)
        if packet is None or (index.is_seekable and packet.pts != index.pts[position]):
            raise MediaError(Outcome.CORRUPT, f"packet {position} of {len(index)} is not where the index has it")
        packet.pts = int(index.pts[position])
        yield packet


def _differences(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """First differences, the first value kept; wraps on overflow, as the running sum does back."""
    return np.diff(values, prepend=np.int64(0))


def _columns(values: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Bytes of little-endian int64 by significance: (N, 8) -> (8, N) flat. Equal bytes then stand together."""
    return np.ascontiguousarray(values.astype("<i8").view(np.uint8).reshape(-1, 8).T).reshape(-1)


def _rows(data: bytes) -> npt.NDArray[np.int64]:
    """Undo `_columns`."""
    by_significance = np.frombuffer(data, np.uint8).reshape(8, -1)
    return np.ascontiguousarray(by_significance.T).view("<i8").reshape(-1).astype(np.int64)


def _build_index(source: MediaSource, container: InputContainer, stream: VideoStream, columns: Columns) -> PacketIndex:
    """Make times complete and find out what is shown."""
    pts, dts, durations = (np.array(c, dtype=np.int64) for c in (columns.pts, columns.dts, columns.durations))
    is_keyframe, is_displayed, is_marked, is_whole = (
        np.array(c, dtype=np.bool_) for c in (columns.is_keyframe, columns.is_displayed, columns.is_marked, columns.is_whole)
    )
    time_base = stream_tick_s(stream)
    unreadable = _lost_start(stream, columns, time_base)
    if not is_keyframe.any():  # streams without any clean entry: the decoder makes do with what the container says
        is_keyframe = is_marked if is_marked.any() else np.arange(len(pts)) == 0
        is_displayed = is_whole.copy()
        is_displayed &= np.arange(len(pts)) >= np.argmax(is_keyframe)
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    frame_ticks = max(1, round(1 / (rate * time_base)))
    raw_pts = pts
    if (pts == NO_TIME).any():
        pts = dts if not (dts == NO_TIME).any() else np.cumsum(np.where(durations > 0, durations, frame_ticks))
    unjoined = pts
    pts = _join(pts, dts, join_ticks=int(_JOIN_S / time_base), frame_ticks=frame_ticks)
    is_joined = pts is not unjoined
    if not _packets_tell(source, container, stream, pts, is_displayed):
        order = display_order(source, len(pts))
        is_displayed &= np.isin(np.arange(len(pts)), order)
        order = order[is_displayed[order]]
        pts = pts.copy()
        pts[order] = np.sort(pts[order])
    if not is_displayed.any():
        raise MediaError(Outcome.CORRUPT, f"none of {len(pts)} packets can be shown{': ' + columns.error if columns.error else ''}")
    num_before = int(is_displayed.sum())
    most_ticks = int(_MAX_HELD_S / time_base)
    is_displayed &= _in_largest_run(pts, is_displayed, most_ticks)
    num_strays = num_before - int(is_displayed.sum())
    strays = f"{num_strays} frames have times more than a day away from the others" if num_strays else ""
    shown = np.sort(pts[is_displayed])
    last = np.flatnonzero(is_displayed & (pts == shown[-1]))[-1]
    if 0 < durations[last] <= most_ticks:
        last_ticks = int(durations[last])
    else:
        steps = np.diff(shown)
        last_ticks = int(np.median(steps[steps > 0])) if (steps > 0).any() else frame_ticks
    return PacketIndex(
        stream_index=stream.index, time_base=time_base, pts=pts, durations=durations, is_keyframe=is_keyframe, is_displayed=is_displayed,
        origin_pts=int(shown[0]), end_pts=int(shown[-1]) + last_ticks, is_truncated=False, detail="; ".join(filter(None, [unreadable, strays])),
        is_seekable=container.format.name not in _GUESSED_PTS and bool((pts == raw_pts).all()) and len(np.unique(pts)) == len(pts),
        is_joined=is_joined, has_damage=any(columns.is_damaged),
    )  # fmt: skip


def _lost_start(stream: VideoStream, columns: Columns, time_base: Fraction) -> str:
    """Say how many frames come before the first packet that decoding can begin at, where the container's own index has a keyframe among them.

    A recording that begins within a GOP has none: its first frames were never whole.
    """
    first = next((place for place, is_keyframe in enumerate(columns.is_keyframe) if is_keyframe), 0)
    num_lost = sum(columns.is_whole[:first])
    time = columns.dts[first] if columns.dts[first] != NO_TIME else columns.pts[first]
    if not num_lost or not any(entry.is_keyframe and entry.timestamp < time for entry in stream.index_entries):
        return ""
    start = min((pts for pts in columns.pts[:first] if pts != NO_TIME), default=columns.pts[first])
    return f"{num_lost} frames ({float((columns.pts[first] - start) * time_base):.1f} s) before the first intact keyframe cannot be decoded"


def _in_largest_run(pts: npt.NDArray[np.int64], is_displayed: npt.NDArray[np.bool_], most_ticks: int) -> npt.NDArray[np.bool_]:
    """Say which packets are in the largest run of frames without a longer pause; a damaged time would make a video of weeks."""
    shown = np.sort(pts[is_displayed])
    bounds = np.flatnonzero(np.diff(shown) > most_ticks) + 1
    runs = np.split(shown, bounds)
    largest = max(runs, key=len)
    inside: npt.NDArray[np.bool_] = (pts >= largest[0]) & (pts <= largest[-1])
    return inside


def _join(pts: npt.NDArray[np.int64], dts: npt.NDArray[np.int64], *, join_ticks: int, frame_ticks: int) -> npt.NDArray[np.int64]:
    """Put recordings that follow each other in one file, each with its own clock, one after the other."""
    if len(dts) < 2 or (dts == NO_TIME).any():
        return pts
    steps = np.diff(dts)
    falls = steps < -join_ticks
    if not falls.any():
        return pts
    shifts: npt.NDArray[np.int64] = np.cumsum(np.where(falls, frame_ticks - steps, 0), dtype=np.int64)
    joined = pts.copy()
    joined[1:] += shifts
    return joined


def _packets_tell(
    source: MediaSource, container: InputContainer, stream: VideoStream, pts: npt.NDArray[np.int64], is_displayed: npt.NDArray[np.bool_]
) -> bool:
    """Say whether the decoder shows what the packets say, in their order; tried only where there is reason to doubt it."""
    codec, context = stream.codec_context.codec.canonical_name, stream.codec_context
    is_untimed = container.format.name in _WITHOUT_PTS and bool(context.has_b_frames)
    if is_untimed and codec in _UNTOLD_REORDERING:
        return False
    if not is_untimed and (codec != "h264" or context.field_order in _PROGRESSIVE):
        return True
    order = display_order(source, _TRIAL_PACKETS)
    is_ordered = bool((np.diff(pts[order]) > 0).all())
    return is_ordered and len(order) >= int(is_displayed[:_TRIAL_PACKETS].sum())
