"""Registry: every model by name. A spec costs no model and no torch; `load` builds one.

A new model is one module and one line here. Model modules import torch inside their functions only.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from curation_assets.models import aesthetic, cosmos_embed1, fingerprint, image_text, internvideo2, pe_video, videoprism
from curation_assets.models.embedder import Embedder, EmbedderSpec
from curation_assets.models.scorer import ScorerSpec


class Build(Protocol):
    """What a model's module offers to make the model; the arguments are those of `load`."""

    def __call__(self, *, weights: str | Path | None, device: str, dtype: str) -> Embedder:
        """Build the model."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One line of the registry; `runs_remote_code` says that `build` takes `allow_remote_code` beside the rest."""

    spec: EmbedderSpec
    build: Build
    runs_remote_code: bool = False


MODELS: dict[str, ModelEntry] = {
    entry.spec.name: entry
    for entry in (
        ModelEntry(fingerprint.SPEC, fingerprint.build),
        ModelEntry(image_text.CLIP_VIT_B32, image_text.build_clip_vit_b32),
        ModelEntry(image_text.SIGLIP2, image_text.build_siglip2),
        ModelEntry(videoprism.SPEC, videoprism.build),
        ModelEntry(pe_video.SPEC, pe_video.build),
        ModelEntry(internvideo2.SPEC, internvideo2.build),
        *(ModelEntry(spec, cosmos_embed1.builder(spec), runs_remote_code=True) for spec in cosmos_embed1.SPECS),
    )
}  # fmt: skip

SCORERS: dict[str, ScorerSpec] = {aesthetic.SPEC.name: aesthetic.SPEC}
"""Models that give clips a score in place of a vector: they have weights as embedders do, and no part in `embeddings.models`."""


def names() -> list[str]:
    """List the registered models, the default one first."""
    return list(MODELS)


def spec(name: str) -> EmbedderSpec:
    """Return what a model takes and gives, without building it.

    Raises:
        ValueError: no model has this name; the message names the nearest one.
    """
    return _entry(name).spec


def names_with_weights() -> list[str]:
    """List whatever may have weights: the embedding models, then the scorers."""
    return [*MODELS, *SCORERS]


def any_spec(name: str) -> EmbedderSpec | ScorerSpec:
    """Return what a model or scorer takes and gives; raises as `spec`."""
    return SCORERS[name] if name in SCORERS else _entry(name, names_with_weights()).spec


def load(
    name: str, *, weights: str | Path | None = None, device: str = "auto", dtype: str = "auto", allow_remote_code: bool = False
) -> Embedder:
    """Build a model.

    Args:
        name: registry name, one of `names()`.
        weights: file or folder to use in place of the pinned download; None for a model without weights.
        device: `auto`, `cuda` or `cpu`.
        dtype: `auto`, or what the model computes in, for example `float32`.
        allow_remote_code: let a model run the Python that its checkpoint brings; models that bring none do not look at it.

    Raises:
        ValueError: an unknown name, or an argument that the model does not take.
    """
    entry = _entry(name)
    if entry.runs_remote_code:
        build: Callable[..., Embedder] = entry.build
        return build(weights=weights, device=device, dtype=dtype, allow_remote_code=allow_remote_code)
    return entry.build(weights=weights, device=device, dtype=dtype)


def _entry(name: str, known: Iterable[str] = MODELS) -> ModelEntry:
    if name in MODELS:
        return MODELS[name]
    near = difflib.get_close_matches(name.lower().replace("_", "-"), known, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"no model is named {name!r}. {hint}Registered: {', '.join(known)}")
