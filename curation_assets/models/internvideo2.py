"""internvideo2: InternVideo2 stage 2, 1B, 224 px, 4 frames: clips and texts in one space of 512 dimensions. Written anew from the description.

The vision tower is a ViT over the patches of all frames at once: 1408 wide, 40 blocks, RMSNorm before each half of a block and on queries and keys, LayerScale,
one learned position per patch and frame, pooled by one attention. The text tower is the first 19 layers of a BERT-large without cross-attention. The weights
are the published ones. What the checkpoint holds beside both (layers for matching, captioning and distillation) is left out. Loading: internvideo2_weights.py.

Three operations are done as the published evaluation on plain torch does them: GELU by the error function, and RMSNorm and LayerScale in float32 whatever the model
computes in. (The training's fused kernels took the tanh approximation of GELU.)

Reference: Wang et al. 2024, "InternVideo2: Scaling Foundation Models for Multimodal Video Understanding", arXiv 2403.15377.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from curation_assets.models import internvideo2_weights
from curation_assets.models.batching import ClipRunner, embed_in_parts
from curation_assets.models.embedder import EmbedderSpec
from curation_assets.models.internvideo2_weights import FULL, Config

if TYPE_CHECKING:
    import torch

SPEC = EmbedderSpec(
    name="internvideo2",
    dim=FULL.dim,
    frames=FULL.frames,
    height_px=FULL.image_px,
    width_px=FULL.image_px,
    resize="squash",
    selection="uniform",
    has_text=True,
    revision=f"{internvideo2_weights.CHECKPOINT.revision[:12]}.1",
    licence=internvideo2_weights.CHECKPOINT.licence,
    gpu_memory_gb=4.0,  # 2.6 GB of weights in bfloat16, the largest pass, torch itself
    weights=(internvideo2_weights.CHECKPOINT, internvideo2_weights.VOCABULARY),
)

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, red green blue
_CLIPS_AT_ONCE_ON_GPU, _TEXTS_AT_ONCE = 16, 256  # bound the memory whatever the batch
_RMS_EPSILON, _POOL_EPSILON = 1e-6, 1e-5


def build(*, weights: str | Path | None, device: str, dtype: str) -> InternVideo2:
    """Build the model.

    Args:
        weights: folder with `InternVideo2-stage2_1b-224p-f4.pt` and `vocab.txt`; None takes the download.
        device: `auto`, `cuda` or `cpu`.
        dtype: `auto` (bfloat16 on a GPU, float32 on the CPU), `float32`, `bfloat16` or `float16`.

    Raises:
        WeightsError: files are missing or do not fit the network.
        ValueError: another device or dtype, or no GPU where one is demanded.
    """
    from curation_assets.models.devices import choose_device, choose_dtype

    chosen = choose_device(device)
    number = choose_dtype(dtype, chosen)
    checkpoint, vocabulary = internvideo2_weights.find(weights)
    return InternVideo2(checkpoint, vocabulary, config=FULL, device=chosen, dtype=number)


class InternVideo2:
    """The model with its weights on one device. One per process; not shared by threads.

    Args:
        checkpoint: file in the published format.
        vocabulary: `vocab.txt` of the uncased English BERT.
        config: sizes of the network.
        device: where the weights go.
        dtype: what the network computes in.

    Raises:
        WeightsError: a file cannot be read, or does not fit the network.
    """

    def __init__(self, checkpoint: Path, vocabulary: Path, *, config: Config, device: torch.device, dtype: torch.dtype) -> None:
        self.spec = replace(SPEC, dim=config.dim, frames=config.frames, height_px=config.image_px, width_px=config.image_px)
        self._tokenizer = internvideo2_weights.read_tokenizer(vocabulary, config)
        self._state = internvideo2_weights.read_checkpoint(checkpoint, config, device=device, dtype=dtype)
        self._text_tower = internvideo2_weights.take_text_tower(self._state, config)
        self._config, self._device, self._dtype = config, device, dtype
        self.clips = ClipRunner(
            lambda clips: embed_clips(self._state, config, clips), device=device, dim=config.dim, at_once_on_gpu=_CLIPS_AT_ONCE_ON_GPU
        )

    def embed_frames(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Embed clips; see `Embedder.embed_frames`. Frames were squashed to the size (the published evaluation does it bilinearly, without antialiasing).

        Raises:
            TypeError: not a uint8 array.
            ValueError: the shape does not fit the spec.
            FloatingPointError: a vector is not finite; float16 may overflow.
        """
        self.spec.check_frames(frames)
        return self._finite(self.clips(frames))

    def embed_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embed texts into the space of the clips, as they are: nothing is stripped, upper case counts as lower case.

        Args:
            texts: of any length; what lies beyond 40 tokens (about 30 words) is not seen. May be empty.

        Returns:
            float32 (N, 512), rows L2 = 1, input order.

        Raises:
            TypeError: one text in place of a sequence of them, or something that is no text.
            FloatingPointError: a vector is not finite; float16 may overflow.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"{self.spec.name} takes a sequence of texts, for example ['a dog runs']")

        def embed(part: Sequence[str]) -> torch.Tensor:
            # Always padded to the full length: a text's vector does not depend on the others.
            length = self._config.text_tokens
            tokens = self._tokenizer(list(part), padding="max_length", truncation=True, max_length=length, return_tensors="pt").to(
                self._device
            )
            hidden = self._text_tower(tokens["input_ids"], tokens["attention_mask"]).last_hidden_state
            return _linear(self._state, "text_proj", hidden[:, 0])

        return self._finite(embed_in_parts(texts, at_once=_TEXTS_AT_ONCE, dim=self.spec.dim, forward=embed))

    def _finite(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if not np.isfinite(vectors).all():
            raise FloatingPointError(f"{self.spec.name} made vectors that are not finite in {self._dtype}; use bfloat16 or float32")
        return vectors


def embed_clips(state: Mapping[str, torch.Tensor], config: Config, clips: torch.Tensor) -> torch.Tensor:
    """Compute the vision tower with its projection.

    Args:
        state: weights by their published names; the patch embedding's as `read_checkpoint` turns it.
        config: sizes of the network.
        clips: uint8 (B, T, H, W, 3), RGB, on the weights' device. T may differ from `config.frames`, see `_positions`.

    Returns:
        (B, D) in the dtype of the weights, not of unit length.
    """
    import torch
    import torch.nn.functional as F  # noqa: N812

    batch, num_frames = clips.shape[:2]
    grid, patch = config.grid, config.patch_px
    patches = clips.reshape(batch, num_frames, grid, patch, grid, patch, 3).transpose(3, 4).float()  # (B, T, rows, columns, y, x, colour)
    mean, std = (torch.tensor(values, device=clips.device) for values in (_MEAN, _STD))
    patches = patches.div_(255).sub_(mean).div_(std).reshape(batch, num_frames * grid * grid, patch * patch * 3)
    cls = state["vision_encoder.cls_token"]
    tokens = _linear(state, "vision_encoder.patch_embed.proj", patches.to(cls.dtype))
    hidden = torch.cat([cls.expand(batch, -1, -1), tokens], 1) + _positions(state, config, num_frames)  # (B, 1 + T * rows * columns, width)
    for place in range(config.depth):
        name = f"vision_encoder.blocks.{place}"
        queries, keys, values = _linear(state, f"{name}.attn.qkv", _rms_norm(state, f"{name}.norm1", hidden)).chunk(3, 2)
        # Norms of queries and keys run over all heads together.
        queries, keys = _rms_norm(state, f"{name}.attn.q_norm", queries), _rms_norm(state, f"{name}.attn.k_norm", keys)
        branch = _linear(state, f"{name}.attn.proj", _attend(queries, keys, values, config.heads))
        hidden = hidden + _scale(state, f"{name}.ls1", branch)
        inner = F.gelu(_linear(state, f"{name}.mlp.fc1", _rms_norm(state, f"{name}.norm2", hidden)))
        hidden = hidden + _scale(state, f"{name}.ls2", _linear(state, f"{name}.mlp.fc2", inner))
    return _linear(state, "vision_proj", _pool(state, config, hidden))


def _positions(state: Mapping[str, torch.Tensor], config: Config, num_frames: int) -> torch.Tensor:
    """Give the position embedding (1, 1 + T * patches, width): the checkpoint's own for a single picture, linear in time between the trained frames otherwise."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    if num_frames == 1:
        return state["vision_encoder.img_pos_embed"]
    trained = state["vision_encoder.pos_embed"]
    if num_frames == config.frames:
        return trained
    in_time = trained[:, 1:].float().reshape(config.frames, -1).T[None]  # (1, patches * width, trained T): each patch for itself
    resampled = F.interpolate(in_time, size=num_frames, mode="linear", align_corners=False)
    return torch.cat([trained[:, :1], resampled[0].T.reshape(1, -1, config.width).to(trained.dtype)], 1)


def _pool(state: Mapping[str, torch.Tensor], config: Config, hidden: torch.Tensor) -> torch.Tensor:
    """Pool (B, tokens, width) into (B, pooled width) by one attention, which the mean of all tokens asks."""
    import torch.nn.functional as F  # noqa: N812

    name = "vision_encoder.clip_projector"
    parts = []
    for part, tokens in (("q", hidden.mean(1, keepdim=True)), ("k", hidden), ("v", hidden)):
        norm = f"{name}.norm1_{part}"
        normed = F.layer_norm(tokens, (config.width,), state[f"{norm}.weight"], state[f"{norm}.bias"], _POOL_EPSILON)
        parts.append(F.linear(normed, state[f"{name}.cross_attn.{part}.weight"], state[f"{name}.cross_attn.{part}_bias"]))
    queries, keys, values = parts
    return _linear(state, f"{name}.cross_attn.proj", _attend(queries, keys, values, config.heads))[:, 0]


def _attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, heads: int) -> torch.Tensor:
    """Attend by heads, scaled by the root of a head's width: (B, queries, width), (B, tokens, width) twice -> (B, queries, width)."""
    import torch.nn.functional as F  # noqa: N812

    # (B, tokens, width) -> (B, heads, tokens, width of a head)
    queries, keys, values = (part.reshape(*part.shape[:2], heads, -1).transpose(1, 2) for part in (queries, keys, values))
    return F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)


def _rms_norm(state: Mapping[str, torch.Tensor], name: str, hidden: torch.Tensor) -> torch.Tensor:
    """Norm by the root mean square; torch does the sums and the gain in float32 and rounds once."""
    import torch.nn.functional as F  # noqa: N812

    return F.rms_norm(hidden, (hidden.shape[-1],), state[f"{name}.weight"], _RMS_EPSILON)


def _scale(state: Mapping[str, torch.Tensor], name: str, branch: torch.Tensor) -> torch.Tensor:
    """Apply LayerScale. It is the float32 product rounded: that of two 16-bit floats fits into float32, where torch makes it."""
    return branch * state[f"{name}.gamma"]


def _linear(state: Mapping[str, torch.Tensor], name: str, hidden: torch.Tensor) -> torch.Tensor:
    import torch.nn.functional as F  # noqa: N812

    return F.linear(hidden, state[f"{name}.weight"], state.get(f"{name}.bias"))
