"""The scorer aesthetic on a GPU: near the CPU's scores, and nearly independent of the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")

from curation_assets.models.aesthetic import AestheticScorer
from curation_assets_tests.checkpoints import write_aesthetic


@pytest.mark.usefixtures("gpu")
def test_a_gpu_gives_nearly_the_same(tmp_path: Path) -> None:
    folder = write_aesthetic(tmp_path)
    cells = np.random.default_rng(7).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    frames = cells.repeat(28, axis=1).repeat(28, axis=2)
    expected = AestheticScorer(folder, device="cpu").score_frames(frames)
    on_gpu = AestheticScorer(folder, device="cuda", batch_size=4)
    # float32 on a GPU may use TF32 in the first convolution, and sums in another order
    np.testing.assert_allclose(on_gpu.score_frames(frames), expected, rtol=0, atol=0.02)
    alone = np.concatenate([on_gpu.score_frames(frames[k : k + 1]) for k in range(9)])
    np.testing.assert_allclose(alone, on_gpu.score_frames(frames), rtol=0, atol=0.01)
    half = AestheticScorer(folder, device="cuda", dtype="bfloat16").score_frames(frames)
    np.testing.assert_allclose(half, expected, rtol=0, atol=0.2)
