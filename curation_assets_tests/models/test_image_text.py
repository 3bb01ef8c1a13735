"""clip-vit-b32 and siglip2 against the transformers library's own processors and models, on tiny checkpoints in the published format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

transformers = pytest.importorskip("transformers")
import torch  # noqa: E402

from curation_assets import models  # noqa: E402
from curation_assets.models.weights import WeightsError  # noqa: E402
from curation_assets_tests.checkpoints import WRITERS, add_tokens  # noqa: E402
from curation_assets_tests.contracts.test_embedders import random_clips  # noqa: E402

TEXTS = ["a photo of the red dog", "The CAT sleeps", "", "video of the grass " * 30]
# The same float32 sums, in another order: normalisation is one factor and one term here, and batches differ. Measured 3e-7.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: WRITERS[name](tmp_path_factory.mktemp(name)) for name in ("clip-vit-b32", "siglip2")}


def unit(vectors: torch.Tensor) -> np.ndarray:
    return (vectors / vectors.norm(dim=-1, keepdim=True)).numpy()


def their_model(name: str, folder: Path):
    return (transformers.CLIPModel if name == "clip-vit-b32" else transformers.SiglipModel).from_pretrained(folder).eval()


@pytest.mark.parametrize("name", ["clip-vit-b32", "siglip2"])
def test_clips_are_the_mean_of_the_library_s_features(name: str, folders: dict[str, Path]) -> None:
    spec = models.spec(name)
    clips = random_clips(spec, 3)
    # no files: the classes' own defaults are the published settings, but for siglip's 224 px
    processor = transformers.CLIPImageProcessor() if name == "clip-vit-b32" else transformers.SiglipImageProcessor()
    expected = []
    with torch.no_grad():
        for clip in clips:
            pixels = processor(images=[frame.transpose(2, 0, 1) for frame in clip], input_data_format="channels_first", return_tensors="pt")
            features = their_model(name, folders[name]).get_image_features(pixel_values=pixels["pixel_values"]).pooler_output
            expected.append(unit(features.mean(0)))
    found = models.load(name, weights=folders[name], device="cpu").embed_frames(clips)
    np.testing.assert_allclose(found, np.stack(expected), rtol=0, atol=TOLERANCE)


def test_clip_texts_are_the_library_s(folders: dict[str, Path]) -> None:
    folder = folders["clip-vit-b32"]
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(
        TEXTS, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = unit(their_model("clip-vit-b32", folder).get_text_features(**tokens).pooler_output)
    found = models.load("clip-vit-b32", weights=folder, device="cpu").embed_texts(TEXTS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_siglip2_texts_are_the_library_s_and_end_with_eos(folders: dict[str, Path]) -> None:
    """Training: lower case, cut to 63 tokens, <eos>, padded to 64 with 0, no mask (big_vision: lower|tok(length=64, bos="no", eos="sticky"))."""
    folder = folders["siglip2"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = np.zeros((len(TEXTS), 64), np.int64)
    for row, text in zip(ids, TEXTS, strict=True):
        tokens = [*tokenizer(text, add_special_tokens=False).input_ids[:63], tokenizer.eos_token_id]
        row[: len(tokens)] = tokens
    assert ids[3, -1] == tokenizer.eos_token_id, "the last text is too long"
    with torch.no_grad():
        expected = unit(their_model("siglip2", folder).get_text_features(input_ids=torch.from_numpy(ids)).pooler_output)
    found = models.load("siglip2", weights=folder, device="cpu").embed_texts(TEXTS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["clip-vit-b32", "siglip2"])
def test_bfloat16_is_near(name: str, folders: dict[str, Path]) -> None:
    clips = random_clips(models.spec(name), 2)
    exact = models.load(name, weights=folders[name], device="cpu").embed_frames(clips)
    half = models.load(name, weights=folders[name], device="cpu", dtype="bfloat16").embed_frames(clips)
    assert (exact * half).sum(1).min() > 0.99
    assert (exact != half).any()


def damaged(folder: Path, place: Path) -> Path:
    return Path(shutil.copytree(folder, place))


def test_checkpoints_that_do_not_fit_are_refused_whole(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = damaged(folders["siglip2"], tmp_path / "siglip2")
    state = load_file(folder / "model.safetensors")
    del state["logit_bias"], state["text_model.head.weight"]
    state["vision_model.head.probe"] = state["vision_model.head.probe"][..., :5].clone()
    state["decoder.weight"] = torch.zeros(3)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError) as caught:
        models.load("siglip2", weights=folder, device="cpu")
    message = str(caught.value)
    assert "2 missing: logit_bias, text_model.head.weight" in message
    assert "1 unknown: decoder.weight" in message
    assert "1 of another shape: vision_model.head.probe (1, 1, 5), not (1, 1, 768)" in message


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_files_that_are_none_are_one_error(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = damaged(folders["siglip2"], tmp_path / "siglip2")
    (folder / name).write_bytes(b"not this")
    with pytest.raises(WeightsError, match="weights of siglip2"):
        models.load("siglip2", weights=folder, device="cpu")


def test_pickled_code_is_not_run(folders: dict[str, Path], tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    folder = damaged(folders["clip-vit-b32"], tmp_path / "clip")
    torch.save({"logit_scale": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        models.load("clip-vit-b32", weights=folder, device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("named", [False, True])
def test_a_file_that_is_not_pinned_decides_nothing(folders: dict[str, Path], tmp_path: Path, named: bool) -> None:
    from safetensors.torch import save_file

    folder = damaged(folders["clip-vit-b32"], tmp_path / "clip")
    clips = random_clips(models.spec("clip-vit-b32"), 1)
    weights = folder / "pytorch_model.bin" if named else folder
    before = models.load("clip-vit-b32", weights=weights, device="cpu").embed_frames(clips)
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    other = {key: torch.randn(value.shape) * 0.03 if value.is_floating_point() else value for key, value in state.items()}
    save_file(other, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text("{}")  # the library would look for the adapter
    np.testing.assert_array_equal(models.load("clip-vit-b32", weights=weights, device="cpu").embed_frames(clips), before)
    chosen = models.load("clip-vit-b32", weights=folder / "model.safetensors", device="cpu").embed_frames(clips)
    assert (chosen * before).sum() < 0.9


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1, True, 1j])
def test_values_that_are_no_weights_are_refused(folders: dict[str, Path], tmp_path: Path, value: complex) -> None:
    folder = damaged(folders["clip-vit-b32"], tmp_path / "clip")
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    for name in ("logit_scale", "visual_projection.weight"):
        state[name] = torch.full(state[name].shape, value)
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"2 (with NaN or infinity|of no floating-point format): logit_scale, visual_projection.weight"):
        models.load("clip-vit-b32", weights=folder, device="cpu")


@pytest.mark.parametrize("content", [b"<html>" * 100, b""])
def test_a_page_in_place_of_a_pickle_gives_no_advice_to_run_code(folders: dict[str, Path], tmp_path: Path, content: bytes) -> None:
    folder = damaged(folders["clip-vit-b32"], tmp_path / "clip")
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(WeightsError, match=r"pytorch_model.bin cannot be loaded: .*download it again") as caught:
        models.load("clip-vit-b32", weights=folder, device="cpu")
    assert "weights_only" not in str(caught.value)


def test_another_size_of_the_family_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = damaged(folders["clip-vit-b32"], tmp_path / "clip")
    config = json.loads((folder / "config.json").read_text())
    config["projection_dim"] = 256
    transformers.CLIPModel(transformers.CLIPConfig(**config)).save_pretrained(folder)
    (folder / "pytorch_model.bin").unlink()  # a folder of the user's may have safetensors instead
    with pytest.raises(WeightsError, match="dim of pictures 256, not 512, dim of texts 256, not 512"):
        models.load("clip-vit-b32", weights=folder, device="cpu")


def test_a_text_tower_of_another_size_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = damaged(folders["siglip2"], tmp_path / "siglip2")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["projection_size"] = 512
    transformers.SiglipModel(transformers.SiglipConfig(**config)).save_pretrained(folder)
    with pytest.raises(WeightsError, match=r"dim of texts 512, not 768$"):
        models.load("siglip2", weights=folder, device="cpu")


@pytest.mark.parametrize("name", ["clip-vit-b32", "siglip2"])
def test_a_tokenizer_with_more_tokens_than_the_text_tower_knows_is_refused(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = damaged(folders[name], tmp_path / name)
    rows = json.loads((folder / "config.json").read_text())["text_config"]["vocab_size"]
    add_tokens(folder, 2)
    with pytest.raises(WeightsError, match=rf"tokenizer\.json has tokens up to number {rows + 1} \(more1\), the text model knows {rows},"):
        models.load(name, weights=folder, device="cpu")


def test_arguments_are_checked(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="device is 'tpu'"):
        models.load("siglip2", weights=folders["siglip2"], device="tpu")
    with pytest.raises(ValueError, match="dtype is 'int8'"):
        models.load("siglip2", weights=folders["siglip2"], device="cpu", dtype="int8")
