"""Timing: from a stream's ticks to int64 nanoseconds on the video's own timeline, exactly.

Nothing here uses floating point. Nanoseconds never go back to ticks: whoever needs ticks keeps them.
"""

from __future__ import annotations

from fractions import Fraction
from math import gcd

import numpy as np
import numpy.typing as npt

NS_PER_S = 1_000_000_000
_INT64_MAX = 2**63 - 1


def pts_to_ns(pts: int, *, time_base: Fraction, origin_pts: int) -> int:
    """Convert one pts to nanoseconds since `origin_pts`.

    Rounds half up (towards later). Distinct pts give distinct, equally ordered results unless a tick is shorter than 1 ns.

    Args:
        pts: presentation time in ticks, any size.
        time_base: seconds per tick, positive.
        origin_pts: tick that is zero on the timeline.

    Returns:
        Nanoseconds; negative before the origin.

    Raises:
        ValueError: `time_base` is not positive.
    """
    numerator, denominator = _ns_per_tick(time_base)
    return (2 * (pts - origin_pts) * numerator + denominator) // (2 * denominator)


def pts_array_to_ns(pts: npt.NDArray[np.int64], *, time_base: Fraction, origin_pts: int) -> npt.NDArray[np.int64]:
    """Convert many pts to nanoseconds since `origin_pts`, each exactly as `pts_to_ns` does.

    Args:
        pts: int64 (N,), presentation times in ticks.
        time_base: seconds per tick, positive.
        origin_pts: tick that is zero on the timeline.

    Returns:
        int64 (N,), nanoseconds, in the order of the input.

    Raises:
        ValueError: `time_base` is not positive.
        OverflowError: a result does not fit into int64 (292 years).
    """
    numerator, denominator = _ns_per_tick(time_base)
    if pts.size == 0:
        return np.zeros(0, dtype=np.int64)
    largest = max(abs(int(pts.max()) - origin_pts), abs(int(pts.min()) - origin_pts), abs(origin_pts))
    if 2 * largest * numerator + denominator <= _INT64_MAX:
        ticks = pts.astype(np.int64) - np.int64(origin_pts)
        return (2 * numerator * ticks + denominator) // (2 * denominator)
    exact = [(2 * (int(p) - origin_pts) * numerator + denominator) // (2 * denominator) for p in pts]
    return np.array(exact, dtype=np.int64)


def _ns_per_tick(time_base: Fraction) -> tuple[int, int]:
    """Reduce nanoseconds per tick to a numerator and a denominator."""
    if time_base <= 0:
        raise ValueError(f"time_base must be positive, is {time_base}")
    numerator, denominator = time_base.numerator * NS_PER_S, time_base.denominator
    divisor = gcd(numerator, denominator)
    return numerator // divisor, denominator // divisor
