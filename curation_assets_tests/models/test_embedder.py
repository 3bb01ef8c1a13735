"""The spec's checks, and the choice of frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from curation_assets import models
from curation_assets.models.embedder import select_first_frames


@pytest.mark.parametrize("num_wanted", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("num_available", [1, 2, 3, 7, 8, 20, 1000])
def test_selection_is_the_nearest_to_uniform(num_available: int, num_wanted: int) -> None:
    indices = models.select_frames(num_available, num_wanted)
    assert indices.dtype == np.int64
    assert indices.shape == (num_wanted,)
    assert (np.diff(indices) >= 0).all()
    if num_wanted == 1:
        assert indices[0] == (num_available - 1) // 2
        return
    assert (indices[0], indices[-1]) == (0, num_available - 1)
    ideal = np.linspace(0, num_available - 1, num_wanted)
    assert (np.abs(indices - ideal) <= 0.5 + 1e-9).all()
    if num_available >= num_wanted:
        assert len(set(indices.tolist())) == num_wanted


def test_selection_of_known_cases() -> None:
    assert models.select_frames(20, 8).tolist() == [0, 3, 5, 8, 11, 14, 16, 19]
    assert models.select_frames(4, 8).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert models.select_frames(2, 3).tolist() == [0, 0, 1]  # the earlier of two equally near ones


@pytest.mark.parametrize(("num_available", "num_wanted"), [(0, 8), (5, 0), (-1, 8)])
def test_selection_of_nothing_is_refused(num_available: int, num_wanted: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        models.select_frames(num_available, num_wanted)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("revision", ""),
        ("licence", ""),
        ("dim", 0),
        ("frames", 0),
        ("height_px", 0),
        ("width_px", -1),
        ("gpu_memory_gb", -1.0),
    ],
)
def test_spec_checks_itself(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        replace(models.spec("fingerprint"), **{field: value})  # type: ignore[arg-type]


def test_the_curators_selection() -> None:
    assert select_first_frames(21, 8).tolist() == [0, 2, 4, 6, 8, 10, 12, 14]
    assert select_first_frames(21, 4).tolist() == list(range(21))[::5][:4]
    assert select_first_frames(8, 8).tolist() == list(range(8))
    assert select_first_frames(3, 8).tolist() == models.select_frames(3, 8).tolist()
    with pytest.raises(ValueError, match="cannot choose 0 of 3"):
        select_first_frames(3, 0)
