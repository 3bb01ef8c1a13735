"""Batches: their sizes, and what happens when the GPU's memory does not hold one."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from curation_assets.models.batching import ClipRunner, embed_in_parts, is_device_error  # noqa: E402


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
    runner = ClipRunner(forward, device=torch.device("cpu"), dim=3, at_once_on_gpu=32)
    vectors = runner(clips)
    assert seen == [((1, 2, 4, 4, 3), torch.uint8)] * 3
    means = clips.astype(np.float64).mean((1, 2, 3))
    np.testing.assert_allclose(vectors, means / np.linalg.norm(means, axis=1, keepdims=True), rtol=1e-5)
    assert runner(clips[:0]).shape == (0, 3)
    np.testing.assert_array_equal(runner(torch.from_numpy(clips)), vectors)  # on the device already


def test_clips_that_did_not_fit_stay_fewer() -> None:
    tried = []

    def forward(part):
        tried.append(len(part))
        if len(part) > 3:
            raise torch.cuda.OutOfMemoryError
        return part.float().mean((1, 2, 3))

    clips = np.random.default_rng(1).integers(1, 256, (5, 2, 4, 4, 3), dtype=np.uint8)
    runner = ClipRunner(forward, device=torch.device("cpu"), dim=3, at_once_on_gpu=32)
    runner.at_once = 8  # as on a GPU
    expected = np.concatenate([runner(clip[None]) for clip in clips[:3]])
    vectors = runner(clips)
    np.testing.assert_array_equal(vectors[:3], expected)
    assert runner.at_once == 3
    assert tried == [1, 1, 1, 5, 3, 2]
    runner(clips)
    assert tried[6:] == [3, 2]


def test_a_compiled_model_sees_one_shape() -> None:
    seen = []

    def forward(part):
        seen.append(len(part))
        return part.float().mean((1, 2, 3))

    clips = np.random.default_rng(1).integers(1, 256, (5, 2, 4, 4, 3), dtype=np.uint8)
    plain, compiled = (ClipRunner(forward, device=torch.device("cpu"), dim=3, at_once_on_gpu=32) for _ in range(2))
    torch.compiler.set_stance("force_eager")  # the shapes are meant here, not the compiler
    try:
        compiled.compile()
        compiled.at_once = 4
        found = compiled(clips)
    finally:
        torch.compiler.set_stance("default")
    assert seen == [4, 4]
    np.testing.assert_array_equal(found, plain(clips))


def test_device_errors_are_told_from_others() -> None:
    assert is_device_error(torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
    assert is_device_error(RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"))
    assert not is_device_error(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    assert not is_device_error(RuntimeError("shape mismatch"))
