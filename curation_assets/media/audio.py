"""Audio: the sound of a span, for a clip's file: packets as they are where MP4 holds their codec, else encoded to AAC.

Times are those of the video's timeline. A clip's track begins with the packet that sounds at its first frame and the one before it, which the decoder
needs to warm up; MP4's edit list hides what lies before zero, so picture and sound stay together to the sample.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import av.error
from av.audio.resampler import AudioResampler
from av.stream import Disposition

from curation_assets.media.packets import PacketIndex
from curation_assets.media.probe import discard_others
from curation_assets.media.source import MediaSource, open_container
from curation_assets.media.timing import NS_PER_S, pts_to_ns

if TYPE_CHECKING:
    from av.audio.codeccontext import AudioCodecContext
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.packet import Packet
    from av.stream import Stream

# Codecs that players expect in MP4; it may hold others (MP2, FLAC, Vorbis), which few play from there.
COPIED_CODECS = ("aac", "mp3", "ac3", "eac3", "opus", "alac")
_AAC_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_AAC_BPS_PER_CHANNEL = 64_000
_AAC_FRAME = 1024
_LAYOUTS = {1: "mono", 6: "5.1"}  # by channels; others are mixed down to stereo
_MAX_ERRORS_IN_A_ROW = 8
_KEPT_BEHIND_NS = 5 * NS_PER_S  # a clip may ask for a little earlier than the one before it did
_REWIND_NS = 2 * NS_PER_S
_JOIN_NS = NS_PER_S  # a clock that falls back by more belongs to another recording


@dataclass(frozen=True, slots=True)
class _Timed:
    start_ns: int
    end_ns: int
    packet: Packet[AudioStream]


@dataclass(slots=True)
class ClipAudio:
    """The sound of one clip, ready to be muxed.

    Attributes:
        packets: in order, times relative to the clip's first frame; empty when there is none.
        detail: what of the video's sound is missing, and why; "" for nothing.
    """

    packets: list[Packet[Stream]]
    detail: str
    _template: AudioStream | AudioCodecContext | None

    def add_stream(self, output: OutputContainer) -> None:
        """Add the track to a container, and point the packets at it."""
        if self._template is None:
            return
        if isinstance(self._template, av.AudioCodecContext):
            context = self._template
            stream: Stream = output.add_stream("aac", rate=context.sample_rate, layout=context.layout.name, bit_rate=context.bit_rate)
            stream.time_base = context.time_base
        else:
            stream = output.add_stream_from_template(self._template, opaque=True)
        for packet in self.packets:
            packet.stream = stream

    def checked(self) -> ClipAudio:
        """Write the track by itself, into nowhere: what an MP4 does not take must not cost the clip its picture."""
        if self._template is None:
            return self
        try:
            with av.open(_Nowhere(), "w", format="mp4") as output:
                self.add_stream(output)
                for packet in self.packets:
                    output.mux(packet)
        except (av.error.FFmpegError, ValueError) as error:
            return ClipAudio([], f"the sound was left out, MP4 does not take it: {_words(error)}", None)
        return self


class _Nowhere:
    """A seekable file that keeps nothing."""

    def __init__(self) -> None:
        self._at = self._size = 0

    def write(self, data: bytes) -> int:
        self._at += len(data)
        self._size = max(self._size, self._at)
        return len(data)

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at


class AudioReader:
    """Reads the sound of a video's spans, which come in order of their starts, in one pass over the audio packets.

    Args:
        source: the video.
        index: its packets, for the timeline.
        start_ns: earliest time that will be asked for.
    """

    def __init__(self, source: MediaSource, index: PacketIndex, *, start_ns: int) -> None:
        self.problem = ""
        self._problem_ns = 0  # sound from here on is missing
        self._origin_ns = pts_to_ns(index.origin_pts, time_base=index.time_base, origin_pts=0)
        self._container = open_container(source)
        self._stream = self._choose()
        self._packets: Iterator[_Timed] = iter(())
        self._buffer: deque[_Timed] = deque()
        if self._stream is None:
            return
        if index.is_joined:  # the index moved the later recordings' pictures; nothing tells by how much their sound must be moved
            self.problem, self._stream = "the sound was left out: recordings with clocks of their own are joined in this video", None
            return
        discard_others(self._container, self._stream)  # type: ignore[arg-type] # any stream
        self._packets = self._read()
        if start_ns > 2 * _REWIND_NS:
            self._seek(source, start_ns)

    def close(self) -> None:
        """Close the container."""
        self._container.close()

    def clip(self, start_ns: int, end_ns: int) -> ClipAudio:
        """Give the sound of a span [start_ns, end_ns).

        Args:
            start_ns: time of the clip's first frame, which is zero in its file.
            end_ns: end of its last frame.
        """
        if self._stream is None:
            return ClipAudio([], self.problem, None)
        taken = self._take(start_ns, end_ns)
        missing = self.problem if self.problem and end_ns > self._problem_ns else ""
        if not taken:
            return ClipAudio([], missing, None)
        if self._stream.codec_context.codec.canonical_name in COPIED_CODECS:
            return ClipAudio(self._copied(taken, start_ns), missing, self._stream).checked()
        try:
            encoded = self._encoded(taken, start_ns, end_ns).checked()
        except (av.error.FFmpegError, ValueError) as error:
            return ClipAudio([], f"the sound was left out, it cannot be decoded: {_words(error)}", None)
        encoded.detail = "; ".join(filter(None, [encoded.detail, missing]))
        return encoded

    def _choose(self) -> AudioStream | None:
        streams = list(self._container.streams.audio)
        if not streams:
            return None
        decodable = [stream for stream in streams if stream.codec_context is not None and stream.codec_context.sample_rate]
        if not decodable:
            self.problem = "the sound was left out, there is no decoder for it"
            return None
        return next((stream for stream in decodable if stream.disposition & Disposition.default), decodable[0])

    def _seek(self, source: MediaSource, start_ns: int) -> None:
        """Go to shortly before a time; from the start where seeking lands behind it."""
        assert self._stream is not None
        target_s = Fraction(start_ns + self._origin_ns - _REWIND_NS, NS_PER_S)
        try:
            self._container.seek(int(target_s / self._tick), stream=self._stream, any_frame=True)
            first = next(self._packets, None)
        except av.error.FFmpegError:
            first = None
        if first is not None and first.start_ns <= start_ns:
            self._buffer.append(first)
            return
        stream_index = self._stream.index  # read before the container is closed: it is freed with it
        self._container.close()
        self._container = open_container(source)
        self._stream = next((stream for stream in self._container.streams.audio if stream.index == stream_index), None)
        self._buffer.clear()
        if self._stream is None:
            self.problem = "the sound was left out, its track is not found again"
            return
        discard_others(self._container, self._stream)  # type: ignore[arg-type]
        self._packets = self._read()

    @property
    def _tick(self) -> Fraction:
        assert self._stream is not None
        return self._stream.time_base or Fraction(1, self._stream.codec_context.sample_rate)

    def _read(self) -> Iterator[_Timed]:
        """Read on, past damage; times are nanoseconds on the video's timeline."""
        assert self._stream is not None
        stream, tick = self._stream, self._tick
        errors, words, end_ns = 0, "", None
        while errors < _MAX_ERRORS_IN_A_ROW:
            try:
                for packet in self._container.demux(stream):
                    if not packet.size:
                        continue
                    errors = 0
                    if packet.pts is None:
                        if end_ns is None:
                            continue
                        start_ns = end_ns
                        packet.pts = int(Fraction(start_ns + self._origin_ns, NS_PER_S) / tick)
                    else:
                        start_ns = pts_to_ns(packet.pts, time_base=tick, origin_pts=0) - self._origin_ns
                    if end_ns is not None and start_ns < end_ns - _JOIN_NS:
                        self._miss(end_ns, "its clock jumps back")
                        return
                    end_ns = start_ns + max(self._duration_ns(packet), 1)
                    yield _Timed(start_ns, end_ns, packet)
            except av.error.FFmpegError as error:
                errors, words = errors + 1, _words(error)
            except IndexError:
                return  # as in `demux.iterate_packets`
            else:
                return
        self._miss(end_ns or 0, words)

    def _miss(self, from_ns: int, reason: str) -> None:
        self.problem, self._problem_ns = f"the sound after {from_ns / NS_PER_S:.3f} s was left out: {reason}", from_ns

    def _duration_ns(self, packet: Packet[AudioStream]) -> int:
        assert self._stream is not None
        if packet.duration:
            return pts_to_ns(packet.duration, time_base=self._tick, origin_pts=0)
        context = self._stream.codec_context
        return (context.frame_size or _AAC_FRAME) * NS_PER_S // context.sample_rate

    def _take(self, start_ns: int, end_ns: int) -> list[_Timed]:
        """Read up to the end of a span; give its packets and the one before."""
        while self._buffer and self._buffer[0].end_ns < start_ns - _KEPT_BEHIND_NS:
            self._buffer.popleft()
        while not self._buffer or self._buffer[-1].start_ns < end_ns:
            timed = next(self._packets, None)
            if timed is None:
                break
            if timed.end_ns >= start_ns - _KEPT_BEHIND_NS:
                self._buffer.append(timed)
        inside = [place for place, timed in enumerate(self._buffer) if timed.end_ns > start_ns and timed.start_ns < end_ns]
        if not inside:
            return []
        return [self._buffer[place] for place in range(max(0, inside[0] - 1), inside[-1] + 1)]

    def _copied(self, taken: list[_Timed], start_ns: int) -> list[Packet[Stream]]:
        """Copy packets, for clips may share them."""
        tick = self._tick
        zero_pts = round(Fraction(start_ns + self._origin_ns, NS_PER_S) / tick)
        copies: list[Packet[Stream]] = []
        for timed, pts in zip(taken, _ascending(taken), strict=True):
            packet = av.Packet(bytes(timed.packet))
            packet.pts = packet.dts = pts - zero_pts
            packet.duration, packet.time_base, packet.is_keyframe = timed.packet.duration or 0, tick, True
            copies.append(packet)
        return copies

    def _encoded(self, taken: list[_Timed], start_ns: int, end_ns: int) -> ClipAudio:
        """Decode and encode to AAC; gaps become silence."""
        assert self._stream is not None
        decoder = self._stream.codec_context
        rate = decoder.sample_rate if decoder.sample_rate in _AAC_RATES_HZ else 48000
        layout = _LAYOUTS.get(decoder.layout.nb_channels, "stereo")
        encoder: AudioCodecContext = av.CodecContext.create("aac", "w")
        encoder.sample_rate, encoder.layout, encoder.format = rate, layout, "fltp"
        encoder.time_base, encoder.bit_rate = Fraction(1, rate), _AAC_BPS_PER_CHANNEL * encoder.layout.nb_channels
        resampler = AudioResampler("fltp", layout, rate, frame_size=_AAC_FRAME, options={"async": "1", "min_hard_comp": "0.02"})
        packets: list[Packet[Stream]] = []
        zero, stop = (round(Fraction(at_ns + self._origin_ns, NS_PER_S) * rate) for at_ns in (start_ns, end_ns))
        num_errors = num_frames = 0
        decoder.flush_buffers()
        for timed in [*taken, None]:
            try:
                decoded = decoder.decode(timed.packet if timed else None)
            except av.error.FFmpegError:
                num_errors += 1
                continue
            for frame in decoded:
                num_frames += 1
                packets += _encode(encoder, resampler.resample(frame), zero, stop)
        decoder.flush_buffers()
        if not num_frames:
            return ClipAudio([], f"the sound was left out, none of its {num_errors} packets can be decoded", None)
        packets += _encode(encoder, resampler.resample(None), zero, stop)
        packets += encoder.encode(None)
        detail = f"{num_errors} of {len(taken)} audio packets cannot be decoded" if num_errors else ""
        return ClipAudio(packets, detail, encoder)


def _ascending(taken: list[_Timed]) -> list[int]:
    """Times of the packets, in ticks; one that has the next one's time, as MPEG-PS gives them, is set before it."""
    pts = [timed.packet.pts or 0 for timed in taken]
    for place in reversed(range(len(pts) - 1)):
        if pts[place] >= pts[place + 1]:
            pts[place] = pts[place + 1] - max(1, taken[place].packet.duration or 0)
    return pts


def _words(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _encode(encoder: AudioCodecContext, frames: list[av.AudioFrame], zero: int, stop: int) -> Iterator[Packet[Stream]]:
    """Encode what begins before the clip's end, `stop`; times from its start, `zero`."""
    for frame in frames:
        if frame.pts is not None and frame.time_base is not None:
            pts = round(frame.pts * frame.time_base * encoder.sample_rate)
            if pts >= stop:
                continue
            frame.pts, frame.time_base = pts - zero, encoder.time_base
        yield from encoder.encode(frame)
