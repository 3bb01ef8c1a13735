"""Batching: clips through a torch model, some at a time, so that memory is bounded and a clip's vector depends on it alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from curation_assets.models.embedder import Embedder

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
_MOST_CLIPS_TRIED = 256
_LEAST_GAIN = 1.05  # a doubled batch that is less than this faster is not worth its memory
_MEMORY_MARGIN = 0.85  # of what is allowed: the allocator's gaps


class ClipRunner:
    """Runs clips through a torch model on its device.

    Args:
        forward: from uint8 (B, T, H, W, 3) on the device to (B, D), of any length.
        device: where the model is.
        dim: length D of its vectors.
        at_once_on_gpu: most clips per call on a GPU, until the caller sets `at_once`. On the CPU it is one: a clip's frames fill it, and in sums of another
            shape a vector would depend, in its last digits, on the rest of the batch.

    Attributes:
        at_once: most clips per call; halved for good when the GPU's memory did not hold so many. On the CPU it stays one.
    """

    def __init__(self, forward: Callable[[torch.Tensor], torch.Tensor], *, device: torch.device, dim: int, at_once_on_gpu: int) -> None:
        self._forward = forward
        self._dim = dim
        self._is_compiled = False
        self.device = device
        self.at_once = at_once_on_gpu if device.type == "cuda" else 1

    def compile(self) -> None:
        """Have torch compile the model at its next call; that takes from seconds to minutes, once per shape of batch."""
        import torch

        if not self._is_compiled:
            self._forward = torch.compile(self._forward, dynamic=False)
            self._is_compiled = True

    def __call__(self, clips: npt.NDArray[np.uint8] | torch.Tensor) -> npt.NDArray[np.float32]:
        """Embed clips.

        Args:
            clips: uint8 (N, T, H, W, 3), RGB, N may be 0; in memory, from where they go to the device as bytes, or on the device already.

        Returns:
            float32 (N, D), rows L2 = 1, input order. A row that the model makes of NaN or of zeros is NaN or zeros.

        Raises:
            torch.cuda.OutOfMemoryError: a single clip does not fit.
        """
        import torch

        vectors = np.empty((len(clips), self._dim), np.float32)
        at = 0
        with torch.inference_mode():
            while at < len(clips):
                part = clips[at : at + self.at_once]
                size = self.at_once if self._is_compiled else len(part)
                found = _rows_if_they_fit(partial(self._part, part), is_last_try=size == 1)
                if found is None:
                    self.at_once = (size + 1) // 2
                    torch.cuda.empty_cache()
                    continue
                vectors[at : at + len(part)] = found
                at += len(part)
        return vectors

    def _part(self, part: npt.NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
        """Run one call's clips."""
        import torch

        # A copy of a few clips: torch warns of arrays that cannot be written, and wants them contiguous.
        given = part if isinstance(part, torch.Tensor) else torch.from_numpy(np.array(part, order="C")).to(self.device)
        count = len(given)
        if self._is_compiled and count < self.at_once:  # another shape would be compiled anew
            given = torch.cat([given, given[-1:].expand(self.at_once - count, *given.shape[1:])])
        return self._forward(given)[:count]

    def measure_batch(self, shape: Sequence[int], *, allowed_bytes: int) -> int:
        """Find how many clips a call should take on this GPU, by trial: doubled while that is faster and the memory holds it.

        Args:
            shape: of a clip, (T, H, W, 3).
            allowed_bytes: GPU memory that torch may use.
        """
        import torch

        best, best_rate, used, size = 1, 0.0, 0, 1
        while size <= _MOST_CLIPS_TRIED:
            clips = torch.zeros((size, *shape), dtype=torch.uint8, device=self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            try:
                with torch.inference_mode():
                    self._forward(clips)  # the first call of a shape chooses kernels
                    torch.cuda.synchronize(self.device)
                    start_s = time.perf_counter()
                    self._forward(clips)
                    torch.cuda.synchronize(self.device)
            except torch.cuda.OutOfMemoryError:
                break
            rate = size / (time.perf_counter() - start_s)
            before, used = used, torch.cuda.max_memory_allocated(self.device)
            if used > _MEMORY_MARGIN * allowed_bytes or rate < _LEAST_GAIN * best_rate:
                break
            best, best_rate = size, rate
            if 2 * used - before > _MEMORY_MARGIN * allowed_bytes and size > 1:  # what a clip takes is linear
                break
            size *= 2
        torch.cuda.empty_cache()
        return best


@runtime_checkable
class TorchEmbedder(Embedder, Protocol):
    """An embedder whose model is torch's, so that the caller may say how it runs."""

    @property
    def clips(self) -> ClipRunner:
        """What runs its clips."""


class Uploader:
    """Takes batches of frames to a GPU beside the model's work: from pinned memory, without blocking it, on a stream of its own.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        import torch

        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def allocate(self, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """Make an array in pinned memory; torch keeps and reuses such blocks."""
        import torch

        tensor = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        array: npt.NDArray[np.uint8] = tensor.numpy()  # keeps the tensor
        return array

    def upload(self, frames: npt.NDArray[np.uint8]) -> torch.Tensor | npt.NDArray[np.uint8]:
        """Copy frames to the GPU and wait for that copy only; they stay where they are when its memory is full.

        For a thread beside the one that runs the model.
        """
        import torch

        try:
            with torch.cuda.stream(self._stream):
                found = torch.from_numpy(frames).to(self._device, non_blocking=True)
        except torch.cuda.OutOfMemoryError:
            return frames
        self._stream.synchronize()
        found.record_stream(torch.cuda.default_stream(self._device))  # where it is used, and must not be handed out again before
        return found


def embed_in_parts(
    items: Sequence[T], *, at_once: int, dim: int, forward: Callable[[Sequence[T]], torch.Tensor]
) -> npt.NDArray[np.float32]:
    """Run anything else, for example texts, through a model, `at_once` at a time or as many as fit, and give its unit rows, float32 (N, D)."""
    import torch

    vectors = np.empty((len(items), dim), np.float32)
    at = 0
    with torch.inference_mode():
        while at < len(items):
            part = items[at : at + at_once]
            found = _rows_if_they_fit(partial(forward, part), is_last_try=len(part) == 1)
            if found is None:
                at_once = (len(part) + 1) // 2
                torch.cuda.empty_cache()
                continue
            vectors[at : at + len(part)] = found
            at += len(part)
    return vectors


def _rows_if_they_fit(forward: Callable[[], torch.Tensor], *, is_last_try: bool) -> npt.NDArray[np.float32] | None:
    """Give the unit rows of one call, None when the GPU's memory does not hold it.

    The caller makes room then: while the error is being handled it still holds what the call had made.
    """
    import torch

    try:
        return unit_rows(forward())
    except torch.cuda.OutOfMemoryError:
        if is_last_try:
            raise
        return None


def unit_rows(vectors: torch.Tensor) -> npt.NDArray[np.float32]:
    """Bring rows (B, D) to length 1, in float32."""
    import torch.nn.functional as F  # noqa: N812

    unit: npt.NDArray[np.float32] = F.normalize(vectors.float(), dim=-1).cpu().numpy()
    return unit


def is_device_error(error: BaseException) -> bool:
    """Say whether an error is the GPU's own, after which this process can use it no more; that its memory is full is none."""
    import torch

    if isinstance(error, torch.cuda.OutOfMemoryError):
        return False
    marks = ("CUDA error", "CUDA driver error", "cuDNN error", "CUBLAS_STATUS")
    return isinstance(error, torch.AcceleratorError) or (isinstance(error, RuntimeError) and any(mark in str(error) for mark in marks))
