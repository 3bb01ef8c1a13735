"""PE core: the picture tower of Perception Encoder, a vision transformer with rotary positions in two dimensions, pooled by one attention.

Written anew with the names that timm's `vit_pe_core_large_patch14_336` gives the weights, so that published checkpoints load as they are. timm itself imports
torchvision, whose compiled part loads only beside the one build of torch that it was made for.

transformers builds the picture tower of its video model from a configuration; `PeCoreConfig` is made known to it here. This module imports torch: import it inside
functions only.

Reference: Bolya et al. 2025, "Perception Encoder: The best visual embeddings are not at the output of the network", arXiv 2504.13181.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from transformers import AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

_EPSILON = 1e-5
"""Of every LayerNorm."""

_TEMPERATURE = 10_000.0
"""Of the rotary frequencies."""


class PeCoreConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """Sizes of the tower, those of PE core large unless said otherwise.

    Attributes:
        image_px: height and width of a picture.
        patch_px: height and width of a patch; the last row and column are left out where it does not divide the picture.
        width: length of a patch's vector.
        depth: number of blocks.
        num_heads: heads of a block's attention.
        num_pool_heads: heads of the attention that pools.
        mlp_ratio: inner width of an MLP over `width`.
        num_labels: length of a picture's vector.
    """

    model_type = "curation_pe_core"

    image_px: int = 336
    patch_px: int = 14
    width: int = 1024
    depth: int = 24
    num_heads: int = 16
    num_pool_heads: int = 8
    mlp_ratio: float = 4.0

    @property
    def grid(self) -> int:
        """Patches per row and per column."""
        return self.image_px // self.patch_px


class PeCoreForPictures(PreTrainedModel):  # type: ignore[no-untyped-call]
    """The tower as transformers' video model wants it: pixels in, `logits` out. `timm_model` is what checkpoints call it."""

    config_class = PeCoreConfig
    config: PeCoreConfig
    main_input_name = "pixel_values"

    def __init__(self, config: PeCoreConfig) -> None:
        super().__init__(config)
        self.timm_model = _Tower(config)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
        """Embed pictures.

        Args:
            pixel_values: (N, 3, H, W), -1 to 1, in the number format of the weights.

        Returns:
            `logits` (N, num_labels), of any length.
        """
        return ImageClassifierOutput(logits=self.timm_model(pixel_values))


class _Tower(nn.Module):
    def __init__(self, config: PeCoreConfig) -> None:
        super().__init__()
        width, num_patches = config.width, config.grid**2
        self._grid, self._head_dim = config.grid, width // config.num_heads
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + num_patches, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, config.patch_px, stride=config.patch_px, bias=False)})
        self.norm_pre = nn.LayerNorm(width, eps=_EPSILON)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=_EPSILON)
        self.attn_pool = _Pool(config)
        self.head = nn.Linear(width, config.num_labels)  # type: ignore[arg-type]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)  # (N, C, h, w) -> (N, h w, C)
        hidden = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches], dim=1) + self.pos_embed
        hidden = self.norm_pre(hidden)
        angles = _angles(self._grid, self._head_dim, hidden.device)
        cos, sin = angles.cos().to(hidden.dtype), angles.sin().to(hidden.dtype)
        for block in self.blocks:
            hidden = block(hidden, cos, sin)
        return self.head(self.attn_pool(self.norm(hidden)))  # type: ignore[no-any-return]


class _Block(nn.Module):
    def __init__(self, config: PeCoreConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=_EPSILON)
        self.attn = _Attention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=_EPSILON)
        self.mlp = _Mlp(config)

    def forward(self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.attn(self.norm1(hidden), cos, sin)
        return hidden + self.mlp(self.norm2(hidden))  # type: ignore[no-any-return]


class _Attention(nn.Module):
    def __init__(self, config: PeCoreConfig) -> None:
        super().__init__()
        self._num_heads = config.num_heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        count, length, width = hidden.shape
        queries, keys, values = (
            self.qkv(hidden).view(count, length, 3, self._num_heads, -1).permute(2, 0, 3, 1, 4)
        )  # each (N, heads, L, C / heads)
        mixed = F.scaled_dot_product_attention(_rotate(queries, cos, sin), _rotate(keys, cos, sin), values)
        return self.proj(mixed.transpose(1, 2).reshape(count, length, width))  # type: ignore[no-any-return]


class _Pool(nn.Module):
    """One learned query over all tokens, then an MLP."""

    def __init__(self, config: PeCoreConfig) -> None:
        super().__init__()
        self._num_heads = config.num_pool_heads
        self.latent = nn.Parameter(torch.empty(1, 1, config.width))
        self.q = nn.Linear(config.width, config.width)
        self.kv = nn.Linear(config.width, 2 * config.width)
        self.proj = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=_EPSILON)
        self.mlp = _Mlp(config)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        count, length, width = hidden.shape
        query = self.q(self.latent).view(1, 1, self._num_heads, -1).transpose(1, 2).expand(count, -1, -1, -1)
        keys, values = self.kv(hidden).view(count, length, 2, self._num_heads, -1).permute(2, 0, 3, 1, 4)
        pooled = self.proj(F.scaled_dot_product_attention(query, keys, values).reshape(count, width))  # (N, heads, 1, C / heads) -> (N, C)
        return pooled + self.mlp(self.norm(pooled))  # type: ignore[no-any-return]


class _Mlp(nn.Module):
    def __init__(self, config: PeCoreConfig) -> None:
        super().__init__()
        inner = int(config.width * config.mlp_ratio)
        self.fc1, self.fc2 = nn.Linear(config.width, inner), nn.Linear(inner, config.width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(hidden)))  # type: ignore[no-any-return]


def _angles(grid: int, head_dim: int, device: torch.device) -> torch.Tensor:
    """Compute how far the tokens of a picture turn: (1 + grid * grid, head_dim), float32 so that nothing is lost before sine and cosine.

    Half of the numbers of a head turn by the column, half by the row, both counted from 1, each frequency for two neighbours. The class token does not turn.
    """
    exponents = torch.arange(head_dim // 4, device=device, dtype=torch.float32) / (head_dim // 4)
    places = torch.arange(1, grid + 1, device=device, dtype=torch.float32)
    turns = places[:, None] * _TEMPERATURE**-exponents  # (grid, head_dim / 4)
    columns, rows = turns.expand(grid, -1, -1), turns[:, None].expand(-1, grid, -1)
    patches = torch.cat([columns, rows], dim=-1).flatten(0, 1).repeat_interleave(2, dim=-1)
    return F.pad(patches, (0, 0, 1, 0))


def _rotate(vectors: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn neighbouring numbers (a, b) of vectors (N, heads, L, head_dim) by their angle."""
    turned = torch.stack([-vectors[..., 1::2], vectors[..., ::2]], dim=-1).flatten(-2)
    return vectors * cos + turned * sin


def register() -> None:
    """Make the tower known to transformers, whose video model looks it up by its configuration. May be called again."""
    models: Any = AutoModelForImageClassification  # partly untyped
    models.register(PeCoreConfig, PeCoreForPictures, exist_ok=True)
