"""Weights: where the files of a model's pinned revision lie. Nothing is downloaded here."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class WeightsError(ValueError):
    """Weights that are missing or do not fit the network; the message says what to do."""


@dataclass(frozen=True)
class WeightFile:
    """One file of a repository; None where the size or the hash is not known."""

    name: str
    size_bytes: int | None
    sha256: str | None


@dataclass(frozen=True)
class WeightsSpec:
    """The files that a model needs of one repository of the Hugging Face Hub, at one commit."""

    repo: str
    revision: str
    files: tuple[WeightFile, ...]
    licence: str
    is_gated: bool = False


def find_weights(specs: WeightsSpec | Sequence[WeightsSpec], weights: str | Path | None, *, model: str) -> Path | list[Path]:
    """Find the folder that holds the files of each spec: the user's, or that of the Hugging Face cache at the pinned revision, whose hashes are checked.

    Args:
        specs: one spec, or several.
        weights: the user's folder with all files, or one file in it.
        model: registry name, for the message.

    Returns:
        One folder for one spec, a list of folders for several.

    Raises:
        WeightsError: a file is missing, or not the pinned one; the message names all of them and the command that downloads them.
    """
    if isinstance(specs, WeightsSpec):
        return _folder(specs, weights, model)
    return [_folder(spec, weights, model) for spec in specs]


def _folder(spec: WeightsSpec, weights: str | Path | None, model: str) -> Path:
    if weights is None:
        from huggingface_hub.constants import HF_HUB_CACHE

        folder = Path(HF_HUB_CACHE) / f"models--{spec.repo.replace('/', '--')}" / "snapshots" / spec.revision
    else:
        folder = Path(weights).expanduser()
        folder = folder.parent if folder.is_file() else folder
    missing = [file.name for file in spec.files if not (folder / file.name).is_file()]
    if missing:
        raise WeightsError(
            f"{model}: no {', '.join(missing)} of {spec.repo} in {folder}; get them with: curation-assets models download {model}"
        )
    if weights is None:
        for file in spec.files:
            with (folder / file.name).open("rb") as opened:
                if file.sha256 and (found := hashlib.file_digest(opened, "sha256").hexdigest()) != file.sha256:
                    raise WeightsError(f"{model}: {folder / file.name} has the SHA-256 {found}, expected {file.sha256}; download it anew")
    return folder
