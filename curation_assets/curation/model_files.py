"""Model files: what the registered models need, what of it is there, and the check before a run."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from curation_assets.curation.model_frames import frame_sets
from curation_assets.models import registry
from curation_assets.models.download import download_weights
from curation_assets.models.embedder import EmbedderSpec
from curation_assets.models.weights import WeightsError, WeightsSpec, as_specs, check_weights, find_problems, repo_folder, snapshot_folder
from curation_assets.schemas.clip_scores import SCORER_TABLES
from curation_assets.schemas.embeddings import embeddings_table
from curation_assets.settings import ModelsSettings, ProcessingSettings, SettingsError

_PACKAGES = ("torch", "transformers", "huggingface_hub", "safetensors")
"""What every model with weights imports."""

State = Literal["ready", "missing", "incomplete", "unreadable", "not checked", "tampered", "no weights needed"]
_GRAVE: tuple[State, ...] = ("tampered", "not checked", "unreadable")
"""States of one file that are those of its whole model, the worst first."""


class DownloadError(Exception):
    """Weights that could not be fetched; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Repository:
    """One repository of a model, and what of it is there."""

    repo: str
    revision: str
    size_bytes: int
    licence: str
    is_gated: bool
    folder: str
    problems: list[str]


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model, as `models list` shows it.

    Attributes:
        kind: embedder: gives vectors; scorer: gives a score, which has no `dim`, frame by frame, so that `frames` is 1.
        size_bytes: of all its files of known size, 0 without weights.
        licence: of its weights, of the code without any.
        state: the worst of its files' states.
    """

    name: str
    kind: Literal["embedder", "scorer"]
    dim: int | None
    frames: int
    height_px: int
    width_px: int
    has_text: bool
    size_bytes: int
    licence: str
    is_gated: bool
    state: State
    repositories: list[Repository]

    def as_dict(self) -> dict[str, Any]:
        """Give the row for JSON."""
        return asdict(self)


def describe_model(name: str, settings: ModelsSettings) -> ModelRow:
    """Look at a model's files; each is read whole for its hash.

    Raises:
        SettingsError: no model has this name, or huggingface_hub is needed to find the cache and not installed.
    """
    try:
        spec = registry.any_spec(name)
        found = [_repository(weights, settings.cache_dir) for weights in as_specs(spec.weights)]
    except ValueError as error:
        raise SettingsError(str(error)) from error
    return ModelRow(
        name=spec.name,
        kind="embedder" if isinstance(spec, EmbedderSpec) else "scorer",
        dim=spec.dim if isinstance(spec, EmbedderSpec) else None,
        frames=spec.frames if isinstance(spec, EmbedderSpec) else 1,
        height_px=spec.height_px,
        width_px=spec.width_px,
        has_text=isinstance(spec, EmbedderSpec) and spec.has_text,
        size_bytes=sum(repository.size_bytes for repository, _ in found),
        licence=", ".join(dict.fromkeys(repository.licence for repository, _ in found)) or spec.licence,
        is_gated=any(repository.is_gated for repository, _ in found),
        state=_state(found),
        repositories=[repository for repository, _ in found],
    )


def _repository(weights: WeightsSpec, cache_dir: str | None) -> tuple[Repository, State]:
    problems = find_problems(weights, cache_dir)
    states = {problem.state for problem in problems}
    state: State = "ready"
    if grave := [one for one in _GRAVE if one in states]:
        state = grave[0]
    elif problems:
        # A folder with a file or two is a download that was interrupted.
        is_begun = "incomplete" in states or len(problems) < len(weights.files) or any(repo_folder(weights, cache_dir).glob("blobs/*"))
        state = "incomplete" if is_begun else "missing"
    return Repository(
        repo=weights.repo,
        revision=weights.revision,
        size_bytes=weights.size_bytes,
        licence=weights.licence,
        is_gated=weights.is_gated,
        folder=str(snapshot_folder(weights, cache_dir)),
        problems=[str(problem) for problem in problems],
    ), state


def _state(found: Sequence[tuple[Repository, State]]) -> State:
    states = [state for _, state in found]
    if not states:
        return "no weights needed"
    if len(set(states)) == 1:
        return states[0]
    return next((state for state in _GRAVE if state in states), "incomplete")


def all_names() -> list[str]:
    """List the registered models, the default one first, the scorers last."""
    return registry.names_with_weights()


def download_model(name: str, settings: ModelsSettings, *, shows_progress: bool) -> list[str]:
    """Bring a model's files into the cache and return their folders.

    Raises:
        DownloadError: offline, no access, no connection, or other content than what is pinned.
    """
    specs = as_specs(registry.any_spec(name).weights)
    try:
        folders = download_weights(
            specs, model=name, cache_dir=settings.cache_dir, is_offline=settings.offline, shows_progress=shows_progress
        )
    except WeightsError as error:
        raise DownloadError(str(error)) from error
    return [str(folder) for folder in folders]


def missing_packages() -> list[str]:
    """List the packages that models with weights need and that are not installed; imports none of them."""
    return [package for package in _PACKAGES if importlib.util.find_spec(package) is None]


def check_models(all_settings: Sequence[ProcessingSettings], *, selected: Collection[tuple[str, ...]]) -> None:
    """Check that the selected models can run: packages are installed, weights are there and as published, and a GPU is where one is demanded.

    Args:
        all_settings: of every source of the run.
        selected: paths of the selected assets; models of others are not looked at.

    Raises:
        SettingsError: they are not; says what is wrong and the command that mends it.
    """
    needed: set[tuple[str, str, str | None, str]] = set()  # the settings that ask for it, the model, the cache, the device
    for settings in all_settings:
        frame_sets(settings)  # raises when a set of the settings is not what a model reads
        cache_dir = settings.models.cache_dir
        for name in settings.embeddings.models:
            spec = registry.spec(name)
            if spec.weights and tuple(embeddings_table(name, spec.dim).asset_key) in selected:
                needed.add(("embeddings", name, cache_dir, settings.embeddings.device))
        for name in settings.clip_scores.scorers:
            if name in registry.SCORERS and tuple(SCORER_TABLES[name].asset_key) in selected:
                needed.add(("clip_scores.aesthetic", name, cache_dir, settings.clip_scores.aesthetic.device))
    for where, name, cache_dir, device in sorted(needed, key=str):
        check_model(name, cache_dir, where=where, device=device)


def check_model(name: str, cache_dir: str | None, *, where: str = "embeddings", device: str = "auto") -> None:
    """Check that one model can run; see `check_models`.

    Args:
        name: registry name of an embedder or a scorer.
        cache_dir: of the settings.
        where: the part of the settings that asks for it.
        device: that is asked for.
    """
    weights = as_specs(registry.any_spec(name).weights)
    if not weights:
        return
    if missing := missing_packages():
        what = "embeddings.models" if where == "embeddings" else "clip_scores.scorers"
        raise SettingsError(f"{what}: {name} needs {', '.join(missing)}, not installed here: pip install 'curation_assets[models]'")
    _check_device(where, name, device)
    try:
        check_weights(weights, model=name, cache_dir=cache_dir)
    except WeightsError as error:
        raise SettingsError(str(error)) from error


def _check_device(where: str, name: str, device: str) -> None:
    from curation_assets.models.devices import choose_device

    if device == "cuda":  # only then is torch worth its seconds
        try:
            choose_device(device)
        except ValueError as error:
            raise SettingsError(f"{where}.device, for {name}: {error}") from error
