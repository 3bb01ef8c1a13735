"""Weights of internvideo2: what the published checkpoint must hold, and reading it. The network: internvideo2.py.

The checkpoint is a pickle of DeepSpeed's. It is read with `weights_only`, which runs no code; every key and shape is checked before anything else is done.
Tensors are converted one by one from the mapped file and handed to the network as they are: no memory is there that the checkpoint did not fill.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation_assets.models.pretrained import check_vocabulary, checked_values
from curation_assets.models.weights import WeightFile, WeightsError, WeightsSpec, find_weights

if TYPE_CHECKING:
    import torch
    from transformers import BertModel, BertTokenizer

CHECKPOINT = WeightsSpec(
    repo="OpenGVLab/InternVideo2-Stage2_1B-224p-f4",
    revision="4362e1f88a992e7edbfd7696f7f78b7f79426dfd",
    files=(
        # Size and hash as the repository's metadata gives them.
        WeightFile("InternVideo2-stage2_1b-224p-f4.pt", 2_820_610_931, "df8cdbe9c3c9f65fbba777afc9ee6fbf58e6d68c4aec2827cac8e2a98d0a8446"),
    ),
    licence="Apache-2.0",
    is_gated=True,
)
VOCABULARY = WeightsSpec(
    repo="google-bert/bert-large-uncased",
    revision="6da4b6a26a1877e173fca3225479512db81a5e5b",
    files=(WeightFile("vocab.txt", 231_508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),),
    licence="Apache-2.0",
)

_MAX_NAMED = 8  # keys in one message
_PATCH_WEIGHT = "vision_encoder.patch_embed.proj.weight"
_BERT = "text_encoder.bert."


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Sizes of the network; the defaults are those of the published one.

    Attributes:
        patch_px: side of a square patch.
        grid: patches per side of a frame.
        frames: frames per clip that the position embedding was trained on.
        width: of the vision tower's tokens.
        depth: its blocks.
        heads: heads of its attentions.
        mlp_width: of the inner layer of its blocks.
        pooled_width: of what the attentive pooling gives.
        dim: of the space that clips and texts share.
        text_width: of the text tower's tokens.
        text_depth: its layers that are used.
        text_depth_stored: layers that the checkpoint holds; the later ones look at the video.
        text_heads: heads of its attentions.
        text_mlp_width: of the inner layer of its layers.
        text_vocabulary: tokens that it knows.
        text_positions: tokens that its position embedding covers.
        text_tokens: tokens that a text is cut or padded to.
    """

    patch_px: int = 14
    grid: int = 16
    frames: int = 4
    width: int = 1408
    depth: int = 40
    heads: int = 16
    mlp_width: int = 6144
    pooled_width: int = 768
    dim: int = 512
    text_width: int = 1024
    text_depth: int = 19
    text_depth_stored: int = 24
    text_heads: int = 16
    text_mlp_width: int = 4096
    text_vocabulary: int = 30522
    text_positions: int = 512
    text_tokens: int = 40

    @property
    def image_px(self) -> int:
        """Side of a frame."""
        return self.grid * self.patch_px


FULL = Config()


def expected_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """List the weights that the network wants, by name."""
    return {**_vision_shapes(config), **_text_shapes(config)}


def _vision_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    width, patches = config.width, config.grid**2
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width), "pos_embed": (1, 1 + config.frames * patches, width), "img_pos_embed": (1, 1 + patches, width),
        "patch_embed.proj.weight": (width, 3, 1, config.patch_px, config.patch_px), "patch_embed.proj.bias": (width,),
    }  # fmt: skip
    for place in range(config.depth):
        block = {
            "norm1.weight": (width,), "attn.qkv.weight": (3 * width, width), "attn.q_norm.weight": (width,), "attn.k_norm.weight": (width,),
            **_linear("attn.proj", width, width), "ls1.gamma": (width,),
            "norm2.weight": (width,), **_linear("mlp.fc1", config.mlp_width, width), **_linear("mlp.fc2", width, config.mlp_width), "ls2.gamma": (width,),
        }  # fmt: skip
        shapes.update({f"blocks.{place}.{name}": shape for name, shape in block.items()})
    for part in "qkv":
        shapes.update({f"clip_projector.norm1_{part}.{name}": (width,) for name in ("weight", "bias")})
        shapes[f"clip_projector.cross_attn.{part}_bias"] = (width,)
        shapes[f"clip_projector.cross_attn.{part}.weight"] = (width, width)
    shapes.update(_linear("clip_projector.cross_attn.proj", config.pooled_width, width))
    return {
        **{f"vision_encoder.{name}": shape for name, shape in shapes.items()},
        **_linear("vision_proj", config.dim, config.pooled_width),
    }


def _text_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    width, mlp_width = config.text_width, config.text_mlp_width
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config.text_vocabulary, width), "embeddings.position_embeddings.weight": (config.text_positions, width),
        "embeddings.token_type_embeddings.weight": (2, width), "embeddings.LayerNorm.weight": (width,), "embeddings.LayerNorm.bias": (width,),
    }  # fmt: skip
    for place in range(config.text_depth):
        layer = {
            **_linear("attention.self.query", width, width), **_linear("attention.self.key", width, width), **_linear("attention.self.value", width, width),
            **_linear("attention.output.dense", width, width), "attention.output.LayerNorm.weight": (width,), "attention.output.LayerNorm.bias": (width,),
            **_linear("intermediate.dense", mlp_width, width), **_linear("output.dense", width, mlp_width),
            "output.LayerNorm.weight": (width,), "output.LayerNorm.bias": (width,),
        }  # fmt: skip
        shapes.update({f"encoder.layer.{place}.{name}": shape for name, shape in layer.items()})
    return {**{f"{_BERT}{name}": shape for name, shape in shapes.items()}, **_linear("text_proj", config.dim, width)}


def _linear(name: str, to_width: int, from_width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (to_width, from_width), f"{name}.bias": (to_width,)}


def is_ignored(name: str, config: Config) -> bool:
    """Say whether a key of the checkpoint belongs to a part that embedding does not use: distillation, matching, captioning, the temperature."""
    stored_layers = (f"{_BERT}encoder.layer.{place}." for place in range(config.text_depth, config.text_depth_stored))
    prefixes = (
        "vision_encoder.clip_decoder.",
        "vision_encoder.final_clip_decoder.",
        "text_encoder.cls.predictions.",
        "itm_head.",
        *stored_layers,
    )
    names = ("vision_encoder.clip_pos_embed", "vision_encoder.clip_img_pos_embed", f"{_BERT}embeddings.position_ids", "temp")
    return name in names or name.startswith(prefixes)


def find(weights: str | Path | None) -> tuple[Path, Path]:
    """Find the checkpoint and the vocabulary; see `find_weights`."""
    folders = find_weights((CHECKPOINT, VOCABULARY), weights, model="internvideo2")
    assert isinstance(folders, list)  # one per spec
    return folders[0] / CHECKPOINT.files[0].name, folders[1] / VOCABULARY.files[0].name


def read_checkpoint(path: Path, config: Config, *, device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Read the weights that the network wants.

    Args:
        path: file in the published format: a pickled dict whose `model`, else `module`, is the state dict.
        config: sizes of the network.
        device: where the weights go.
        dtype: what they are converted to.

    Returns:
        The weights by their published names. The patch embedding's is turned into a matrix (width, patch_px * patch_px * 3) over pixels in their order
        in memory.

    Raises:
        WeightsError: the file cannot be read without running code, or keys are missing, unexpected, of another shape, no floats or not finite; the message
            names them.
    """
    import torch

    try:
        # DeepSpeed pickles sets beside the weights; torch 2.13 would read them unasked. What is no zip archive cannot be mapped.
        with torch.serialization.safe_globals([set]):
            stored = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise WeightsError(f"{path} is no checkpoint that can be read without running code from it; download it anew") from error
    weights = _state_of(stored, path)
    _check(weights, config, path)
    values = checked_values(((name, weights[name]) for name in expected_shapes(config)), path, name="internvideo2")
    state = {name: value.to(device=device, dtype=dtype, copy=True) for name, value in values}
    # (width, colour, 1, y, x) -> (width, y * x * colour)
    state[_PATCH_WEIGHT] = state[_PATCH_WEIGHT][:, :, 0].permute(0, 2, 3, 1).flatten(1).contiguous()
    return state


def _state_of(stored: Any, path: Path) -> Mapping[str, Any]:
    """Take the state dict out of what the file holds."""
    state = next((stored[name] for name in ("model", "module") if name in stored), None) if isinstance(stored, Mapping) else None
    if not isinstance(state, Mapping):
        held = f"the keys {_some(map(str, stored))}" if isinstance(stored, Mapping) else f"a {type(stored).__name__}"
        raise WeightsError(f"{path} holds {held}; a state dict must lie under 'model' or 'module'")
    return state


def _check(state: Mapping[str, Any], config: Config, path: Path) -> None:
    expected = expected_shapes(config)
    missing = [name for name in expected if name not in state]
    unexpected = [str(name) for name in state if name not in expected and not is_ignored(str(name), config)]
    wrong = []
    for name, shape in expected.items():
        if name in state and tuple(getattr(state[name], "shape", ("no tensor",))) != shape:
            wrong.append(f"{name} {tuple(getattr(state[name], 'shape', ('no tensor',)))}, expected {shape}")
    problems = [("missing", missing), ("unexpected", unexpected), ("of another shape", wrong)]
    found = [f"{len(names)} {problem}: {_some(names)}" for problem, names in problems if names]
    if found:
        raise WeightsError(f"{path} does not fit InternVideo2 stage 2: {'; '.join(found)}")


def _some(names: Any) -> str:
    listed = list(names)
    return ", ".join(listed[:_MAX_NAMED]) + (f" and {len(listed) - _MAX_NAMED} more" if len(listed) > _MAX_NAMED else "")


def take_text_tower(state: dict[str, torch.Tensor], config: Config) -> BertModel:
    """Build the BERT and move its weights out of `state`; it lies on their device and is ready for inference."""
    import torch
    from transformers import BertConfig, BertModel

    sizes = BertConfig(
        vocab_size=config.text_vocabulary, hidden_size=config.text_width, num_hidden_layers=config.text_depth, num_attention_heads=config.text_heads,
        intermediate_size=config.text_mlp_width, max_position_embeddings=config.text_positions, type_vocab_size=2, hidden_act="gelu", layer_norm_eps=1e-12,
    )  # fmt: skip
    with torch.device("meta"):
        tower = BertModel(sizes, add_pooling_layer=False)
    names = [name for name in state if name.startswith(_BERT)]
    device = state[names[0]].device
    tower.load_state_dict({name.removeprefix(_BERT): state.pop(name) for name in names}, assign=True)
    # Buffers that no checkpoint holds would stay without memory.
    positions = torch.arange(config.text_positions, device=device)[None]
    tower.embeddings.register_buffer("position_ids", positions, persistent=False)
    tower.embeddings.register_buffer("token_type_ids", torch.zeros_like(positions), persistent=False)
    tower.requires_grad_(False)
    tower.eval()  # type: ignore[no-untyped-call]
    return tower


def read_tokenizer(path: Path, config: Config) -> BertTokenizer:
    """Read the vocabulary, one token per line, and make BERT's uncased tokenizer of it.

    Raises:
        WeightsError: another number of tokens than the network knows, a token twice, or one that BERT's tokenizer needs is missing.
    """
    from transformers import BertTokenizer

    try:
        tokens = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (UnicodeDecodeError, OSError) as error:
        raise WeightsError(f"{path} is no list of tokens in UTF-8 that can be read; download it anew") from error
    vocabulary = {token: place for place, token in enumerate(tokens)}
    missing = [token for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if token not in vocabulary]
    if len(vocabulary) != config.text_vocabulary or missing:
        lacks = f" and lacks {', '.join(missing)}" if missing else ""
        raise WeightsError(
            f"{path} holds {len(vocabulary)} different tokens{lacks}; expected {config.text_vocabulary}, those of the uncased English BERT"
        )
    check_vocabulary(vocabulary, path, name="internvideo2", num_rows=config.text_vocabulary)
    return BertTokenizer(vocab=vocabulary, do_lower_case=True)
