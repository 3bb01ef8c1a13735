"""The scorer aesthetic against the published network written out with plain torch, on a tiny tower in the published format; and its folded head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

transformers = pytest.importorskip("transformers")
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402, N812
from safetensors.torch import load_file, save_file  # noqa: E402

from curation_assets.models import registry  # noqa: E402
from curation_assets.models.aesthetic import SPEC, AestheticScorer, load_head  # noqa: E402
from curation_assets.models.weights import WeightsError  # noqa: E402
from curation_assets_tests.checkpoints import write_aesthetic  # noqa: E402

TOWER, HEAD = "clip-vit-large-patch14", "sac-logos-ava1-l14-linearMSE"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_aesthetic(tmp_path_factory.mktemp("aesthetic"))


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    import shutil

    return Path(shutil.copytree(folder, tmp_path / "own"))


def pictures(count: int) -> np.ndarray:
    cells = np.random.default_rng(7).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return cells.repeat(28, axis=1).repeat(28, axis=2)


def norm(state: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)


def linear(state: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def plain_scores(folder: Path, frames: np.ndarray) -> np.ndarray:
    """CLIP's image tower and the head's five layers, written out in float64."""
    state = {name.removeprefix("vision_model."): value.double() for name, value in load_file(folder / TOWER / "model.safetensors").items()}
    head = {name: value.double() for name, value in load_file(folder / HEAD / "model.safetensors").items()}
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    pixels = torch.from_numpy(((frames / 255 - mean) / std).transpose(0, 3, 1, 2))
    patches = F.conv2d(pixels, state["embeddings.patch_embedding.weight"], stride=56).flatten(2).transpose(1, 2)  # (N, 16, W)
    cls = state["embeddings.class_embedding"].expand(len(frames), 1, -1)
    x = norm(state, "pre_layrnorm", torch.cat([cls, patches], 1) + state["embeddings.position_embedding.weight"])
    width, heads = x.shape[-1], 2
    for layer in ("encoder.layers.0", "encoder.layers.1"):
        y = norm(state, f"{layer}.layer_norm1", x)
        q, k, v = (linear(state, f"{layer}.self_attn.{part}_proj", y).unflatten(-1, (heads, -1)).transpose(1, 2) for part in "qkv")
        weights = torch.softmax(q @ k.transpose(-1, -2) / (width // heads) ** 0.5, -1)
        x = x + linear(state, f"{layer}.self_attn.out_proj", (weights @ v).transpose(1, 2).flatten(2))
        y = linear(state, f"{layer}.mlp.fc1", norm(state, f"{layer}.layer_norm2", x))
        x = x + linear(state, f"{layer}.mlp.fc2", y * torch.sigmoid(1.702 * y))
    vector = norm(state, "post_layernorm", x[:, 0]) @ state["visual_projection.weight"].T
    y = vector / vector.norm(dim=-1, keepdim=True)
    for layer in (0, 2, 4, 6, 7):
        y = linear(head, f"layers.{layer}", y)
    return y[:, 0].numpy()


def test_scores_are_those_of_the_published_network(folder: Path) -> None:
    frames = pictures(4)
    found = AestheticScorer(folder, device="cpu").score_frames(frames)
    expected = plain_scores(folder, frames)
    assert found.dtype == np.float32
    assert np.ptp(expected) > 0.1, "the pictures must matter"
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)  # float32 in the tower; measured 2e-6


def test_a_frame_s_score_depends_on_it_alone(folder: Path) -> None:
    scorer, frames = AestheticScorer(folder, device="cpu"), pictures(5)
    together = scorer.score_frames(frames)
    np.testing.assert_array_equal(together, np.concatenate([scorer.score_frames(frames[k : k + 1]) for k in range(5)]))
    np.testing.assert_array_equal(together[::-1], scorer.score_frames(frames[::-1]))
    assert scorer.score_frames(frames[:0]).shape == (0,)


def test_other_frames_are_refused(folder: Path) -> None:
    scorer = AestheticScorer(folder, device="cpu")
    with pytest.raises(TypeError, match="uint8"):
        scorer.score_frames(pictures(1).astype(np.float32))
    for wrong in (pictures(1)[0], pictures(1)[:, 1:], pictures(1)[None]):
        with pytest.raises(ValueError, match=r"\(N, 224, 224, 3\)"):
            scorer.score_frames(wrong)


def test_the_folded_head_is_the_five_layers(folder: Path) -> None:
    path = folder / HEAD / "model.safetensors"
    weight, bias = load_head(path)
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((50, 768)))
    y = x / x.norm(dim=-1, keepdim=True)
    expected = y
    for layer in (0, 2, 4, 6, 7):
        expected = linear({name: value.double() for name, value in load_file(path).items()}, f"layers.{layer}", expected)
    assert weight.shape == (768,)
    np.testing.assert_allclose(y.numpy() @ weight + bias, expected[:, 0].numpy(), rtol=0, atol=1e-12)


def test_a_head_that_does_not_fit_is_refused_with_all_that_is_wrong(own: Path) -> None:
    path = own / HEAD / "model.safetensors"
    state = load_file(path)
    save_file(state, own.parent / "head.safetensors")
    del state["layers.7.bias"]
    state["layers.8.weight"] = torch.zeros(1)
    state["layers.0.weight"] = torch.zeros(1024, 512)
    save_file(state, path)
    with pytest.raises(WeightsError) as caught:
        AestheticScorer(own, device="cpu")
    for said in (
        "layers.7.bias is missing",
        "layers.8.weight is unknown",
        "layers.0.weight has the shape (1024, 512), not (1024, 768)",
    ):
        assert said in str(caught.value)
    state = load_file(own.parent / "head.safetensors")
    state["layers.6.bias"][3] = torch.nan
    state["layers.7.bias"] = torch.ones(1, dtype=torch.int64)
    save_file(state, path)
    with pytest.raises(WeightsError, match=r"1 of no floating-point format: layers.7.bias; 1 with NaN or infinity: layers.6.bias$"):
        AestheticScorer(own, device="cpu")
    path.write_bytes(b"not this")
    with pytest.raises(WeightsError, match=r"weights of aesthetic: .* cannot be loaded"):
        AestheticScorer(own, device="cpu")


def test_a_tower_that_does_not_fit_is_refused(own: Path) -> None:
    path = own / TOWER / "model.safetensors"
    state = load_file(path)
    del state["visual_projection.weight"]
    state["vision_model.more.weight"] = torch.zeros(3)
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(WeightsError) as caught:
        AestheticScorer(own, device="cpu")
    assert "1 missing: visual_projection.weight" in str(caught.value)
    assert "1 unknown: vision_model.more.weight" in str(caught.value)


def test_values_of_the_tower_that_are_no_weights_are_refused(own: Path) -> None:
    path = own / TOWER / "model.safetensors"
    state = load_file(path)
    state["visual_projection.weight"][0, 0] = torch.nan
    state["text_projection.weight"][:] = torch.nan  # of no use here
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"1 with NaN or infinity: visual_projection.weight$"):
        AestheticScorer(own, device="cpu")


def test_another_tower_of_the_family_is_refused(own: Path) -> None:
    vision = transformers.CLIPVisionConfig(
        hidden_size=48,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=224,
        patch_size=56,
        projection_dim=512,
    )
    transformers.CLIPVisionModelWithProjection(vision).save_pretrained(own / TOWER)
    with pytest.raises(WeightsError, match="dim 512, not 768"):
        AestheticScorer(own, device="cpu")


def test_files_that_lie_on_one_heap_are_refused(own: Path) -> None:
    (own / TOWER / "model.safetensors").rename(own / "model.safetensors")
    with pytest.raises(WeightsError, match=f"put them into the folders {TOWER} and {HEAD}"):
        AestheticScorer(own, device="cpu")


def test_the_registry_knows_it_as_no_embedder() -> None:
    assert registry.any_spec("aesthetic") is SPEC
    assert "aesthetic" not in registry.names()
    assert registry.names_with_weights()[-1] == "aesthetic"
    with pytest.raises(ValueError, match="no model is named 'aesthetic'"):
        registry.spec("aesthetic")
    with pytest.raises(ValueError, match="Did you mean 'aesthetic'"):
        registry.any_spec("aestetic")


def test_a_gpu_that_is_demanded_and_not_there(folder: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="no CUDA device"):
        AestheticScorer(folder, device="cuda")
