from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from curation_assets.media.frames import sample_frames
from curation_assets.media.motion import MotionSpec, PixelScorer, PixelScores
from curation_assets.media.packets import index_packets
from curation_assets.media.plan import SampleSpan
from curation_assets.media.synthetic import write_video

Picture = npt.NDArray[np.uint8]
HEIGHT, WIDTH = 180, 320


def texture(seed: int = 0, height: int = HEIGHT, width: int = WIDTH, cell: int = 10, low: int = 60, high: int = 240) -> Picture:
    random = np.random.default_rng(seed)
    cells = random.integers(low, high, (-(-height // cell), -(-width // cell), 1)).repeat(3, axis=2)
    return np.kron(cells, np.ones((cell, cell, 1), np.int64))[:height, :width].astype(np.uint8)


def pan(num_frames: int, step_px: int, fps: int = 24) -> list[Picture]:
    wide = texture(width=2000)
    return [np.ascontiguousarray(wide[:, k * step_px * 24 // fps :][:, :WIDTH]) for k in range(num_frames)]


def scores_of(path: Path, *, start_ns: int = 0, end_ns: int | None = None) -> PixelScores:
    index = index_packets(str(path))
    span = SampleSpan("x", start_ns, index.end_ns if end_ns is None else end_ns)
    (result,) = sample_frames(str(path), index=index, spans=[span], frame_sets=[], motion=MotionSpec())
    assert result.scores is not None
    for name, value in dataclasses.asdict(result.scores).items():
        assert value is None or math.isfinite(value), name
        assert name.startswith("num_") or value is None or 0 <= value <= 1, name
    return result.scores


def score(
    folder: Path, frames: Iterable[Picture], *, fps: int = 24, name: str = "v.mp4", codec: str = "libx264", **options: str
) -> PixelScores:
    return scores_of(write_video(folder / name, frames, fps=fps, codec=codec, codec_options=options))


def test_a_still_picture_has_no_motion_even_when_coded_coarsely(tmp_path: Path) -> None:
    """Encoding noise and the jump at keyframes stay below what is visible."""
    for options in ({}, {"crf": "30", "g": "24"}):
        scores = score(tmp_path, [texture()] * 72, **options)
        assert scores.still_share == 1
        assert scores.motion_mean is not None
        assert scores.motion_mean < 0.002
        assert (scores.black_share, scores.letterbox_share, scores.num_pairs) == (0, 0, 11)


def test_sensor_noise_is_still(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frames = [np.clip(texture() + random.normal(0, 4, (HEIGHT, WIDTH, 1)), 0, 255).astype(np.uint8) for _ in range(48)]
    assert score(tmp_path, frames, crf="12").still_share == 1


def test_motion_grows_with_speed(tmp_path: Path) -> None:
    slow, fast = score(tmp_path, pan(72, 1)), score(tmp_path, pan(72, 3))
    assert slow.still_share == fast.still_share == 0
    assert slow.motion_mean is not None
    assert fast.motion_mean is not None
    assert 0.03 < slow.motion_mean < fast.motion_mean < 0.5


def test_a_small_moving_thing_is_not_still(tmp_path: Path) -> None:
    frames = []
    for k in range(48):
        picture = texture(low=100, high=140)
        picture[80:100, 20 + 4 * k : 40 + 4 * k] = 250
        frames.append(picture)
    scores = score(tmp_path, frames)
    assert scores.still_share == 0
    assert scores.motion_mean is not None
    assert scores.motion_mean < 0.02


def test_p95_and_still_share_see_a_single_cut(tmp_path: Path) -> None:
    scores = score(tmp_path, [texture(1)] * 36 + [texture(2)] * 36)
    assert scores.num_pairs == 11
    assert scores.still_share == pytest.approx(10 / 11)
    assert scores.motion_mean is not None
    assert scores.motion_p95 is not None
    assert scores.motion_p95 > 5 * scores.motion_mean


def test_scores_depend_on_neither_codec_gop_size_nor_frame_rate(tmp_path: Path) -> None:
    reference = score(tmp_path, pan(96, 2))
    copies = [
        score(tmp_path, pan(96, 2), g="5", bf="0"),
        score(tmp_path, pan(96, 2), codec="mpeg2video", name="v.mpg", b="6M", g="9", bf="2"),
        score(tmp_path, pan(96, 2), codec="libx265", name="h.mp4", **{"x265-params": "log-level=none:keyint=30", "preset": "ultrafast"}),
        score(tmp_path, [frame.repeat(2, axis=0).repeat(2, axis=1) for frame in pan(96, 2)], name="large.mp4"),
        score(tmp_path, pan(192, 2, fps=48), fps=48),
    ]
    for copy in copies:
        assert copy.motion_mean == pytest.approx(reference.motion_mean, rel=0.06)
        assert copy.motion_p95 == pytest.approx(reference.motion_p95, rel=0.08)
        assert (copy.still_share, copy.black_share, copy.letterbox_share) == (0, 0, 0)


def test_slow_video_counts_repeated_points_as_still(tmp_path: Path) -> None:
    """2 fps seen at 4 fps: every other pair is one frame twice, the distance of pairs stays the grid's."""
    scores = score(tmp_path, [texture(seed) for seed in range(6)], fps=2, bf="0")
    assert scores.num_pairs == 11
    assert scores.still_share == pytest.approx(6 / 11)


def test_black_frames_are_counted(tmp_path: Path) -> None:
    black = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    assert score(tmp_path, [texture()] * 48 + [black] * 48).black_share == 0.5
    scores = score(tmp_path, [black] * 48)
    assert (scores.black_share, scores.sharpness, scores.letterbox_share, scores.still_share, scores.motion_mean) == (1, None, 0, 1, 0)


def test_a_dark_picture_is_not_black(tmp_path: Path) -> None:
    assert score(tmp_path, [texture(low=20, high=70)] * 24).black_share == 0


def test_blur_lowers_sharpness_in_order_and_noise_of_coding_hardly_matters(tmp_path: Path) -> None:
    values = []
    for radius in (0, 2, 4, 8):
        picture = texture(cell=6).astype(np.float32)
        for axis in (0, 1):
            picture = sum(np.roll(picture, shift, axis) for shift in range(-radius, radius + 1)) / (2 * radius + 1)
        values.append(score(tmp_path, [picture.astype(np.uint8)] * 24).sharpness)
    assert all(a is not None and b is not None and a > 1.5 * b for a, b in pairwise(values)), values


def barred(frames: Iterable[Picture], bar_px: int, axis: int = 0) -> list[Picture]:
    """Paint over opposite edges."""
    result = []
    for frame in frames:
        picture = np.moveaxis(frame.copy(), axis, 0)
        picture[:bar_px] = picture[-bar_px:] = 0
        result.append(np.ascontiguousarray(np.moveaxis(picture, 0, axis)))
    return result


@pytest.mark.parametrize(("bar_px", "axis", "share"), [(22, 0, 22 * 2 / 180), (40, 1, 0.25), (11, 0, 22 / 180)])
def test_letterbox_is_measured_and_left_out_of_motion(bar_px: int, axis: int, share: float, tmp_path: Path) -> None:
    """22 rows of 180 are 2.35:1 in 16:9; 40 columns of 320 are 4:3."""
    whole, boxed = score(tmp_path, pan(48, 2)), score(tmp_path, barred(pan(48, 2), bar_px, axis))
    assert boxed.letterbox_share == pytest.approx(share, abs=0.02)
    assert boxed.motion_mean == pytest.approx(whole.motion_mean, rel=0.1)
    assert boxed.sharpness == pytest.approx(whole.sharpness, rel=0.1)
    assert boxed.black_share == 0


def test_what_lights_up_once_is_no_bar(tmp_path: Path) -> None:
    frames = barred(pan(48, 2), 22)
    frames[24:32] = pan(32, 2)[24:]
    assert score(tmp_path, frames).letterbox_share == 0


def test_a_dark_sky_is_no_bar(tmp_path: Path) -> None:
    frames = pan(48, 2)
    for frame in frames:
        frame[:60] = 5
    assert score(tmp_path, frames).letterbox_share == 0


def test_one_frame_has_no_motion_scores(tmp_path: Path) -> None:
    scores = score(tmp_path, [texture()])
    assert (scores.motion_mean, scores.motion_p95, scores.still_share) == (None, None, None)
    assert (scores.num_frames, scores.num_pairs, scores.black_share, scores.letterbox_share) == (1, 0, 0, 0)
    assert scores.sharpness is not None


def test_time_after_the_end_of_the_video_is_not_still(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", pan(48, 2), fps=24)
    beyond = scores_of(path, end_ns=10_000_000_000)
    assert beyond == scores_of(path)


def test_the_scorer_takes_frames_in_any_order_and_leaves_out_pairs_of_missing_ones() -> None:
    random = np.random.default_rng(0)
    lumas = random.integers(0, 256, (6, 144, 256)).astype(np.uint8)
    points = np.array([3, 4, 4, 5, 7, 8, 9])

    def run(ranks: list[int], missing: int | None = None) -> PixelScores:
        scorer = PixelScorer(MotionSpec(), points=points)
        assert sorted(scorer.ranks) == [3, 4, 5, 7, 8, 9]
        for rank in ranks:
            scorer.add(rank, None if rank == missing else lumas[rank % 6])
        return scorer.finish()

    ordered = run([3, 4, 5, 7, 8, 9])
    assert ordered.num_pairs == 6
    assert ordered.still_share == pytest.approx(1 / 6)
    for ranks in ([9, 8, 7, 5, 4, 3], [4, 3, 9, 5, 8, 7]):
        other = run(ranks)
        assert other.motion_mean == pytest.approx(ordered.motion_mean)
        assert other.num_pairs == 6
    assert run([3, 4, 5, 7, 8, 9], missing=5).num_pairs == 4
    assert run([3, 4, 5, 7, 8, 9], missing=4).num_pairs == 3


@pytest.mark.parametrize("wrong", [{"motion_fps": 0}, {"motion_fps": 100}, {"grid": (2, 64)}])
def test_wrong_specs_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MotionSpec(**wrong)  # type: ignore[arg-type]
