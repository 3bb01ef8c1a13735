"""Encoders: which video encoders there are, how quality and speed are told to each, and whether this machine can open one.

All but one are PyAV's own. `libopenh264` is not in its wheels: raw frames go through a pipe to an `ffmpeg` on the PATH that has it (`pipe`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import av
import av.error
import numpy as np
from av.video.frame import VideoFrame

if TYPE_CHECKING:
    from av.video.codeccontext import VideoCodecContext

EncoderName = Literal["libx264", "libsvtav1", "libvpx-vp9", "h264_nvenc", "libopenh264"]
ENCODERS: tuple[EncoderName, ...] = get_args(EncoderName)
PIPE_ENCODER = "libopenh264"
_PROBE_SIZE = (256, 144)  # NVENC refuses less than 145 x 49
_FFMPEG_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True)
class EncoderTraits:
    """What is known of one encoder.

    Attributes:
        codec: name of the codec that it makes.
        quality: its constant quality where the settings give none; None when it has no such mode.
        best_quality: the largest number that it takes; 0 is the best picture everywhere.
        preset: its speed where the settings give none.
        takes_10bit: whether it can keep HDR.
    """

    codec: str
    quality: int | None
    worst_quality: int
    preset: str
    takes_10bit: bool


# Qualities that look alike: x264's default of 23, and what its developers and those of the others call the same. Speeds at which a CPU core makes a
# hundred frames of 720p a second or so, beyond which the files grow faster than the time shrinks.
TRAITS: dict[EncoderName, EncoderTraits] = {
    "libx264": EncoderTraits("h264", 23, 51, "veryfast", takes_10bit=True),
    "libsvtav1": EncoderTraits("av1", 35, 63, "8", takes_10bit=True),
    "libvpx-vp9": EncoderTraits("vp9", 33, 63, "5", takes_10bit=True),
    "h264_nvenc": EncoderTraits("h264", 23, 51, "p4", takes_10bit=False),
    "libopenh264": EncoderTraits("h264", None, 0, "medium", takes_10bit=False),
}
DEFAULT_BIT_RATE_BPS = 4_000_000  # for the encoder that has no constant quality


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """How to encode.

    Attributes:
        name: the encoder.
        quality: constant quality, smaller is better; None takes the encoder's own default. Not used with `bit_rate_bps`.
        bit_rate_bps: average bit rate in place of constant quality.
        preset: speed by the encoder's own name; None takes the default of `TRAITS`.
        gop: most frames from keyframe to keyframe; every GOP is closed.
        threads: of the encoder. Never changes what is asked for, and hardly the result.
    """

    name: EncoderName = "libx264"
    quality: int | None = None
    bit_rate_bps: int | None = None
    preset: str | None = None
    gop: int = 60
    threads: int = 1

    def __post_init__(self) -> None:
        """Check what the encoder takes.

        Raises:
            ValueError: a quality that it does not have, or does not reach.
        """
        traits = TRAITS[self.name]
        if self.quality is not None and self.bit_rate_bps is not None:
            raise ValueError("give quality or bit_rate_bps, not both")
        if self.quality is not None and (traits.quality is None or not 0 <= self.quality <= traits.worst_quality):
            allowed = (
                f"0 (best) to {traits.worst_quality}"
                if traits.quality is not None
                else "none: it has no constant quality; give bit_rate_bps"
            )
            raise ValueError(f"quality {self.quality}: {self.name} takes {allowed}")
        if self.gop < 1 or self.threads < 1:
            raise ValueError(f"gop and threads must be at least 1, are {self.gop} and {self.threads}")

    @property
    def codec(self) -> str:
        """Name of the codec that it makes."""
        return TRAITS[self.name].codec

    @property
    def target_bps(self) -> int | None:
        """The bit rate to ask for, None for constant quality."""
        if self.bit_rate_bps is None and TRAITS[self.name].quality is None:
            return DEFAULT_BIT_RATE_BPS
        return self.bit_rate_bps

    def options(self) -> dict[str, str]:
        """Return the options that PyAV's encoder takes."""
        traits = TRAITS[self.name]
        preset = self.preset or traits.preset
        quality = str(self.quality if self.quality is not None else traits.quality)
        bit_rate = self.target_bps
        common = {"g": str(self.gop), "flags": "+cgop"}
        rate = {"b": str(bit_rate)} if bit_rate else {"crf": quality}
        match self.name:
            case "libsvtav1":
                return {**common, **rate, "preset": preset, "svtav1-params": f"lp={self.threads}:irefresh-type=2"}
            case "libvpx-vp9":
                return {**common, "b": "0", **rate, "deadline": "good", "cpu-used": preset, "row-mt": "1" if self.threads > 1 else "0"}
            case "h264_nvenc":
                rate = {"rc": "vbr", "b": str(bit_rate)} if bit_rate else {"rc": "vbr", "cq": quality, "b": "0"}
                return {**common, **rate, "preset": preset}
        return {**common, **rate, "preset": preset}


def configure(context: VideoCodecContext, spec: EncoderSpec) -> None:
    """Tell an encoder's context what does not depend on the picture; before it is opened."""
    if spec.name == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # errors only: it writes its settings to stderr otherwise
    context.options = {**context.options, **spec.options()}
    context.thread_count = spec.threads


def missing_encoder(spec: EncoderSpec) -> str | None:
    """Say why this machine cannot encode so, None when it can. A small picture is really encoded.

    The message names the encoder, what was seen, and what is available.
    """
    problem = _problem(spec, find_ffmpeg())
    if problem is None:
        return None
    others = [name for name in ENCODERS if name != spec.name and _problem(EncoderSpec(name), find_ffmpeg()) is None]
    return f"{spec.name} cannot be used here: {problem}. Available: {', '.join(others) or 'none'}"


@lru_cache(maxsize=64)
def _problem(spec: EncoderSpec, ffmpeg: str | None) -> str | None:
    width_px, height_px = _PROBE_SIZE
    frame = VideoFrame.from_ndarray(np.full((height_px * 3 // 2, width_px), 128, np.uint8), format="yuv420p")
    if spec.name == PIPE_ENCODER:
        return _pipe_problem(spec, frame, ffmpeg)
    try:
        context: VideoCodecContext = av.CodecContext.create(spec.name, "w")
        context.width, context.height, context.pix_fmt = width_px, height_px, "yuv420p"
        context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
        configure(context, spec)
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        packets = [*context.encode(frame), *context.encode()]
    except av.error.EncoderNotFoundError:
        return "this build of PyAV does not have it"
    except (av.error.FFmpegError, ValueError) as error:
        return f"it does not open ({getattr(error, 'strerror', None) or error})"
    return None if packets else "it gave no picture"


def _pipe_problem(spec: EncoderSpec, frame: VideoFrame, ffmpeg: str | None) -> str | None:
    if ffmpeg is None:
        return "it needs an ffmpeg program on the PATH that has it, and there is none"
    with tempfile.TemporaryDirectory() as folder:
        pipe = FramePipe(spec, Path(folder) / "probe.h264", width_px=frame.width, height_px=frame.height, rate=Fraction(25))
        try:
            pipe.write(frame)
            pipe.finish()
        except EncodeError as error:
            return f"{ffmpeg} does not encode with it ({error})"
    return None


def find_ffmpeg() -> str | None:
    """Find the ffmpeg program."""
    return shutil.which("ffmpeg")


class EncodeError(Exception):
    """An encoder refused the pictures or ended early; the message says what it said."""


class FramePipe:
    """An ffmpeg process that takes raw frames and writes an H.264 stream without times, in order of display: no B-frames.

    Args:
        spec: how to encode.
        path: file to write.
        width_px: width of the frames, which are yuv420p; even.
        height_px: their height; even.
        rate: nominal frames per second, for the rate control.
        encoder: name of the encoder for ffmpeg.
        metadata: what `h264_metadata` writes into the stream: sample aspect, colours.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        path: Path,
        *,
        width_px: int,
        height_px: int,
        rate: Fraction,
        encoder: str = PIPE_ENCODER,
        metadata: str = "",
    ) -> None:
        command = [
            find_ffmpeg() or "ffmpeg", "-hide_banner", "-loglevel", "error", "-y",
            "-f", "rawvideo", "-pix_fmt", "yuv420p", "-video_size", f"{width_px}x{height_px}", "-framerate", str(rate), "-i", "pipe:0",
            "-c:v", encoder, "-b:v", str(spec.target_bps or DEFAULT_BIT_RATE_BPS), "-g", str(spec.gop), "-bf", "0", "-threads", str(spec.threads),
            *(["-bsf:v", f"h264_metadata={metadata}"] if metadata else []),
            "-f", "h264", f"file:{path}",
        ]  # fmt: skip
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `finish` and `kill`
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._said)

    def write(self, frame: VideoFrame) -> None:
        """Give it one frame.

        Raises:
            EncodeError: the process ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(frame.to_ndarray().tobytes())
        except BrokenPipeError as error:
            raise EncodeError(self.kill()) from error

    def finish(self) -> None:
        """Wait for the end of the stream.

        Raises:
            EncodeError: the process failed.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError as error:
            raise EncodeError(self.kill()) from error
        try:
            code = self._process.wait(timeout=_FFMPEG_TIMEOUT_S * 30)
        except subprocess.TimeoutExpired as error:
            raise EncodeError(self.kill()) from error
        said = self._last_words()
        if code:
            raise EncodeError(said or f"ffmpeg ended with {code}")

    def kill(self) -> str:
        """End the process; returns what it said last."""
        self._process.kill()
        self._process.wait()
        return self._last_words() or "ffmpeg ended early"

    def _last_words(self) -> str:
        if self._said.closed:
            return ""
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        self._said.close()
        return lines[-1][:300] if lines else ""
