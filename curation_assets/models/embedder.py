"""Embedder: the seam between stored frames and a model, and the choice of frames that it takes from a clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from curation_assets.models.weights import WeightsSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderSpec:
    """What a model takes and gives; known without building the model.

    Attributes:
        name: registry name, for example `clip-vit-b32`.
        dim: length D of its vectors.
        frames: frames per clip that the model takes, T.
        height_px: height H of the frames it takes.
        width_px: width W of the frames it takes.
        resize: how source frames come to H x W: `squash` ignores the aspect ratio, `crop` scales the short side and cuts the centre out.
        selection: how T frames are chosen from a clip's, `uniform` as in `select_frames`.
        has_text: whether texts embed into the same space.
        revision: version of code and weights; part of the fingerprint of every row that the model makes.
        licence: SPDX name of what the weights may be used for, of the code where there are no weights.
        gpu_memory_gb: GPU memory that a worker must reserve, 0 for a model that runs on the CPU.
        duplicate_eps: cosine distance (1 - cosine) up to which two clips are near-duplicates, where the settings do not say.
        weights: the files that it needs, None for a model without any.

    Raises:
        ValueError: an empty text, a number below 1, or a negative memory.
    """

    name: str
    dim: int
    frames: int
    height_px: int
    width_px: int
    resize: Literal["squash", "crop"]
    selection: Literal["uniform"]
    has_text: bool
    revision: str
    licence: str
    gpu_memory_gb: float
    duplicate_eps: float = 0.1
    weights: WeightsSpec | tuple[WeightsSpec, ...] | None = None

    def __post_init__(self) -> None:
        for field in ("name", "revision", "licence"):
            if not getattr(self, field):
                raise ValueError(f"EmbedderSpec.{field} is empty")
        for field in ("dim", "frames", "height_px", "width_px"):
            if getattr(self, field) < 1:
                raise ValueError(f"EmbedderSpec.{field} is {getattr(self, field)}; it must be at least 1")
        if self.gpu_memory_gb < 0:
            raise ValueError(f"EmbedderSpec.gpu_memory_gb is {self.gpu_memory_gb}; it must not be negative")
        if not 0 < self.duplicate_eps < 1:
            raise ValueError(f"EmbedderSpec.duplicate_eps is {self.duplicate_eps}; it must lie between 0 and 1")

    def check_frames(self, frames: npt.NDArray[np.uint8]) -> None:
        """Check a batch before it goes to the model.

        Args:
            frames: uint8 (N, T, H, W, 3), RGB, N may be 0.

        Raises:
            TypeError: not a uint8 array.
            ValueError: another shape than (N, `frames`, `height_px`, `width_px`, 3).
        """
        dtype = getattr(frames, "dtype", type(frames).__name__)
        if dtype != np.uint8:
            raise TypeError(f"{self.name} takes uint8 RGB frames, 0 to 255; these are {dtype}")
        wanted = (self.frames, self.height_px, self.width_px, 3)
        if frames.ndim != 5 or frames.shape[1:] != wanted:
            raise ValueError(f"{self.name} takes frames of shape (N, {', '.join(map(str, wanted))}); these are {frames.shape}")


class Embedder(Protocol):
    """A model that is ready to embed. Made by `models.load`; one per process, not shared by threads."""

    @property
    def spec(self) -> EmbedderSpec:
        """What the model takes and gives."""

    def embed_frames(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Embed clips, each from its T frames in order of time.

        A clip's vector depends on its own frames only, never on the rest of the batch.

        Args:
            frames: uint8 (N, T, H, W, 3), RGB; N = 0 is allowed.

        Returns:
            float32 (N, D), rows L2 = 1, input order.

        Raises:
            TypeError: not a uint8 array.
            ValueError: the shape does not fit the spec.
        """


class TextEmbedder(Embedder, Protocol):
    """A model whose `spec.has_text` is true."""

    def embed_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embed texts into the space of the clips.

        A text's vector depends on it only, never on the rest of the batch. Texts that are longer than the model takes are cut.

        Args:
            texts: any number, 0 too.

        Returns:
            float32 (N, D), rows L2 = 1, input order.
        """


def select_frames(num_available: int, num_wanted: int) -> npt.NDArray[np.int64]:
    """Choose frames uniformly over a whole clip, the first and the last always among them.

    Frame i of `num_wanted` is the one nearest to i * (num_available - 1) / (num_wanted - 1), the earlier of two equally near ones; a single frame is the
    middle one. With fewer frames than wanted the nearest are repeated, as evenly as can be. Integers only, so the choice is the same on every machine.

    Args:
        num_available: frames of the clip, at least 1.
        num_wanted: frames that the model takes, at least 1.

    Returns:
        int64 (num_wanted,), not decreasing, 0 to num_available - 1.

    Raises:
        ValueError: a number below 1.
    """
    if num_available < 1 or num_wanted < 1:
        raise ValueError(f"cannot choose {num_wanted} of {num_available} frames; both must be at least 1")
    if num_wanted == 1:
        return np.array([(num_available - 1) // 2], dtype=np.int64)
    steps = num_wanted - 1
    doubled = 2 * np.arange(num_wanted, dtype=np.int64) * (num_available - 1)
    return (doubled + steps - 1) // (2 * steps)


def select_first_frames(num_available: int, num_wanted: int) -> npt.NDArray[np.int64]:
    """Choose frames as NeMo Curator and cosmos-curator do: every k-th from the first, k = num_available // num_wanted, and the first `num_wanted` of those.

    The end of a clip is often not seen: of 21 frames, 8 are taken from the first 15. With fewer frames than wanted it is `select_frames`.

    Args:
        num_available: frames of the clip, at least 1.
        num_wanted: frames that the model takes, at least 1.

    Returns:
        int64 (num_wanted,), not decreasing, 0 to num_available - 1.

    Raises:
        ValueError: a number below 1.
    """
    if num_wanted < 1 or num_available < num_wanted:
        return select_frames(num_available, num_wanted)
    return np.arange(num_wanted, dtype=np.int64) * (num_available // num_wanted)
