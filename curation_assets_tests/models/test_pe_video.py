"""pe-video against the transformers library's own model, on a tiny checkpoint in the published format; its picture tower against timm's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from curation_assets import models  # noqa: E402
from curation_assets.models.pe_core import PeCoreConfig, PeCoreForPictures  # noqa: E402
from curation_assets.models.pe_video import SPEC  # noqa: E402
from curation_assets.models.weights import WeightsError  # noqa: E402
from curation_assets_tests.checkpoints import add_tokens, write_pe_video  # noqa: E402
from curation_assets_tests.contracts.test_embedders import random_clips  # noqa: E402

TOLERANCE = 1e-5  # the same float32 sums in another order
TEXTS = ["a photo of the red dog", "cat", "", "video of the grass " * 300]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pe_video(tmp_path_factory.mktemp("pe-video"))


@pytest.fixture(scope="module")
def ours(folder: Path) -> models.TextEmbedder:
    return models.load("pe-video", weights=folder, device="cpu")  # type: ignore[return-value]


@pytest.fixture(scope="module")
def theirs(folder: Path):
    """The library's video-text model, its own way of building and loading; only the picture tower is ours, which the library has none of."""
    whole = json.loads((folder / "config.json").read_text())
    video = whole["audio_video_config"]["video_config"]
    video["vision_config"] = PeCoreConfig(width=32, depth=2, num_heads=2, num_pool_heads=4, num_labels=24)
    config = transformers.PeVideoConfig(text_config=whole["text_config"], video_config=video)
    config.text_config.tie_last_hidden_states = (
        False  # the state before the last normalisation, as in the version that wrote the checkpoint
    )
    whole_state = load_file(folder / "model.safetensors")
    state = {
        name.removeprefix("video_model."): value for name, value in whole_state.items() if name.startswith(("video_model.", "text_model."))
    }
    model, info = transformers.PeVideoModel.from_pretrained(None, config=config, state_dict=state, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return model.eval()


def unit(vectors: torch.Tensor) -> np.ndarray:
    return (vectors / vectors.norm(dim=-1, keepdim=True)).numpy()


def test_clips_and_texts_are_the_library_s(folder: Path, ours: models.TextEmbedder, theirs) -> None:
    clips = random_clips(SPEC, 2)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = [[1, *tokenizer.encode(text, add_special_tokens=False).ids[:510], 2] for text in TEXTS]  # [CLS] text [SEP], 512 at most
    ids = torch.tensor([row + [3] * (512 - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (512 - len(row)) for row in rows])
    pixels = (torch.from_numpy(clips).permute(0, 1, 4, 2, 3) / 255 - 0.5) / 0.5  # the published mean and deviation
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask, pixel_values_videos=pixels)
    np.testing.assert_allclose(ours.embed_frames(clips), unit(expected.video_embeds), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(ours.embed_texts(TEXTS), unit(expected.text_video_embeds), rtol=0, atol=TOLERANCE)


def test_the_order_of_the_frames_matters(ours: models.TextEmbedder) -> None:
    clips = random_clips(SPEC, 1)
    assert np.abs(ours.embed_frames(clips) - ours.embed_frames(clips[:, ::-1])).max() > 1e-3


def test_bfloat16_is_near_float32(folder: Path, ours: models.TextEmbedder) -> None:
    short = models.load("pe-video", weights=folder, device="cpu", dtype="bfloat16")
    clips = random_clips(SPEC, 2)
    # cosine; eight bits of mantissa, and rotary angles that would be wrong by far in the last places if they were rounded too
    assert (short.embed_frames(clips) * ours.embed_frames(clips)).sum(axis=1).min() > 0.995
    assert (short.embed_texts(TEXTS) * ours.embed_texts(TEXTS)).sum(axis=1).min() > 0.995  # type: ignore[attr-defined]


def copy_with(folder: Path, to: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    shutil.copytree(folder, to, dirs_exist_ok=True)
    state = change(load_file(folder / "model.safetensors"))
    save_file({name: value.contiguous() for name, value in state.items()}, to / "model.safetensors", metadata={"format": "pt"})
    return to


def renamed(old: str, new: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    def change(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        assert any(name.startswith(old) for name in state)
        return {new + name.removeprefix(old) if name.startswith(old) else name: value for name, value in state.items()}

    return change


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("video_model.video_encoder.", "audio_video_encoder.embedder.video_encoder."),
        ("text_model.", "video_model.text_model."),
        ("text_model.", "audio_model.text_model."),
    ],
)
def test_shared_towers_are_found_under_each_of_their_names(
    folder: Path, ours: models.TextEmbedder, tmp_path: Path, old: str, new: str
) -> None:
    other = models.load("pe-video", weights=copy_with(folder, tmp_path, renamed(old, new)), device="cpu")
    clips = random_clips(SPEC, 1)
    np.testing.assert_array_equal(other.embed_frames(clips), ours.embed_frames(clips))
    np.testing.assert_array_equal(other.embed_texts(TEXTS[:1]), ours.embed_texts(TEXTS[:1]))  # type: ignore[attr-defined]


def test_sound_is_not_needed_and_saved_positions_are_not_used(folder: Path, ours: models.TextEmbedder, tmp_path: Path) -> None:
    def change(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        kept = {name: value for name, value in state.items() if name.startswith(("video_model.", "text_model."))}
        return kept | {"video_model.video_encoder.rotary_emb.inv_freq": torch.zeros(8)}

    other = models.load("pe-video", weights=copy_with(folder, tmp_path, change), device="cpu")
    clips = random_clips(SPEC, 1)
    np.testing.assert_array_equal(other.embed_frames(clips), ours.embed_frames(clips))


def test_everything_that_does_not_fit_is_named_at_once(folder: Path, tmp_path: Path) -> None:
    def change(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        del state["video_model.video_head.proj.weight"], state["text_model.final_norm.weight"]
        state["video_model.text_video_head.proj.weight"] = torch.zeros(3, 4)
        return state | {
            "video_model.video_encoder.layers.9.norm": torch.zeros(1),
            "audio_video_encoder.embedder.video_encoder.more": torch.zeros(1),
            "decoder.weight": torch.zeros(1),
        }

    with pytest.raises(WeightsError) as caught:
        models.load("pe-video", weights=copy_with(folder, tmp_path, change), device="cpu")
    said = str(caught.value)
    assert "2 missing: text_model.final_norm.weight, video_head.proj.weight;" in said
    assert "3 unknown: audio_video_encoder.embedder.video_encoder.more, decoder.weight, video_model.video_encoder.layers.9.norm;" in said
    assert "1 of another shape: video_model.text_video_head.proj.weight (3, 4), not (1024, 1024)" in said


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (["model_type"], "pe_video", "model_type pe_video, not pe_audio_video"),
        (["text_config", "model_type"], "bert", "text bert, not modernbert"),
        (["text_config", "hidden_size"], 512, "dim 512, not 1024"),
        (
            ["audio_video_config", "video_config", "vision_config", "architecture"],
            "resnet50",
            "picture tower resnet50, not vit_pe_core_large",
        ),
        (["audio_video_config", "video_config", "vision_config", "model_args"], {"img_size": 448}, r"sizes of it \['img_size'\], not"),
        (["audio_video_config", "video_config"], None, "no configuration of a facebook/pe-av-base"),
    ],
)
def test_a_config_of_another_model_is_refused(folder: Path, tmp_path: Path, where: list[str], value: object, said: str) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    change_config(tmp_path, where, value)
    with pytest.raises(WeightsError, match=said):
        models.load("pe-video", weights=tmp_path, device="cpu")


def change_config(folder: Path, where: list[str], value: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    place = config
    for name in where[:-1]:
        place = place[name]
    place[where[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))


VIDEO = ["audio_video_config", "video_config"]
PICTURES = [*VIDEO, "vision_config", "model_args"]


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ([*PICTURES, "num_heads"], 3, "{} 3"),  # embed_dim is 32
        ([*PICTURES, "num_heads"], 16, "{} 16"),  # two numbers a head, four turn together
        ([*PICTURES, "num_heads"], 0, "{} is 0, no whole number from 1 on"),
        ([*PICTURES, "attn_pool_num_heads"], 5, "{} 5"),
        ([*PICTURES, "depth"], -1, "{} is -1, no whole number from 1 on"),
        ([*PICTURES, "embed_dim"], "wide", "{} is 'wide', no whole number from 1 on"),
        ([*VIDEO, "num_key_value_heads"], 3, "{} 3"),
        ([*VIDEO, "head_dim"], 15, "even rotary dimension, but got `head_dim`=15"),
        ([*VIDEO, "hidden_act"], "none_such", "none_such"),
        (["text_config", "num_attention_heads"], 7, "num_attention_heads"),
        (["text_config", "num_attention_heads"], 1024, "hidden_size 1024 is no multiple of 2 x {} 1024"),
        (["text_config", "pad_token_id"], 10_000, "[Pp]ad"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_a_config_of_which_no_network_can_be_built_is_one_error(
    folder: Path, tmp_path: Path, where: list[str], value: object, said: str
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    change_config(tmp_path, where, value)
    with pytest.raises(WeightsError, match=said.format(".".join(where))) as caught:
        models.load("pe-video", weights=tmp_path, device="cpu")
    assert str(caught.value).startswith(f"weights of pe-video: {tmp_path / 'config.json'} ")


def test_all_sizes_that_are_impossible_are_named_at_once(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    change_config(tmp_path, [*PICTURES, "num_heads"], 3)
    change_config(tmp_path, [*PICTURES, "attn_pool_num_heads"], 5)
    place = ".".join(PICTURES)
    with pytest.raises(WeightsError) as caught:
        models.load("pe-video", weights=tmp_path, device="cpu")
    for said in (f"{place}.embed_dim 32 is no multiple of 4 x {place}.num_heads 3", f"multiple of {place}.attn_pool_num_heads 5"):
        assert said in str(caught.value)


def test_a_tokenizer_with_more_tokens_than_the_text_tower_knows_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    rows = json.loads((folder / "config.json").read_text())["text_config"]["vocab_size"]
    add_tokens(tmp_path, 1)
    with pytest.raises(WeightsError, match=rf"tokens up to number {rows} \(more0\), the text model knows {rows},"):
        models.load("pe-video", weights=tmp_path, device="cpu")


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float16"])
def test_values_that_are_no_weights_are_refused(folder: Path, tmp_path: Path, dtype: str) -> None:
    def change(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        state["video_model.video_head.proj.weight"][5, 7] = torch.nan
        state["text_model.final_norm.weight"] = state["text_model.final_norm.weight"].bfloat16()
        state["text_model.final_norm.weight"][0] = -torch.inf
        state["video_model.video_head.layer_norm.bias"] = state["video_model.video_head.layer_norm.bias"].int()
        state["audio_model.audio_head.proj.weight"][:] = torch.nan  # of no use here
        return state

    with pytest.raises(WeightsError) as caught:
        models.load("pe-video", weights=copy_with(folder, tmp_path, change), device="cpu", dtype=dtype)
    assert "1 of no floating-point format: video_model.video_head.layer_norm.bias; " in str(caught.value)
    assert str(caught.value).endswith("2 with NaN or infinity: text_model.final_norm.weight, video_model.video_head.proj.weight")


def test_a_file_that_was_cut_short_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(WeightsError, match="damaged or cut short"):
        models.load("pe-video", weights=tmp_path, device="cpu")


def patterned(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Weights that any version of torch makes alike: sines of the place."""
    state = {}
    for number, (name, shape) in enumerate(sorted(shapes.items())):
        places = torch.arange(int(np.prod(shape)), dtype=torch.float64)
        is_norm = "norm" in name and name.endswith("weight")
        state[name] = (
            (torch.sin(places * 0.7 + number) * (0.1 if len(shape) < 2 else 1.5 / shape[-1] ** 0.5) + is_norm).reshape(shape).float()
        )
    return state


def picture_tower() -> tuple[PeCoreForPictures, torch.Tensor]:
    tower = PeCoreForPictures(PeCoreConfig(width=64, depth=2, num_heads=2, num_pool_heads=4, num_labels=6)).eval()
    tower.load_state_dict(patterned({name: tuple(value.shape) for name, value in tower.state_dict().items()}))
    rows, columns = torch.meshgrid(torch.arange(336.0), torch.arange(336.0), indexing="ij")
    return tower, torch.stack([torch.sin(rows / 50), torch.cos(columns / 30), torch.sin((rows + 2 * columns) / 70)])[None]


# timm 1.0.31, torch 2.13, float32 on the CPU, with these weights and this picture:
# timm.create_model("vit_pe_core_large_patch14_336", num_classes=6, embed_dim=64, depth=2, num_heads=2, attn_pool_num_heads=4)
TIMM = [-2.3805456, -1.5106958, 0.3278485, 1.9751784, 2.3847206, 1.2872958]


def test_pictures_are_timm_s() -> None:
    tower, picture = picture_tower()
    with torch.no_grad():
        np.testing.assert_allclose(tower(picture).logits[0].numpy(), TIMM, rtol=0, atol=TOLERANCE)


def test_the_published_size_has_timm_s_number_of_weights() -> None:
    with torch.device("meta"):
        tower = PeCoreForPictures(PeCoreConfig(num_labels=1024))
    assert sum(value.numel() for value in tower.parameters()) == 317_152_256  # of vit_pe_core_large_patch14_336 in timm 1.0.31
