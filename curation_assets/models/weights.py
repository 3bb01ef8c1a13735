"""Weights: which files a model needs, where they lie, and whether they are what was published. Reads only; `download.py` fetches.

A model's files are pinned by the commit of their repository, and the large ones by size and SHA-256 too. They lie in the Hugging Face cache, which names each
file's content after its hash: SHA-256 for large files, git's SHA-1 for small ones. A file without a pinned hash is checked against that name, which finds damage
but not a cache in which somebody changed content and name alike; where the cache has no such name, nothing is known of the file, and it is refused. Files that a
user names are taken as they are. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

_SAFE, _PICKLED = "model.safetensors", "pytorch_model.bin"
"""Names that the transformers library gives to files of weights."""

_MOST_NAMED = 5
"""Problems that a message lists; the rest are counted."""


class WeightsError(ValueError):
    """Weights that are missing, damaged or do not fit the network; the message says what to do."""


@dataclass(frozen=True)
class WeightFile:
    """One file of a repository.

    Attributes:
        name: path in the repository.
        size_bytes: pinned size, None where it is not known.
        sha256: pinned hash in hexadecimal, None where it is not known.
    """

    name: str
    size_bytes: int | None
    sha256: str | None


@dataclass(frozen=True)
class WeightsSpec:
    """The files that a model needs of one repository of the Hugging Face Hub.

    Attributes:
        repo: `owner/name`.
        revision: full commit hash, 40 hexadecimal digits.
        files: what is needed; the rest of the repository is not fetched.
        licence: SPDX name, or the licence's own where it has none.
        is_gated: the owner must let a user in before the files can be fetched.
        about_bytes: what there is to fetch, roughly, where the sizes of the files are not pinned.

    Raises:
        ValueError: a revision that is no commit hash, which could change its content, or no files.
    """

    repo: str
    revision: str
    files: tuple[WeightFile, ...]
    licence: str
    is_gated: bool = False
    about_bytes: int | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            raise ValueError(f"WeightsSpec.revision of {self.repo} is {self.revision!r}; it must be a full commit hash")
        if not self.files:
            raise ValueError(f"WeightsSpec.files of {self.repo} is empty")

    @property
    def url(self) -> str:
        """The repository's page."""
        return f"https://huggingface.co/{self.repo}"

    @property
    def size_bytes(self) -> int:
        """What there is to fetch: the sum of the sizes that are known, or what stands for it."""
        return self.about_bytes or sum(file.size_bytes or 0 for file in self.files)


@dataclass(frozen=True)
class Problem:
    """What is wrong with one file."""

    name: str
    state: Literal["missing", "incomplete", "tampered", "not checked", "unreadable"]
    detail: str

    def __str__(self) -> str:
        return f"{self.name} {self.detail}"


def as_specs(weights: WeightsSpec | Sequence[WeightsSpec] | None) -> tuple[WeightsSpec, ...]:
    """Give the repositories of a model as a tuple, empty for one without weights."""
    if weights is None:
        return ()
    return (weights,) if isinstance(weights, WeightsSpec) else tuple(weights)


def hub_cache(cache_dir: str | Path | None) -> Path:
    """Name the Hugging Face cache: the given folder, else what HF_HUB_CACHE, HF_HOME and the library's own default say.

    Raises:
        WeightsError: none is given, and huggingface_hub, which knows the default, is not installed.
    """
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    if importlib.util.find_spec("huggingface_hub") is None:
        raise WeightsError("huggingface_hub is not installed here: pip install 'curation_assets[models]'")
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def repo_folder(spec: WeightsSpec, cache_dir: str | Path | None) -> Path:
    """Name the folder of the cache in which a repository lies."""
    return hub_cache(cache_dir) / f"models--{spec.repo.replace('/', '--')}"


def snapshot_folder(spec: WeightsSpec, cache_dir: str | Path | None) -> Path:
    """Name the folder of the cache in which the pinned files lie."""
    return repo_folder(spec, cache_dir) / "snapshots" / spec.revision


def find_problems(spec: WeightsSpec, cache_dir: str | Path | None = None) -> list[Problem]:
    """Check every file of a repository in the cache, by size and hash; an empty list means that all are there, and as pinned or as the cache names them."""
    folder = snapshot_folder(spec, cache_dir)
    return [problem for file in spec.files if (problem := _problem(folder / file.name, file)) is not None]


def _problem(path: Path, file: WeightFile) -> Problem | None:
    try:
        return _checked(path, file)
    except OSError as error:
        return Problem(file.name, "unreadable", f"cannot be read: {error.strerror or error}")


def _checked(path: Path, file: WeightFile) -> Problem | None:
    if path.is_dir():
        return Problem(file.name, "unreadable", "is a folder, not a file")
    if not path.is_file():
        return Problem(file.name, "missing", "is missing")
    size = path.stat().st_size
    if file.size_bytes is not None and size != file.size_bytes:
        is_short = size < file.size_bytes
        return Problem(file.name, "incomplete" if is_short else "tampered", f"has {size:,} bytes, published with {file.size_bytes:,}")
    target = path.resolve()
    expected = file.sha256 or (target.name if path.is_symlink() else "")
    if re.fullmatch(r"[0-9a-f]{64}", expected):
        found = file_sha256(target)
    elif re.fullmatch(r"[0-9a-f]{40}", expected):
        found = hashlib.sha1(b"blob %d\0" % size + target.read_bytes(), usedforsecurity=False).hexdigest()
    else:
        return Problem(file.name, "not checked", "has no published hash here and is no link to content that the cache names after its hash")
    who = "published with" if file.sha256 else "the cache names it"
    return None if found == expected else Problem(file.name, "tampered", f"has the hash {found}, {who} {expected}")


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file; once per process as long as its size and time stay."""
    stat = path.stat()
    return _sha256(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256(path: str, size_bytes: int, mtime_ns: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_weights(specs: WeightsSpec | Sequence[WeightsSpec], *, model: str, cache_dir: str | Path | None = None) -> list[Path]:
    """Find a model's folders in the cache, every file checked.

    Args:
        specs: the repositories.
        model: registry name, for the message.
        cache_dir: the Hugging Face cache, None for its default.

    Returns:
        The snapshot folders, in the order of the repositories.

    Raises:
        WeightsError: names what is missing, cut short, tampered with, unreadable or not to be checked, and the command that mends it.
    """
    specs = as_specs(specs)
    wrong = [(spec, problems) for spec in specs if (problems := find_problems(spec, cache_dir))]
    if wrong:
        raise WeightsError(
            f"{describe_problems(wrong, model=model, cache_dir=cache_dir)}; mend it: curation-assets models download {model}"
        )
    return [snapshot_folder(spec, cache_dir) for spec in specs]


def describe_problems(wrong: Sequence[tuple[WeightsSpec, Sequence[Problem]]], *, model: str, cache_dir: str | Path | None) -> str:
    """Write one sentence about what is wrong with a model's files, and what a gated repository asks for."""
    parts = [
        f"{listed(problems)} (of {spec.repo}, in {snapshot_folder(spec, cache_dir)})"
        + (f"; it is gated: accept its terms at {spec.url} and set HF_TOKEN" if spec.is_gated else "")
        for spec, problems in wrong
    ]
    return f"the weights of {model} are not ready: " + ", and ".join(parts)


def listed(items: Sequence[object]) -> str:
    """Join the first items, and count the others."""
    more = f" and {len(items) - _MOST_NAMED} more" if len(items) > _MOST_NAMED else ""
    return ", ".join(map(str, items[:_MOST_NAMED])) + more


def find_weights(specs: WeightsSpec | Sequence[WeightsSpec], weights: str | Path | None, *, model: str) -> Path | list[Path]:
    """Find the folder or folders that hold a model's files.

    Args:
        specs: one repository, or several.
        weights: None for the default Hugging Face cache; another cache, known by the folder of one of the repositories in it; a folder of the user's with the
            files, those of several repositories beside each other or in folders called like the repositories; or one of the files, the others beside it.
            Of several repositories, those of which the folder has no file come from the cache.
        model: registry name, for the message.

    Returns:
        One folder for one repository, a list in their order for several. Files of a cache are checked by hash, those of a user only for being there.

    Raises:
        WeightsError: names what is missing, cut short, tampered with or unreadable, and the command that mends it.
    """
    all_specs = as_specs(specs)
    if weights is None:
        found = check_weights(all_specs, model=model)
    else:
        place = Path(weights).expanduser()
        try:
            is_cache = any(repo_folder(spec, place).is_dir() for spec in all_specs)
            found = check_weights(all_specs, model=model, cache_dir=place) if is_cache else _in_own_folder(all_specs, place, model)
        except OSError as error:
            raise WeightsError(f"weights of {model}: {place} cannot be read: {error.strerror or error}") from error
    return found[0] if isinstance(specs, WeightsSpec) else found


def _in_own_folder(specs: Sequence[WeightsSpec], place: Path, model: str) -> list[Path]:
    """Find each repository's files in a place that the user names."""
    if not place.exists():
        raise WeightsError(f"weights of {model}: there is no file or folder {place}")
    names = [file.name for spec in specs for file in spec.files]
    if place.is_file() and not any(_has(spec, place.name) for spec in specs):
        raise WeightsError(f"weights of {model}: {place} is none of {listed(names)}; call it so, or name the folder")
    folder = place if place.is_dir() else place.parent
    found: list[Path | None] = []
    for spec in specs:
        own = folder / spec.repo.partition("/")[2]
        candidates = [folder if place.is_file() and _has(spec, place.name) else own, folder]  # a named file is not passed over
        missing = [[file.name for file in spec.files if not _is_there(candidate / file.name)] for candidate in candidates]
        whole = next((candidate for candidate, lacks in zip(candidates, missing, strict=True) if not lacks), None)
        has_none = all(len(lacks) == len(spec.files) for lacks in missing)
        if whole is None and (len(specs) == 1 or not has_none):
            raise WeightsError(f"weights of {model}: {folder} lacks {listed(missing[1])}, of {spec.repo}")
        found.append(whole)
    if not any(found):
        raise WeightsError(f"weights of {model}: {folder} has none of {listed(names)}")
    return [path or check_weights(spec, model=model)[0] for spec, path in zip(specs, found, strict=True)]


def _has(spec: WeightsSpec, name: str) -> bool:
    names = [file.name for file in spec.files]
    return name in names or (name == _SAFE and _PICKLED in names)


def _is_there(path: Path) -> bool:
    """Look for a file, or for the safetensors that a user's folder may have instead of pytorch_model.bin."""
    return path.is_file() or (path.name == _PICKLED and path.with_name(_SAFE).is_file())


def weights_file(spec: WeightsSpec, folder: Path, weights: str | Path | None = None) -> Path:
    """Choose the file of weights in a folder that `find_weights` gave: the one that the user named, else the one of the spec, which a cache has checked.

    Args:
        spec: the repository; one of its files is model.safetensors or pytorch_model.bin.
        folder: where its files lie.
        weights: what the user named, as for `find_weights`.

    Returns:
        Its path. In a folder of the user's without the spec's pytorch_model.bin it is model.safetensors.
    """
    named = None if weights is None else Path(weights).expanduser()
    if named is not None and named.name in (_SAFE, _PICKLED) and named.is_file():
        return named
    path = folder / next(file.name for file in spec.files if file.name in (_SAFE, _PICKLED))
    return path if path.is_file() else path.with_name(_SAFE)
