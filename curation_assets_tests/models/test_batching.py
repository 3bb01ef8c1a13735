"""Batches: their sizes, and what happens when the GPU's memory does not hold one."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from curation_assets.models.batching import embed_clips, embed_in_parts  # noqa: E402


def test_batches_halve_until_they_fit() -> None:
    tried = []

    def forward(part):
        tried.append(len(part))
        if len(part) > 3:
            raise torch.cuda.OutOfMemoryError
        return torch.tensor([[float(item), 1.0] for item in part])

    vectors = embed_in_parts(range(8), at_once=8, dim=2, forward=forward)
    assert tried == [8, 4, 2, 2, 2, 2]
    expected = np.array([[item, 1] for item in range(8)]) / np.sqrt(np.arange(8)[:, None] ** 2 + 1)
    np.testing.assert_allclose(vectors, expected, rtol=1e-6)


def test_one_that_does_not_fit_is_an_error() -> None:
    def forward(_):
        raise torch.cuda.OutOfMemoryError

    with pytest.raises(torch.cuda.OutOfMemoryError):
        embed_in_parts([1, 2, 3], at_once=4, dim=2, forward=forward)


def test_the_cpu_takes_clips_one_by_one_as_bytes() -> None:
    seen = []

    def forward(part):
        seen.append((tuple(part.shape), part.dtype))
        return part.float().mean((1, 2, 3))

    clips = np.random.default_rng(1).integers(1, 256, (3, 2, 4, 4, 3), dtype=np.uint8)
    vectors = embed_clips(clips, device=torch.device("cpu"), dim=3, forward=forward, at_once_on_gpu=32)
    assert seen == [((1, 2, 4, 4, 3), torch.uint8)] * 3
    means = clips.astype(np.float64).mean((1, 2, 3))
    np.testing.assert_allclose(vectors, means / np.linalg.norm(means, axis=1, keepdims=True), rtol=1e-5)
    assert embed_clips(clips[:0], device=torch.device("cpu"), dim=3, forward=forward, at_once_on_gpu=32).shape == (0, 3)
