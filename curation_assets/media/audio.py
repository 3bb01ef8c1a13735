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
        detail: why there is none although the video has sound, "" for no reason.
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


class AudioReader:
    """Reads the sound of a video's spans, which come in order of their starts, in one pass over the audio packets.

    Args:
        source: the video.
        index: its packets, for the timeline.
        start_ns: earliest time that will be asked for.
    """

    def __init__(self, source: MediaSource, index: PacketIndex, *, start_ns: int) -> None:
        self.problem = ""
        self._origin_ns = pts_to_ns(index.origin_pts, time_base=index.time_base, origin_pts=0)
        self._container = open_container(source)
        self._stream = self._choose()
        self._packets: Iterator[_Timed] = iter(())
        self._buffer: deque[_Timed] = deque()
        if self._stream is None:
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
        if not taken:
            return ClipAudio([], "", None)
        if self._stream.codec_context.codec.canonical_name in COPIED_CODECS:
            return ClipAudio(self._copied(taken, start_ns), "", self._stream)
        try:
            return self._encoded(taken, start_ns, end_ns)
        except (av.error.FFmpegError, ValueError) as error:
            return ClipAudio([], f"the audio was left out, it cannot be decoded: {getattr(error, 'strerror', None) or error}", None)

    def _choose(self) -> AudioStream | None:
        streams = list(self._container.streams.audio)
        if not streams:
            return None
        decodable = [stream for stream in streams if stream.codec_context is not None and stream.codec_context.sample_rate]
        if not decodable:
            self.problem = "the audio was left out, there is no decoder for it"
            return None
        return decodable[0]

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
        self._container.close()
        self._container = open_container(source)
        self._stream = next(stream for stream in self._container.streams.audio if stream.index == self._stream.index)
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
        errors, end_ns = 0, None
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
                        self.problem = "the audio after here was left out: its clock jumps back"
                        return
                    end_ns = start_ns + max(self._duration_ns(packet), 1)
                    yield _Timed(start_ns, end_ns, packet)
            except av.error.FFmpegError:
                errors += 1
            except IndexError:
                return  # as in `demux.iterate_packets`
            else:
                return

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
        for timed in taken:
            packet = av.Packet(bytes(timed.packet))
            assert timed.packet.pts is not None
            packet.pts = packet.dts = timed.packet.pts - zero_pts
            packet.duration, packet.time_base, packet.is_keyframe = timed.packet.duration or 0, tick, True
            copies.append(packet)
        return copies

    def _encoded(self, taken: list[_Timed], start_ns: int, end_ns: int) -> ClipAudio:
        """Decode and encode to AAC; gaps become silence."""
        assert self._stream is not None
        decoder = self._stream.codec_context
        rate = decoder.sample_rate if decoder.sample_rate in _AAC_RATES_HZ else 48000
        layout = decoder.layout.name if decoder.layout.nb_channels in (1, 6) else "stereo"
        encoder: AudioCodecContext = av.CodecContext.create("aac", "w")
        encoder.sample_rate, encoder.layout, encoder.format = rate, layout, "fltp"
        encoder.time_base, encoder.bit_rate = Fraction(1, rate), _AAC_BPS_PER_CHANNEL * encoder.layout.nb_channels
        resampler = AudioResampler("fltp", layout, rate, frame_size=_AAC_FRAME, options={"async": "1", "min_hard_comp": "0.02"})
        packets: list[Packet[Stream]] = []
        zero = round(Fraction(start_ns + self._origin_ns, NS_PER_S) * rate)
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
                packets += _encode(encoder, resampler.resample(frame), zero)
        decoder.flush_buffers()
        if not num_frames:
            return ClipAudio([], f"the audio was left out, none of its {num_errors} packets can be decoded", None)
        packets += _encode(encoder, resampler.resample(None), zero)
        packets += encoder.encode(None)
        detail = f"{num_errors} of {len(taken)} audio packets cannot be decoded" if num_errors else ""
        return ClipAudio(packets, detail, encoder)


def _encode(encoder: AudioCodecContext, frames: list[av.AudioFrame], zero: int) -> Iterator[Packet[Stream]]:
    for frame in frames:
        if frame.pts is not None and frame.time_base is not None:
            frame.pts = round(frame.pts * frame.time_base * encoder.sample_rate) - zero
            frame.time_base = encoder.time_base
        yield from encoder.encode(frame)
