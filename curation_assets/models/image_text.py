"""clip-vit-b32 and siglip2: models of single pictures and texts. A clip's vector is the mean of its frames' features, of length 1.

The networks are those of the transformers library. The stored frames have their size already; here they are only normalised, on the device.

References: Radford et al. 2021, "Learning transferable visual models from natural language supervision"; Tschannen et al. 2025, "SigLIP 2". The mean over
frames: Luo et al. 2021, "CLIP4Clip" (there of unit vectors; the features of one clip's frames have nearly one length).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curation_assets.models.batching import ClipRunner, embed_in_parts
from curation_assets.models.devices import choose_device, choose_dtype
from curation_assets.models.embedder import EmbedderSpec
from curation_assets.models.pretrained import check_size, load_pretrained, load_tokenizer, token_ids
from curation_assets.models.weights import WeightFile, WeightsSpec, find_weights, weights_file

if TYPE_CHECKING:
    import torch

CLIP_VIT_B32 = EmbedderSpec(
    name="clip-vit-b32",
    dim=512,
    frames=8,
    height_px=224,
    width_px=224,
    resize="crop",
    selection="uniform",
    has_text=True,
    revision="1-3d74acf9",
    licence="MIT",
    gpu_memory_gb=2.0,
    weights=WeightsSpec(
        repo="openai/clip-vit-base-patch32",
        revision="3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
        files=(
            WeightFile("config.json", 4_186, "b575ef3c36f2a057fa19e221650105052d61cc9c1a972ec15019c6261ec98770"),
            # the repository has no safetensors at its main branch
            WeightFile("pytorch_model.bin", 605_247_071, "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f"),
            WeightFile("tokenizer.json", 2_224_041, "b556ac8c99757ffb677208af34bc8c6721572114111a6e0aaf5fa69ff0b8d842"),
        ),
        licence="MIT",
    ),
)

SIGLIP2 = EmbedderSpec(
    name="siglip2",
    dim=768,
    frames=8,
    height_px=224,
    width_px=224,
    resize="squash",
    selection="uniform",
    has_text=True,
    revision="1-75de2d55",
    licence="Apache-2.0",
    gpu_memory_gb=3.0,
    weights=WeightsSpec(
        repo="google/siglip2-base-patch16-224",
        revision="75de2d55ec2d0b4efc50b3e9ad70dba96a7b2fa2",
        files=(
            WeightFile("config.json", 253, "fe8b5fe6d5734360678fd71c11c21e1ea3364bd8598d34295d9206335973ffd7"),
            WeightFile("model.safetensors", 1_500_800_904, "612923381c76ec5a9bed335d1c48827e3f2e506ac31b044b63b2031fadee6a0b"),
            WeightFile("tokenizer.json", 34_363_039, "cb9140fae3ac5122c972d37adf83e1248471a38147ad76f8215c8872c6fd8322"),
        ),
        licence="Apache-2.0",
    ),
)

SPECS = (CLIP_VIT_B32, SIGLIP2)

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the channels of what every CLIP model was trained on, of pixels 0 to 1."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one of the models was trained.

    Attributes:
        model_class: its class in transformers.
        mean: of the channels, of pixels 0 to 1.
        std: likewise.
        template: what is put around a text, $A; a text that is cut keeps it.
        pad_token: what short texts are padded with.
    """

    model_class: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    template: str
    pad_token: str


_KINDS = {
    "clip-vit-b32": _Kind(
        "CLIPModel",
        CLIP_MEAN,
        CLIP_STD,
        "<|startoftext|> $A <|endoftext|>",
        "<|endoftext|>",
    ),
    "siglip2": _Kind("SiglipModel", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "$A <eos>", "<pad>"),
}
_CLIPS_AT_ONCE_ON_GPU, _TEXTS_AT_ONCE = 32, 64


class ImageTextEmbedder:
    """One of the models with its weights on one device."""

    def __init__(self, spec: EmbedderSpec, *, weights: str | Path | None, device: str, dtype: str) -> None:
        import torch
        import transformers

        self.spec = spec
        self._kind = _KINDS[spec.name]
        self._device = choose_device(device)
        self._dtype = choose_dtype(dtype, self._device)
        assert isinstance(spec.weights, WeightsSpec)
        folder = find_weights(spec.weights, weights, model=spec.name)
        assert isinstance(folder, Path)
        self._model: Any = load_pretrained(
            getattr(transformers, self._kind.model_class),
            folder,
            weights_file(spec.weights, folder, weights),
            name=spec.name,
            device=self._device,
            dtype=self._dtype,
        )
        config = self._model.config
        text, vision = config.text_config, config.vision_config
        # SigLIP projects texts only, onto the width of its picture tower
        dims = (config.projection_dim,) * 2 if self._kind.model_class == "CLIPModel" else (vision.hidden_size, text.projection_size)
        check_size(
            spec.name,
            folder,
            **{
                "dim of pictures": (dims[0], spec.dim),
                "dim of texts": (dims[1], spec.dim),
                "image_size": (vision.image_size, spec.height_px),
            },
        )
        self._tokenizer = load_tokenizer(
            folder,
            name=spec.name,
            num_rows=text.vocab_size,
            num_tokens=text.max_position_embeddings,
            template=self._kind.template,
            pad_token=self._kind.pad_token,
        )
        self.clips = ClipRunner(self._clips, device=self._device, dim=spec.dim, at_once_on_gpu=_CLIPS_AT_ONCE_ON_GPU)
        # pixel / 255, less the mean, over the deviation: one factor and one term
        std = torch.tensor(self._kind.std, device=self._device)
        self._scale = (1 / (255 * std)).reshape(3, 1, 1)
        self._shift = (torch.tensor(self._kind.mean, device=self._device) / std).reshape(3, 1, 1)

    def embed_frames(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Embed clips; see `Embedder.embed_frames`."""
        self.spec.check_frames(frames)
        return self.clips(frames)

    def embed_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embed texts; see `TextEmbedder.embed_texts`."""
        return embed_in_parts(texts, at_once=_TEXTS_AT_ONCE, dim=self.spec.dim, forward=self._texts)

    def _clips(self, frames: torch.Tensor) -> torch.Tensor:
        """Turn uint8 (B, T, H, W, 3) into the mean features (B, D)."""
        num_clips, num_frames = frames.shape[:2]
        pixels = frames.flatten(0, 1).permute(0, 3, 1, 2).float() * self._scale - self._shift  # (B * T, 3, H, W)
        features = self._model.get_image_features(pixel_values=pixels.to(self._dtype)).pooler_output
        return features.float().reshape(num_clips, num_frames, -1).mean(1)  # type: ignore[no-any-return]

    def _texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Turn texts into features (N, D). Both models were trained on padded lower-case texts without a mask; not every tokenizer file makes them so."""
        ids, _ = token_ids(self._tokenizer, [text.lower() for text in texts], self._device)
        return self._model.get_text_features(input_ids=ids).pooler_output  # type: ignore[no-any-return]


def build_clip_vit_b32(*, weights: str | Path | None, device: str, dtype: str) -> ImageTextEmbedder:
    """Build `clip-vit-b32`.

    Raises:
        WeightsError: its files are missing, damaged or of another model.
        ValueError: no such device or dtype.
    """
    return ImageTextEmbedder(CLIP_VIT_B32, weights=weights, device=device, dtype=dtype)


def build_siglip2(*, weights: str | Path | None, device: str, dtype: str) -> ImageTextEmbedder:
    """Build `siglip2`; raises as `build_clip_vit_b32`."""
    return ImageTextEmbedder(SIGLIP2, weights=weights, device=device, dtype=dtype)
