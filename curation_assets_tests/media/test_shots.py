"""Shots: the original's scenes as half-open ranges, and clips from them."""

from itertools import pairwise

import numpy as np
import pytest

from curation_assets.media.shots import ClipRules, Shot, clip_shots, joined, shots_from_cuts, shots_from_probabilities, wanted_frames
from curation_assets_tests.media.test_spans import index_of, random_index


def original(probabilities, threshold):
    """`predictions_to_scenes` as published: inclusive frame numbers."""
    scenes, t, t_prev, start = [], -1, 0, 0
    for i, t in enumerate((probabilities > threshold).astype(np.uint8)):
        if t_prev == 1 and t == 0:
            start = i
        if t_prev == 0 and t == 1 and i != 0:
            scenes.append((start, i))
        t_prev = t
    if t == 0:
        scenes.append((start, i))
    return scenes or [(0, len(probabilities) - 1)]


@pytest.mark.parametrize("seed", range(60))
def test_the_scenes_of_the_original(seed):
    random = np.random.default_rng(seed)
    probabilities = (random.random(random.integers(1, 40)) ** random.choice([0.3, 1, 4])).astype(np.float32)
    shots = shots_from_probabilities(probabilities, threshold=0.5, offset=100)
    assert [(shot.first - 100, shot.stop - 101) for shot in shots] == original(probabilities, 0.5)
    for shot in shots:
        everything = len(shots) == 1 and (probabilities > 0.5).all()
        assert shot.follows_transition == (shot.first > 100)
        assert shot.precedes_transition == ((probabilities[shot.stop - 101] > 0.5) and not everything)


def test_no_frames_no_shots():
    assert shots_from_probabilities(np.zeros(0, np.float32), threshold=0.5) == []
    assert shots_from_cuts([], first=3, stop=3) == []


def test_cuts_outside_are_none():
    assert shots_from_cuts([7, 5, 5, 0, 10, 12], first=0, stop=10) == [
        Shot(0, 5, False, True),
        Shot(5, 7, True, True),
        Shot(7, 10, True, False),
    ]


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("mode", ["balanced", "stride"])
def test_dividing_loses_nothing_on_any_times(seed, mode):
    index = random_index(seed)
    count = len(index.display_pts)
    shots = shots_from_cuts(np.random.default_rng(seed).integers(0, count + 1, 4).tolist(), first=0, stop=count)
    spans = clip_shots(index, shots, [(0, count)], ClipRules(min_len_s=0, max_len_s=1, max_length_mode=mode))
    assert sum(span.num_frames for span in spans) == count
    assert (spans[0].start_ns, spans[-1].end_ns) == (0, index.end_ns)
    assert all(a.end_ns == b.start_ns and a.shot_index <= b.shot_index for a, b in pairwise(spans))
    assert all(span.end_ns - span.start_ns <= 1_001_000_000 or span.num_frames == 1 for span in spans)


@pytest.mark.parametrize(
    ("end_ms", "expected"),
    [
        (10_200, [(0, 10_000)]),  # two equal parts of 5.1 s would both be left out
        (12_000, [(0, 6_000), (6_000, 12_000)]),
        (11_960, [(0, 10_000)]),
        (23_000, [(0, 7_680), (7_680, 15_320), (15_320, 23_000)]),
    ],
)
def test_balanced_keeps_what_equal_parts_would_lose(end_ms, expected):
    index = index_of(range(0, end_ms, 40), end=end_ms)
    count = len(index.display_pts)
    spans = clip_shots(index, [Shot(0, count, False, False)], [(0, count)], ClipRules(min_len_s=6, max_len_s=10))
    assert [(span.start_ns // 10**6, span.end_ns // 10**6) for span in spans] == expected


@pytest.mark.parametrize("seed", range(25))
def test_balanced_loses_no_more_than_stride(seed):
    random = np.random.default_rng(seed)
    index = index_of(range(0, 40 * int(random.integers(1, 2000)), 40))
    count, min_len_s = len(index.display_pts), float(random.choice([2, 5, 6, 9]))
    kept = {}
    for mode in ("balanced", "stride"):
        rules = ClipRules(min_len_s=min_len_s, max_len_s=10, max_length_mode=mode)
        kept[mode] = sum(span.num_frames for span in clip_shots(index, [Shot(0, count, False, False)], [(0, count)], rules))
    assert kept["balanced"] >= kept["stride"]


def test_overlapping_parts_share_shots():
    index = index_of(range(0, 4000, 40), end=4000)
    parts = wanted_frames(index, regions_ns=[(0, 2_000_000_000), (1_000_000_000, 4_000_000_000)])
    assert parts == [(0, 50), (25, 100)]
    assert joined(parts) == [(0, 100)]
    spans = clip_shots(index, shots_from_cuts([75], first=0, stop=100), parts, ClipRules(min_len_s=0))
    assert [(span.start_ns // 10**9, span.end_ns // 10**9, span.shot_index) for span in spans] == [(0, 2, 0), (1, 3, 0), (3, 4, 1)]


def test_a_crop_may_leave_nothing():
    index = index_of(range(0, 400, 40), end=400)
    spans = clip_shots(index, shots_from_cuts([4, 6], first=0, stop=10), [(0, 10)], ClipRules(min_len_s=0, crop_s=0.06))
    assert [(span.start_ns // 10**6, span.end_ns // 10**6) for span in spans] == [(0, 80), (320, 400)]
