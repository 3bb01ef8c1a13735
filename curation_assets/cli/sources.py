"""Sources: `sources add`, `list` and `remove`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from curation_assets.cli.base import (
    absolute,
    added_records,
    cell,
    cli,
    err,
    out,
    print_json,
    refuse_other_uri,
    settings_of,
    source_records,
    with_json,
)
from curation_assets.configuration import parse_assignments
from curation_assets.settings import Config, SettingsError, SourceSettings


@cli.group()
def sources() -> None:
    """Add, list and remove video sources."""


@sources.command("add")
@click.argument("name")
@click.argument("uri")
@click.option(
    "--option", "options", multiple=True, metavar="KEY=VALUE", help="Storage option, for example aws_endpoint=http://localhost:9000."
)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Setting of this source alone.")
@click.option("--kind", type=click.Choice(["auto", "prefix", "manifest"]), default="auto", show_default=True)
@click.option(
    "--shards", type=int, help="Partitions to split a source of very many videos into; the number stays.  [default: as it is, else 1]"
)
@click.pass_context
def sources_add(
    context: click.Context, name: str, uri: str, options: tuple[str, ...], assignments: tuple[str, ...], kind: str, shards: int | None
) -> None:
    """Add a source, or replace it: a folder, a store prefix, or a manifest."""
    from pydantic import ValidationError

    from curation_assets.configuration import check_source_settings, resolve_settings
    from curation_assets.curation.warehouse import Warehouse

    path, config = settings_of(context)
    tree = parse_assignments(assignments)
    check_source_settings(tree, where=f"source {name!r}")
    resolve_settings(config.processing(), tree, where=f"source {name!r}")
    pairs = dict(text.partition("=")[::2] for text in options)
    number = {} if shards is None else {"shards": shards}
    try:
        settings = SourceSettings(uri=absolute(uri), kind=kind, storage_options=pairs, settings=tree, **number)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
        raise SettingsError("; ".join(problems)) from error
    refuse_other_uri(config, name, settings.uri)
    warehouse = Warehouse.of(config)
    records = added_records(config, warehouse.registry.names(), name, settings)
    for record in records:
        warehouse.registry.put(record)
    sync_partitions_to(warehouse.registry.sync(config), warehouse.registry, path)
    out.print(f"added {name}: {settings.uri}" + (f" in {len(records)} shards" if len(records) > 1 else ""), markup=False, soft_wrap=True)


@sources.command("list")
@with_json
@click.pass_context
def sources_list(context: click.Context, as_json: bool) -> None:
    """List the sources."""
    from dataclasses import asdict

    from curation_assets.curation.warehouse import Warehouse

    config = settings_of(context)[1]
    Warehouse.of(config).registry.sync(config)
    records = source_records(config)
    if as_json:
        print_json([asdict(record) for record in records])
        return
    table = Table("name", "uri", "kind", "own settings")
    for record in records:
        table.add_row(
            *map(
                cell,
                (
                    record.name,
                    record.uri,
                    "manifest" if record.is_manifest else "prefix",
                    json.dumps(record.settings) if record.settings else "",
                ),
            )
        )
    out.print(table)


@sources.command("remove")
@click.argument("name")
@click.option("--delete-tables", is_flag=True, help="Delete what was made from it too.")
@click.pass_context
def sources_remove(context: click.Context, name: str, delete_tables: bool) -> None:
    """Forget a source; its videos are never touched."""
    from curation_assets.curation.removal import delete_source_tables
    from curation_assets.curation.shards import with_shards
    from curation_assets.curation.sources import checked_name
    from curation_assets.curation.warehouse import Warehouse
    from curation_assets.storage.layout import plain_name

    path, config = settings_of(context)
    warehouse = Warehouse.of(config)
    known = set(warehouse.registry.names())
    if checked_name(name) in known and name != plain_name(name):
        raise SettingsError(f"{name} is a shard: remove the whole source, {plain_name(name)}")
    partitions = with_shards([name], known)
    num_deleted = delete_source_tables(config, *partitions) if delete_tables else 0  # also of a source that was removed without them
    if not known.isdisjoint(partitions):
        for partition in partitions:
            warehouse.registry.remove(partition)
    elif not num_deleted:
        warehouse.registry.get(name)
    sync_partitions_to(warehouse.registry.names(), warehouse.registry, path, removed=partitions)
    _forget_clips(config, path)
    out.print(f"removed {name}" + (" and its tables" if delete_tables else "; its tables stay"))
    if name in config.sources:
        out.print(f"{path} still lists it: the next run adds it again")
    for watch, root in config.watch.items():
        if name == watch or name.startswith(f"{watch}-"):
            out.print(f"if it lies in the watched root {root.uri}, the sensor adds it again when something in it changes", soft_wrap=True)


def _forget_clips(config: Config, path: Path | None) -> None:
    """Make the tables over all sources anew, where there are any, so that they name no clip of a source that is gone."""
    from curation_assets.curation.warehouse import Warehouse, corpus_specs
    from curation_assets.defs.instance import open_instance
    from curation_assets.defs.launch import launch

    warehouse = Warehouse.of(config)
    selected = [f'key:"{spec.asset}"' for spec in corpus_specs(config) if warehouse.corpus_table(spec).snapshot() is not None]
    if selected:
        with open_instance(path.parent if path else Path.cwd()) as instance:
            result = launch(path, instance=instance, registered=warehouse.registry.names(), names=[], select=selected)
        for message in result.errors:
            err.print(f"error: {message}", markup=False, soft_wrap=True)


def sync_partitions_to(
    names: Sequence[str],
    registry: Any,
    path: Path | None,
    *,
    removed: Sequence[str] = (),
    pool_limits: Mapping[Any, int] | None = None,
) -> None:
    """Make the partitions equal to the registry's names, in the Dagster instance of a settings file, or of the working folder; set pools' limits there."""
    from curation_assets.defs.instance import open_instance
    from curation_assets.defs.partitions import remove_partition, sync_partitions
    from curation_assets.defs.pools import set_pool_limits
    from curation_assets.defs.processes import end_orphans

    with open_instance(path.parent if path else Path.cwd()) as instance:
        for name in removed:
            remove_partition(instance, name)
        end_orphans(instance)
        sync_partitions(instance, names, registry=registry)
        set_pool_limits(instance, pool_limits or {})
