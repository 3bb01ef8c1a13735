"""Setup: `config`, `doctor` and `ui`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import click

from curation_assets.cli.base import DEMO_CONFIG, cli, err, out, print_json, settings_of, source_records, with_json
from curation_assets.cli.sources import sync_partitions_to
from curation_assets.configuration import load_config
from curation_assets.settings import Config, SettingsError


@cli.group()
def config() -> None:
    """Print the settings' schema, or check a settings file."""


@config.command("schema")
def config_schema() -> None:
    """Print the JSON schema of curation.yaml: every key, its meaning and its default."""
    print_json(Config.model_json_schema())


@config.command("check")
@click.pass_context
def config_check(context: click.Context) -> None:
    """Check the settings file: keys, values, models, and the settings of every source."""
    from curation_assets.configuration import resolve_settings
    from curation_assets.curation.sources import SourceRecord
    from curation_assets.curation.splitters import check_splitter
    from curation_assets.curation.warehouse import table_specs

    path, checked = settings_of(context)
    try:
        table_specs(checked)
        check_splitter(checked.clips.splitter)
        for name, settings in checked.sources.items():
            SourceRecord.all_from_settings(name, settings)
            check_splitter(resolve_settings(checked.processing(), settings.settings).clips.splitter)
        for record in source_records(checked):
            own = resolve_settings(checked.processing(), record.settings, where=f"source {record.name!r}")
            table_specs(own)
            check_splitter(own.clips.splitter)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    out.print(f"{path or 'no settings file: defaults'}: fine", markup=False, soft_wrap=True)


@cli.command()
@with_json
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Check this machine: Python, encoders, GPU, disk, and that the warehouse can be written."""
    from curation_assets.curation.doctor import examine

    findings = examine(settings_of(context)[1])
    if as_json:
        print_json([finding.as_dict() for finding in findings])
    else:
        for finding in findings:
            mark = {"ok": "[green]ok  [/]", "note": "[yellow]note[/]", "bad": "[red]bad [/]"}[finding.level]
            out.print(f"{mark} {finding.what}: ", end="")
            out.print(finding.seen, markup=False, soft_wrap=True)
    if any(finding.level == "bad" for finding in findings):
        context.exit(1)


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; Dagster's UI has no login.")
@click.option("--port", default=3000, show_default=True, type=click.IntRange(1, 65535))
@click.pass_context
def ui(context: click.Context, host: str, port: int) -> None:
    """Start Dagster's UI, daemon and code location for the settings' warehouse (dagster dev)."""
    from curation_assets.curation.warehouse import Warehouse
    from curation_assets.defs.instance import shipped_file

    path, loaded = settings_of(context)
    if path is None and DEMO_CONFIG.is_file():
        path, loaded = DEMO_CONFIG.absolute(), load_config(DEMO_CONFIG.absolute())
        err.print(f"no curation.yaml here; this is the demo's, {DEMO_CONFIG}")
    dagster = shutil.which("dagster", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if dagster is None:
        raise SettingsError("dagster is not on the PATH; activate the virtual environment")
    registry = Warehouse.of(loaded).registry
    sync_partitions_to(registry.sync(loaded), registry, path, pool_limits=loaded.automation.pool_limits)
    environment = {**os.environ, "DAGSTER_DISABLE_TELEMETRY": "1"}
    if path is not None:
        environment["CURATION_CONFIG"] = str(path)
        os.chdir(path.parent)  # where dagster.yaml and the state lie, so that this shows the runs of the command line
    workspace = Path("workspace.yaml") if Path("workspace.yaml").is_file() else shipped_file("workspace.yaml")
    os.execve(dagster, [dagster, "dev", "-w", str(workspace), "-h", host, "-p", str(port)], environment)
