"""Configuration: how settings are found, read from `curation.yaml`, overridden per source, per command and per run, and checked."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from curation_assets.presets import PRESETS
from curation_assets.settings import SPLITTERS, Config, ProcessingSettings, SettingsError, Splitter

_OF_THE_FILE = ("warehouse", "storage_options", "sources", "watch", "queues", "sensors", "automation", "maintenance", "kubernetes")
_OF_THE_PROJECT = ("embeddings.models", "clip_scores.scorers", "transcoded_clips.enabled", "previews", "max_failed_fraction")
_MODELS = "embeddings.models"  # which assets there are; a source may name some of them
_OF_ALL_SOURCES = (*(key for key in _OF_THE_PROJECT if key != _MODELS), "dedup")
_ONE_RATE = ("quality", "bit_rate_bps")  # of transcoded_clips: a level that gives one of them takes away the other of the levels below
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
        if not isinstance(name, str) or name not in PRESETS:
            raise SettingsError(f"{where}: presets: no preset is named {name!r}; {_near(str(name), PRESETS, other='there are')}")
    return _lay({}, *(PRESETS[name] for name in names), _with_method(tree))


def _lay(base: Mapping[str, Any], *levels: Mapping[str, Any]) -> dict[str, Any]:
    """Merge levels of settings, later ones winning: as `merge`, and one rate takes the place of another."""
    result = dict(base)
    for level in levels:
        own, known = level.get("transcoded_clips"), result.get("transcoded_clips")
        if isinstance(own, Mapping) and isinstance(known, Mapping) and any(own.get(name) is not None for name in _ONE_RATE):
            result["transcoded_clips"] = {key: value for key, value in known.items() if key not in _ONE_RATE}
        result = merge(result, level)
    return result


def _splitter_of(tree: Mapping[str, Any]) -> Any:
    clips = tree.get("clips")
    return clips.get("splitter") if isinstance(clips, Mapping) else None


def _with_splitter(tree: Mapping[str, Any], splitter: Mapping[str, Any]) -> dict[str, Any]:
    return {**tree, "clips": {**tree["clips"], "splitter": splitter}}


def _without_splitter(tree: Mapping[str, Any]) -> dict[str, Any]:
    if _splitter_of(tree) is None:
        return dict(tree)
    return {**tree, "clips": {key: value for key, value in tree["clips"].items() if key != "splitter"}}


def _with_method(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Take a bare name in place of a splitter's settings for its method."""
    splitter = _splitter_of(tree)
    return _with_splitter(tree, {"method": splitter}) if isinstance(splitter, str) else dict(tree)


def _without_other_methods_keys(run: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of a run's overrides what only other splitters than the source's have: it is meant for other sources."""
    splitter, known = _splitter_of(run), _splitter_of(base)
    model = SPLITTERS.get(str(known.get("method"))) if isinstance(known, Mapping) else None
    if model is None or not isinstance(splitter, Mapping) or "method" in splitter:
        return dict(run)
    return _with_splitter(run, {key: value for key, value in splitter.items() if key in model.model_fields or not _methods_with(key)})


def _methods_with(key: str) -> list[str]:
    return [method for method, model in SPLITTERS.items() if key in model.model_fields]


def untaken_keys(run: Mapping[str, Any], splitter: Splitter) -> set[str]:
    """List the keys of `clips.splitter` in a run's overrides that this splitter does not have, so that they leave its source alone."""
    given = _splitter_of(with_presets(run, where="settings of this run"))
    if not isinstance(given, Mapping) or "method" in given:
        return set()
    return {key for key in given if key not in SPLITTERS[splitter.method].model_fields}


def check_overrides_are_taken(run: Mapping[str, Any], splitters: Iterable[Splitter], *, where: str = "--set") -> None:
    """Refuse a run's overrides that none of its sources takes.

    Args:
        run: the overrides.
        splitters: of the run's sources.
        where: named in the message.

    Raises:
        SettingsError: names the key, the methods that it belongs to and those that there are.
    """
    known = list(splitters)
    for key in sorted(set.intersection(*(untaken_keys(run, splitter) for splitter in known)) if known else ()):
        methods = " and ".join(sorted({splitter.method for splitter in known}))
        raise SettingsError(f"{where}: {_of_other_methods(f'clips.splitter.{key}')}, and the sources of this run have {methods}")


def _of_other_methods(key: str) -> str:
    return f"{key} belongs to method {' or '.join(_methods_with(key.rpartition('.')[2]))}"


def resolve_settings(
    base: Mapping[str, Any], own: Mapping[str, Any] | None = None, run: Mapping[str, Any] | None = None, *, where: str = "settings"
) -> ProcessingSettings:
    """Merge the settings of a source and of a run over a processing tree and validate the result.

    Args:
        base: a processing tree, for example `Config.processing()`.
        own: the source's part of the tree.
        run: this run's, which wins, but not over the source's own list of models. Keys of a splitter's that is not this source's are for other sources;
            `untaken_keys` lists them.
        where: named in the message.

    Raises:
        SettingsError: a key or a value is wrong, or the source names a model that the project's list lacks.
    """
    tree = dict(base)
    if own:
        tree = _lay(tree, _narrower(own, where=where))
    if run:
        tree = _lay(tree, _without_other_methods_keys(_narrower(run, where=where), tree))
    models = _models_of(own or {})
    if models is None:
        return _validated(ProcessingSettings, tree, where=where)
    settings = _validated(ProcessingSettings, merge(tree, {"embeddings": {"models": models}}), where=where)
    known = _models_of(base)
    if lacking := [name for name in models if name not in known]:
        raise SettingsError(
            f"{where}: {_MODELS}: {', '.join(lacking)} is not among the project's; put embeddings: {{models: [{', '.join([*known, *lacking])}]}} "
            "at the top level of the settings file, or leave it out here"
        )
    of_run = _models_of(run or {})
    dedup = settings.dedup.model_copy(update={"model": _deciding(settings, known if of_run is None else of_run)})
    return settings.model_copy(update={"dedup": dedup})


def _models_of(tree: Mapping[str, Any]) -> Any:
    embeddings = tree.get("embeddings")
    return embeddings.get("models") if isinstance(embeddings, Mapping) else None


def _deciding(settings: ProcessingSettings, models: Sequence[str]) -> str:
    """Name the model of the project's that decides about the duplicates of a source with its own list, none where that list leaves it out."""
    wanted = settings.dedup.model
    if wanted == "auto":
        wanted = next(iter(models), "none")
    return "none" if wanted in models and wanted not in settings.embeddings.models else wanted


def _narrower(tree: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Put presets under a tree that lies over the project's."""
    if tree.get("presets") == []:
        raise SettingsError(
            f"{where}: presets: [] takes nothing away, the project's presets stay; give the keys that are to differ from them"
        )
    return with_presets(tree, where=where)


def check_narrower_settings(own: Mapping[str, Any], *, where: str) -> None:
    """Refuse, in the settings of one source or one launched run, what only the whole project can have: which assets there are, and the command's verdict.

    Raises:
        SettingsError: such a key is there.
    """
    _refuse(own, _OF_THE_PROJECT, where=where)


def _refuse(own: Mapping[str, Any], keys: Sequence[str], *, where: str) -> None:
    for key in keys:
        part: Any = own
        for name in key.split("."):
            part = part.get(name, _ABSENT) if isinstance(part, Mapping) else _ABSENT
        if part is not _ABSENT:
            raise SettingsError(
                f"{where}: {key} is for the whole project; put it at the top level of the settings file, or give --set {key}=… to curation-assets run"
            )


def check_source_settings(own: Mapping[str, Any], *, where: str) -> None:
    """Refuse, in the settings of one source, what only the whole project can have, and what is of all sources together.

    Raises:
        SettingsError: such a key is there.
    """
    _refuse(own, _OF_ALL_SOURCES, where=where)


def without_project_settings(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree less what `check_narrower_settings` refuses."""
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
    for key in _OF_THE_PROJECT:
        part, _, name = key.rpartition(".")
        (result.get(part, {}) if part else result).pop(name, None)
    return {key: value for key, value in result.items() if value != {}}


def project_settings(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a tree that `without_project_settings` leaves out."""
    result: dict[str, Any] = {}
    for key in _OF_THE_PROJECT:
        part, _, name = key.rpartition(".")
        found = tree.get(part, {}) if part else tree
        if name in found:
            (result.setdefault(part, {}) if part else result)[name] = found[name]
    return result


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
        tree = merge(tree, _with_method(parsed))
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
    config = project = _validated(Config, with_presets(tree, where=where), where=where)
    base_tree = project.processing()
    if overrides:  # over the defaults too, as a run merges them: a part of a frame set that is not named keeps its value
        run = _without_other_methods_keys(_narrower(overrides, where="--set"), base_tree)
        if project.sources and all(_splitter_of(with_presets(source.settings, where=where)) for source in project.sources.values()):
            run = _without_splitter(run)  # judged by each source's own
        config = _validated(Config, {**project.model_dump(mode="json"), **_lay(base_tree, run)}, where="--set").based_on(base_tree)
    sources = {}
    for name, source in project.sources.items():
        place = f"{where}: sources.{name}.settings"
        check_source_settings(source.settings, where=place)
        resolve_settings(base_tree, source.settings, where=place)
        if overrides:
            resolve_settings(base_tree, source.settings, overrides, where=f"--set, for source {name!r}")
        sources[name] = source.model_copy(update={"uri": absolute_uri(source.uri, base)})
    watch = {}
    for name, root in project.watch.items():
        place = f"{where}: watch.{name}.settings"
        check_source_settings(root.settings, where=place)
        resolve_settings(base_tree, root.settings, where=place)
        watch[name] = root.model_copy(update={"uri": absolute_uri(root.uri, base)})
    return config.model_copy(update={"warehouse": absolute_uri(config.warehouse, base), "sources": sources, "watch": watch})


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
    key, found = ".".join(path), problem["input"]
    match problem["type"]:
        case "extra_forbidden" if model_at_end in SPLITTERS.values() and _methods_with(path[-1]):
            (method,) = (name for name, splitter in SPLITTERS.items() if splitter is model_at_end)
            return f"{_of_other_methods(key)}, and the method here is {method}"
        case "extra_forbidden":
            known = list(model_at_end.model_fields) if model_at_end else []
            return f"unknown key {key!r}; {_near(path[-1], known, other='known here')}"
        case "union_tag_invalid":
            method = problem["ctx"]["tag"]
            return f"{key}: no method is named {method!r}; {_near(method, SPLITTERS, other='there are')}"
        case "finite_number":
            field = model_at_end.model_fields.get(path[-1]) if model_at_end else None
            is_nullable = field is not None and type(None) in get_args(field.annotation)
            hint = "" if not is_nullable else "; null means no limit" if path[-1].startswith("max_") else "; or null"
            return f"{key}: expected a finite number{hint} (got {found!r})"
        case "credential":
            return f"{key}: {problem['msg']}"
        case "model_type" | "dict_type":
            return f"{key}: expected a mapping of settings{_got(key, found)}"
    text = problem["msg"].removeprefix("Value error, ")
    return ": ".join(filter(None, [key, text])) + ("" if isinstance(found, Mapping) or not key else _got(key, found))


def _got(key: str, found: Any) -> str:
    """Repeat a wrong value, unless it may be a secret: an address may hold one, and whatever stands where a webhook belongs."""
    return "" if key.startswith("automation.notify") or "@" in str(found) or "//" in str(found) else f" (got {found!r})"


def _near(name: str, known: Iterable[str], *, other: str) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"{other}: {', '.join(sorted(known))}"


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
