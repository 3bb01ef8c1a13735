"""pe-video: Meta's Perception Encoder Audio-Visual, its video and text towers: 16 frames, texts in the same space of 1024 numbers.

The published checkpoint also embeds sound. Here its video half alone is built from transformers' parts: `PeVideoEncoder` (each frame through the picture tower,
pe_core.py, then four layers over the frames' vectors) and a head; a ModernBERT, whose first token goes through a head of its own. Only these tensors are read. The
library's whole, `PeVideoModel`, is not used: in 5.23 its `get_video_features` is defined inside `__init__`, so it cannot be called, and prints to stdout.

One difference from that model's `forward`, on purpose: the head gets the text's state before ModernBERT's last normalisation. So did Meta's code (hidden state 22 of
22 layers) and transformers 5.0, with which the checkpoint was made; later versions put the normalised state in its place.

Confirmed, from copies of the published config.json and processor_config.json: sizes, 336 x 336 px bilinear without regard to the aspect ratio, mean and deviation
0.5, ModernBERT's special tokens. pe-av-base takes any number of frames; 16 is what its siblings `-16-frame` and the library's example take.

The names of the weights are those of the library's classes, with which the checkpoints were saved (its convert_pe_audio_video_to_hf.py). Seen of published files:
the picture tower's, `video_model.video_encoder.embedder.vision_model.timm_model.blocks.0.attn.qkv.weight` and so on, in the list of keys of pe-av-large in issue 112
of facebookresearch/perception_models. Not seen: those of the heads and the text tower, and the size of the file.

Reference: Vyas et al. 2025, "Pushing the Frontier of Audiovisual Perception with Large-Scale Multimodal Correspondence Learning", arXiv 2512.19687.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curation_assets.models.batching import ClipRunner, embed_in_parts
from curation_assets.models.devices import choose_device, choose_dtype
from curation_assets.models.embedder import EmbedderSpec
from curation_assets.models.pretrained import check_size, checked_values, load_tokenizer, token_ids
from curation_assets.models.weights import WeightFile, WeightsError, WeightsSpec, find_weights, listed

if TYPE_CHECKING:
    import torch
    from transformers import ModernBertConfig, PeVideoEncoderConfig

    from curation_assets.models.pe_core import PeCoreConfig

_WEIGHTS = WeightsSpec(
    repo="facebook/pe-av-base",
    revision="f2bbafa5285449a5b866309e61b64f4bf8f5f869",
    files=(WeightFile("config.json", None, None), WeightFile("model.safetensors", None, None), WeightFile("tokenizer.json", None, None)),
    licence="Apache-2.0",
    about_bytes=4_150_000_000,  # reckoned from its config, in float32; so reckoned, pe-av-large has its 8.94 GB
)

SPEC = EmbedderSpec(
    name="pe-video",
    dim=1024,
    frames=16,
    height_px=336,
    width_px=336,
    resize="squash",
    selection="uniform",
    has_text=True,
    revision="1-f2bbafa5",
    licence="Apache-2.0",
    gpu_memory_gb=6.0,  # 1.4 GB of weights in bfloat16, 64 frames of 577 tokens, torch itself
    weights=_WEIGHTS,
)

_CLIPS_AT_ONCE_ON_GPU = 4
_TEXTS_AT_ONCE = 64
_MOST_TOKENS = 512
"""Where Meta's code cuts a text."""

_PICTURE_TOWER = "vit_pe_core_large_patch14_336"
_PICTURE_SIZES = {"embed_dim": "width", "depth": "depth", "num_heads": "num_heads", "attn_pool_num_heads": "num_pool_heads"}
"""`model_args` of a checkpoint, in timm's words, to ours; the published ones have none."""

_TOWER_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
"""Settings of the video encoder and of the text tower."""

_SOURCES = {
    "video_model.": "",
    "text_model.": "text_model.",
    "audio_video_encoder.embedder.video_encoder.": "video_encoder.",
    "audio_model.text_model.": "text_model.",
}
"""Beginnings of the names in the file to ours. Towers that several parts share are in the file once, under any of their names."""

_OTHER_PARTS = (
    "audio_model.", "audio_video_encoder.", "audio_video_head.", "text_audio_video_head.", "audio_plus_text_head.", "video_plus_text_head.",
    "audio_video_logit_", "text_audio_video_logit_", "audio_plus_text_logit_", "video_plus_text_logit_",
)  # fmt: skip
"""What belongs to sound, or to sound with pictures."""

_LOSS = "video_model.text_video_logit_"
"""Scale and bias of the training's loss."""

_COMPUTED = ("inv_freq", ".rope.pos_embed", ".rope.bands")
"""Ends of names of positions that some versions saved; they are computed here."""


class PeVideoEmbedder:
    """The model with its weights on one device."""

    def __init__(self, *, weights: str | Path | None, device: str, dtype: str) -> None:
        self.spec = SPEC
        self._device = choose_device(device)
        self._dtype = choose_dtype(dtype, self._device)
        folder = find_weights(_WEIGHTS, weights, model=SPEC.name)
        assert isinstance(folder, Path)
        video, text = _read_configs(folder)
        self._tokenizer = load_tokenizer(
            folder, name=SPEC.name, num_rows=text.vocab_size, num_tokens=_MOST_TOKENS, template="[CLS] $A [SEP]", pad_token="[PAD]"
        )
        # To the longest of a call: few texts are near the most. What is padded is masked.
        self._tokenizer.enable_padding(direction="right", pad_id=self._tokenizer.token_to_id("[PAD]"), pad_token="[PAD]")
        self._model: Any = _build_model(video, text, folder, self._dtype).to(self._device)
        self.clips = ClipRunner(self._clips, device=self._device, dim=SPEC.dim, at_once_on_gpu=_CLIPS_AT_ONCE_ON_GPU)

    def embed_frames(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Embed clips; see `Embedder.embed_frames`."""
        self.spec.check_frames(frames)
        return self.clips(frames)

    def embed_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embed texts; see `TextEmbedder.embed_texts`. What lies beyond 512 tokens is not seen."""
        return embed_in_parts(texts, at_once=_TEXTS_AT_ONCE, dim=SPEC.dim, forward=self._texts)

    def _clips(self, frames: torch.Tensor) -> torch.Tensor:
        """Turn uint8 (B, T, H, W, 3) into vectors (B, D)."""
        pixels = frames.permute(0, 1, 4, 2, 3).float().div_(127.5).sub_(1).to(self._dtype)  # (B, T, 3, H, W), (x / 255 - 0.5) / 0.5
        seen = self._model["video_encoder"](pixel_values_videos=pixels.contiguous())
        return self._model["video_head"](seen.pooler_output)  # type: ignore[no-any-return]

    def _texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Turn texts into vectors (N, D)."""
        ids, mask = token_ids(self._tokenizer, texts, self._device)
        read = self._model["text_model"](input_ids=ids, attention_mask=mask).last_hidden_state
        return self._model["text_video_head"](read[:, 0])  # type: ignore[no-any-return]


def build(*, weights: str | Path | None, device: str, dtype: str) -> PeVideoEmbedder:
    """Build the model.

    Raises:
        WeightsError: its files are missing, damaged or of another model.
        ValueError: no such device or dtype.
    """
    return PeVideoEmbedder(weights=weights, device=device, dtype=dtype)


def _read_configs(folder: Path) -> tuple[PeVideoEncoderConfig, ModernBertConfig]:
    """Take the configurations of the two towers from that of the whole.

    Raises:
        WeightsError: it cannot be read, is of another model, or has numbers of which no network can be built.
    """
    from transformers import ModernBertConfig, PeVideoEncoderConfig

    from curation_assets.models.pe_core import PeCoreConfig

    path = folder / "config.json"
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        video, text = dict(whole["audio_video_config"]["video_config"]), dict(whole["text_config"])
        pictures = dict(video.pop("vision_config"))
        kinds: dict[str, tuple[object, object]] = {
            "model_type": (whole["model_type"], "pe_audio_video"),
            "text": (text.pop("model_type"), "modernbert"),
        }
        kinds["video"] = (video.pop("model_type"), "pe_video_encoder")
        kinds["picture tower"] = (pictures.get("architecture"), _PICTURE_TOWER)
        args = dict(pictures.get("model_args") or {})
        kinds["sizes of it"] = (sorted(args.keys() - _PICTURE_SIZES), [])
        check_size(SPEC.name, folder, **kinds, dim=(text["hidden_size"], SPEC.dim))
        sizes = {_PICTURE_SIZES[name]: value for name, value in args.items()}
        tower: Any = PeCoreConfig
        picture_config = tower(num_labels=pictures["num_classes"], **sizes)
        encoder: Any = PeVideoEncoderConfig
        video_config, text_config = encoder(**video, vision_config=picture_config), ModernBertConfig(**text)
    except WeightsError:
        raise
    except Exception as error:  # the library's checks of a configuration raise many kinds
        raise WeightsError(f"weights of {SPEC.name}: {path} is no configuration of a {_WEIGHTS.repo}: {error!r}") from error
    if wrong := _find_impossible(picture_config, video_config, text_config):
        raise WeightsError(f"weights of {SPEC.name}: {path} describes no network that can be built: {'; '.join(wrong)}")
    return video_config, text_config


def _find_impossible(pictures: PeCoreConfig, video: PeVideoEncoderConfig, text: ModernBertConfig) -> list[str]:
    """List what is wrong with the sizes, by the names of the keys; some of it would show with the first clip or text only."""
    of_video, of_text = "audio_video_config.video_config.", "text_config."
    of_pictures = f"{of_video}vision_config.model_args."
    sizes: dict[str, Any] = {
        f"{of_video}vision_config.num_classes": pictures.num_labels,
        **{f"{of_pictures}{key}": getattr(pictures, own) for key, own in _PICTURE_SIZES.items()},
        **{f"{of_video}{key}": getattr(video, key) for key in (*_TOWER_SIZES, "num_key_value_heads", "head_dim")},
        **{f"{of_text}{key}": getattr(text, key) for key in (*_TOWER_SIZES, "vocab_size")},
    }
    if wrong := [f"{key} is {value!r}, no whole number from 1 on" for key, value in sizes.items() if type(value) is not int or value < 1]:
        return wrong
    # how many numbers of a head turn together as one position: by row and by column, or over time
    parts = [
        (f"{of_pictures}embed_dim", f"{of_pictures}num_heads", 4),
        (f"{of_pictures}embed_dim", f"{of_pictures}attn_pool_num_heads", 1),
        (f"{of_video}num_attention_heads", f"{of_video}num_key_value_heads", 1),
        (f"{of_text}hidden_size", f"{of_text}num_attention_heads", 2),
    ]
    return [
        f"{key} {sizes[key]} is no multiple of {f'{factor} x ' if factor > 1 else ''}{divisor} {sizes[divisor]}"
        for key, divisor, factor in parts
        if sizes[key] % (factor * sizes[divisor])
    ]


def _build_model(video: PeVideoEncoderConfig, text: ModernBertConfig, folder: Path, dtype: torch.dtype) -> torch.nn.ModuleDict:
    """Build the video half on the CPU and fill it; every weight must be there, of its shape, and known.

    It is constructed in the plain way and not by `from_pretrained`: what the checkpoint does not hold (rotary frequencies) is computed by the classes, and stays in
    float32 whatever the number format.

    Raises:
        WeightsError: no such network can be built, or the file cannot be read or does not fit.
    """
    import torch
    from transformers import ModernBertModel, PeVideoEncoder
    from transformers.initialization import no_init_weights

    from curation_assets.models.pe_core import register

    register()
    try:
        with no_init_weights(), torch.device("cpu"):
            model = torch.nn.ModuleDict({
                "video_encoder": PeVideoEncoder(video),
                "video_head": _head(video.hidden_size),
                "text_model": ModernBertModel(text),
                "text_video_head": _head(text.hidden_size),
            })  # fmt: skip
    except Exception as error:  # the library and torch raise many kinds for settings that they cannot follow
        path = folder / "config.json"
        raise WeightsError(
            f"weights of {SPEC.name}: {path} describes no network that can be built: {type(error).__name__}: {error}"
        ) from error
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    model.load_state_dict(_read_state(folder / "model.safetensors", wanted, dtype), assign=True)
    model["text_model"].final_norm = torch.nn.Identity()  # see the module's docstring
    return model.eval().requires_grad_(False)


def _head(width: int) -> torch.nn.Sequential:
    from torch import nn

    return nn.Sequential(OrderedDict(layer_norm=nn.LayerNorm(width, eps=1e-6), proj=nn.Linear(width, SPEC.dim, bias=False)))


def _read_state(path: Path, wanted: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Read the wanted tensors, by our names; the others are not touched."""
    from safetensors import SafetensorError, safe_open

    places: dict[str, str] = {}
    unknown: list[str] = []
    misshapen: dict[str, str] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in sorted(file.keys()):
                source = next((beginning for beginning in _SOURCES if name.startswith(beginning)), None)
                own = None if source is None else _SOURCES[source] + name.removeprefix(source)
                if name.endswith(_COMPUTED) or name.startswith(_LOSS) or (own is None and name.startswith(_OTHER_PARTS)):
                    continue
                if own is None or own not in wanted:
                    unknown.append(name)
                elif (shape := tuple(file.get_slice(name).get_shape())) != wanted[own]:
                    misshapen[own] = f"{name} {shape}, not {wanted[own]}"
                else:
                    places.setdefault(own, name)
            missing = sorted(wanted.keys() - places.keys() - misshapen.keys())
            said = {"missing": missing, "unknown": unknown, "of another shape": list(misshapen.values())}
            if any(said.values()):
                wrong = "; ".join(f"{len(names)} {what}: {listed(names)}" for what, names in said.items() if names)
                raise WeightsError(f"weights of {SPEC.name}: {path} does not fit the model: {wrong}")
            names = {name: own for own, name in places.items()}
            values = checked_values(((name, file.get_tensor(name)) for name in names), path, name=SPEC.name)
            return {names[name]: value.to(dtype) for name, value in values}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"weights of {SPEC.name}: {path} is damaged or cut short: {error}; download it again") from error
