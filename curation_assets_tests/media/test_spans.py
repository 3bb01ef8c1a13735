"""Spans: nothing lost, nothing twice, on real frame times, whatever the rate."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from curation_assets.media.packets import PacketIndex, index_packets
from curation_assets.media.spans import Span, fixed_stride_spans, has_variable_intervals


def index_of(ticks, *, time_base=Fraction(1, 1000), end=None, keyframes=(0,)) -> PacketIndex:
    """An index of frames at these ticks, in order of display."""
    pts = np.array(ticks, dtype=np.int64)
    is_keyframe = np.zeros(len(pts), bool)
    is_keyframe[list(keyframes)] = True
    return PacketIndex(
        stream_index=0, time_base=time_base, pts=pts, durations=np.zeros(len(pts), np.int64), is_keyframe=is_keyframe,
        is_displayed=np.ones(len(pts), bool), origin_pts=int(pts[0]), end_pts=int(end or pts[-1] + 40), is_truncated=False, detail="",
    )  # fmt: skip


def random_index(seed: int) -> PacketIndex:
    """Frames at random intervals: short ones, long pauses, and keyframes anywhere."""
    random = np.random.default_rng(seed)
    steps = random.choice([17, 33, 40, 41, 100, 1500, 9000], size=random.integers(1, 400), p=[0.2, 0.3, 0.2, 0.1, 0.17, 0.02, 0.01])
    ticks = np.concatenate([[0], np.cumsum(steps)]) + random.integers(-5000, 5000)
    keyframes = [0, *np.flatnonzero(random.random(len(ticks)) < 0.05).tolist()]
    return index_of(ticks, keyframes=keyframes)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("snap", [False, True])
def test_equal_stride_and_length_tile_the_video(seed, snap):
    index = random_index(seed)
    spans = fixed_stride_spans(index, clip_len_s=2, clip_stride_s=2, min_clip_len_s=0, snap_to_keyframes=snap)
    assert spans[0].start_ns == 0
    assert spans[-1].end_ns == index.end_ns
    assert all(a.end_ns == b.start_ns for a, b in pairwise(spans))
    assert sum(s.num_frames for s in spans) == len(index.display_pts)
    assert {s.start_ns for s in spans} <= set(index.display_times_ns.tolist())
    if snap:
        assert {s.start_ns for s in spans} <= set(index.keyframe_times_ns.tolist())


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("snap", [False, True])
@pytest.mark.parametrize(("length", "stride"), [(2, 2), (3, 1), (1, 2.5)])
def test_any_grid_gives_ordered_distinct_spans_with_their_frames(seed, snap, length, stride):
    index = random_index(seed)
    minimum = 0.7
    spans = fixed_stride_spans(index, clip_len_s=length, clip_stride_s=stride, min_clip_len_s=minimum, snap_to_keyframes=snap)
    assert len({(s.start_ns, s.end_ns) for s in spans}) == len(spans)
    assert spans == sorted(spans, key=lambda s: (s.start_ns, s.end_ns))
    times_ns = index.display_times_ns
    for span in spans:
        assert span.num_frames == ((times_ns >= span.start_ns) & (times_ns < span.end_ns)).sum() > 0
        assert span.end_ns == index.end_ns or span.end_ns in times_ns
        assert span.end_ns - span.start_ns >= minimum * 1e9 - 1_000_000
    assert spans == fixed_stride_spans(PacketIndex.from_bytes(index.to_bytes()), clip_len_s=length, clip_stride_s=stride,
                                       min_clip_len_s=minimum, snap_to_keyframes=snap)  # fmt: skip


def test_only_the_short_tail_is_dropped():
    index = index_of(range(0, 21_500, 40), end=21_500)
    spans = fixed_stride_spans(index)
    assert [(s.start_ns, s.end_ns) for s in spans] == [(0, 10_000_000_000), (10_000_000_000, 20_000_000_000)]
    assert len(fixed_stride_spans(index, min_clip_len_s=1.5)) == 3
    assert fixed_stride_spans(index_of([0, 40])) == []


def test_starts_are_the_first_frames_at_or_after_the_grid(made):
    spans = fixed_stride_spans(index_packets(str(made("film"))), clip_len_s=1, clip_stride_s=1, min_clip_len_s=0.5)
    assert [s.start_ns for s in spans] == [0, 1_001_000_000, 2_002_000_000]
    assert [s.num_frames for s in spans] == [24, 24, 24]
    assert not any(s.is_vfr for s in spans)


def test_overlap_and_gaps():
    index = index_of(range(0, 10_000, 40), end=10_000)
    overlapping = fixed_stride_spans(index, clip_len_s=4, clip_stride_s=2)
    assert [(s.start_ns // 10**9, s.end_ns // 10**9) for s in overlapping] == [(0, 4), (2, 6), (4, 8), (6, 10), (8, 10)]
    apart = fixed_stride_spans(index, clip_len_s=2, clip_stride_s=5)
    assert [(s.start_ns // 10**9, s.end_ns // 10**9) for s in apart] == [(0, 2), (5, 7)]


def test_offsets_and_regions():
    index = index_of(range(0, 20_000, 40), end=20_000)
    spans = fixed_stride_spans(index, clip_len_s=5, clip_stride_s=5, start_offset_s=1.01, end_offset_s=4)
    assert [(s.start_ns, s.end_ns) for s in spans] == [
        (1_040_000_000, 6_040_000_000),
        (6_040_000_000, 11_040_000_000),
        (11_040_000_000, 16_000_000_000),
    ]
    regions = [(12_000_000_000, 99_000_000_000), (1_000_000_000, 8_000_000_000)]
    spans = fixed_stride_spans(index, clip_len_s=5, clip_stride_s=5, regions_ns=regions)
    assert [(s.start_ns // 10**9, s.end_ns // 10**9) for s in spans] == [(1, 6), (6, 8), (12, 17), (17, 20)]
    assert fixed_stride_spans(index, start_offset_s=30) == []
    assert fixed_stride_spans(index, regions_ns=[]) == []


def test_snapping_goes_to_the_nearest_keyframe_and_merges_what_would_be_short():
    index = index_of(range(0, 30_000, 40), end=30_000, keyframes=[0, 230, 260, 520])  # 0, 9.2, 10.4, 20.8 s
    spans = fixed_stride_spans(index, snap_to_keyframes=True)
    assert [(s.start_ns, s.end_ns) for s in spans] == [
        (0, 10_400_000_000),
        (10_400_000_000, 20_800_000_000),
        (20_800_000_000, 30_000_000_000),
    ]
    close = index_of(range(0, 30_000, 40), end=30_000, keyframes=[0, 250, 280])  # 10, 11.2 s: 20 s is nearest to 11.2 s, too near to 10 s
    assert [(s.start_ns // 10**9, s.end_ns // 10**9) for s in fixed_stride_spans(close, snap_to_keyframes=True)] == [(0, 10), (10, 30)]
    single = index_of(range(0, 30_000, 40), end=30_000)
    assert [(s.start_ns // 10**9, s.end_ns // 10**9) for s in fixed_stride_spans(single, snap_to_keyframes=True)] == [(0, 30)]


@pytest.mark.parametrize(
    ("ticks", "time_base", "expected"),
    [
        ([round(n * 1000 / 30) for n in range(90)], Fraction(1, 1000), False),  # 30 fps in Matroska
        ([n * 1001 for n in range(90)], Fraction(1, 24000), False),
        ([round(n * 1000 / 30) * 16 for n in range(90)], Fraction(1, 16000), False),  # the same, remuxed to MP4
        ([n + (n > 40) for n in range(90)], Fraction(1, 30), True),  # a frame left out
        ([n * 33 + (n > 40) * 33 for n in range(90)], Fraction(1, 1000), True),
        ([n * 2 // 1 + (n % 3 == 0) for n in range(9)], Fraction(1, 1000), True),  # 1 and 3 ms
        ([0, 40], Fraction(1, 1000), False),
    ],
)
def test_variable_intervals(ticks, time_base, expected):
    index = index_of(ticks, time_base=time_base)
    assert has_variable_intervals(index.display_times_ns, tick_ns=float(time_base * 10**9)) is expected


def test_vfr_video_is_flagged_where_it_varies(made):
    spans = fixed_stride_spans(index_packets(str(made("vfr"))), clip_len_s=1, clip_stride_s=1, min_clip_len_s=0.5)
    assert [s.is_vfr for s in spans] == [False, True, False, False]
    assert sum(s.num_frames for s in spans) == 81


@pytest.mark.parametrize(
    "settings",
    [{"clip_len_s": 0}, {"clip_stride_s": -1}, {"min_clip_len_s": -1}, {"start_offset_s": -1}, {"min_clip_len_s": 11}, {"clip_len_s": float("nan")},
     {"regions_ns": [(5, 5)]}, {"regions_ns": [(-1, 5)]}],
)  # fmt: skip
def test_refuses_settings_that_make_no_grid(settings):
    with pytest.raises(ValueError):
        fixed_stride_spans(index_of(range(0, 20_000, 40)), **settings)


def test_span_checks_itself():
    for arguments in ((5, 5, 1, False), (-1, 5, 1, False), (0, 5, 0, False), (0, 5, 1, False, -1)):
        with pytest.raises(ValueError):
            Span(*arguments)
