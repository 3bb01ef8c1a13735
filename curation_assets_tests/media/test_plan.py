from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from curation_assets.media.packets import PacketIndex, index_packets
from curation_assets.media.plan import (
    DisplayOrder,
    FrameSetSpec,
    SampleSpan,
    choose_frames,
    exact_rate,
    nearest_frames,
    plan_runs,
    sample_grid,
)
from curation_assets_tests import makevideo

S = 1_000_000_000


def times_ns(num_frames: int, fps: Fraction | int) -> np.ndarray:
    """Frame times as `display_times_ns` has them."""
    return np.array([round(Fraction(k) / fps * S) for k in range(num_frames)], dtype=np.int64)


def exact_choice(num_frames: int, fps: Fraction | int, rate: Fraction, first: int, stop: int) -> list[int]:
    """The rule in exact fractions: span from frame `first` to frame `stop`."""
    times = [Fraction(k) / fps for k in range(num_frames)]
    start, end, chosen, k = times[first], Fraction(stop) / fps, [], 0
    while start + k / rate < end:
        point = start + k / rate
        near = round(point * fps)
        nearest = min(range(max(first, near - 3), min(stop, near + 4)), key=lambda i: (abs(times[i] - point), i))
        if nearest not in chosen:
            chosen.append(nearest)
        k += 1
    return chosen


@pytest.mark.parametrize("fps", [30, 25, Fraction(30000, 1001), Fraction(24000, 1001), 50, 7])
@pytest.mark.parametrize(
    ("rate", "meant"),
    [(2, 2), (0.5, Fraction(1, 2)), (29.97, Fraction(2997, 100)), (24000 / 1001, Fraction(24000, 1001)), (4, 4), (20, 20)],
)
def test_grid_is_the_rule_in_exact_fractions(fps: Fraction | int, rate: float, meant: Fraction) -> None:
    """Ties go to the earlier frame whatever the rounding of nanoseconds; spans begin anywhere."""
    times = times_ns(200, fps)
    for first, stop in ((0, 200), (1, 200), (67, 131), (2, 150), (199, 200), (10, 11)):
        end_ns = round(Fraction(stop) / fps * S)
        ranks = np.unique(sample_grid(times, rate, start_ns=int(times[first]), end_ns=end_ns))
        assert ranks.tolist() == exact_choice(200, fps, Fraction(meant), first, stop)


def test_grid_does_not_drift_over_ten_hours() -> None:
    times = (2 * np.arange(36000 * 24) * 1001 * S + 24000) // 48000
    ranks = sample_grid(times, 23.976, start_ns=0, end_ns=int(times[-1]) + 10)
    # 23.976 is meant as 2997/125
    assert np.abs(times[ranks] - np.arange(len(ranks)) * S * 125 / 2997).max() <= S / 24 / 2 * 1.01
    assert np.array_equal(sample_grid(times, 24000 / 1001, start_ns=0, end_ns=int(times[-1]) + 10), np.arange(len(times)))


def test_frames_outside_the_span_are_never_taken() -> None:
    times = np.array([0, S, 3 * S, 10 * S])
    assert nearest_frames(times, [2 * S - 1], start_ns=S + 1, end_ns=9 * S).tolist() == [2]
    assert nearest_frames(times, [9 * S], start_ns=S, end_ns=10 * S).tolist() == [2]
    assert nearest_frames(times, [5 * S], start_ns=4 * S, end_ns=6 * S).tolist() == []
    assert sample_grid(times, 2, start_ns=4 * S, end_ns=6 * S).tolist() == []


def test_middle_takes_the_frame_nearest_to_the_middle(tmp_path: Path) -> None:
    order = DisplayOrder(index_packets(str(makevideo.make_vfr(tmp_path / "v.mp4"))))
    spec = FrameSetSpec("m", policy="middle")
    choice = choose_frames(spec, order, start_ns=S, end_ns=3 * S)
    distance = np.abs(order.times_ns - 2 * S)
    assert choice.fps is None
    assert choice.ranks.tolist() == [int(np.argmin(distance))]


def test_too_few_frames_double_the_rate_up_to_20(tmp_path: Path) -> None:
    order = DisplayOrder(index_packets(str(makevideo.make_cfr(tmp_path / "v.mp4"))))  # 25 fps
    for min_frames, fps, num in ((1, 2, 2), (2, 2, 2), (3, 4, 4), (8, 8, 8), (9, 16, 16), (17, 20, 20), (99, 20, 20)):
        choice = choose_frames(FrameSetSpec("x", target_fps=2, min_frames=min_frames), order, start_ns=S, end_ns=2 * S)
        assert (choice.fps, len(choice.ranks)) == (fps, num)
    assert choose_frames(FrameSetSpec("x", target_fps=60, min_frames=99), order, start_ns=0, end_ns=S).fps == 60


def test_rates_are_read_as_meant() -> None:
    assert exact_rate(23.976023976023978) == Fraction(24000, 1001)
    assert exact_rate(29.97) == Fraction(2997, 100)
    assert exact_rate(0.1) == Fraction(1, 10)
    assert exact_rate(1 / 3600) == Fraction(1, 3600)


def make_index(pts: list[int], keyframes: set[int]) -> PacketIndex:
    return PacketIndex(
        stream_index=0, time_base=Fraction(1, 25), pts=np.array(pts), durations=np.ones(len(pts), np.int64), origin_pts=min(pts), end_pts=max(pts) + 1,
        is_keyframe=np.array([k in keyframes for k in range(len(pts))]), is_displayed=np.ones(len(pts), np.bool_), is_truncated=False, detail="",
    )  # fmt: skip


def test_runs_leave_out_what_no_target_needs() -> None:
    index = make_index(list(range(40)), {0, 10, 20, 30})
    assert [(r.start, r.stop, r.targets) for r in plan_runs(index, [33, 3, 5, 12])] == [(0, 6, (3, 5)), (10, 13, (12,)), (30, 34, (33,))]
    assert plan_runs(index, []) == []


def test_leading_frames_of_an_open_gop_need_the_gop_before() -> None:
    # decode order: I0 P4 b2 | I8 b6 b7 P10
    index = make_index([0, 4, 2, 8, 6, 7, 10], {0, 3})
    assert [(r.start, r.stop) for r in plan_runs(index, [6])] == [(3, 7)]
    assert [(r.start, r.stop) for r in plan_runs(index, [4])] == [(0, 5)]
    assert [(r.start, r.stop, sorted(r.targets)) for r in plan_runs(index, [2, 3, 5])] == [(0, 6, [2, 3, 5])]


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a/b"}, {"name": ""}, {"target_fps": 0}, {"target_fps": float("nan")}, {"target_res": 0}, {"target_res": (-1, -1)}, {"target_res": (0, 5)},
        {"target_res": True}, {"codec": "gif"}, {"policy": "first"}, {"scope": "shot"}, {"quality": 0}, {"quality": 101}, {"min_frames": 0},
    ],
)  # fmt: skip
def test_wrong_specs_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FrameSetSpec(**{"name": "x", **wrong})  # type: ignore[arg-type]


def test_an_empty_span_is_refused() -> None:
    with pytest.raises(ValueError, match="end after its start"):
        SampleSpan("x", 5, 5)
