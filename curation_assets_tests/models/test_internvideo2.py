"""InternVideo2 on small random weights, against its description computed in float64 NumPy; the full sizes on tensors without memory."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from curation_assets import models
from curation_assets.models import internvideo2, internvideo2_weights
from curation_assets.models.internvideo2 import InternVideo2, embed_clips
from curation_assets.models.internvideo2_weights import FULL, Config, expected_shapes, is_ignored, read_checkpoint, take_text_tower
from curation_assets.models.weights import WeightFile, WeightsError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

# No two sizes are equal, so that no axis can be taken for another.
SMALL = Config(
    patch_px=6, grid=5, frames=4, width=48, depth=3, heads=4, mlp_width=88, pooled_width=40, dim=28,
    text_width=36, text_depth=2, text_depth_stored=4, text_heads=3, text_mlp_width=56, text_vocabulary=16, text_positions=20, text_tokens=9,
)  # fmt: skip
VOCABULARY = ["[PAD]", "x1", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "##s", "cafe", "run", "!", "red", "blue", "green", "the"]
TEXTS = {
    "a dog": [3, 6, 7, 4],
    "A  Dogs run!": [3, 6, 7, 8, 10, 11, 4],
    "café": [3, 9, 4],
    "": [3, 4],
    "the elephant": [3, 15, 2, 4],
    "red blue green red blue green red blue green": [3, 12, 13, 14, 12, 13, 14, 12, 4],  # cut to 9 tokens
}
IGNORED = {
    "vision_encoder.clip_pos_embed": (1, 101, 48), "vision_encoder.clip_img_pos_embed": (1, 26, 48), "vision_encoder.clip_decoder.5.head.weight": (7, 48),
    "vision_encoder.final_clip_decoder.norm.bias": (40,), "text_encoder.bert.embeddings.position_ids": (1, 20),
    "text_encoder.bert.encoder.layer.2.crossattention.self.key.weight": (36, 48), "text_encoder.bert.encoder.layer.3.output.dense.bias": (36,),
    "text_encoder.cls.predictions.decoder.weight": (16, 36), "temp": (), "itm_head.weight": (2, 36),
}  # fmt: skip
KEYS = Path(__file__).resolve().parents[3] / "shared" / "reference" / "internvideo2_keys.json"


def random_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Make weights at which every part of the network changes the result: bfloat16, gains around 1, LayerScale far from 0."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in expected_shapes(SMALL).items():
        values = torch.randn(shape, generator=generator)
        if re.search(r"norm|LayerNorm", name) and name.endswith("weight"):
            values = 1 + 0.3 * values
        elif name.endswith("gamma"):
            values = 0.5 + 0.3 * values
        elif len(shape) > 1 and name.endswith("weight") and "embeddings" not in name:
            values = values * 1.5 / math.sqrt(math.prod(shape[1:]))
        elif name.endswith("bias"):
            values = 0.2 * values
        state[name] = values.bfloat16()
    return state


def save_published(path: Path, state: dict[str, torch.Tensor], *, key: str = "module", is_zip: bool = True) -> Path:
    """Save as DeepSpeed does: the state dict under `module`, sets and shapes beside it."""
    ignored = {name: torch.zeros(shape, dtype=torch.int64 if name.endswith("ids") else torch.bfloat16) for name, shape in IGNORED.items()}
    held = {
        key: OrderedDict(state | ignored), "buffer_names": ["text_encoder.bert.embeddings.position_ids"], "optimizer": None,
        "param_shapes": [OrderedDict({name: value.shape for name, value in state.items()})], "sparse_tensor_module_names": {"a name"}, "global_steps": 7,
    }  # fmt: skip
    torch.save(held, path, _use_new_zipfile_serialization=is_zip)
    return path


def save_model(folder: Path, state: dict[str, torch.Tensor]) -> Path:
    """Save checkpoint and vocabulary under their published names; returns the folder."""
    save_published(folder / "InternVideo2-stage2_1b-224p-f4.pt", state)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return folder


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return random_weights()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, weights: dict[str, torch.Tensor]) -> Path:
    return save_model(tmp_path_factory.mktemp("internvideo2"), weights)


def load(folder: Path, dtype: str = "float32", device: str = "cpu") -> InternVideo2:
    checkpoint, vocabulary = folder / "InternVideo2-stage2_1b-224p-f4.pt", folder / "vocab.txt"
    return InternVideo2(checkpoint, vocabulary, config=SMALL, device=torch.device(device), dtype=getattr(torch, dtype))


@pytest.fixture(scope="module")
def model(folder: Path) -> InternVideo2:
    return load(folder)


def random_clips(num_clips: int, num_frames: int = SMALL.frames, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num_clips, num_frames, SMALL.image_px, SMALL.image_px, 3), dtype=np.uint8)


class Reference:
    """The description in float64, one clip or text at a time, without torch: nothing here is shared with the code under test."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        self.state = {name: value.double().numpy() for name, value in state.items()}

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.state[f"{name}.weight"].T + self.state.get(f"{name}.bias", 0.0)

    def layer_norm(self, x: np.ndarray, name: str, epsilon: float) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
        return normed * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def rms_norm(self, x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * self.state[f"{name}.weight"]

    @staticmethod
    def gelu(x: np.ndarray) -> np.ndarray:
        return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    @staticmethod
    def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int) -> np.ndarray:
        size = q.shape[-1] // heads
        outputs = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = q[:, part] @ k[:, part].T / math.sqrt(size)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            outputs.append(weights / weights.sum(-1, keepdims=True) @ v[:, part])
        return np.concatenate(outputs, -1)

    def positions(self, num_frames: int) -> np.ndarray:
        if num_frames == 1:
            return self.state["vision_encoder.img_pos_embed"][0]
        stored = self.state["vision_encoder.pos_embed"][0]
        trained = stored[1:].reshape(SMALL.frames, SMALL.grid**2, SMALL.width)
        frames = []
        for frame in range(num_frames):
            place = min(max((frame + 0.5) * SMALL.frames / num_frames - 0.5, 0), SMALL.frames - 1)
            before = int(place)
            after = min(before + 1, SMALL.frames - 1)
            frames.append((1 - place + before) * trained[before] + (place - before) * trained[after])
        return np.concatenate([stored[:1], *frames])

    def clip(self, frames: np.ndarray) -> np.ndarray:
        """Embed uint8 (T, H, W, 3)."""
        pixels = (frames / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
        kernel, bias = self.state["vision_encoder.patch_embed.proj.weight"][:, :, 0], self.state["vision_encoder.patch_embed.proj.bias"]
        tokens = [self.state["vision_encoder.cls_token"][0, 0]]
        size = SMALL.patch_px
        corners = [(row, column) for row in range(0, SMALL.image_px, size) for column in range(0, SMALL.image_px, size)]
        for image in pixels:
            tokens.extend(np.einsum("yxc,dcyx->d", image[y : y + size, x : x + size], kernel) + bias for y, x in corners)
        x = np.stack(tokens) + self.positions(len(frames))
        for place in range(SMALL.depth):
            name = f"vision_encoder.blocks.{place}"
            q, k, v = np.split(self.linear(self.rms_norm(x, f"{name}.norm1"), f"{name}.attn.qkv"), 3, axis=-1)
            attended = self.attention(self.rms_norm(q, f"{name}.attn.q_norm"), self.rms_norm(k, f"{name}.attn.k_norm"), v, SMALL.heads)
            x = x + self.linear(attended, f"{name}.attn.proj") * self.state[f"{name}.ls1.gamma"]
            inner = self.gelu(self.linear(self.rms_norm(x, f"{name}.norm2"), f"{name}.mlp.fc1"))
            x = x + self.linear(inner, f"{name}.mlp.fc2") * self.state[f"{name}.ls2.gamma"]
        name = "vision_encoder.clip_projector"
        q, k, v = (
            self.linear(self.layer_norm(tokens, f"{name}.norm1_{part}", 1e-5), f"{name}.cross_attn.{part}")
            + self.state[f"{name}.cross_attn.{part}_bias"]
            for part, tokens in (("q", x.mean(0, keepdims=True)), ("k", x), ("v", x))
        )
        pooled = self.linear(self.attention(q, k, v, SMALL.heads), f"{name}.cross_attn.proj")
        return unit(self.linear(pooled, "vision_proj")[0])

    def text(self, ids: list[int]) -> np.ndarray:
        """Embed the tokens of one text, without padding: what is masked has no weight."""
        name = "text_encoder.bert.embeddings"
        x = self.state[f"{name}.word_embeddings.weight"][ids] + self.state[f"{name}.position_embeddings.weight"][: len(ids)]
        x = self.layer_norm(x + self.state[f"{name}.token_type_embeddings.weight"][0], f"{name}.LayerNorm", 1e-12)
        for place in range(SMALL.text_depth):
            name = f"text_encoder.bert.encoder.layer.{place}"
            q, k, v = (self.linear(x, f"{name}.attention.self.{part}") for part in ("query", "key", "value"))
            attended = self.linear(self.attention(q, k, v, SMALL.text_heads), f"{name}.attention.output.dense")
            x = self.layer_norm(x + attended, f"{name}.attention.output.LayerNorm", 1e-12)
            inner = self.linear(self.gelu(self.linear(x, f"{name}.intermediate.dense")), f"{name}.output.dense")
            x = self.layer_norm(x + inner, f"{name}.output.LayerNorm", 1e-12)
        return unit(self.linear(x[0], "text_proj"))


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.sqrt((vector**2).sum(-1, keepdims=True))


def compare(found: np.ndarray, expected: np.ndarray, dtype: str) -> None:
    cosines = (unit(found.astype(np.float64)) * expected).sum(-1)
    if dtype == "float32":
        assert cosines.min() >= 0.9999
        np.testing.assert_allclose(found, expected, atol=1e-5)  # float32 rounding; a wrong epsilon or GELU lies far above
    else:
        assert cosines.min() >= 0.999


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_clips_equal_the_description(folder: Path, weights: dict[str, torch.Tensor], dtype: str) -> None:
    clips, reference = random_clips(3), Reference(weights)
    expected = np.stack([reference.clip(clip) for clip in clips])
    assert (expected @ expected.T)[~np.eye(3, dtype=bool)].max() < 0.98, "else the comparison would see little of the frames"
    compare(load(folder, dtype).embed_frames(clips), expected, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("num_frames", [1, 2, 3, 8])
def test_other_numbers_of_frames_equal_the_description(folder: Path, weights: dict[str, torch.Tensor], num_frames: int, dtype: str) -> None:
    clips, reference = random_clips(2, num_frames), Reference(weights)
    checkpoint = folder / "InternVideo2-stage2_1b-224p-f4.pt"
    state = read_checkpoint(checkpoint, SMALL, device=torch.device("cpu"), dtype=getattr(torch, dtype))
    found = embed_clips(state, SMALL, torch.from_numpy(clips)).float().numpy()
    compare(unit(found), np.stack([reference.clip(clip) for clip in clips]), dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_texts_equal_the_description(folder: Path, weights: dict[str, torch.Tensor], dtype: str) -> None:
    reference = Reference(weights)
    expected = np.stack([reference.text(ids) for ids in TEXTS.values()])
    assert (expected @ expected.T)[~np.eye(len(TEXTS), dtype=bool)].max() < 0.99
    compare(load(folder, dtype).embed_texts(list(TEXTS)), expected, dtype)


def test_faint_activations_equal_the_description(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    """At a mean square near the epsilons of the norms, another epsilon would show."""
    faint = re.compile(r"cls_token|pos_embed|patch_embed|gamma|qkv|embeddings.(word|position|token)")
    state = {name: value / 1024 if faint.search(name) else value for name, value in weights.items()}
    model, reference, clips = load(save_model(tmp_path, state)), Reference(state), random_clips(2)
    compare(model.embed_frames(clips), np.stack([reference.clip(clip) for clip in clips]), "float32")
    compare(model.embed_texts(list(TEXTS)), np.stack([reference.text(ids) for ids in TEXTS.values()]), "float32")


def test_float16_equals_the_description(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    clips, reference = random_clips(2), Reference(weights)
    compare(load(folder, "float16").embed_frames(clips), np.stack([reference.clip(clip) for clip in clips]), "float16")


def test_overflow_is_an_error(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    huge = weights | {"vision_proj.bias": torch.full((SMALL.dim,), 1e5).bfloat16()}
    model = load(save_model(tmp_path, huge), "float16")
    with pytest.raises(FloatingPointError, match="use bfloat16 or float32"):
        model.embed_frames(random_clips(1))


def test_vectors_do_not_depend_on_the_batch(model: InternVideo2, monkeypatch: pytest.MonkeyPatch) -> None:
    clips, texts = random_clips(5), list(TEXTS)
    vectors, text_vectors = model.embed_frames(clips), model.embed_texts(texts)
    np.testing.assert_allclose(np.concatenate([model.embed_frames(clip[None]) for clip in clips]), vectors, atol=1e-6)
    np.testing.assert_allclose(model.embed_frames(clips[::-1]), vectors[::-1], atol=1e-6)
    np.testing.assert_allclose(np.concatenate([model.embed_texts([text]) for text in texts]), text_vectors, atol=1e-6)
    monkeypatch.setattr(model.clips, "at_once", 2)  # as a GPU does it
    monkeypatch.setattr(internvideo2, "_TEXTS_AT_ONCE", 4)
    np.testing.assert_allclose(model.embed_frames(clips), vectors, atol=1e-6)
    np.testing.assert_allclose(model.embed_texts(texts), text_vectors, atol=1e-6)


def test_rows_are_float32_of_unit_length(folder: Path) -> None:
    model = load(folder, "bfloat16")
    for vectors in (model.embed_frames(random_clips(2)), model.embed_texts(["a dog", "run"])):
        assert (vectors.dtype, vectors.shape) == (np.float32, (2, SMALL.dim))
        np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float64), axis=1), 1, atol=1e-6)


def test_nothing_gives_no_rows(model: InternVideo2) -> None:
    for vectors in (model.embed_frames(random_clips(0)), model.embed_texts([])):
        assert (vectors.dtype, vectors.shape) == (np.float32, (0, SMALL.dim))


@pytest.mark.filterwarnings("error")
def test_input_may_be_read_only_and_lie_anyhow(model: InternVideo2) -> None:
    clips = random_clips(2)
    vectors = model.embed_frames(clips)
    clips.flags.writeable = False
    for same in (clips, np.asfortranarray(clips), clips[:, ::-1].copy()[:, ::-1]):
        np.testing.assert_array_equal(model.embed_frames(same), vectors)


def test_wrong_input_is_refused(model: InternVideo2) -> None:
    with pytest.raises(ValueError, match="shape"):
        model.embed_frames(random_clips(1, num_frames=8))
    with pytest.raises(TypeError, match="uint8"):
        model.embed_frames(random_clips(1).astype(np.float32))
    for texts in ("a dog", ["a dog", 3], [b"a dog"]):
        with pytest.raises(TypeError, match="sequence of texts"):
            model.embed_texts(texts)  # type: ignore[arg-type]


def test_list_of_weights_is_the_published_one() -> None:
    shapes = expected_shapes(FULL)
    lines = sorted(f"{name} {list(shape)}" for name, shape in shapes.items())
    assert (len(lines), sum(map(math.prod, shapes.values()))) == (852, 1_291_658_368)
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == "673ece2f28c59359ffbbae67ba27ea65ea733531472758f17326ed0a33b72dc4"


def test_list_of_weights_equals_the_reference() -> None:
    if not KEYS.is_file():
        pytest.skip(f"no list of keys in {KEYS}")
    listed = json.loads(KEYS.read_text())
    assert expected_shapes(FULL) == {name: tuple(shape) for name, (shape, _) in listed["needed"].items()}
    assert [name for name in listed["ignored"] if not is_ignored(name, FULL)] == []
    assert [name for name in listed["needed"] if is_ignored(name, FULL)] == []


def test_full_size_fits_together() -> None:
    meta = {name: torch.empty(shape, device="meta", dtype=torch.bfloat16) for name, shape in expected_shapes(FULL).items()}
    name = "vision_encoder.patch_embed.proj.weight"
    meta[name] = meta[name].flatten(1)
    tower = take_text_tower(meta, FULL)
    assert not [name for name in meta if name.startswith("text_encoder")]
    for num_frames in (1, 4, 8):
        clips = torch.empty((2, num_frames, 224, 224, 3), dtype=torch.uint8, device="meta")
        vectors = embed_clips(meta, FULL, clips)
        assert (vectors.shape, vectors.dtype) == ((2, 512), torch.bfloat16)
    assert sum(value.numel() for value in tower.parameters()) == 271_111_168
    tokens = torch.zeros((2, 40), dtype=torch.long, device="meta")
    assert tower(tokens).last_hidden_state.shape == (2, 40, 1024)


def test_spec() -> None:
    spec = models.spec("internvideo2")
    assert (spec.dim, spec.frames, spec.height_px, spec.width_px, spec.resize, spec.has_text) == (512, 4, 224, 224, "squash", True)
    assert isinstance(spec.weights, tuple)
    assert [file.name for weights in spec.weights for file in weights.files] == ["InternVideo2-stage2_1b-224p-f4.pt", "vocab.txt"]
    assert [weights.is_gated for weights in spec.weights] == [True, False]


@pytest.mark.parametrize(("key", "is_zip"), [("module", True), ("module", False), ("model", True)])
def test_every_weight_is_the_checkpoints(tmp_path: Path, weights: dict[str, torch.Tensor], key: str, is_zip: bool) -> None:
    path = save_published(tmp_path / "weights.pt", weights, key=key, is_zip=is_zip)
    state = read_checkpoint(path, SMALL, device=torch.device("cpu"), dtype=torch.bfloat16)
    path.unlink()  # the file is no longer needed
    tower = take_text_tower(state, SMALL)
    assert not tower.training
    left = [*tower.parameters(), *tower.buffers()]
    assert not [value for value in left if value.is_meta]
    found = state | {f"text_encoder.bert.{name}": value for name, value in tower.named_parameters()}
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        if name == "vision_encoder.patch_embed.proj.weight":
            value = value[:, :, 0].permute(0, 2, 3, 1).reshape(SMALL.width, -1)
        assert torch.equal(found[name], value), name


def without(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda state: state.pop(name)


def having(name: str, value: object) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda state: state.update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("vision_proj.bias"), "1 missing: vision_proj.bias$"),
        (without("text_encoder.bert.encoder.layer.1.output.dense.bias"), "1 missing: text_encoder.bert.encoder.layer.1.output.dense.bias$"),
        (having("vision_encoder.norm.weight", torch.zeros(3)), "1 unexpected: vision_encoder.norm.weight$"),
        (having("text_encoder.bert.encoder.layer.4.output.dense.bias", torch.zeros(3)), "1 unexpected: .*layer.4.output.dense.bias$"),
        (having("temperature", torch.zeros(3)), "1 unexpected: temperature$"),
        (having("vision_encoder.cls_token", torch.zeros(1, 48)), r"vision_encoder.cls_token \(1, 48\), expected \(1, 1, 48\)$"),
        (having("vision_encoder.cls_token", "text"), r"vision_encoder.cls_token \('no tensor',\), expected"),
        (having("text_proj.bias", torch.zeros(28, dtype=torch.int64)), "1 of no floating-point format: text_proj.bias$"),
        (having("text_proj.bias", torch.full((28,), torch.nan)), "1 with NaN or infinity: text_proj.bias$"),
        (having("vision_encoder.cls_token", torch.full((1, 1, 48), torch.inf).half()), "1 with NaN or infinity: vision_encoder.cls_token$"),
    ],
)
def test_checkpoint_that_does_not_fit_is_refused(
    tmp_path: Path, weights: dict[str, torch.Tensor], change: Callable[[dict[str, torch.Tensor]], None], message: str
) -> None:
    state = dict(weights)
    change(state)
    torch.save({"module": state, "names": {"a name"}}, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(tmp_path / "weights.pt", SMALL, device=torch.device("cpu"), dtype=torch.float32)


def test_all_faults_are_named_at_once_and_long_lists_are_cut(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    state = {name: value for name, value in weights.items() if not name.startswith("vision_encoder.blocks.1.")} | {"odd": torch.zeros(1)}
    state["text_proj.bias"] = torch.zeros(1)
    torch.save({"module": state}, tmp_path / "weights.pt")
    with pytest.raises(
        WeightsError, match=r"13 missing: vision_encoder.blocks.1.norm1.weight.* and 5 more; 1 unexpected: odd; 1 of another"
    ) as caught:
        read_checkpoint(tmp_path / "weights.pt", SMALL, device=torch.device("cpu"), dtype=torch.float32)
    assert len(str(caught.value)) < 1000


class Code:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("is_zip", [True, False])
def test_code_in_a_checkpoint_does_not_run(tmp_path: Path, weights: dict[str, torch.Tensor], is_zip: bool) -> None:
    held = {"module": weights, "optimizer": Code(tmp_path / "made")}
    torch.save(held, tmp_path / "weights.pt", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(WeightsError, match="without running code"):
        read_checkpoint(tmp_path / "weights.pt", SMALL, device=torch.device("cpu"), dtype=torch.float32)
    assert not (tmp_path / "made").exists()


def test_other_files_are_refused(folder: Path, tmp_path: Path) -> None:
    path, cpu = tmp_path / "weights.pt", torch.device("cpu")
    whole = (folder / "InternVideo2-stage2_1b-224p-f4.pt").read_bytes()
    for data in (b"", b"nothing", whole[: len(whole) // 2], b"PK\3\4" + bytes(100)):
        path.write_bytes(data)
        with pytest.raises(WeightsError, match="no checkpoint"):
            read_checkpoint(path, SMALL, device=cpu, dtype=torch.float32)
    for held, message in (
        ([1, 2], "holds a list"),
        ({"state": {}}, "the keys state; a state dict must lie under"),
        ({"module": 3}, "the keys module"),
    ):
        torch.save(held, path)
        with pytest.raises(WeightsError, match=message):
            read_checkpoint(path, SMALL, device=cpu, dtype=torch.float32)


def test_set_is_allowed_for_this_file_only(folder: Path) -> None:
    load(folder)
    assert set not in torch.serialization.get_safe_globals()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("\n".join(VOCABULARY[:-1]).encode(), "holds 15 different tokens; expected 16"),
        ("\n".join(["b", *VOCABULARY[1:]]).encode(), r"lacks \[PAD\]"),
        ("\n".join([*VOCABULARY, VOCABULARY[-1]]).encode(), r"tokens up to number 16 \(the\), the text model knows 16,"),
        (b"\xff\xfe\x00", "no list of tokens"),
    ],
)
def test_other_vocabularies_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "vocab.txt").write_bytes(data)
    with pytest.raises(WeightsError, match=message):
        internvideo2_weights.read_tokenizer(tmp_path / "vocab.txt", SMALL)


def test_built_by_name_from_a_folder(folder: Path, model: InternVideo2, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way from the registry; the sizes are small, so the published files' hashes are left out."""
    monkeypatch.setattr(internvideo2, "FULL", SMALL)
    for name in ("CHECKPOINT", "VOCABULARY"):
        pinned = getattr(internvideo2_weights, name)
        monkeypatch.setattr(internvideo2_weights, name, replace(pinned, files=tuple(WeightFile(f.name, None, None) for f in pinned.files)))
    built = models.load("internvideo2", weights=folder, device="cpu")
    clips = random_clips(1)
    np.testing.assert_array_equal(built.embed_frames(clips), model.embed_frames(clips))


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"InternVideo2-stage2_1b-224p-f4\.pt"):
        models.load("internvideo2", weights=tmp_path, device="cpu")
    with pytest.raises(ValueError, match="dtype"):
        models.load("internvideo2", weights=tmp_path, device="cpu", dtype="int8")
    with pytest.raises(ValueError, match="device"):
        models.load("internvideo2", weights=tmp_path, device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="CUDA"):
            models.load("internvideo2", weights=tmp_path, device="cuda")
