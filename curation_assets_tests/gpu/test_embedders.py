"""Embedders on a GPU: near the CPU's vectors, and independent of the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from curation_assets import models
from curation_assets_tests.checkpoints import WRITERS
from curation_assets_tests.contracts.test_embedders import random_clips

pytest.importorskip("transformers")
TEXTS = ["a photo of the red dog", "The cat sleeps on grass", ""]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_gpu_gives_nearly_the_same(name: str, tmp_path: Path) -> None:
    folder = WRITERS[name](tmp_path)
    on_cpu, on_gpu = models.load(name, weights=folder, device="cpu"), models.load(name, weights=folder, device="cuda")
    exact = models.load(name, weights=folder, device="cuda", dtype="float32")
    clips = random_clips(on_cpu.spec, 5)
    expected, found = on_cpu.embed_frames(clips), on_gpu.embed_frames(clips)
    # float32 on a GPU may use TF32 in convolutions (10 bits); bfloat16 has 8 bits
    assert (exact.embed_frames(clips) * expected).sum(1).min() > 0.9999
    assert (found * expected).sum(1).min() > 0.99
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    alone = np.concatenate([on_gpu.embed_frames(clips[k : k + 1]) for k in range(5)])
    assert (alone * found).sum(1).min() > 0.999
    if on_cpu.spec.has_text:
        assert (on_gpu.embed_texts(TEXTS) * on_cpu.embed_texts(TEXTS)).sum(1).min() > 0.99  # type: ignore[attr-defined]
