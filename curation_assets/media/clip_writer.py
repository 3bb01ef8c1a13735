"""Clip writer: one MP4 file from prepared frames, or from copied packets, and the clip's sound; the moov box in front."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import av.error
from av.video.frame import PictureType, VideoFrame

from curation_assets.media.audio import ClipAudio
from curation_assets.media.encoders import PIPE_ENCODER, EncodeError, EncoderSpec, FramePipe, configure
from curation_assets.media.pictures import PictureFormat

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

# What a disk says, and no encoder does: these end the run, not the clip.
_DISK_ERRORS = (errno.ENOENT, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)
# moov in front; edit lists in ticks finer than a millisecond; no more than one packet of interleaving.
_MUXER = {"movflags": "+faststart", "movie_timescale": "90000"}


@contextmanager
def encode_errors(path: Path) -> Iterator[None]:
    """Tell what an encoder or muxer refuses from what the disk refuses.

    Raises:
        EncodeError: the first.
        OSError: the second.
    """
    try:
        yield
    except av.error.FFmpegError as error:
        if error.errno in _DISK_ERRORS:
            raise OSError(error.errno, error.strerror or "", str(path)) from error
        raise EncodeError(str(error.strerror or error)) from error
    except (ValueError, MemoryError) as error:
        raise EncodeError(str(error) or type(error).__name__) from error


class ClipWriter:
    """Writes packets of one video track, and the sound between them.

    Args:
        path: file to write.
        audio: the clip's sound.
        last: pts of the last frame, and for how many ticks it is shown. MP4 takes durations from the decode times; what ends the track is the packet that
            is shown last, and what ends the sum of its durations is the one that comes last in decode order.
        add_video: adds the video stream to the container; called once.
    """

    def __init__(self, path: Path, *, audio: ClipAudio, last: tuple[int, int], add_video: Callable[[OutputContainer], VideoStream]) -> None:
        self._path, self._end = path, last
        self._held: Packet[Any] | None = None
        self._first_dts = 0
        with encode_errors(path):
            self._output = av.open(f"file:{path}", "w", format="mp4", container_options=_MUXER)
        with self._guarded():
            self.stream = add_video(self._output)
            audio.add_stream(self._output)
        self._audio = deque(audio.packets)

    def write(self, packets: Sequence[Packet[Any]]) -> None:
        """Write video packets, and the sound up to their times."""
        for packet in packets:
            if self._held is None:
                self._first_dts = packet.dts or 0
            self._write_held()
            self._held = packet
            packet.duration = self._end[1] if packet.pts == self._end[0] else 1

    def close(self) -> None:
        """Write the rest of the sound and the index.

        Raises:
            EncodeError: the muxer refuses.
            OSError: the disk does.
        """
        if self._held is not None:
            self._held.duration = self._last_ticks(self._held)
        self._write_held()
        with self._guarded():
            self._write_audio(None)
        with encode_errors(self._path):
            self._output.close()

    def abandon(self) -> None:
        """Close the file without caring for what it holds."""
        with suppress(av.error.FFmpegError, ValueError):
            self._output.close()

    def _last_ticks(self, packet: Packet[Any]) -> int:
        """Choose the duration of the packet that comes last in decode order: all durations then sum up to the track's, and nothing ends after it."""
        last_pts, shown_ticks = self._end
        if packet.pts is None or packet.dts is None or packet.pts >= last_pts:
            return shown_ticks
        end_pts = last_pts + shown_ticks
        return max(1, min(end_pts - (packet.dts - self._first_dts), end_pts - packet.pts))

    def _write_held(self) -> None:
        packet = self._held
        if packet is None:
            return
        with self._guarded():
            packet.stream = self.stream
            if packet.dts is not None and packet.time_base is not None:
                self._write_audio(packet.dts * packet.time_base)
            self._output.mux(packet)

    def _write_audio(self, until_s: Fraction | None) -> None:
        while self._audio:
            packet = self._audio[0]
            if until_s is not None and packet.pts is not None and packet.time_base and packet.pts * packet.time_base > until_s:
                return
            self._output.mux(self._audio.popleft())

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            with encode_errors(self._path):
                yield
        except BaseException:
            self.abandon()
            raise


class VideoEncoder:
    """Encodes the frames of one clip into a file.

    Args:
        path: file to write.
        spec: the encoder.
        picture: what the frames are.
        time_base: seconds per tick of the frames' times.
        rate: about how many frames per second there are.
        audio: the clip's sound.
        last: pts of the last frame, and for how many ticks it is shown.
        pipe_encoder: the encoder's name for the ffmpeg program, where one is used.
    """

    def __init__(
        self,
        path: Path,
        *,
        spec: EncoderSpec,
        picture: PictureFormat,
        time_base: Fraction,
        rate: Fraction,
        audio: ClipAudio,
        last: tuple[int, int],
        pipe_encoder: str | None = None,
    ) -> None:
        self._path, self._spec, self._picture, self._tick, self._rate = path, spec, picture, time_base, rate
        self._audio, self._last = audio, last
        self._pts: list[int] = []
        self._pipe: FramePipe | None = None
        self._writer: ClipWriter | None = None
        if spec.name == PIPE_ENCODER:
            size = {"width_px": picture.width_px, "height_px": picture.height_px}
            self._raw_path = path.with_suffix(".h264")
            self._pipe = FramePipe(
                spec, self._raw_path, rate=rate, encoder=pipe_encoder or PIPE_ENCODER, metadata=_metadata(picture), **size
            )
        else:
            self._writer = ClipWriter(path, audio=audio, last=last, add_video=self._add_stream)

    def encode(self, frame: VideoFrame, pts: int) -> None:
        """Encode one frame; times ascend.

        Raises:
            EncodeError: the encoder refuses.
            OSError: the disk is full, or may not be written.
        """
        self._pts.append(pts)
        if self._pipe is not None:
            self._pipe.write(frame)
            return
        assert self._writer is not None
        frame.pts, frame.time_base, frame.pict_type = pts, self._tick, PictureType.NONE  # else the source's keyframes are forced
        with encode_errors(self._path):
            packets = self._writer.stream.encode(frame)
        self._writer.write(packets)

    def close(self) -> None:
        """Finish the file.

        Raises:
            EncodeError: the encoder refuses.
            OSError: the disk is full, or may not be written.
        """
        if self._pipe is not None:
            self._mux_pipe()
            return
        assert self._writer is not None
        with encode_errors(self._path):
            packets = self._writer.stream.encode()
        self._writer.write(packets)
        self._writer.close()

    def abandon(self) -> None:
        """End without caring for the file."""
        if self._pipe is not None:
            self._pipe.kill()
            self._raw_path.unlink(missing_ok=True)
        if self._writer is not None:
            self._writer.abandon()

    def _add_stream(self, output: OutputContainer) -> VideoStream:
        picture = self._picture
        stream: VideoStream = output.add_stream(self._spec.name, rate=self._rate)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = picture.width_px, picture.height_px, picture.pix_fmt
        stream.time_base = context.time_base = self._tick
        context.sample_aspect_ratio = picture.sample_aspect
        context.color_primaries, context.color_trc, context.colorspace = picture.colour
        context.color_range = 1  # limited
        configure(context, self._spec)
        stream.set_display_matrix(picture.display_matrix)
        return stream

    def _mux_pipe(self) -> None:
        """Give the packets that ffmpeg made, which come in order of display, the frames' times."""
        assert self._pipe is not None
        try:
            self._pipe.finish()
            with av.open(f"file:{self._raw_path}", format="h264") as coded:
                template = coded.streams.video[0]

                def add_video(output: OutputContainer) -> VideoStream:
                    stream = output.add_stream_from_template(template, opaque=True)
                    stream.time_base = self._tick
                    stream.set_display_matrix(self._picture.display_matrix)
                    return stream

                self._writer = ClipWriter(self._path, audio=self._audio, last=self._last, add_video=add_video)
                packets = [packet for packet in coded.demux(template) if packet.size]
                if len(packets) != len(self._pts):
                    self._writer.abandon()
                    raise EncodeError(f"{self._spec.name} gave {len(packets)} pictures for {len(self._pts)} frames")
                for packet, pts in zip(packets, self._pts, strict=True):
                    packet.pts = packet.dts = pts
                    packet.time_base = self._tick
                self._writer.write(packets)
                self._writer.close()
        except av.error.FFmpegError as error:
            raise EncodeError(str(error.strerror or error)) from error
        finally:
            self._raw_path.unlink(missing_ok=True)


def _metadata(picture: PictureFormat) -> str:
    """What cannot be told to an encoder behind a pipe, as options of FFmpeg's h264_metadata filter."""
    primaries, transfer, matrix = picture.colour
    aspect = picture.sample_aspect
    return (
        f"sample_aspect_ratio={aspect.numerator}/{aspect.denominator}:colour_primaries={primaries}:transfer_characteristics={transfer}"
        f":matrix_coefficients={matrix}:video_full_range_flag=0"
    )
