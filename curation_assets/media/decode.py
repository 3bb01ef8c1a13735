"""Decode: the frames of chosen packets, exactly as a full decode gives them, with as little decoding as that allows.

Three economies, none of which changes a bit of a delivered frame. Packets after the last target that a keyframe serves are not decoded. Long stretches
without targets are not even read. Between targets, frames that no other frame refers to are skipped by the decoder (`skip_frame`), for the codecs where
that is exact. Loop filters stay on: frames refer to filtered frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import av
import av.error
import numpy as np

from curation_assets.media import nvdec
from curation_assets.media.errors import MediaError
from curation_assets.media.packets import PacketIndex, read_packets
from curation_assets.media.plan import DecodeRun, entry_points, plan_runs
from curation_assets.media.probe import MAX_PIXELS
from curation_assets.media.source import MediaSource, open_container

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.container import InputContainer
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# Reading past this many unneeded packets costs about as much as a seek.
_SEEK_PACKETS = 200
# Codecs whose standards define frames that nothing refers to, and whose FFmpeg decoders skip these and nothing else. VP8 may update its segment map in
# such frames, MPEG-4 part 2 packs two frames into one packet in AVI, dav1d skips with a delay.
_SKIPPABLE_CODECS = ("h264", "hevc", "mpeg1video", "mpeg2video")
_PROGRESSIVE = (0, 1)  # AV_FIELD_UNKNOWN, AV_FIELD_PROGRESSIVE


@dataclass(frozen=True, slots=True)
class DecodedTarget:
    """One target, decoded or not.

    Attributes:
        position: its packet, in decode order.
        frame: the frame as the decoder gives it; None when it is missing.
        problem: why it is missing, in words.
    """

    position: int
    frame: VideoFrame | None
    problem: str = ""


def decode_targets(
    source: MediaSource, *, index: PacketIndex, targets: list[int], num_threads: int = 1, on_gpu: bool = False
) -> Iterator[DecodedTarget]:
    """Decode the frames of some packets.

    A frame is missing when its packet is damaged, when the decoder reports an error or marks a frame as corrupt at or before it since the keyframe that
    serves it (what follows may show the damage), or when it never comes out of the decoder. It is never replaced by another.

    At most a few full-size frames are held at once: the decoder's own, and those that wait for the frames they refer to.

    Args:
        source: the indexed video.
        index: its packets.
        targets: distinct positions in decode order, in any order.
        num_threads: decoder threads, at least 1. The result does not depend on it.
        on_gpu: decode on an NVIDIA GPU; the frames come back to the CPU's memory. Which frames, their order and times are the same.

    Yields:
        Each target once. Those of one keyframe's frames come in order of display, except that targets found missing come last.

    Raises:
        MediaError: the source cannot be opened, or no longer holds the indexed packets; UNSUPPORTED when the GPU does not take the codec.
        ValueError: `num_threads` is below 1.
    """
    if num_threads < 1:
        raise ValueError(f"num_threads must be at least 1, is {num_threads}")
    if not targets:
        return
    reader = PacketReader(source, index, num_threads, on_gpu)
    try:
        for run in plan_runs(index, targets):
            attempt = _Attempt(reader, run)
            yield from attempt.decode(may_skip=True)
            lost = tuple(sorted(attempt.missing))
            if lost and not attempt.damage:
                # No error, and yet no frame: the container marked a keyframe too early. From further back the decoder may get there.
                attempt = _Attempt(reader, DecodeRun(_earlier_start(index, run.start), lost[-1] + 1, lost))
                yield from attempt.decode(may_skip=False)
            for position in sorted(attempt.missing):
                yield DecodedTarget(position, None, attempt.problem or "the decoder gave no frame")
    finally:
        reader.close()


def _earlier_start(index: PacketIndex, start: int) -> int:
    """Find the second keyframe before a position, 0 when there are fewer."""
    keyframes = np.flatnonzero(index.is_keyframe[:start])
    return int(keyframes[-2]) if keyframes.size >= 2 else 0


class PacketReader:
    """The packets of an index by position, and the decoder that takes them.

    Attributes:
        stream: the open input stream.
        context: its decoder; another one after the container was opened again.
    """

    def __init__(self, source: MediaSource, index: PacketIndex, num_threads: int, on_gpu: bool = False) -> None:
        self.index = index
        self.num_threads = 1 if on_gpu else num_threads
        self._on_gpu = on_gpu
        self._source = source
        self._may_seek = index.is_seekable
        self._open()

    def _open(self) -> None:
        self._container: InputContainer = nvdec.open(self._source) if self._on_gpu else open_container(self._source)
        self.stream = next(s for s in self._container.streams.video if s.index == self.index.stream_index)
        self.context: VideoCodecContext = self.stream.codec_context
        self.context.options = {"max_pixels": str(MAX_PIXELS)}  # the picture may grow on the way
        self.context.thread_count = self.num_threads
        self.context.thread_type = "FRAME" if self.num_threads > 1 else "NONE"
        self.can_skip = _can_skip(self.context)
        self._packets = read_packets(self._container, self.index)
        self._next = 0

    def close(self) -> None:
        """Close the container."""
        self._container.close()

    def packets(self, start: int, stop: int) -> Iterator[tuple[int, Packet[VideoStream]]]:
        """Yield the packets [start, stop), going there by seeking or by reading on."""
        self._go_to(start)
        while self._next < stop:
            try:
                packet = next(self._packets)
            except MediaError:
                if not self._may_seek or self._next != start:
                    raise
                # Seeking did not find the place; counting from the start does.
                self._may_seek = False
                self.close()
                self._open()
                self._go_to(start)
                continue
            self._next += 1
            yield self._next - 1, packet

    def _go_to(self, start: int) -> None:
        if self._may_seek and start and not 0 <= start - self._next < _SEEK_PACKETS:
            self._packets = read_packets(self._container, self.index, first=start)
            self._next = start
        elif start < self._next:
            self.close()
            self._open()
        while self._next < start:
            next(self._packets)
            self._next += 1


def _can_skip(context: VideoCodecContext) -> bool:
    """Say whether the decoder may leave out frames that no other frame refers to without any effect on the others."""
    codec = context.codec.canonical_name
    if codec not in _SKIPPABLE_CODECS or context.field_order not in _PROGRESSIVE:
        return False
    if codec == "hevc":
        # Frames without references within their temporal layer may have some in a higher one, so there must be one layer (ISO/IEC 14496-15, 8.3.3.1).
        extradata = context.extradata or b""
        return len(extradata) > 21 and extradata[0] == 1 and extradata[21] >> 3 & 7 == 1
    return True


@dataclass(slots=True)
class _Attempt:
    """One pass over the packets of a run."""

    reader: PacketReader
    run: DecodeRun
    missing: set[int] = field(init=False)  # targets that have not come out, or not intact
    damage: list[int] = field(default_factory=list)  # positions
    problem: str = ""
    _entries: dict[int, int] = field(init=False)
    _ready_pts: dict[int, int] = field(default_factory=dict)  # target -> pts that must have been shown before all it refers to has come out
    _held: list[tuple[int, VideoFrame]] = field(default_factory=list)
    _shown_pts: int = -(2**63)

    def __post_init__(self) -> None:
        self.missing = set(self.run.targets)
        self._entries = entry_points(self.reader.index, list(self.run.targets))

    def decode(self, *, may_skip: bool) -> Iterator[DecodedTarget]:
        """Feed the run's packets and yield the targets that come out intact."""
        context, pts = self.reader.context, self.reader.index.pts
        targets = set(self.run.targets)
        skips = may_skip and self.reader.can_skip
        highest_pts = int(pts[self.run.start])
        context.flush_buffers()
        context.skip_frame = "DEFAULT"
        is_skipping = False
        for position, packet in self.reader.packets(self.run.start, self.run.stop):
            context = self.reader.context  # another one after the container was opened again
            highest_pts = max(highest_pts, int(pts[position]))
            is_target = position in targets
            if is_target:
                self._ready_pts[position] = highest_pts
            if skips and is_skipping is is_target:
                is_skipping = not is_target
                context.skip_frame = "NONREF" if is_skipping else "DEFAULT"
            if packet.is_corrupt:
                self._note_damage(position, "a damaged packet")
                continue
            # Frames carry the pts of their packet. The position in its place tells frames apart whose pts are the same.
            packet.pts = position
            yield from self._take(self._feed(context, packet, position))
        context.skip_frame = "DEFAULT"
        if self.missing:
            yield from self._take(self._feed(context, None, self.run.stop))
            yield from self._release(2**63 - 1)

    def _feed(self, context: VideoCodecContext, packet: Packet[VideoStream] | None, position: int) -> list[VideoFrame]:
        try:
            return context.decode(packet)
        except av.error.FFmpegError as error:
            # Decoder threads report late: the error may be that of a packet some threads back.
            self._note_damage(
                max(self.run.start, position - self.reader.num_threads + 1), f"decoder: {error.strerror or type(error).__name__}"
            )
            return []

    def _take(self, frames: list[VideoFrame]) -> Iterator[DecodedTarget]:
        """Look at frames that came out, keep the targets among them."""
        pts = self.reader.index.pts
        for frame in frames:
            if frame.pts is None:
                continue
            position, frame.pts = frame.pts, int(pts[frame.pts])
            self._shown_pts = max(self._shown_pts, frame.pts)
            if frame.is_corrupt:
                self._note_damage(position, "the decoder marks a frame as corrupt")
            elif position in self.missing:
                self._held.append((position, frame))
        if self._held:
            yield from self._release(self._shown_pts)

    def _release(self, shown_pts: int) -> Iterator[DecodedTarget]:
        """Yield held targets for which every frame decoded before them has been seen, and was intact."""
        waiting = []
        for position, frame in self._held:
            if self._ready_pts[position] > shown_pts:
                waiting.append((position, frame))
            elif not any(self._entries[position] <= place <= position for place in self.damage):
                self.missing.discard(position)
                yield DecodedTarget(position, frame)
        self._held = waiting

    def _note_damage(self, position: int, problem: str) -> None:
        self.damage.append(position)
        self.problem = self.problem or f"{problem} at packet {position}"
