"""The fingerprint on copies that went through real codecs, and on what it must tell apart. Full figures: benchmarks/fingerprint.py."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageFilter

from curation_assets import models
from curation_assets.models.fingerprint import NEAR_DUPLICATE_SIMILARITY, SPEC

FPS, NUM_FRAMES, HEIGHT_PX, WIDTH_PX = 8, 26, 144, 256


def scene(seed: int) -> np.ndarray:
    """A pan over textured ground with shapes, and one that moves; uint8 (N, H, W, 3)."""
    random = np.random.default_rng(seed)
    ground = sum(
        np.asarray(Image.fromarray(random.uniform(0, 1, (cells, 2 * cells)).astype(np.float32)).resize((WIDTH_PX + 64, HEIGHT_PX), 2))
        * weight
        for cells, weight in ((3, 0.5), (8, 0.3), (24, 0.2))
    )
    world = (30 + 190 * ground)[..., None] * random.uniform(0.6, 1.1, 3)
    for _ in range(12):
        y, x = random.integers(0, HEIGHT_PX - 20), random.integers(0, WIDTH_PX + 30)
        world[y : y + random.integers(10, 45), x : x + random.integers(10, 45)] = random.uniform(0, 255, 3)
    (start, speed), row, colour = random.uniform((0, -8), (WIDTH_PX, 8)), random.integers(10, HEIGHT_PX - 40), random.uniform(0, 255, 3)
    frames = []
    for number in range(NUM_FRAMES):
        frame = world[:, number : number + WIDTH_PX].copy()
        x = int(start + speed * number) % (WIDTH_PX - 30)
        frame[row : row + 30, x : x + 30] = colour
        frames.append(frame)
    return np.stack(frames).clip(0, 255).astype(np.uint8)


def through_codec(frames: np.ndarray, codec: str = "libx264", options: dict[str, str] | None = None) -> np.ndarray:
    """Encode, decode, sample every fourth frame as a 224 x 224 JPEG, choose; uint8 (T, 224, 224, 3)."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream(codec, rate=FPS, options=options or {"crf": "20", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    stored = []
    with av.open(io.BytesIO(buffer.getvalue())) as container:
        for number, decoded in enumerate(container.decode(video=0)):
            if number % 4 == 0:
                jpeg = io.BytesIO()
                decoded.to_image().resize((224, 224), Image.Resampling.BILINEAR).save(jpeg, "JPEG", quality=90)
                stored.append(np.asarray(Image.open(jpeg)))
    return np.stack([stored[k] for k in models.select_frames(len(stored), SPEC.frames)])


def embed(*clips: np.ndarray) -> np.ndarray:
    return models.load("fingerprint").embed_frames(np.stack(clips))


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    a, b = embed(first, second)
    return float(a @ b)


def tone(frames: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return (255 * function(frames / 255)).clip(0, 255).astype(np.uint8)


def blurred_small(frames: np.ndarray) -> np.ndarray:
    return np.stack(
        [np.asarray(Image.fromarray(f).resize((96, 54), Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(0.5))) for f in frames]
    )


def with_logo(frames: np.ndarray) -> np.ndarray:
    marked = frames.copy()
    marked[:, 6:20, -36:-8] = (230, 20, 20)
    return marked


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "x264 at low quality": lambda f: through_codec(f, options={"crf": "38", "preset": "veryfast"}),
    "mpeg4 at low quality": lambda f: through_codec(f, "mpeg4", {"qmin": "20", "qmax": "31", "b": "50000"}),
    "low resolution": lambda f: through_codec(blurred_small(f)),
    "cropped by 10 %": lambda f: through_codec(f[:, 7:-7, 12:-12]),
    "brighter": lambda f: through_codec(tone(f, lambda v: 0.8 * v + 0.15)),
    "gamma": lambda f: through_codec(tone(f, lambda v: v**1.6)),
    "grey": lambda f: through_codec(np.repeat(f[..., 1:2], 3, axis=3)),
    "letterboxed": lambda f: through_codec(np.pad(f, ((0, 0), (24, 24), (0, 0), (0, 0)))),
    "pillarboxed": lambda f: through_codec(np.pad(f, ((0, 0), (0, 0), (44, 44), (0, 0)))),
    "letterboxed, then brighter": lambda f: through_codec(tone(np.pad(f, ((0, 0), (24, 24), (0, 0), (0, 0))), lambda v: 0.85 * v + 0.1)),
    "shifted by 0.25 s": lambda f: through_codec(f[2:]),
    "logo": lambda f: through_codec(with_logo(f)),
}


@pytest.fixture(scope="module")
def originals() -> list[tuple[np.ndarray, np.ndarray]]:
    return [(frames, through_codec(frames)) for frames in map(scene, range(3))]


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_near(originals: list[tuple[np.ndarray, np.ndarray]], name: str) -> None:
    for frames, original in originals:
        assert similarity(original, COPIES[name](frames)) >= NEAR_DUPLICATE_SIMILARITY


def test_other_scenes_of_the_same_kind_are_far() -> None:
    vectors = embed(*(through_codec(scene(seed)) for seed in range(10, 22)))
    others = (vectors @ vectors.T)[~np.eye(len(vectors), dtype=bool)]
    assert others.max() < NEAR_DUPLICATE_SIMILARITY - 0.2
    assert abs(others.mean()) < 0.1  # no common part that would lift every pair


def test_mirrored_copy_does_not_match(originals: list[tuple[np.ndarray, np.ndarray]]) -> None:
    _, original = originals[0]
    assert similarity(original, original[:, :, ::-1]) < NEAR_DUPLICATE_SIMILARITY


def test_other_order_in_time_is_less_alike_than_a_copy(originals: list[tuple[np.ndarray, np.ndarray]]) -> None:
    frames, original = originals[0]
    assert similarity(original, original[::-1]) < similarity(original, through_codec(frames[2:])) - 0.1


def test_real_video_is_near_itself_and_far_from_others(shared_media: Callable[[str], list[Path]]) -> None:
    clips = []
    for path in (path for path in shared_media("real") if path.stem in ("bigbuckbunny", "bikes", "testvideo")):
        with av.open(str(path)) as container:
            decoded = [
                frame.to_ndarray(format="rgb24", width=256, height=144)
                for _, frame in zip(range(90), container.decode(video=0), strict=False)
            ]
        clips.append(np.stack(decoded[::3]))
    near = [similarity(through_codec(clip), through_codec(clip, options={"crf": "38", "preset": "veryfast"})) for clip in clips]
    assert min(near) >= NEAR_DUPLICATE_SIMILARITY + 0.15
    vectors = embed(*map(through_codec, clips))
    assert (vectors @ vectors.T)[~np.eye(len(clips), dtype=bool)].max() < 0.5


def test_featureless_clips_are_near_each_other_and_nothing_else(originals: list[tuple[np.ndarray, np.ndarray]]) -> None:
    shape = (SPEC.frames, SPEC.height_px, SPEC.width_px, 3)
    noise = np.random.default_rng(0).integers(0, 3, shape, dtype=np.uint8)
    black, noisy_black, white, red = (
        np.zeros(shape, np.uint8),
        noise,
        np.full(shape, 255, np.uint8),
        np.full(shape, (200, 10, 10), np.uint8),
    )
    vectors = embed(black, noisy_black, white, red, *(original for _, original in originals))
    similarities = vectors @ vectors.T
    assert similarities[:4, :4].min() > 0.95
    assert np.abs(similarities[:4, 4:]).max() < 0.3
    np.testing.assert_array_equal(vectors[0], np.full(SPEC.dim, 1 / np.sqrt(SPEC.dim), dtype=np.float32))


def test_flat_regions_beside_strong_texture_give_numbers() -> None:
    random = np.random.default_rng(1)
    for seed in range(8):
        clip = np.zeros((SPEC.frames, SPEC.height_px, SPEC.width_px, 3), np.uint8)
        width_px = 20 + 25 * seed
        clip[:, :, :width_px] = random.integers(0, 256, (1, SPEC.height_px, width_px, 3))
        assert np.isfinite(embed(clip, clip[:, :, ::-1])).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": "model.safetensors"}, "no weights"),
        ({"device": "cuda"}, "CPU only"),
        ({"device": "tpu"}, "CPU only"),
        ({"dtype": "float16"}, "float32"),
    ],
)
def test_arguments_that_mean_nothing_here_are_refused(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.load("fingerprint", **arguments)  # type: ignore[arg-type]


def test_cpu_and_float32_may_be_said() -> None:
    assert models.load("fingerprint", device="cpu", dtype="float32").spec is SPEC
