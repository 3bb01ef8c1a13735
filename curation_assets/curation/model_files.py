"""Model files: what the registered models need, what of it is there, and the check before a run."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from curation_assets.models import names, registry
from curation_assets.models.download import download_weights
from curation_assets.models.weights import WeightsError, WeightsSpec, as_specs, check_weights, find_problems, repo_folder, snapshot_folder
from curation_assets.schemas.embeddings import embeddings_table
from curation_assets.settings import ModelsSettings, ProcessingSettings, SettingsError

_PACKAGES = ("torch", "transformers", "huggingface_hub", "safetensors")
"""What every model with weights imports."""

State = Literal["ready", "missing", "incomplete", "tampered", "no weights needed"]


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
        size_bytes: of all its files of known size, 0 without weights.
        licence: of its weights, of the code without any.
        state: the worst of its files' states.
    """

    name: str
    dim: int
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
        spec = registry.spec(name)
        found = [_repository(weights, settings.cache_dir) for weights in as_specs(spec.weights)]
    except ValueError as error:
        raise SettingsError(str(error)) from error
    return ModelRow(
        name=spec.name,
        dim=spec.dim,
        frames=spec.frames,
        height_px=spec.height_px,
        width_px=spec.width_px,
        has_text=spec.has_text,
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
    if "tampered" in states:
        state = "tampered"
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
    return "tampered" if "tampered" in states else "incomplete"


def all_names() -> list[str]:
    """List the registered models, the default one first."""
    return names()


def download_model(name: str, settings: ModelsSettings, *, shows_progress: bool) -> list[str]:
    """Bring a model's files into the cache and return their folders.

    Raises:
        DownloadError: offline, no access, no connection, or other content than what is pinned.
    """
    specs = as_specs(registry.spec(name).weights)
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
    """Check that the selected models can run: their packages are installed, and their weights are there and as published.

    Args:
        all_settings: of every source of the run.
        selected: paths of the selected assets; models of others are not looked at.

    Raises:
        SettingsError: they are not; says what is wrong and the command that mends it.
    """
    needed = {
        (name, settings.models.cache_dir)
        for settings in all_settings
        for name in settings.embeddings.models
        if (spec := registry.spec(name)).weights and tuple(embeddings_table(name, spec.dim).asset_key) in selected
    }
    for name, cache_dir in sorted(needed, key=str):
        check_model(name, cache_dir)


def check_model(name: str, cache_dir: str | None) -> None:
    """Check that one model can run; see `check_models`."""
    weights = registry.spec(name).weights
    if not weights:
        return
    if missing := missing_packages():
        raise SettingsError(
            f"embeddings.models: {name} needs {', '.join(missing)}, not installed here: pip install 'curation_assets[models]'"
        )
    try:
        check_weights(weights, model=name, cache_dir=cache_dir)
    except WeightsError as error:
        raise SettingsError(str(error)) from error
