"""Batching: clips through a torch model, some at a time, so that memory is bounded and a clip's vector depends on it alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def embed_clips(
    frames: npt.NDArray[np.uint8], *, device: torch.device, dim: int, forward: Callable[[torch.Tensor], torch.Tensor], at_once_on_gpu: int
) -> npt.NDArray[np.float32]:
    """Run clips through a model.

    Args:
        frames: uint8 (N, T, H, W, 3), RGB; N may be 0. They go to the device as bytes.
        device: where the model is.
        dim: length D of its vectors.
        forward: from uint8 (B, T, H, W, 3) on the device to (B, D), of any length.
        at_once_on_gpu: most clips per call on a GPU. On the CPU it is one: a clip's frames fill it, and in sums of another shape a vector would depend, in
            its last digits, on the rest of the batch.

    Returns:
        float32 (N, D), rows L2 = 1, input order.
    """
    import torch

    def embed(part: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        # A copy of a few clips: torch warns of arrays that cannot be written, and wants them contiguous.
        return unit_rows(forward(torch.from_numpy(np.array(part, order="C")).to(device)))

    return _in_parts(frames, at_once_on_gpu if device.type == "cuda" else 1, dim, embed)


def embed_in_parts(
    items: Sequence[T], *, at_once: int, dim: int, forward: Callable[[Sequence[T]], torch.Tensor]
) -> npt.NDArray[np.float32]:
    """Run anything else, for example texts, through a model; as `embed_clips`."""
    return _in_parts(items, at_once, dim, lambda part: unit_rows(forward(part)))


def _in_parts(
    items: Sequence[T] | npt.NDArray[np.uint8], at_once: int, dim: int, embed: Callable[..., npt.NDArray[np.float32]]
) -> npt.NDArray[np.float32]:
    """Embed some items at a time; fewer from then on when the GPU's memory does not hold so many."""
    import torch

    vectors = np.empty((len(items), dim), np.float32)
    at = 0
    with torch.inference_mode():
        while at < len(items):
            part = items[at : at + at_once]
            try:
                vectors[at : at + len(part)] = embed(part)
            except torch.cuda.OutOfMemoryError:
                if at_once == 1:
                    raise
                at_once = (at_once + 1) // 2
                torch.cuda.empty_cache()
                continue
            at += len(part)
    return vectors


def unit_rows(vectors: torch.Tensor) -> npt.NDArray[np.float32]:
    """Bring rows (B, D) to length 1, in float32."""
    import torch.nn.functional as F  # noqa: N812

    unit: npt.NDArray[np.float32] = F.normalize(vectors.float(), dim=-1).cpu().numpy()
    return unit
