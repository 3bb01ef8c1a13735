"""Synthetic video: scenes that look natural enough to be told apart, and one function to write them with PyAV.

For the demo, the benchmarks and the tests. Everything is deterministic: the same seed gives the same pixels on every machine.
"""

from __future__ import annotations

import colorsys
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, cast

import av
import numpy as np
import numpy.typing as npt
from av.stream import Disposition
from PIL import Image

if TYPE_CHECKING:
    from av.video.stream import VideoStream

_AUDIO_HZ = 48000
_CELLS = (3, 7, 17)  # grid sizes of the texture's octaves


@dataclass(frozen=True, slots=True)
class Scene:
    """A shot of a made-up place: textured ground with a light gradient, shapes that drift over it, a slow pan.

    Attributes:
        seed: decides colours, texture, shapes and motion.
        num_frames: length.
        speed: motion per frame as a share of the picture's width, of the fastest shape.
    """

    seed: int
    num_frames: int
    speed: float = 0.01

    def __post_init__(self) -> None:
        """Check the length.

        Raises:
            ValueError: no frames.
        """
        if self.num_frames < 1:
            raise ValueError(f"a scene needs a frame, has {self.num_frames}")


def paint_scene(scene: Scene, *, width_px: int, height_px: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Paint the frames of a scene.

    Args:
        scene: what to paint.
        width_px: width.
        height_px: height.

    Yields:
        uint8 (H, W, 3), RGB.
    """
    random = np.random.default_rng(scene.seed)
    margin = max(2, width_px // 4)
    ground = _texture(random, width_px + margin, height_px)
    hues = random.uniform(0, 1, 3)
    low, high = (_colour(hues[0], 0.55, 0.25), _colour(hues[0] + 0.1, 0.5, 0.85))
    light = np.linspace(random.uniform(0.7, 1.0), random.uniform(0.7, 1.0), height_px, dtype=np.float32)[:, None, None]
    picture = np.clip((low + (high - low) * ground[..., None]) * light * 255, 0, 255).astype(np.uint8)
    shapes = [
        (
            random.uniform(0, 1, 2),
            random.uniform(-1, 1, 2) * scene.speed,
            random.uniform(0.08, 0.2),
            _colour(hues[1] + k * 0.17, 0.8, 0.9),
            k % 2,
        )
        for k in range(3)
    ]
    pan_px = random.choice([-1, 1]) * margin * min(1.0, scene.speed * scene.num_frames)
    for number in range(scene.num_frames):
        at = int(margin / 2 + pan_px * (number / scene.num_frames - 0.5))
        frame = picture[:, at : at + width_px].copy()
        for centre, motion, radius, colour, is_round in shapes:
            place = 1 - np.abs((centre + motion * number) % 2 - 1)  # shapes bounce off the edges
            _paint_shape(frame, place[0] * width_px, place[1] * height_px, radius * width_px, colour, is_round=bool(is_round))
        yield frame


def paint_scenes(scenes: Iterable[Scene], *, width_px: int, height_px: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Paint scenes one after the other, with hard cuts between."""
    for scene in scenes:
        yield from paint_scene(scene, width_px=width_px, height_px=height_px)


def write_video(
    path: Path | str,
    frames: Iterable[npt.NDArray[np.uint8]],
    *,
    fps: Fraction | int = 25,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    container: str | None = None,
    codec_options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    rotation_deg: int = 0,
    colour: tuple[int, int, int] | None = None,
    audio_s: float = 0,
    cover: npt.NDArray[np.uint8] | None = None,
) -> Path:
    """Encode frames into a file with one video stream, and an audio stream or cover art where asked for.

    Args:
        path: where to write; what is there is replaced.
        frames: uint8 (H, W, 3), RGB, all of one size.
        fps: nominal frames per second.
        codec: FFmpeg encoder.
        pix_fmt: pixel format to encode.
        container: FFmpeg muxer; by the path's suffix when None.
        codec_options: encoder options; keyframe interval, B-frames and so on.
        container_options: muxer options.
        pts: time of each frame in ticks of `time_base`, for variable rates; frame k at k / fps when None.
        time_base: seconds per tick of `pts`; 1 / fps when None.
        rotation_deg: clockwise turn that a player applies, written as display matrix.
        colour: primaries, transfer and matrix codes of ITU-T H.273.
        audio_s: seconds of a quiet tone as AAC; none for 0.
        cover: uint8 (H, W, 3), RGB, stored as JPEG cover art.

    Returns:
        The path.

    Raises:
        ValueError: no frames, or not one pts per frame.
    """
    path, iterator = Path(path), iter(frames)
    first = next(iterator, None)
    if first is None:
        raise ValueError("there must be a frame")
    tick = time_base or 1 / Fraction(fps)
    is_matroska = path.suffix in (".mkv", ".webm")
    with av.open(f"file:{path}", "w", format=container, container_options=dict(container_options or {})) as output:
        stream = cast("VideoStream", output.add_stream(codec, rate=Fraction(fps), options={"threads": "1", **(codec_options or {})}))
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt, stream.time_base, stream.codec_context.time_base = pix_fmt, tick, tick
        if rotation_deg:
            stream.set_display_rotation(-rotation_deg)
        if colour is not None:
            context = stream.codec_context
            context.color_primaries, context.color_trc, context.colorspace = colour
        audio = output.add_stream("aac", rate=_AUDIO_HZ, layout="mono") if audio_s else None
        if cover is not None and is_matroska:
            output.add_attachment("cover.jpg", "image/jpeg", encode_jpeg(cover))
        elif cover is not None:
            picture = output.add_stream("mjpeg", rate=1)
            picture.height, picture.width = cover.shape[:2]
            picture.pix_fmt, picture.disposition = "yuvj420p", Disposition.attached_pic
            output.mux(picture.encode(_frame(cover, 0, Fraction(1))) + picture.encode())
        num_frames = 0
        for number, pixels in enumerate(chain([first], iterator)):
            output.mux(stream.encode(_frame(pixels, number if pts is None else pts[number], tick)))
            num_frames += 1
        output.mux(stream.encode())
        if audio is not None:
            for samples in _tone(audio_s):
                output.mux(audio.encode(samples))
            output.mux(audio.encode())
    if pts is not None and len(pts) != num_frames:
        raise ValueError(f"{len(pts)} times for {num_frames} frames")
    return path


def encode_jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encode one picture, uint8 (H, W, 3), RGB."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def _frame(pixels: npt.NDArray[np.uint8], pts: int, tick: Fraction) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    frame.pts, frame.time_base = pts, tick
    return frame


def _tone(seconds: float) -> Iterator[av.AudioFrame]:
    """A quiet 440 Hz tone in frames of 1024 samples."""
    for at in range(0, round(seconds * _AUDIO_HZ), 1024):
        wave = 0.1 * np.sin(2 * np.pi * 440 / _AUDIO_HZ * np.arange(at, at + 1024))
        frame = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = _AUDIO_HZ, at, Fraction(1, _AUDIO_HZ)
        yield frame


def _paint_shape(
    frame: npt.NDArray[np.uint8], x_px: float, y_px: float, radius_px: float, colour: npt.NDArray[np.float32], *, is_round: bool
) -> None:
    """Paint a disc or a square into a frame, with soft edges."""
    left, top = max(0, int(x_px - radius_px) - 1), max(0, int(y_px - radius_px) - 1)
    part = frame[top : int(y_px + radius_px) + 2, left : int(x_px + radius_px) + 2]
    dy = np.arange(top, top + part.shape[0], dtype=np.float32)[:, None] - np.float32(y_px)
    dx = np.arange(left, left + part.shape[1], dtype=np.float32)[None] - np.float32(x_px)
    distance = np.hypot(dx, dy) if is_round else np.maximum(np.abs(dx), np.abs(dy))
    cover = np.clip(radius_px - distance, 0, 1)[..., None].astype(np.float32)
    part[:] = part * (1 - cover) + colour * 255 * cover


def _texture(random: np.random.Generator, width_px: int, height_px: int) -> npt.NDArray[np.float32]:
    """Smooth noise of a few octaves, (H, W) in 0 to 1."""
    total = np.zeros((height_px, width_px), dtype=np.float32)
    for octave, cells in enumerate(_CELLS):
        coarse = Image.fromarray(random.random((cells, cells), dtype=np.float32))
        total += np.asarray(coarse.resize((width_px, height_px), Image.Resampling.BICUBIC)) / 2**octave
    low, high = float(total.min()), float(total.max())
    return (total - low) / (high - low)


def _colour(hue: float, saturation: float, value: float) -> npt.NDArray[np.float32]:
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), dtype=np.float32)
