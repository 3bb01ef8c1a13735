"""videoprism against the transformers library's own model, on a tiny checkpoint in the published format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

transformers = pytest.importorskip("transformers")
import torch  # noqa: E402

from curation_assets import models  # noqa: E402
from curation_assets.models.videoprism import SPEC, canonical  # noqa: E402
from curation_assets.models.weights import WeightsError  # noqa: E402
from curation_assets_tests.checkpoints import add_tokens, write_videoprism  # noqa: E402
from curation_assets_tests.contracts.test_embedders import random_clips  # noqa: E402

TOLERANCE = 1e-5  # the same float32 sums in another order


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videoprism(tmp_path_factory.mktemp("videoprism"))


@pytest.fixture(scope="module")
def theirs(folder: Path):
    return transformers.VideoPrismClipModel.from_pretrained(folder).eval()


def unit(vectors: torch.Tensor) -> np.ndarray:
    return (vectors / vectors.norm(dim=-1, keepdim=True)).numpy()


def test_clips_are_the_library_s(folder: Path, theirs) -> None:
    clips = random_clips(SPEC, 2)
    pixels = torch.from_numpy(clips.astype(np.float32) / 255).permute(0, 1, 4, 2, 3)  # the processor rescales and does not normalise
    with torch.no_grad():
        expected = unit(theirs.get_video_features(pixel_values_videos=pixels).pooler_output[:, 0])
    found = models.load("videoprism", weights=folder, device="cpu").embed_frames(clips)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    backwards = models.load("videoprism", weights=folder, device="cpu").embed_frames(clips[:, ::-1])
    assert np.abs(found - backwards).max() > 1e-3, "the order of the frames matters"


def test_texts_are_the_library_s_in_canonical_form(folder: Path, theirs) -> None:
    texts = ["A photo, of the DOG!", "cat", "", "video of the grass " * 30]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    plain = ["a photo of the dog.", "cat.", ".", "video of the grass " * 29 + "video of the grass."]
    tokens = tokenizer(plain, padding="max_length", truncation=True, max_length=64, return_tensors="pt")
    with torch.no_grad():
        expected = unit(theirs.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output)
    found = models.load("videoprism", weights=folder, device="cpu").embed_texts(texts)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("text", ["Hello, World!", "Hello,World..", "  Hello   WORLD", "hello-world"])
def test_canonical_form(text: str) -> None:
    assert canonical(text) == "hello world."


def test_a_checkpoint_without_a_part_is_refused(folder: Path, theirs, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    state = load_file(folder / "model.safetensors")
    removed = [key for key in state if "auxiliary_layers.0" in key]
    save_file({key: value for key, value in state.items() if key not in removed}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=rf"{len(removed)} missing: .* and {len(removed) - 5} more"):
        models.load("videoprism", weights=tmp_path, device="cpu")


def test_sentinels_are_no_tokens_of_texts_and_others_beyond_the_text_tower_are_refused(folder: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(folder, tmp_path / "own"))
    rows = json.loads((own / "config.json").read_text())["text_config"]["vocab_size"]
    tokens = transformers.AutoTokenizer.from_pretrained(own)
    assert max(tokens.get_vocab().values()) > rows, "the published tokenizer is so"
    assert max(tokens(canonical("<extra_id_0> <extra_id_2>")).input_ids) < rows
    add_tokens(own, 1)
    with pytest.raises(WeightsError, match=rf"\(more0\), the text model knows {rows},"):
        models.load("videoprism", weights=own, device="cpu")


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1])
def test_values_that_are_no_weights_are_refused(folder: Path, tmp_path: Path, value: float) -> None:
    from safetensors.torch import load_file, save_file

    own = Path(shutil.copytree(folder, tmp_path / "own"))
    state = load_file(own / "model.safetensors")
    name = next(name for name in state if name.endswith("token_embedding.weight"))
    if isinstance(value, int):
        state[name] = state[name].long()
    else:
        state[name][-1, -1] = value
    save_file(state, own / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=rf"1 (with NaN or infinity|of no floating-point format): {name}$"):
        models.load("videoprism", weights=own, device="cpu")


def test_a_text_tower_of_another_size_is_refused(folder: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(folder, tmp_path / "own"))
    config = json.loads((own / "config.json").read_text())
    config["text_config"]["hidden_size"] = 512
    transformers.VideoPrismClipModel(transformers.VideoPrismConfig(**config)).save_pretrained(own)
    with pytest.raises(WeightsError, match=r"dim of texts 512, not 768$"):
        models.load("videoprism", weights=own, device="cpu")
