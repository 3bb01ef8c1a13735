"""Ticks to nanoseconds: exact, rounded half up, monotone, at every size."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from curation_assets.media.timing import pts_array_to_ns, pts_to_ns

TIME_BASES = [
    Fraction(1, 90000),
    Fraction(1, 12800),
    Fraction(1001, 30000),
    Fraction(1, 1000),
    Fraction(1, 16777213),
    Fraction(1, 10**9),
    Fraction(7, 3),
]


@pytest.mark.parametrize("time_base", TIME_BASES)
@pytest.mark.parametrize("origin_pts", [0, 1234567, -(2**40)])
def test_array_equals_exact_fractions(time_base, origin_pts):
    pts = np.array(
        [origin_pts, origin_pts + 1, origin_pts - 1, origin_pts + 5, origin_pts + 3_000_017, origin_pts + 2**31 + 3], dtype=np.int64
    )
    expected = [((int(p) - origin_pts) * time_base * 10**9 + Fraction(1, 2)).__floor__() for p in pts]
    assert pts_array_to_ns(pts, time_base=time_base, origin_pts=origin_pts).tolist() == expected
    assert [pts_to_ns(int(p), time_base=time_base, origin_pts=origin_pts) for p in pts] == expected


def test_half_rounds_up_on_both_sides_of_zero():
    assert [pts_to_ns(p, time_base=Fraction(1, 2 * 10**9), origin_pts=0) for p in (-3, -1, 1, 3)] == [-1, 0, 1, 2]


def test_huge_pts_do_not_overflow():
    pts = np.array([2**62, 2**62 + 90000], dtype=np.int64)
    assert pts_array_to_ns(pts, time_base=Fraction(1, 90000), origin_pts=2**62).tolist() == [0, 10**9]
    ends = np.array([-(2**63), 2**63 - 1], dtype=np.int64)
    with pytest.raises(OverflowError):
        pts_array_to_ns(ends, time_base=Fraction(1, 1000), origin_pts=0)


@pytest.mark.parametrize("time_base", TIME_BASES)
def test_distinct_ticks_stay_distinct_and_ordered(time_base):
    times_ns = pts_array_to_ns(np.arange(10**9, 10**9 + 4096), time_base=time_base, origin_pts=17)
    assert (np.diff(times_ns) > 0).all()


def test_empty_and_bad_time_base():
    assert pts_array_to_ns(np.zeros(0, np.int64), time_base=Fraction(1, 25), origin_pts=0).size == 0
    with pytest.raises(ValueError, match="time_base"):
        pts_to_ns(1, time_base=Fraction(0), origin_pts=0)
