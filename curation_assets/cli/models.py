"""Models: `models list`, `download` and `verify`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
from rich.table import Column, Table

from curation_assets.cli.base import EXIT_RUN_FAILED, EXIT_TOO_MANY_FAILED, cell, cli, err, out, print_json, settings_of, with_json
from curation_assets.settings import Config

if TYPE_CHECKING:
    from curation_assets.curation.model_files import ModelRow

_STYLES = {
    "ready": "green",
    "no weights needed": "green",
    "missing": "yellow",
    "incomplete": "red",
    "tampered": "red",
    "not checked": "red",
    "unreadable": "red",
}


@cli.group()
def models() -> None:
    """List embedding models and scorers; fetch and check their weights."""


def _rows(config: Config, names: tuple[str, ...]) -> list[ModelRow]:
    from curation_assets.curation.model_files import all_names, describe_model

    return [describe_model(name, config.models) for name in names or all_names()]


@models.command("list")
@with_json
@click.pass_context
def models_list(context: click.Context, as_json: bool) -> None:
    """List every model: what it gives, its licence and size, and where its weights lie."""
    rows = _rows(settings_of(context)[1], ())
    if as_json:
        print_json([row.as_dict() for row in rows])
        return
    table = Table(Column("model", no_wrap=True), "dim", "frames", "texts", "size", "revision", "licence", "gated", "state", "where")
    for row in rows:
        table.add_row(
            row.name,
            "score" if row.dim is None else str(row.dim),
            f"{row.frames} x {row.height_px} x {row.width_px}",
            "yes" if row.has_text else "",
            _size(row),
            "\n".join(repository.revision[:8] for repository in row.repositories),
            cell(row.licence),
            "yes" if row.is_gated else "",
            f"[{_STYLES[row.state]}]{row.state}[/]",
            cell("\n".join(repository.folder for repository in row.repositories)),
        )
    out.print(table)


@models.command("verify")
@click.argument("names", nargs=-1)
@with_json
@click.pass_context
def models_verify(context: click.Context, names: tuple[str, ...], as_json: bool) -> None:
    """Check the files of the named models by size and hash; without names, of those whose weights are not simply missing.

    Exits with 1 when a model that was checked is not ready.
    """
    rows = [row for row in _rows(settings_of(context)[1], names) if names or row.state not in ("missing", "no weights needed")]
    if as_json:
        print_json([row.as_dict() for row in rows])
    for row in rows if not as_json else []:
        out.print(f"{row.name}: [{_STYLES[row.state]}]{row.state}[/]")
        for repository in row.repositories:
            for problem in repository.problems:
                out.print(f"  {repository.folder}: {problem}", markup=False, soft_wrap=True)
        if row.state not in ("ready", "no weights needed"):
            out.print(f"  mend it: curation-assets models download {row.name}")
    if not rows and not as_json:
        out.print("no weights here; curation-assets models download NAME fetches some")
    if any(row.state not in ("ready", "no weights needed") for row in rows):
        context.exit(EXIT_TOO_MANY_FAILED)


@models.command("download")
@click.argument("names", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask. Nothing is asked either where this is not run on a terminal.")
@click.pass_context
def models_download(context: click.Context, names: tuple[str, ...], yes: bool) -> None:
    """Fetch the weights of models, after showing licence and size; what is there already stays."""
    from curation_assets.curation.model_files import DownloadError, download_model

    config = settings_of(context)[1]
    wanted: list[str] = []
    for row in _rows(config, tuple(dict.fromkeys(names))):
        if row.state in ("ready", "no weights needed"):
            out.print(f"{row.name}: {row.state}")
            continue
        for repository in row.repositories:
            gated = f", gated: accept its terms at https://huggingface.co/{repository.repo} and set HF_TOKEN" if repository.is_gated else ""
            size = f"{repository.size_bytes / 1e6:,.1f} MB"
            out.print(
                f"{row.name}: {repository.repo} at {repository.revision[:8]}, {size}, licence {repository.licence}{gated}", markup=False
            )
        wanted.append(row.name)
    if wanted and not yes and sys.stdin.isatty() and out.is_terminal:
        click.confirm("Download?", default=True, abort=True)
    for name in wanted:
        try:
            folders = download_model(name, config.models, shows_progress=err.is_terminal)
        except DownloadError as error:
            err.print(f"error: {error}", markup=False, soft_wrap=True)
            context.exit(EXIT_RUN_FAILED)
        out.print(f"{name}: ready in {', '.join(folders)}", markup=False, soft_wrap=True)


def _size(row: ModelRow) -> str:
    return f"{row.size_bytes / 1e6:,.0f} MB" if row.size_bytes else ""
