"""What every embedder of the registry that needs no weights must do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from curation_assets import models

NAMES = [name for name in models.names() if models.spec(name).weights is None]


def random_clips(spec: models.EmbedderSpec, num_clips: int, seed: int = 5) -> np.ndarray:
    """Smooth moving pictures, uint8 (N, T, H, W, 3): pure noise would be grey to a model that averages."""
    random = np.random.default_rng(seed)
    cells = random.integers(0, 256, (num_clips, 1, 8, 8, 3), dtype=np.uint8)
    height_px, width_px = -(-spec.height_px // 8), -(-spec.width_px // 8)
    still = cells.repeat(height_px, axis=2).repeat(width_px, axis=3)[:, :, : spec.height_px, : spec.width_px]
    return np.concatenate([np.roll(still, 3 * frame, axis=3) for frame in range(spec.frames)], axis=1)


@pytest.fixture(scope="module", params=NAMES)
def embedder(request: pytest.FixtureRequest) -> models.Embedder:
    return models.load(request.param)


def test_loaded_model_has_the_registered_spec(embedder: models.Embedder) -> None:
    assert embedder.spec == models.spec(embedder.spec.name)


def test_empty_batch_gives_no_rows(embedder: models.Embedder) -> None:
    vectors = embedder.embed_frames(random_clips(embedder.spec, 0))
    assert vectors.shape == (0, embedder.spec.dim)
    assert vectors.dtype == np.float32


@pytest.mark.parametrize("num_clips", [1, 5])
def test_rows_are_float32_of_unit_length(embedder: models.Embedder, num_clips: int) -> None:
    vectors = embedder.embed_frames(random_clips(embedder.spec, num_clips))
    assert vectors.shape == (num_clips, embedder.spec.dim)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float64), axis=1), 1, atol=1e-5)


def test_different_clips_get_different_vectors(embedder: models.Embedder) -> None:
    vectors = embedder.embed_frames(random_clips(embedder.spec, 4))
    assert (vectors @ vectors.T)[~np.eye(4, dtype=bool)].max() < 0.99


def test_rows_follow_the_input_order(embedder: models.Embedder) -> None:
    clips = random_clips(embedder.spec, 5)
    order = np.array([3, 0, 4, 1, 2])
    np.testing.assert_array_equal(embedder.embed_frames(clips[order]), embedder.embed_frames(clips)[order])


def test_vectors_do_not_depend_on_the_batch(embedder: models.Embedder) -> None:
    clips = random_clips(embedder.spec, 5)
    together = embedder.embed_frames(clips)
    one_by_one = np.concatenate([embedder.embed_frames(clips[k : k + 1]) for k in range(5)])
    np.testing.assert_array_equal(one_by_one, together)
    np.testing.assert_array_equal(embedder.embed_frames(clips[2:]), together[2:])


def test_memory_layout_does_not_matter(embedder: models.Embedder) -> None:
    clips = random_clips(embedder.spec, 2)
    np.testing.assert_array_equal(embedder.embed_frames(np.asfortranarray(clips)), embedder.embed_frames(clips))


def test_input_is_left_alone_and_may_be_read_only(embedder: models.Embedder) -> None:
    clips = random_clips(embedder.spec, 2)
    before = clips.copy()
    clips.flags.writeable = False
    embedder.embed_frames(clips)
    np.testing.assert_array_equal(clips, before)


def test_featureless_clips_have_a_vector(embedder: models.Embedder) -> None:
    shape = (1, embedder.spec.frames, embedder.spec.height_px, embedder.spec.width_px, 3)
    for value in (0, 128, 255):
        vector = embedder.embed_frames(np.full(shape, value, dtype=np.uint8))
        assert np.isfinite(vector).all()
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


_HASH_SCRIPT = """
import hashlib, sys
from curation_assets import models
from curation_assets_tests.contracts.test_embedders import random_clips
embedder = models.load(sys.argv[1])
print(hashlib.sha256(embedder.embed_frames(random_clips(embedder.spec, 2)).tobytes()).hexdigest())
"""


@pytest.mark.parametrize("name", NAMES)
def test_vectors_are_the_same_in_another_process_with_other_thread_counts(name: str) -> None:
    hashes = set()
    for num_threads in ("1", "4"):
        environment = {**os.environ, "OMP_NUM_THREADS": num_threads, "OPENBLAS_NUM_THREADS": num_threads}
        command = [sys.executable, "-c", _HASH_SCRIPT, name]
        hashes.add(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    assert len(hashes) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.int8])
def test_other_dtypes_are_refused(embedder: models.Embedder, dtype: type) -> None:
    with pytest.raises(TypeError, match="uint8"):
        embedder.embed_frames(random_clips(embedder.spec, 1).astype(dtype))


def test_a_list_is_refused(embedder: models.Embedder) -> None:
    with pytest.raises(TypeError, match="uint8"):
        embedder.embed_frames([[1, 2, 3]])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda clips: clips[0], id="no batch axis"),
        pytest.param(lambda clips: np.concatenate([clips, clips[:, :1]], axis=1), id="T"),
        pytest.param(lambda clips: clips[:, :, :-1], id="H"),
        pytest.param(lambda clips: clips[:, :, :, :-1], id="W"),
        pytest.param(lambda clips: clips[..., :1], id="grey"),
        pytest.param(lambda clips: clips.transpose(0, 1, 4, 2, 3), id="channels first"),
    ],
)
def test_other_shapes_are_refused(embedder: models.Embedder, spoil: Callable[[np.ndarray], np.ndarray]) -> None:
    with pytest.raises(ValueError, match="shape"):
        embedder.embed_frames(spoil(random_clips(embedder.spec, 1)))
