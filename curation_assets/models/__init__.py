"""Models: what turns frames into vectors. A registry of specs, one module per model; no tables, no video files.

A new model is one module with its `SPEC` and `build`, and one line in `registry.MODELS`.
"""

from curation_assets.models.embedder import Embedder, EmbedderSpec, TextEmbedder, select_frames
from curation_assets.models.registry import load, names, spec

__all__ = ["Embedder", "EmbedderSpec", "TextEmbedder", "load", "names", "select_frames", "spec"]
