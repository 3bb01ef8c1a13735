"""What every embedder of the registry must do. Those with weights run with a tiny checkpoint in the published format."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from curation_assets import models
from curation_assets_tests.checkpoints import WRITERS

# Their checkpoints do not say how large the network is, or bring code of their own: tests/models has the same demands on small ones.
TESTED_ALONE = {"internvideo2", "cosmos-embed1-224p", "cosmos-embed1-336p", "cosmos-embed1-448p"}
NAMES = [name for name in models.names() if name not in TESTED_ALONE]

# float32 sums in another order: other threads, or other texts beside one in the batch; measured up to 1e-6.
ROUNDING = 1e-5


def random_clips(spec: models.EmbedderSpec, num_clips: int, seed: int = 5) -> np.ndarray:
    """Smooth moving pictures, uint8 (N, T, H, W, 3): pure noise would be grey to a model that averages."""
    random = np.random.default_rng(seed)
    cells = random.integers(0, 256, (num_clips, 1, 8, 8, 3), dtype=np.uint8)
    height_px, width_px = -(-spec.height_px // 8), -(-spec.width_px // 8)
    still = cells.repeat(height_px, axis=2).repeat(width_px, axis=3)[:, :, : spec.height_px, : spec.width_px]
    return np.concatenate([np.roll(still, 3 * frame, axis=3) for frame in range(spec.frames)], axis=1)


@pytest.fixture(scope="module")
def weights_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path | None]:
    """Give the folder of a model's tiny checkpoint, None for a model without weights."""
    written: dict[str, Path] = {}

    def find(name: str) -> Path | None:
        if models.spec(name).weights is None:
            return None
        pytest.importorskip("transformers")
        if name not in written:
            written[name] = WRITERS[name](tmp_path_factory.mktemp(name))
        return written[name]

    return find


@pytest.fixture(scope="module", params=NAMES)
def embedder(request: pytest.FixtureRequest, weights_of: Callable[[str], Path | None]) -> models.Embedder:
    return models.load(request.param, weights=weights_of(request.param), device="cpu")


@pytest.fixture(scope="module", params=[name for name in NAMES if models.spec(name).has_text])
def text_embedder(request: pytest.FixtureRequest, weights_of: Callable[[str], Path | None]) -> models.TextEmbedder:
    return models.load(request.param, weights=weights_of(request.param), device="cpu")  # type: ignore[return-value]


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


_SCRIPT = """
import sys
import numpy as np
from curation_assets import models
from curation_assets_tests.contracts.test_embedders import random_clips
name, weights, place = sys.argv[1:]
embedder = models.load(name, weights=weights or None, device="cpu")
np.save(place, embedder.embed_frames(random_clips(embedder.spec, 2)))
"""


@pytest.mark.parametrize("name", NAMES)
def test_vectors_are_the_same_in_another_process_with_other_thread_counts(
    name: str, weights_of: Callable[[str], Path | None], tmp_path: Path
) -> None:
    found = []
    weights = weights_of(name)
    for num_threads in ("1", "4"):
        environment = {**os.environ, "OMP_NUM_THREADS": num_threads, "OPENBLAS_NUM_THREADS": num_threads, "MKL_NUM_THREADS": num_threads}
        place = tmp_path / f"{num_threads}.npy"
        subprocess.run([sys.executable, "-c", _SCRIPT, name, str(weights or ""), str(place)], env=environment, check=True)
        found.append(np.load(place))
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=0 if weights is None else ROUNDING)


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


TEXTS = ["a photo of the red dog", "The cat sleeps on grass", "", "video of 3 cats " * 40]


def test_no_texts_give_no_rows(text_embedder: models.TextEmbedder) -> None:
    vectors = text_embedder.embed_texts([])
    assert vectors.shape == (0, text_embedder.spec.dim)
    assert vectors.dtype == np.float32


def test_text_rows_are_float32_of_unit_length(text_embedder: models.TextEmbedder) -> None:
    vectors = text_embedder.embed_texts(TEXTS)
    assert vectors.shape == (len(TEXTS), text_embedder.spec.dim)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float64), axis=1), 1, atol=1e-5)
    assert (vectors @ vectors.T)[~np.eye(len(TEXTS), dtype=bool)].max() < 0.9999


def test_text_vectors_depend_on_their_text_only(text_embedder: models.TextEmbedder) -> None:
    together = text_embedder.embed_texts(TEXTS)
    order = [2, 0, 3, 1]
    np.testing.assert_allclose(text_embedder.embed_texts([TEXTS[k] for k in order]), together[order], rtol=0, atol=ROUNDING)
    one_by_one = np.concatenate([text_embedder.embed_texts([text]) for text in TEXTS])
    np.testing.assert_allclose(one_by_one, together, rtol=0, atol=ROUNDING)


def test_every_model_with_weights_has_a_checkpoint_here() -> None:
    assert sorted(WRITERS) == sorted(name for name in NAMES if models.spec(name).weights is not None)


def test_only_models_with_text_embed_texts(embedder: models.Embedder) -> None:
    assert hasattr(embedder, "embed_texts") == embedder.spec.has_text
