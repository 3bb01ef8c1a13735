"""The corpus of benchmarks/fingerprint.py: families of generated clips, clips of real videos, and the transformations that make copies of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from curation_assets.media.synthetic import Scene, paint_scene, write_video

Frames = npt.NDArray[np.uint8]  # (N, H, W, 3) RGB

WIDTH_PX, HEIGHT_PX, FPS = 320, 180, 16
CLIP_S, SHIFT_S = 3.0, 0.25


# ---------------------------------------------------------------------------------------------------------------- generated clips


def noise_image(rng: np.random.Generator, width_px: int, height_px: int, slope: float) -> Frames:
    """Make a colour image of 1/f noise, the second-order statistics of photographs."""
    frequency = np.hypot(np.fft.fftfreq(height_px)[:, None] * height_px, np.fft.rfftfreq(width_px)[None] * width_px)
    frequency[0, 0] = 1.0
    shape = (3, *frequency.shape)
    spectrum = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / frequency**slope
    spectrum[1:] = 0.8 * spectrum[0] + 0.4 * spectrum[1:]
    planes = np.fft.irfft2(spectrum, s=(height_px, width_px))
    planes = 128 + rng.uniform(35, 60) * (planes - planes.mean()) / planes.std() + rng.uniform(-30, 30, (3, 1, 1))
    return np.ascontiguousarray(planes.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def leaves_image(rng: np.random.Generator, width_px: int, height_px: int) -> Frames:
    """Make a dead-leaves image: opaque shapes of power-law sizes, textured, the occlusion statistics of photographs."""
    image = Image.fromarray(noise_image(rng, width_px, height_px, 1.4))
    draw = ImageDraw.Draw(image)
    for _ in range(int(width_px * height_px / 400)):
        radius = 4 / np.sqrt(rng.uniform(0.0015, 1.0))
        x, y = rng.uniform(0, width_px), rng.uniform(0, height_px)
        colour = tuple(int(v) for v in rng.normal(rng.uniform(40, 210), 25, 3).clip(0, 255))
        if rng.uniform() < 0.5:
            squeeze = rng.uniform(0.4, 1.0)
            draw.ellipse((x - radius, y - radius * squeeze, x + radius, y + radius * squeeze), fill=colour)
        else:
            turn = rng.uniform(0, np.pi)
            corners = [turn + a for a in np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 6)))]
            draw.polygon([(x + radius * np.cos(a), y + radius * np.sin(a)) for a in corners], fill=colour)
    grain = noise_image(rng, width_px, height_px, 0.8).astype(np.int16) - 128
    return (np.asarray(image) + grain // 5).clip(0, 255).astype(np.uint8)


def view(world: Frames, centre_x: float, centre_y: float, scale: float) -> Frames:
    """Look at a world image through a camera: `scale` is world pixels per output pixel."""
    half_w, half_h = WIDTH_PX * scale / 2, HEIGHT_PX * scale / 2
    x = min(max(centre_x, half_w), world.shape[1] - half_w)
    y = min(max(centre_y, half_h), world.shape[0] - half_h)
    box = (x - half_w, y - half_h, x + half_w, y + half_h)
    return np.asarray(Image.fromarray(world).resize((WIDTH_PX, HEIGHT_PX), Image.Resampling.BILINEAR, box=box))


def times_s() -> npt.NDArray[np.float64]:
    return np.arange(round((CLIP_S + SHIFT_S) * FPS)) / FPS


def make_texture(rng: np.random.Generator) -> Frames:
    world = noise_image(rng, 400, 260, rng.uniform(1.0, 1.6))
    angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0, 12)
    return np.stack([view(world, 200 + speed * t * np.cos(angle), 130 + speed * t * np.sin(angle), 1.0) for t in times_s()])


def make_shapes(rng: np.random.Generator) -> Frames:
    top, bottom = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
    ramp = np.linspace(0, 1, HEIGHT_PX)[:, None, None]
    background = np.broadcast_to(top * (1 - ramp) + bottom * ramp, (HEIGHT_PX, WIDTH_PX, 3)).astype(np.uint8)
    count = int(rng.integers(3, 9))
    start, speed = rng.uniform(0, 1, (count, 2)), rng.uniform(-0.25, 0.25, (count, 2))
    radius, colour, is_box = rng.uniform(10, 45, count), rng.integers(0, 256, (count, 3)), rng.uniform(size=count) < 0.5
    frames = []
    for t in times_s():
        image = Image.fromarray(background)
        draw = ImageDraw.Draw(image)
        for k in range(count):
            x, y = (1 - np.abs(1 - (start[k] + speed[k] * t) % 2)) * (WIDTH_PX, HEIGHT_PX)
            outline = (x - radius[k], y - radius[k], x + radius[k], y + radius[k])
            (draw.rectangle if is_box[k] else draw.ellipse)(outline, fill=tuple(int(v) for v in colour[k]))
        frames.append(np.asarray(image))
    return np.stack(frames)


def make_pan(rng: np.random.Generator) -> Frames:
    world = leaves_image(rng, 640, 240)
    speed = rng.uniform(30, 90) * rng.choice((-1, 1))
    return np.stack([view(world, 320 + speed * (t - CLIP_S / 2), 120 + 10 * np.sin(t), 1.0) for t in times_s()])


def make_zoom(rng: np.random.Generator) -> Frames:
    world = leaves_image(rng, 600, 340)
    rate = rng.uniform(0.08, 0.2) * rng.choice((-1, 1))
    return np.stack([view(world, 300, 170, 1.25 * np.exp(rate * (t - CLIP_S / 2))) for t in times_s()])


def make_cuts(rng: np.random.Generator) -> Frames:
    worlds = [leaves_image(rng, 400, 220) for _ in range(3)]
    cuts = np.sort(rng.uniform(0.5, CLIP_S - 0.3, 2))
    shots = np.searchsorted(cuts, times_s(), side="right")
    return np.stack([view(worlds[shot], 190 + 8 * t, 110, 1.0) for shot, t in zip(shots, times_s(), strict=True)])


def make_slides(rng: np.random.Generator) -> Frames:
    ink, paper = ((25, 25, 30), (245, 245, 240)) if rng.uniform() < 0.6 else ((235, 235, 235), (16, 18, 40))
    image = Image.new("RGB", (WIDTH_PX, HEIGHT_PX), paper)
    draw = ImageDraw.Draw(image)
    words = ["".join(rng.choice(list("abcdefghiklmnoprstuvwy"), rng.integers(2, 9))) for _ in range(90)]
    draw.text((16, 10), " ".join(words[:4]).title(), fill=ink, font=ImageFont.load_default(20))
    draw.line((16, 38, WIDTH_PX - 16, 38), fill=(190, 60, 40), width=2)
    y, used, has_picture = 48, 4, rng.uniform() < 0.5
    while y < HEIGHT_PX - 20:
        num_words = int(rng.integers(2, 5 if has_picture else 9))
        draw.text((24, y), "- " + " ".join(words[used : used + num_words]), fill=ink, font=ImageFont.load_default(11))
        used, y = used + num_words, y + int(rng.choice((15, 15, 24)))
    if has_picture:
        image.paste(Image.fromarray(leaves_image(rng, 120, 100)), (186, 56))
    return np.stack([np.asarray(image)] * len(times_s()))


def make_landscape(rng: np.random.Generator) -> Frames:
    """Sky, three ridges with parallax and a moving sprite: the held-out family."""
    sky = np.linspace(rng.uniform(90, 200, 3), rng.uniform(150, 250, 3), HEIGHT_PX)[:, None]
    layers = []
    for depth in range(3):
        spectrum = (rng.standard_normal(400) + 1j * rng.standard_normal(400)) / np.arange(1, 401) ** 1.3
        spectrum[:2] = 0
        line = np.fft.irfft(spectrum, 1200)
        height_px = HEIGHT_PX * (0.4 + 0.17 * depth) + 16 * line / line.std()
        layers.append((height_px, rng.uniform(20, 180, 3), noise_image(rng, 1200, HEIGHT_PX, 1.0)))
    speed, sprite = rng.uniform(-40, 40), rng.uniform(0.1, 0.9, 4)
    rows = np.arange(HEIGHT_PX)[:, None]
    frames = []
    for t in times_s():
        frame = np.broadcast_to(sky, (HEIGHT_PX, WIDTH_PX, 3)).copy()
        for depth, (line, colour, grain) in enumerate(layers):
            shift = 400 + int(speed * t * (depth + 1) / 2)
            mask = rows >= line[shift : shift + WIDTH_PX]
            frame[mask] = (colour + 0.4 * (grain[:, shift : shift + WIDTH_PX].astype(float) - 128))[mask]
        image = Image.fromarray(frame.clip(0, 255).astype(np.uint8))
        x, y = WIDTH_PX * (sprite[0] + 0.1 * t * (sprite[2] - 0.5)), HEIGHT_PX * (0.5 + 0.4 * sprite[1])
        ImageDraw.Draw(image).ellipse((x - 9, y - 20, x + 9, y + 20), fill=tuple(int(255 * v) for v in sprite[1:]))
        frames.append(np.asarray(image))
    return np.stack(frames)


def make_same_place(rng: np.random.Generator, place: int) -> Frames:
    """One fixed camera per group of four clips, other things moving through the picture in each."""
    background = leaves_image(np.random.default_rng([77, place]), WIDTH_PX, HEIGHT_PX)
    start, speed, colour = rng.uniform(0, 1, (3, 2)), rng.uniform(-0.3, 0.3, (3, 2)), rng.integers(0, 256, (3, 3))
    frames = []
    for t in times_s():
        image = Image.fromarray(background)
        for k in range(3):
            x, y = (start[k] + speed[k] * t) % 1 * (WIDTH_PX, HEIGHT_PX)
            ImageDraw.Draw(image).ellipse((x - 14, y - 35, x + 14, y + 35), fill=tuple(int(v) for v in colour[k]))
        frames.append(np.asarray(image))
    return np.stack(frames)


def make_demo_scene(rng: np.random.Generator) -> Frames:
    """The scene of the demo's sample videos: held out too."""
    scene = Scene(int(rng.integers(1 << 30)), len(times_s()))
    return np.stack(list(paint_scene(scene, width_px=WIDTH_PX, height_px=HEIGHT_PX)))


DEVELOPMENT: dict[str, Callable[[np.random.Generator], Frames]] = {
    "texture": make_texture,
    "shapes": make_shapes,
    "pan": make_pan,
    "zoom": make_zoom,
    "cuts": make_cuts,
    "slides": make_slides,
}
HELD_OUT: dict[str, Callable[[np.random.Generator], Frames]] = {"landscape": make_landscape, "demo_scene": make_demo_scene}
SAME_PLACE = "same_place"
CLIPS_PER_PLACE = 4


def make_clip(family: str, number: int) -> Frames:
    """Make one generated clip; the same one on every machine."""
    rng = np.random.default_rng([number, *family.encode()])
    if family == SAME_PLACE:
        return make_same_place(rng, number // CLIPS_PER_PLACE)
    return {**DEVELOPMENT, **HELD_OUT}[family](rng)


def cut_real_clips(path: Path) -> tuple[list[Frames], int]:
    """Cut a real video into clips that do not overlap; returns them and their frames per second."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        fps = round(float(stream.average_rate or FPS))
        height_px = round(WIDTH_PX * stream.height / stream.width / 2) * 2
        frames = [frame.reformat(WIDTH_PX, height_px, format="rgb24").to_ndarray() for frame in container.decode(stream)]
    length = round((CLIP_S + SHIFT_S) * fps)
    return [np.stack(frames[at : at + length]) for at in range(0, len(frames) - length + 1, length)], fps


# ----------------------------------------------------------------------------------------------------------------- transformations


@dataclass(frozen=True)
class Encode:
    """One codec at one quality."""

    codec: str
    options: dict[str, str]
    extension: str = "mp4"


GOOD = Encode("libx264", {"preset": "ultrafast", "crf": "20"})
POOR = Encode("libx264", {"preset": "veryfast", "crf": "38"})
MPEG4 = Encode("mpeg4", {"qmin": "18", "qmax": "31", "b": "60000"}, "avi")
VP9 = Encode("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "crf": "50", "b:v": "0"}, "webm")


def resized(frames: Frames, width_px: int, height_px: int) -> Frames:
    return np.stack([np.asarray(Image.fromarray(f).resize((width_px, height_px), Image.Resampling.BICUBIC)) for f in frames])


def cropped(frames: Frames, left: float, top: float, right: float, bottom: float) -> Frames:
    """Cut shares of the picture off each side."""
    height_px, width_px = frames.shape[1:3]
    y, x = slice(round(top * height_px), round((1 - bottom) * height_px)), slice(round(left * width_px), round((1 - right) * width_px))
    cut = frames[:, y, x]
    return np.ascontiguousarray(cut[:, : cut.shape[1] // 2 * 2, : cut.shape[2] // 2 * 2])


def padded(frames: Frames, vertical: float, horizontal: float) -> Frames:
    """Add black bars, as shares of the picture on each side."""
    y, x = (round(s * n / 2) * 2 for s, n in zip((vertical, horizontal), frames.shape[1:3], strict=True))
    return np.pad(frames, ((0, 0), (y, y), (x, x), (0, 0)))


def toned(frames: Frames, *, gamma: float = 1.0, contrast: float = 1.0, brightness: float = 0.0) -> Frames:
    level = (np.arange(256) / 255) ** gamma
    table = (((level - 0.5) * contrast + 0.5 + brightness) * 255).clip(0, 255).astype(np.uint8)
    return table[frames]


def coloured(frames: Frames, saturation: float, tint: tuple[float, float, float]) -> Frames:
    grey = frames @ np.array([0.299, 0.587, 0.114])
    mixed = (grey[..., None] + saturation * (frames - grey[..., None])) * tint
    return mixed.clip(0, 255).astype(np.uint8)


def overlaid(frames: Frames) -> Frames:
    """Put a logo in a corner and a subtitle at the foot."""
    height_px, width_px = frames.shape[1:3]
    out = []
    for frame in frames:
        image = Image.fromarray(frame)
        draw = ImageDraw.Draw(image)
        draw.rectangle((width_px * 0.86, height_px * 0.04, width_px * 0.97, height_px * 0.14), fill=(220, 30, 40))
        font = ImageFont.load_default(height_px * 0.07)
        draw.text(
            (width_px * 0.2, height_px * 0.86),
            "and then they went home again",
            fill=(255, 255, 255),
            font=font,
            stroke_width=1,
            stroke_fill=(0, 0, 0),
        )
        out.append(np.asarray(image))
    return np.stack(out)


@dataclass(frozen=True)
class Transformation:
    """What is done to a clip before it is encoded, and how it is encoded."""

    encode: Encode = GOOD
    pixels: Callable[[Frames], Frames] | None = None
    shift_s: float = 0.0
    frame_step: int = 1


TRANSFORMATIONS = {
    "x264_crf38": Transformation(POOR),
    "mpeg4_low": Transformation(MPEG4),
    "vp9_low": Transformation(VP9),
    "third_size": Transformation(POOR, partial(resized, width_px=106, height_px=60)),
    "crop_centre_10": Transformation(GOOD, partial(cropped, left=0.05, top=0.05, right=0.05, bottom=0.05)),
    "crop_corner_10": Transformation(GOOD, partial(cropped, left=0.1, top=0.1, right=0.0, bottom=0.0)),
    "brighter": Transformation(GOOD, partial(toned, brightness=0.15, contrast=0.8)),
    "contrast": Transformation(GOOD, partial(toned, contrast=1.4, brightness=-0.05)),
    "gamma_dark": Transformation(GOOD, partial(toned, gamma=1.8)),
    "gamma_light": Transformation(GOOD, partial(toned, gamma=0.6)),
    "tint": Transformation(GOOD, partial(coloured, saturation=1.6, tint=(1.15, 0.95, 0.8))),
    "grayscale": Transformation(GOOD, partial(coloured, saturation=0.0, tint=(1.0, 1.0, 1.0))),
    "letterbox": Transformation(POOR, partial(padded, vertical=0.16, horizontal=0.0)),
    "pillarbox": Transformation(MPEG4, partial(padded, vertical=0.0, horizontal=0.17)),
    "half_fps": Transformation(GOOD, frame_step=2),
    "shift": Transformation(GOOD, shift_s=SHIFT_S),
    "overlay": Transformation(GOOD, overlaid),
    "all_mild": Transformation(
        MPEG4,
        lambda f: toned(resized(cropped(f, 0.03, 0.03, 0.03, 0.03), 200, 112), gamma=1.2, contrast=0.9),
        shift_s=0.125,
    ),
}
ORIGINAL = Transformation()


def transformed(frames: Frames, fps: int, transformation: Transformation, folder: str) -> Path:
    """Write one copy of a clip and return its file."""
    first, num_frames = round(transformation.shift_s * fps), round(CLIP_S * fps)
    frames = frames[first : first + num_frames : transformation.frame_step]
    if transformation.pixels is not None:
        frames = transformation.pixels(frames)
    encode = transformation.encode
    path = Path(folder) / f"copy.{encode.extension}"
    return write_video(path, frames, fps=Fraction(fps, transformation.frame_step), codec=encode.codec, codec_options=encode.options)
