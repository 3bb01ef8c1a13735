"""Base: the command group, and what every command uses: settings, consoles, sources, JSON."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from curation_assets.configuration import absolute_uri, find_config, load_config
from curation_assets.settings import Config, SettingsError, SourceSettings

EXIT_TOO_MANY_FAILED, EXIT_USAGE, EXIT_RUN_FAILED, EXIT_INTERRUPTED = 1, 2, 3, 130
_WIDTH_OF_A_PIPE = 200
DEMO_CONFIG = Path("demo/curation.yaml")  # where `demo` puts it when no folder is named

out = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_OF_A_PIPE)
err = Console(stderr=True, highlight=False)


class _AnywhereGroup(click.Group):
    """A group whose `--config FILE` may stand anywhere on the line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Move `--config FILE` to the front."""
        end = args.index("--") if "--" in args else len(args)
        for place, word in enumerate(args[:end]):
            length = 2 if word == "--config" and place + 1 < end else 1 if word.startswith("--config=") else 0
            if length:
                args = [*args[place : place + length], *args[:place], *args[place + length :]]
                break
        return super().parse_args(ctx, args)


@click.group(cls=_AnywhereGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "config_path", metavar="FILE", help="Settings file; else CURATION_CONFIG, else ./curation.yaml.")
@click.version_option(package_name="curation_assets")
@click.pass_context
def cli(context: click.Context, config_path: str | None) -> None:
    """Curate video with Dagster: sources in, a queryable warehouse of clips, frames, scores and embeddings out."""
    context.obj = config_path


def with_json(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout; logs go to stderr.")(function)


def settings_of(context: click.Context, overrides: dict[str, Any] | None = None) -> tuple[Path | None, Config]:
    """Find and read the settings: the file, if there is one, and what it says."""
    path = find_config(context.obj)
    return path, load_config(path, overrides)


def cell(value: object) -> str:
    """Write a value for a table: brackets in a key are no markup."""
    return "" if value is None else escape(str(value))


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1, default=str) + "\n")


def source_records(config: Config) -> list[Any]:
    """Read every source's record from the registry."""
    from curation_assets.curation.warehouse import Warehouse

    registry = Warehouse.of(config).registry
    return list(registry.records().values())


@contextmanager
def source_run(
    config: Config, record: Any, *, overrides: Mapping[str, Any] | None = None, limit: int | None = None, retry_failed: bool = False
) -> Iterator[Any]:
    """Prepare one source for reading its tables, or for looking at its objects, with the settings that a run with these overrides has."""
    from curation_assets.configuration import resolve_settings
    from curation_assets.curation.warehouse import SourceRun, Warehouse
    from curation_assets.engine.local import LocalEngine

    settings = resolve_settings(config.processing(), record.settings, overrides or {}, where=f"settings of source {record.name!r}")
    with LocalEngine(workers=settings.engine.workers, timeout_s=settings.engine.timeout_s) as engine:
        yield SourceRun(record, settings, Warehouse.of(config), engine, limit=limit, retry_failed=retry_failed)


def refuse_other_uri(config: Config, name: str, uri: str) -> None:
    """Refuse a URI for a source to which the settings file gives another: the file would win at the next run.

    Raises:
        SettingsError: it does.
    """
    if name in config.sources and config.sources[name].uri != uri:
        raise SettingsError(f"the settings file says that {name} is {config.sources[name].uri}; change it there, or use another name")


def added_records(config: Config, known: Collection[str], name: str, settings: SourceSettings) -> list[Any]:
    """Build the record of a source that is typed, or of each of its shards: as many as were typed, else as many as it has.

    Args:
        config: settings.
        known: the partitions that there are.
        name: of the source.
        settings: as typed.

    Raises:
        SettingsError: the source is split otherwise, or the settings file says so; or the name cannot be used.
    """
    from curation_assets.curation.shards import check_shards, num_shards_of
    from curation_assets.curation.sources import SourceRecord

    written = config.sources.get(name)
    if "shards" not in settings.model_fields_set:
        settings = settings.model_copy(update={"shards": written.shards if written else num_shards_of(name, known)})
    elif written and written.shards != settings.shards:
        raise SettingsError(f"the settings file says that {name} has shards: {written.shards}; change it there, or use another name")
    check_shards({name: settings.shards}, known)
    if settings.shards > 1 and (watch := config.watch_of(name)):
        raise SettingsError(f"the watch {watch!r} could make another source named {name!r}, which has shards: use another name")
    return SourceRecord.all_from_settings(name, settings)


def command_line(config_path: str | Path | None) -> str:
    """Write how this command is called from here, with the settings file that was named."""
    program = "curation-assets" if shutil.which("curation-assets") else os.path.relpath(Path(sys.executable).parent / "curation-assets")
    return f"{program} --config {shlex.quote(os.path.relpath(config_path))}" if config_path else program


def absolute(uri: str) -> str:
    """Make a path that was typed absolute; leave URLs alone."""
    return absolute_uri(uri, Path.cwd())
