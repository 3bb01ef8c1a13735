"""Scorer: what a model that gives frames a number takes; beside `embedder`, whose models give clips vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from curation_assets.models.weights import WeightsSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerSpec:
    """What a scorer takes; known without building it.

    Attributes:
        name: registry name, for example `aesthetic`.
        height_px: height H of the frames it takes.
        width_px: width W of the frames it takes.
        resize: how source frames come to H x W: `squash` ignores the aspect ratio, `crop` scales the short side and cuts the centre out.
        revision: version of code and weights; part of the fingerprint of every row that the model makes.
        licence: what the weights may be used for.
        gpu_memory_gb: GPU memory that a worker must reserve.
        weights: the repositories that it needs.

    Raises:
        ValueError: an empty text, or a number below 1.
    """

    name: str
    height_px: int
    width_px: int
    resize: Literal["squash", "crop"]
    revision: str
    licence: str
    gpu_memory_gb: float
    weights: tuple[WeightsSpec, ...]

    def __post_init__(self) -> None:
        for field in ("name", "revision", "licence", "weights"):
            if not getattr(self, field):
                raise ValueError(f"ScorerSpec.{field} is empty")
        for field in ("height_px", "width_px"):
            if getattr(self, field) < 1:
                raise ValueError(f"ScorerSpec.{field} is {getattr(self, field)}; it must be at least 1")

    def check_frames(self, frames: npt.NDArray[np.uint8]) -> None:
        """Check a batch before it goes to the model.

        Args:
            frames: uint8 (N, H, W, 3), RGB, N may be 0.

        Raises:
            TypeError: not a uint8 array.
            ValueError: another shape than (N, `height_px`, `width_px`, 3).
        """
        dtype = getattr(frames, "dtype", type(frames).__name__)
        if dtype != np.uint8:
            raise TypeError(f"{self.name} takes uint8 RGB frames, 0 to 255; these are {dtype}")
        wanted = (self.height_px, self.width_px, 3)
        if frames.ndim != 4 or frames.shape[1:] != wanted:
            raise ValueError(f"{self.name} takes frames of shape (N, {', '.join(map(str, wanted))}); these are {frames.shape}")
