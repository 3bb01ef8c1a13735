"""Loaded models: an embedding model as the settings want it run: where, in which format, how many clips at once. Loaded once per process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from curation_assets.models import load
from curation_assets.models.batching import ClipRunner, TorchEmbedder
from curation_assets.models.embedder import Embedder, EmbedderSpec
from curation_assets.models.shared import shared
from curation_assets.models.weights import as_specs, check_weights, snapshot_folder
from curation_assets.settings import EmbeddingsSettings, ProcessingSettings, SettingsError

CLIPS_ON_CPU = 16
"""Decoded together where the settings leave it open: enough that the threads always have some, 20 MB at 8 frames of 224 px."""


@dataclass(slots=True, eq=False)
class LoadedModel:
    """A model that is ready, with what was found out about it.

    Attributes:
        embedder: the model.
        batch_sizes: measured clips per call, by the bytes that torch was allowed.
        text_vectors: by texts, float32 (number of texts, D).
    """

    embedder: Embedder
    batch_sizes: dict[int, int] = field(default_factory=dict)
    text_vectors: dict[tuple[str, ...], npt.NDArray[np.float32]] = field(default_factory=dict)

    @property
    def gpu(self) -> ClipRunner | None:
        """What runs its clips, where it runs on a GPU."""
        runner = self.embedder.clips if isinstance(self.embedder, TorchEmbedder) else None
        return runner if runner is not None and runner.device.type == "cuda" else None

    def embed_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embed texts, once; only for a model that has texts."""
        if tuple(texts) not in self.text_vectors:
            self.text_vectors.clear()
            self.text_vectors[tuple(texts)] = self.embedder.embed_texts(list(texts))  # type: ignore[attr-defined]
        return self.text_vectors[tuple(texts)]


def held_model(settings: ProcessingSettings, spec: EmbedderSpec) -> tuple[LoadedModel, int | None]:
    """Load a model, or take the one that the process holds, and set how much of a GPU it may take.

    Args:
        settings: of the source.
        spec: which model. One without weights runs on the CPU in its own format, whatever the settings say.

    Returns:
        The model, and the bytes of GPU memory that it may take, None on the CPU.

    Raises:
        WeightsError: files that are missing, damaged or of another model, or code that may not run.
        SettingsError: the GPU memory that is allowed does not hold the model.
        ValueError: cuda is demanded, and there is no GPU.
    """
    chosen = settings.embeddings
    cache_dir = settings.models.cache_dir
    is_allowed = spec.name in chosen.allow_remote_code
    device, dtype = (chosen.device, chosen.dtype) if spec.weights else ("auto", "auto")
    allowed_bytes = _limit_memory(device, chosen) if spec.weights else None

    def build() -> LoadedModel:
        if spec.weights:  # a run that was not started from the command line has not been checked yet
            check_weights(spec.weights, model=spec.name, cache_dir=cache_dir)
        embedder = load(spec.name, weights=cache_dir if spec.weights else None, device=device, dtype=dtype, allow_remote_code=is_allowed)
        return LoadedModel(embedder)

    files = tuple(str(snapshot_folder(weights, cache_dir)) for weights in as_specs(spec.weights))
    try:
        return shared((spec.name, device, dtype, files, is_allowed, chosen.compile), build), allowed_bytes
    except RuntimeError as error:
        raise _named(error, spec.name, allowed_bytes) from error


def load_model(settings: ProcessingSettings, spec: EmbedderSpec, *, log: Callable[[str], None]) -> tuple[LoadedModel, Callable[[], int]]:
    """Load a model as `held_model`, and set how many clips go into a call.

    Args:
        settings: of the source.
        spec: which model.
        log: told where it runs.

    Returns:
        The model, and a function that says how many clips to decode together; on a GPU fewer from then on when its memory did not hold so many.

    Raises:
        WeightsError, SettingsError, ValueError: as `held_model`.
    """
    chosen = settings.embeddings
    model, allowed_bytes = held_model(settings, spec)
    try:
        size = _batch_size(model, spec, chosen, allowed_bytes)
    except RuntimeError as error:
        raise _named(error, spec.name, allowed_bytes) from error
    gpu = model.gpu
    if chosen.compile and isinstance(model.embedder, TorchEmbedder):
        model.embedder.clips.compile()
    if spec.weights:
        how = ", measured" if chosen.batch_size == "auto" and gpu else ""
        log(f"{spec.name} runs on the {'GPU' if gpu else 'CPU'}, {size} clips at a time{how}")
    return model, (lambda: gpu.at_once) if gpu else (lambda: size)


def _limit_memory(device: str, settings: EmbeddingsSettings) -> int | None:
    """Set what torch may take of the GPU, and return those bytes; None on the CPU."""
    from curation_assets.models.devices import choose_device, limit_gpu_memory

    place = choose_device(device)
    if place.type != "cuda":
        return None
    try:
        return limit_gpu_memory(place, share=settings.num_gpus_per_worker, most_gb=settings.gpu_memory_gb)
    except ValueError as error:
        raise SettingsError(f"embeddings.gpu_memory_gb, embeddings.num_gpus_per_worker: {error}") from error


def _batch_size(model: LoadedModel, spec: EmbedderSpec, settings: EmbeddingsSettings, allowed_bytes: int | None) -> int:
    gpu = model.gpu
    if gpu is None or allowed_bytes is None:
        return CLIPS_ON_CPU if settings.batch_size == "auto" else settings.batch_size
    if settings.batch_size != "auto":
        gpu.at_once = settings.batch_size
    elif allowed_bytes in model.batch_sizes:
        gpu.at_once = min(gpu.at_once, model.batch_sizes[allowed_bytes])
    else:
        shape = (spec.frames, spec.height_px, spec.width_px, 3)
        gpu.at_once = model.batch_sizes[allowed_bytes] = gpu.measure_batch(shape, allowed_bytes=allowed_bytes)
    return gpu.at_once


def _named(error: RuntimeError, model: str, allowed_bytes: int | None) -> Exception:
    """Name an error for what it is: memory that does not do is a matter of settings, anything else is left alone."""
    if allowed_bytes is None:
        return error
    import torch

    return out_of_memory(model, error) if isinstance(error, torch.cuda.OutOfMemoryError) else error


def out_of_memory(model: str, error: BaseException) -> SettingsError:
    """Write the error for a GPU whose memory does not hold a model with one clip."""
    return SettingsError(
        f"{model} with one clip does not fit into the GPU memory that it may take ({error}); raise embeddings.gpu_memory_gb or "
        "embeddings.num_gpus_per_worker, end what else uses the card, or set embeddings.device: cpu"
    )
