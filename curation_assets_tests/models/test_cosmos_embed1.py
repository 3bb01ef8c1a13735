"""Cosmos-Embed1: its loader on a small snapshot in the published layout, with every trait that breaks under transformers 5."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from curation_assets import models
from curation_assets.models import cosmos_embed1
from curation_assets.models.cosmos_embed1 import CosmosEmbed1, build_model
from curation_assets.models.weights import WeightFile, WeightsError, WeightsSpec
from curation_assets.settings import EmbeddingsSettings
from curation_assets_tests.models import cosmos_snapshot
from curation_assets_tests.models.cosmos_snapshot import plain_text_vector, plain_video_vectors, write_json, write_shards, write_snapshot

transformers = pytest.importorskip("transformers")

NAME = "cosmos-embed1-336p"
SPEC = models.spec(NAME)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cosmos") / "snapshot"
    write_snapshot(folder, dim=SPEC.dim, size_px=SPEC.height_px)
    return folder


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A snapshot that a test may spoil."""
    write_snapshot(tmp_path / "own", dim=SPEC.dim, size_px=SPEC.height_px)
    return tmp_path / "own"


@pytest.fixture(scope="module")
def embedder(snapshot: Path) -> CosmosEmbed1:
    return load(snapshot)


def load(folder: Path, name: str = NAME) -> CosmosEmbed1:
    loaded = models.load(name, weights=folder, device="cpu", allow_remote_code=True)
    assert isinstance(loaded, CosmosEmbed1)
    return loaded


def clips(num_clips: int, spec: models.EmbedderSpec = SPEC) -> np.ndarray:
    random = np.random.default_rng(2)
    return random.integers(0, 256, (num_clips, spec.frames, spec.height_px, spec.width_px, 3), np.uint8)


def pinned(folder: Path) -> models.EmbedderSpec:
    """The spec with the hash of every file of a folder, as the 224p model has them."""
    files = tuple(WeightFile(path.name, None, hashlib.sha256(path.read_bytes()).hexdigest()) for path in sorted(folder.iterdir()))
    assert isinstance(SPEC.weights, WeightsSpec)
    return replace(SPEC, weights=replace(SPEC.weights, files=files))


def code_that_ran() -> set[str]:
    return {name for name in sys.modules if name.startswith("_curation_assets_remote_")}


@pytest.mark.parametrize(("size_px", "dim"), [(224, 256), (336, 768), (448, 768)])
def test_three_sizes_are_registered_and_pinned_by_commit(size_px: int, dim: int) -> None:
    spec = models.spec(f"cosmos-embed1-{size_px}p")
    assert (spec.frames, spec.height_px, spec.width_px, spec.dim, spec.has_text) == (8, size_px, size_px, dim, True)
    assert isinstance(spec.weights, WeightsSpec)
    assert spec.weights.revision in spec.revision
    assert (size_px == 224) == all(file.sha256 for file in spec.weights.files)


@pytest.mark.parametrize("spec", [SPEC, models.spec("cosmos-embed1-448p")], ids=lambda spec: spec.name)
def test_vectors_are_those_of_plain_torch(spec: models.EmbedderSpec, tmp_path: Path) -> None:
    state = write_snapshot(tmp_path / "snapshot", dim=spec.dim, size_px=spec.height_px)
    embedder = load(tmp_path / "snapshot", spec.name)
    frames = clips(2, spec)
    vectors = embedder.embed_frames(frames)
    assert vectors.dtype == np.float32
    assert vectors.shape == (2, spec.dim)
    cosines = (vectors * plain_video_vectors(state, frames)).sum(1)
    assert cosines.min() >= 1 - 1e-6
    assert vectors[0] @ vectors[1] < 1 - 1e-5  # the comparison can tell clips apart
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_texts_are_those_of_plain_torch(embedder: CosmosEmbed1) -> None:
    state = cosmos_snapshot.random_state(SPEC.dim)
    vectors = embedder.embed_texts(["A car drives on the street", "cars", "spaceship"])
    ids = [[2, 5, 6, 7, 8, 10, 9, 3], [2, 6, 11, 3], [2, 1, 3]]
    for vector, tokens in zip(vectors, ids, strict=True):
        assert vector @ plain_text_vector(state, tokens) >= 1 - 1e-6
    assert (vectors @ vectors.T)[~np.eye(3, dtype=bool)].max() < 0.99
    one_by_one = np.concatenate([embedder.embed_texts([text]) for text in ("A car drives on the street", "cars", "spaceship")])
    np.testing.assert_allclose(one_by_one, vectors, rtol=0, atol=1e-5)
    assert np.isfinite(embedder.embed_texts(["", "car " * 300])).all()
    assert embedder.embed_texts([]).shape == (0, SPEC.dim)
    assert embedder.embed_texts(["the car"] * 65).shape == (65, SPEC.dim)
    for wrong in ("a car", [1]):
        with pytest.raises(TypeError, match="sequence of texts"):
            embedder.embed_texts(wrong)  # type: ignore[arg-type]


def test_a_vector_depends_on_its_own_frames_only(embedder: CosmosEmbed1) -> None:
    frames = clips(3)
    frames.flags.writeable = False
    together = embedder.embed_frames(frames)
    np.testing.assert_array_equal(np.concatenate([embedder.embed_frames(frames[k : k + 1]) for k in range(3)]), together)
    np.testing.assert_array_equal(embedder.embed_frames(np.asfortranarray(frames)), together)
    assert embedder.embed_frames(frames[:0]).shape == (0, SPEC.dim)
    for value in (0, 255):
        assert np.linalg.norm(embedder.embed_frames(np.full_like(frames[:1], value))) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="shape"):
        embedder.embed_frames(frames[:, :, :-1])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_gives_nearly_the_same(snapshot: Path, embedder: CosmosEmbed1, dtype: str) -> None:
    half = models.load(NAME, weights=snapshot, device="cpu", dtype=dtype, allow_remote_code=True)
    frames = clips(1)
    vectors = half.embed_frames(frames)
    assert vectors.dtype == np.float32
    assert vectors[0] @ embedder.embed_frames(frames)[0] > 0.999


def test_transformers_and_the_callers_state_stay_as_they_were(own: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    before = {name: dict(vars(sys.modules[name])) for name in ("transformers.modeling_utils", "transformers.pytorch_utils")}
    load(own)
    torch.testing.assert_close(torch.rand(3), expected)
    assert not hasattr(transformers.modeling_utils, "find_pruneable_heads_and_indices")
    assert not hasattr(transformers.PreTrainedModel, "get_head_mask")
    for name, attributes in before.items():
        assert dict(vars(sys.modules[name])).keys() >= attributes.keys()
        assert all(vars(sys.modules[name])[key] is value for key, value in attributes.items())
    assert not any(name.split(".")[0] in {"modeling_embed1", "transformers_modules"} for name in sys.modules)
    assert not list(own.rglob("*.pyc"))


def test_without_permission_nothing_runs(own: Path) -> None:
    (own / "modeling_embed1.py").write_text("raise SystemExit('ran')")
    before = code_that_ran()
    with pytest.raises(WeightsError, match=r"runs Python code.*embeddings\.allow_remote_code: \[cosmos-embed1-336p\]"):
        models.load(NAME, weights=own, device="cpu")
    assert code_that_ran() == before


def test_permission_is_a_setting_by_name() -> None:
    settings = EmbeddingsSettings(models=[NAME], allow_remote_code=[NAME])
    assert settings.allow_remote_code == [NAME]
    assert EmbeddingsSettings().allow_remote_code == []


def cut_short(folder: Path) -> None:
    path = folder / "model-00003-of-00005.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def change_state(folder: Path, change: Callable[[cosmos_snapshot.State], object]) -> None:
    state = cosmos_snapshot.random_state(SPEC.dim)
    change(state)
    write_shards(folder, state)


def many_wrong_keys(state: cosmos_snapshot.State) -> None:
    for name in list(state)[:7]:
        state[f"module.{name}"] = state.pop(name)
    state["text_proj.bias"] = torch.zeros(5)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(lambda folder: (folder / "vocab.txt").unlink(), "lacks vocab.txt", id="tokenizer missing"),
        pytest.param(lambda folder: (folder / "modeling_vit.py").unlink(), "lacks modeling_vit.py", id="code missing"),
        pytest.param(lambda folder: (folder / "model-00002-of-00005.safetensors").unlink(), "lacks model-00002", id="shard missing"),
        pytest.param(cut_short, "model-00003-of-00005.safetensors is damaged or cut short", id="shard cut short"),
        pytest.param(lambda folder: write_json(folder / "model.safetensors.index.json", {}), "no weight_map", id="no index"),
        pytest.param(
            lambda folder: write_json(folder / "model.safetensors.index.json", {"weight_map": {"a": "../b"}}),
            r"names '\.\./b'",
            id="index leads out",
        ),
        pytest.param(lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read", id="config cut short"),
        pytest.param(lambda folder: write_json(folder / "config.json", {}), "no AutoConfig and no AutoModel in auto_map", id="no auto_map"),
        pytest.param(
            lambda folder: write_json(folder / "processor_config.json", {"resolution": 224, "num_video_frames": 8, "max_txt_len": 128}),
            r"resolution 224 \(expected 336\)",
            id="another size",
        ),
        pytest.param(
            lambda folder: (folder / "modeling_vit.py").write_text("import no_such_package"),
            "pip install no_such_package",
            id="package lacking",
        ),
        pytest.param(
            lambda folder: (folder / "modeling_vit.py").write_text("from .other import x"), "imports other, not among", id="other file"
        ),
        pytest.param(lambda folder: (folder / "modeling_vit.py").write_text("def"), "modeling_vit.py is no Python", id="code damaged"),
    ],
)
def test_a_spoilt_snapshot_is_one_error_before_code_runs(own: Path, spoil: Callable[[Path], object], message: str) -> None:
    for name in cosmos_snapshot.CODE:  # so that a module that ran would be a new one
        (own / name).write_text(f"{cosmos_snapshot.CODE[name]}\n# {own}")
    spoil(own)
    before = code_that_ran()
    with pytest.raises(WeightsError, match=message):
        load(own)
    assert code_that_ran() == before


def test_all_keys_that_do_not_fit_are_named(own: Path) -> None:
    change_state(own, many_wrong_keys)
    with pytest.raises(WeightsError) as caught:
        load(own)
    message = str(caught.value)
    assert "missing qformer.dense.weight" in message
    assert message.count(" and 2 more") == 2  # five of seven are named, of the missing and of the unknown
    assert "unknown module.qformer.dense.weight" in message
    assert message.endswith("of another shape text_proj.bias")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda state: state.pop("vision_proj.bias"), "missing vision_proj.bias$", id="missing"),
        pytest.param(lambda state: state.update(extra=torch.zeros(1)), "unknown extra$", id="extra"),
        pytest.param(lambda state: state.update(logit_scale=torch.zeros(2)), "of another shape logit_scale$", id="misshapen"),
    ],
)
def test_one_wrong_key_is_an_error(own: Path, change: Callable[[cosmos_snapshot.State], object], message: str) -> None:
    change_state(own, change)
    with pytest.raises(WeightsError, match=message):
        load(own)


def test_pinned_code_runs_and_tampered_code_does_not(own: Path) -> None:
    spec = pinned(own)
    build_model(spec, weights=own, device="cpu", dtype="auto", allow_remote_code=True)
    with (own / "modeling_utils.py").open("a") as file:
        file.write("\nraise SystemExit('ran')\n")
    before = code_that_ran()
    with pytest.raises(WeightsError, match=r"modeling_utils\.py has the SHA-256 .*, pinned is .*not run"):
        build_model(spec, weights=own, device="cpu", dtype="auto", allow_remote_code=True)
    assert code_that_ran() == before


def test_code_of_the_224p_model_is_pinned(tmp_path: Path) -> None:
    write_snapshot(tmp_path / "snapshot", dim=256, size_px=224)
    with pytest.raises(WeightsError, match=r"\.py has the SHA-256"):
        load(tmp_path / "snapshot", "cosmos-embed1-224p")


def test_a_processor_that_does_more_than_scale_and_shift_is_refused(own: Path) -> None:
    source = cosmos_snapshot.PREPROCESSING.replace("/ 255.0", ".div(255.0).square()")
    (own / "preprocessing_embed1.py").write_text(source)
    with pytest.raises(WeightsError, match="more to frames of 336 px than scale and shift"):
        load(own)


def test_normalisation_is_read_off_the_processor(own: Path, embedder: CosmosEmbed1) -> None:
    shifted = ".div(127.5).sub(1).mul(torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1))"
    (own / "preprocessing_embed1.py").write_text(cosmos_snapshot.PREPROCESSING.replace("/ 255.0", shifted))
    loaded = load(own)
    frames = clips(1)
    state = cosmos_snapshot.random_state(SPEC.dim)
    assert loaded.embed_frames(frames)[0] @ embedder.embed_frames(frames)[0] < 1 - 1e-5
    # the same pictures through a kernel that has the change of scale and shift folded in
    kernel, mean = state["visual_encoder.patch_embed.weight"], torch.tensor([0.48, 0.46, 0.41])
    gain = torch.tensor([1.0, 2.0, 3.0])
    state["visual_encoder.patch_embed.bias"] += (kernel.sum((2, 3)) * (mean * 2 * gain - gain - mean)).sum(1)
    state["visual_encoder.patch_embed.weight"] = kernel * (2 * gain).view(1, 3, 1, 1)
    assert loaded.embed_frames(frames)[0] @ plain_video_vectors(state, frames)[0] >= 1 - 1e-6


def test_values_that_are_no_weights_are_refused(own: Path) -> None:
    def change(state: cosmos_snapshot.State) -> None:
        state["vision_proj.weight"][3, 3] = torch.nan
        state["visual_encoder.pos_embed"] = torch.full_like(state["visual_encoder.pos_embed"], torch.inf, dtype=torch.bfloat16)
        state["text_proj.bias"] = state["text_proj.bias"].int()
        state["qformer.pooler.weight"][:] = torch.nan  # declared as of no use
        state["qformer.position_ids"] = torch.arange(16)  # counters, which are no floats in the network either

    change_state(own, change)
    with pytest.raises(WeightsError) as caught:
        load(own)
    said = "1 of no floating-point format: text_proj.bias; 2 with NaN or infinity: vision_proj.weight, visual_encoder.pos_embed"
    assert str(caught.value).endswith(said)


def test_a_tokenizer_with_more_tokens_than_the_text_tower_knows_is_refused(own: Path) -> None:
    rows = len(cosmos_snapshot.VOCABULARY) + 1
    (own / "vocab.txt").write_text("\n".join([*cosmos_snapshot.VOCABULARY, "one", "two"]) + "\n")
    with pytest.raises(WeightsError, match=rf"vocab\.txt has tokens up to number {rows + 1} \(\[DEC\]\), the text model knows {rows},"):
        load(own)


opened: list[str] | None = None


@pytest.fixture(scope="module")
def audit() -> None:
    """Note every file that Python opens while a test asks for it; such a hook cannot be taken away again."""

    def hook(event: str, args: tuple[object, ...]) -> None:
        if opened is not None and event == "open":
            opened.append(str(args[0]))

    sys.addaudithook(hook)


@pytest.mark.usefixtures("audit")
def test_only_the_model_s_own_files_are_read(own: Path, embedder: CosmosEmbed1, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library takes a tokenizer.json before vocab.txt, and more that no spec names."""
    from transformers import BertTokenizer

    texts = ["A car drives on the street", "cars", "spaceship"]
    expected = embedder.embed_texts(texts)
    assert isinstance(SPEC.weights, WeightsSpec)
    names = {file.name for file in SPEC.weights.files}
    # the same tokens under other numbers
    words, others = cosmos_snapshot.VOCABULARY[:5], cosmos_snapshot.VOCABULARY[:4:-1]
    BertTokenizer(vocab={word: place for place, word in enumerate([*words, *others])}).save_pretrained(own / "other")
    (own / "other" / "tokenizer.json").rename(own / "tokenizer.json")
    (own / "additional_chat_templates").mkdir()
    for name in (
        "chat_template.jinja",
        "additional_chat_templates/more.jinja",
        "tokenizer.model",
        "generation_config.json",
        "adapter_config.json",
    ):
        (own / name).write_text("{}")
    assert BertTokenizer.from_pretrained(own).convert_tokens_to_ids("car") != embedder._processor.tokenizer.convert_tokens_to_ids("car")
    noted: list[str] = []
    monkeypatch.setattr(sys.modules[__name__], "opened", noted)
    loaded = load(own)
    monkeypatch.setattr(sys.modules[__name__], "opened", None)
    read = {str(Path(path).relative_to(own)) for path in noted if Path(path).is_relative_to(own)}
    assert {"vocab.txt", "config.json", "modeling_vit.py"} <= read <= names
    np.testing.assert_array_equal(loaded.embed_texts(texts), expected)


def test_a_shard_that_is_none_of_the_model_s_files_is_not_read(own: Path) -> None:
    index = json.loads((own / "model.safetensors.index.json").read_text())
    (own / "model-00001-of-00005.safetensors").rename(own / "more.safetensors")
    (own / "model-00001-of-00005.safetensors").write_bytes((own / "model-00002-of-00005.safetensors").read_bytes())
    for name, shard in index["weight_map"].items():
        index["weight_map"][name] = shard.replace("model-00001-of-00005", "more")
    write_json(own / "model.safetensors.index.json", index)
    with pytest.raises(WeightsError, match=r"names 'more\.safetensors', which is none of the model's files"):
        load(own)


def test_a_missing_symbol_of_transformers_is_named(own: Path) -> None:
    (own / "modeling_vit.py").write_text("from transformers.modeling_utils import never_there\n" + cosmos_snapshot.VIT)
    with pytest.raises(WeightsError, match="never_there"):
        load(own)


def test_spec_revision_holds_the_loader_version() -> None:
    assert all(spec.revision.endswith(f"+{cosmos_embed1._LOADER_VERSION}") for spec in cosmos_embed1.SPECS)
