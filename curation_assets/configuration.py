"""Configuration: how settings are found, read from `curation.yaml`, overridden per source, per command and per run, and checked."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from curation_assets.presets import PRESETS
from curation_assets.settings import Config, ProcessingSettings, SettingsError

_OF_THE_FILE = ("warehouse", "storage_options", "sources")
_OF_THE_PROJECT = ("embeddings.models", "clip_scores.scorers", "transcoded_clips.enabled", "previews", "max_failed_fraction")
_ABSENT = object()

M = TypeVar("M", bound=BaseModel)


def merge(base: Mapping[str, Any], *overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Merge trees, later ones winning; mappings are merged, everything else is replaced. So is a mapping of another `method`, whose keys are others."""
    result = dict(base)
    for tree in overrides:
        for key, value in tree.items():
            known = result.get(key)
            if isinstance(value, Mapping) and isinstance(known, Mapping) and _is_same_method(known, value):
                result[key] = merge(known, value)
            else:
                result[key] = value
    return result


def _is_same_method(base: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return "method" not in base or "method" not in other or base["method"] == other["method"]


def with_presets(tree: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Put the presets that a tree names under it; of several the later ones win, its own keys over all.

    Raises:
        SettingsError: a name that is no preset's.
    """
    names = tree.get("presets", [])
    if not isinstance(names, list):
        raise SettingsError(f"{where}: presets: expected a list of names, found {names!r}; there are {', '.join(PRESETS)}")
    for name in names:
        if name not in PRESETS:
            near = difflib.get_close_matches(str(name), PRESETS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(PRESETS)}"
            raise SettingsError(f"{where}: presets: no preset is named {name!r}; {hint}")
    return merge({}, *(PRESETS[name] for name in names), tree)


def resolve_settings(base: Mapping[str, Any], *overrides: Mapping[str, Any], where: str = "settings") -> ProcessingSettings:
    """Merge overrides over a processing tree and validate the result.

    Args:
        base: a processing tree, for example `Config.processing()`.
        overrides: partial trees, the later ones winning: the source's, then the run's.
        where: named in the message.

    Raises:
        SettingsError: a key or a value is wrong.
    """
    return _validated(ProcessingSettings, merge(base, *(with_presets(tree, where=where) for tree in overrides)), where=where)


def check_narrower_settings(own: Mapping[str, Any], *, where: str) -> None:
    """Refuse, in the settings of one source or one launched run, what only the whole project can have: which assets there are, and the command's verdict.

    Raises:
        SettingsError: such a key is there.
    """
    for key in _OF_THE_PROJECT:
        part: Any = own
        for name in key.split("."):
            part = part.get(name, _ABSENT) if isinstance(part, Mapping) else _ABSENT
        if part is not _ABSENT:
            raise SettingsError(
                f"{where}: {key} is for the whole project; put it at the top level of the settings file, or give --set {key}=… to curation-assets run"
            )


def without_project_settings(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree less what `check_narrower_settings` refuses."""
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
    for key in _OF_THE_PROJECT:
        part, _, name = key.rpartition(".")
        (result.get(part, {}) if part else result).pop(name, None)
    return {key: value for key, value in result.items() if value != {}}


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Build a tree from `a.b=value` strings; values are YAML.

    Raises:
        SettingsError: a string has no `=`, an empty key, or a value that is not YAML.
    """
    tree: dict[str, Any] = {}
    for text in assignments:
        path, equals, value = text.partition("=")
        names = path.strip().split(".")
        if not equals or not all(names):
            raise SettingsError(f"--set {text!r}: write KEY=VALUE, for example --set clips.splitter.clip_len_s=5")
        try:
            parsed: Any = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SettingsError(f"--set {text!r}: the value is not YAML: {error}") from error
        for name in reversed(names):
            parsed = {name: parsed}
        tree = merge(tree, parsed)
    return tree


def find_config(explicit: str | Path | None = None) -> Path | None:
    """Find the settings file: the argument, `CURATION_CONFIG`, or `./curation.yaml`.

    Raises:
        SettingsError: a file that was named does not exist.
    """
    named = explicit or os.environ.get("CURATION_CONFIG")
    if named:
        path = Path(named).expanduser()
        if not path.is_file():
            raise SettingsError(f"settings file {path} does not exist; name another with --config or CURATION_CONFIG")
        return path.absolute()  # links stay: a mounted settings file is often one, and its folder is where it is seen
    path = Path("curation.yaml")
    return path.absolute() if path.is_file() else None


def load_config(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read and check a settings file; without one, all defaults.

    Relative folders are taken from the file's own folder, or from the current one where there is no file.

    `overrides`, a processing tree, wins over the file and over the sources' own settings.

    Raises:
        SettingsError: not YAML, an unknown key (with the nearest right one), or a wrong value.
    """
    for key in _OF_THE_FILE:
        if overrides and key in overrides:
            raise SettingsError(f"--set: {key} cannot be overridden; put it into the settings file, or name another file with --config")
    tree: Any = {}
    if path is not None:
        try:
            tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise SettingsError(f"{path}: cannot be read: {error}") from error
        if not isinstance(tree, dict):
            raise SettingsError(f"{path}: expected a mapping of settings at the top, found {type(tree).__name__}")
    where = str(path) if path else "settings"
    base = path.parent if path else Path.cwd()
    config = _validated(Config, with_presets(tree, where=where), where=where)
    if overrides:  # over the defaults too, as a run merges them: a part of a frame set that is not named keeps its value
        merged = merge(config.processing(), with_presets(overrides, where="--set"))
        config = _validated(Config, {**config.model_dump(mode="json"), **merged}, where="--set")
    sources = {}
    for name, source in config.sources.items():
        place = f"{where}: sources.{name}.settings"
        check_narrower_settings(source.settings, where=place)
        resolve_settings(config.processing(), source.settings, overrides or {}, where=place)
        sources[name] = source.model_copy(update={"uri": absolute_uri(source.uri, base)})
    return config.model_copy(update={"warehouse": absolute_uri(config.warehouse, base), "sources": sources})


def absolute_uri(uri: str, base: Path) -> str:
    """Make a local path absolute; leave URLs alone."""
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", uri):
        return uri
    return os.path.normpath(base / Path(uri).expanduser())


def _validated(model: type[M], tree: Mapping[str, Any], *, where: str) -> M:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = [f"{where}: {_explain(model, problem)}" for problem in error.errors()]
        raise SettingsError("\n".join(lines)) from error


def _explain(model: type[BaseModel], problem: Any) -> str:
    path, model_at_end = _resolve(model, [str(part) for part in problem["loc"]])
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        known = list(model_at_end.model_fields) if model_at_end else []
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(known))}"
        return f"unknown key {key!r}; {hint}"
    if problem["type"] == "finite_number":
        field = model_at_end.model_fields.get(path[-1]) if model_at_end else None
        is_nullable = field is not None and type(None) in get_args(field.annotation)
        hint = "" if not is_nullable else "; null means no limit" if path[-1].startswith("max_") else "; or null"
        return f"{key}: expected a finite number{hint} (got {problem['input']!r})"
    return f"{key}: {problem['msg']} (got {problem['input']!r})" if key else str(problem["msg"])


def _resolve(model: Any, location: Sequence[str]) -> tuple[list[str], type[BaseModel] | None]:
    """Follow a location of pydantic's: give the keys as the user writes them, and the model that holds the last one."""
    path: list[str] = []
    holder: type[BaseModel] | None = None
    for name in location:
        if isinstance(model, type) and issubclass(model, BaseModel):
            holder = model
            model = model.model_fields[name].annotation if name in model.model_fields else None
            path.append(name)
            continue
        parts = [get_args(part)[0] if hasattr(part, "__metadata__") else part for part in get_args(model)]
        models = [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]
        tagged = [part for part in models if "method" in part.model_fields and name in get_args(part.model_fields["method"].annotation)]
        if tagged:  # a choice by method: pydantic names the method, which is no key
            holder = model = tagged[0]
            continue
        holder, model = None, models[0] if models else None  # a mapping: its values' model
        path.append(name)
    return path, holder
