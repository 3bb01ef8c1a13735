"""Stand-ins for what code written for transformers 4 expects and transformers 5 no longer has. Seen by `RemotePackage` modules only.

Each name says what ended: find_pruneable_heads_and_indices was removed; PreTrainedModel lost its mask helpers, and its `init_weights` fails in a class that
never called `post_init`; BertConfig.from_pretrained("bert-base-uncased") would ask the network for what are its own defaults.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_BERT_BASE = ("bert-base-uncased", "google-bert/bert-base-uncased")


def build_stand_ins() -> dict[str, object]:
    """Build the stand-ins by name, on top of the installed transformers. New classes every time; transformers itself is left as it is."""
    # by name, so that the stand-ins are typed alike where transformers is not installed
    installed: Any = importlib.import_module("transformers")

    class PreTrainedModel(installed.PreTrainedModel):  # type: ignore[misc]
        """The installed class with the helpers of transformers 4."""

        def init_weights(self) -> None:
            """Initialise as the class says; also where `post_init` was never called. Nothing is tied: all weights come from the file."""
            if not hasattr(self, "all_tied_weights_keys"):
                self.all_tied_weights_keys: dict[str, str] = {}
            super().init_weights()

        def get_head_mask(self, head_mask: torch.Tensor | None, num_hidden_layers: int, is_attention_chunked: bool = False) -> Any:
            """Give a mask per layer: (heads,) or (layers, heads) -> (layers, 1, heads, 1, 1); [None] * layers without a mask."""
            if head_mask is None:
                return [None] * num_hidden_layers
            per_layer = head_mask.expand(num_hidden_layers, -1) if head_mask.dim() == 1 else head_mask
            mask = per_layer[:, None, :, None, None].to(self.dtype)
            return mask.unsqueeze(-1) if is_attention_chunked else mask

        def invert_attention_mask(self, encoder_attention_mask: torch.Tensor) -> torch.Tensor:
            """Turn 1 and 0 of (B, S) or (B, T, S) into what is added to scores, (B, 1, 1 or T, S): 0 and the lowest number."""
            return _as_scores(encoder_attention_mask, self.dtype)

        def get_extended_attention_mask(
            self, attention_mask: torch.Tensor, input_shape: Any, device: Any = None, dtype: torch.dtype | None = None
        ) -> torch.Tensor:
            """Do as `invert_attention_mask`, for an encoder."""
            if self.config.is_decoder:
                raise NotImplementedError("causal masks are not among the stand-ins for transformers 4")
            return _as_scores(attention_mask, dtype or self.dtype)

    class BertConfig(installed.BertConfig):  # type: ignore[misc]
        """The installed class; the defaults of bert-base-uncased need no network."""

        @classmethod
        def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
            """Give the defaults for bert-base-uncased, whose published config they are."""
            if pretrained_model_name_or_path in _BERT_BASE:
                return cls(**kwargs)
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    return {
        "PreTrainedModel": PreTrainedModel,
        "BertConfig": BertConfig,
        "find_pruneable_heads_and_indices": _find_pruneable_heads_and_indices,
    }


def _as_scores(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    import torch

    if mask.dim() not in (2, 3):
        raise ValueError(f"an attention mask has 2 or 3 dimensions, this one has the shape {tuple(mask.shape)}")
    wide = mask[:, None, None, :] if mask.dim() == 2 else mask[:, None, :, :]
    return (1.0 - wide.to(dtype)) * torch.finfo(dtype).min


def _find_pruneable_heads_and_indices(
    heads: list[int], n_heads: int, head_size: int, already_pruned_heads: set[int]
) -> tuple[set[int], torch.Tensor]:
    """Find what is left of a layer's rows without some heads: those not yet pruned, and the rows that stay."""
    import torch

    to_prune = set(heads) - already_pruned_heads
    remaining = [head for head in range(n_heads + len(already_pruned_heads)) if head not in already_pruned_heads]
    rows = [place * head_size + row for place, head in enumerate(remaining) if head not in to_prune for row in range(head_size)]
    return to_prune, torch.tensor(rows, dtype=torch.long)
