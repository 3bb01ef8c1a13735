"""videoprism: a video encoder with a text tower, by the transformers library.

The spatial part looks at each frame, the temporal part at each place over time, and a pooled vector of length 1 comes out. Frames are pixels / 255, no more.

Reference: Zhao et al. 2024, "VideoPrism: A foundational visual encoder for video understanding", arXiv 2402.13217 (the video-text model, LvT).
"""

from __future__ import annotations

import string
from collections.abc import Sequence
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

_WEIGHTS = WeightsSpec(
    repo="google/videoprism-lvt-base-f16r288",
    # of the pull request that has the weights in the library's format; the main branch has those of the original code
    revision="fb6de9f0eb7bc285be86bdca1cf7daa3e3ef51ff",
    files=(
        WeightFile("config.json", None, None),
        WeightFile("model.safetensors", None, "7d64ac2364d3473c0dd9fde35fb09e3cfb3b43153c3e9af79d7e49f1c8387cf5"),
        WeightFile("tokenizer.json", None, None),
    ),
    licence="Apache-2.0",
    about_bytes=993_993_146,
)

SPEC = EmbedderSpec(
    name="videoprism",
    dim=768,
    frames=16,
    height_px=288,
    width_px=288,
    resize="squash",
    selection="uniform",
    has_text=True,
    revision="1-fb6de9f0",
    licence="Apache-2.0",
    gpu_memory_gb=12.0,
    weights=_WEIGHTS,
)

_CLIPS_AT_ONCE_ON_GPU = 4
"""The last layers attend from every place of every frame to every other, 4,096 x 4,096, twelve times and without a fused kernel."""

_TEXTS_AT_ONCE = 64
_SENTINELS = r"<extra_id_\d+>"
"""A hundred tokens that the library's conversion adds to the tokenizer (convert_videoprism_weights_to_hf.py) and for which the text tower has no vectors. Canonical
texts have no such characters."""

_NO_PUNCTUATION = str.maketrans(string.punctuation, " " * len(string.punctuation))


class VideoPrismEmbedder:
    """The model with its weights on one device."""

    def __init__(self, *, weights: str | Path | None, device: str, dtype: str) -> None:
        from transformers import VideoPrismClipModel

        self.spec = SPEC
        self._device = choose_device(device)
        self._dtype = choose_dtype(dtype, self._device)
        folder = find_weights(_WEIGHTS, weights, model=SPEC.name)
        assert isinstance(folder, Path)
        # the library has no other attention for it: the logits are capped
        self._model: Any = load_pretrained(
            VideoPrismClipModel,
            folder,
            weights_file(_WEIGHTS, folder, weights),
            name=SPEC.name,
            device=self._device,
            dtype=self._dtype,
            attn_implementation="eager",
        )
        config = self._model.config
        check_size(
            SPEC.name,
            folder,
            **{"dim of clips": (config.vision_config.hidden_size, SPEC.dim), "dim of texts": (config.text_config.hidden_size, SPEC.dim)},
            image_size=(config.vision_config.image_size, SPEC.height_px),
            num_frames=(config.vision_config.num_frames, SPEC.frames),
        )
        self.clips = ClipRunner(self._clips, device=self._device, dim=SPEC.dim, at_once_on_gpu=_CLIPS_AT_ONCE_ON_GPU)
        self._tokenizer = load_tokenizer(
            folder,
            name=SPEC.name,
            num_rows=config.text_config.vocab_size,
            num_tokens=config.text_config.max_position_embeddings,
            template="$A",
            pad_token="<pad>",
            impossible=_SENTINELS,
        )

    def embed_frames(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Embed clips; see `Embedder.embed_frames`."""
        self.spec.check_frames(frames)
        return self.clips(frames)

    def embed_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embed texts; see `TextEmbedder.embed_texts`."""
        return embed_in_parts(texts, at_once=_TEXTS_AT_ONCE, dim=SPEC.dim, forward=self._texts)

    def _clips(self, frames: torch.Tensor) -> torch.Tensor:
        """Turn uint8 (B, T, H, W, 3) into vectors (B, D)."""
        pixels = frames.permute(0, 1, 4, 2, 3).float().div_(255).to(self._dtype)  # (B, T, 3, H, W)
        return self._model.get_video_features(pixel_values_videos=pixels).pooler_output.squeeze(1)  # type: ignore[no-any-return]

    def _texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Turn texts into vectors (N, D). Without a mask the library would leave out the causal one as well."""
        ids, mask = token_ids(self._tokenizer, [canonical(text) for text in texts], self._device)
        return self._model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output  # type: ignore[no-any-return]


def canonical(text: str) -> str:
    """Write a text as those of the training: lower case, no punctuation but a full stop at the end, single spaces. The library leaves that to the caller.

    Reference: `canonicalize_text` of the published code.
    """
    return " ".join(text.translate(_NO_PUNCTUATION).lower().split()) + "."


def build(*, weights: str | Path | None, device: str, dtype: str) -> VideoPrismEmbedder:
    """Build the model.

    Raises:
        WeightsError: its files are missing, damaged or of another model.
        ValueError: no such device or dtype.
    """
    return VideoPrismEmbedder(weights=weights, device=device, dtype=dtype)
