"""Run: `run`, and the sample run, `demo`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from curation_assets.cli.base import (
    DEMO_CONFIG,
    EXIT_RUN_FAILED,
    EXIT_TOO_MANY_FAILED,
    absolute,
    added_records,
    cell,
    cli,
    command_line,
    err,
    out,
    print_json,
    refuse_other_uri,
    settings_of,
    source_records,
    source_run,
    with_json,
)
from curation_assets.cli.show import failures, print_status, read_statuses, status_document, write_page
from curation_assets.configuration import load_config, parse_assignments
from curation_assets.settings import Config, SettingsError, SourceSettings

_FIRST_CONFIG = """\
# Settings of curation_assets. Everything has a default: `curation-assets config schema` prints them all.
warehouse: ./warehouse
# sources:
#   holidays: {uri: ./videos}
# clips:
#   splitter: {clip_len_s: 10}
"""


@cli.command()
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="NAME[=URI]",
    help="A source to curate, added when a URI is given; all known ones if left out.",
)
@click.option(
    "--select", multiple=True, metavar="ASSETS", help="Dagster asset selection, for example clips or 'frame_sets*'; all if left out."
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a setting for this run, for example clips.splitter.clip_len_s=5.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Work on at most so many videos per source and step.")
@click.option("--retry-failed", is_flag=True, help="Try failed items again although nothing changed.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and about how long it would take; write nothing.")
@with_json
@click.pass_context
def run(
    context: click.Context,
    sources: tuple[str, ...],
    select: tuple[str, ...],
    assignments: tuple[str, ...],
    limit: int | None,
    retry_failed: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Curate sources in one Dagster run, and what is over all sources in another; only what is new or changed costs anything."""
    overrides = parse_assignments(assignments)
    named = dict(_parse_source(text) for text in sources)
    path, config = settings_of(context, overrides)
    added = {name: SourceSettings(uri=absolute(uri), storage_options={}) for name, uri in named.items() if uri is not None}
    if dry_run and select:
        raise SettingsError("--dry-run estimates every step; leave --select out")
    if dry_run:
        _dry_run(config, added, list(named), overrides, as_json=as_json, limit=limit, retry_failed=retry_failed)
        return
    if path is None:
        path = Path("curation.yaml").absolute()
        path.write_text(_FIRST_CONFIG, encoding="utf-8")
        err.print(f"wrote {path}", soft_wrap=True)
        config = load_config(path, overrides)
    result = curate(path, config, added, list(named), select, overrides, limit=limit, retry_failed=retry_failed, as_json=as_json)
    context.exit(result)


def _parse_source(text: str) -> tuple[str, str | None]:
    name, equals, uri = text.partition("=")
    if equals and not uri:
        raise SettingsError(f"--source {text!r}: write NAME=URI, for example --source holidays=./videos")
    return name, uri if equals else None


def curate(
    path: Path,
    config: Config,
    added: dict[str, SourceSettings],
    names: list[str],
    select: Sequence[str],
    overrides: dict[str, Any],
    *,
    limit: int | None,
    retry_failed: bool,
    as_json: bool,
) -> int:
    """Curate sources and print how their tables look then; returns the exit code."""
    from curation_assets.curation.shards import check_complete, with_shards
    from curation_assets.curation.status import failed_fraction
    from curation_assets.curation.warehouse import Warehouse
    from curation_assets.defs.instance import open_instance
    from curation_assets.defs.launch import launch
    from curation_assets.defs.pools import what_holds
    from curation_assets.defs.processes import end_orphans
    from curation_assets.defs.resources import listening

    warehouse = Warehouse.of(config)
    for name, settings in added.items():
        refuse_other_uri(config, name, settings.uri)
        for record in added_records(config, warehouse.registry.names(), name, settings):
            warehouse.registry.put(_kept_settings(warehouse, record))
    registered = warehouse.registry.sync(config)
    check_complete(registered)
    names = with_shards(names, set(registered))
    warehouse.registry.chosen(names)  # an unknown one is named here, before anything starts
    if not registered:
        raise SettingsError("there is no source yet; name one: curation-assets run --source holidays=./videos")
    started = time.monotonic()
    with open_instance(path.parent) as instance, _progress(as_json=as_json) as listener, listening(listener):
        end_orphans(instance)
        for line in what_holds(instance):
            err.print(line, markup=False, soft_wrap=True)
        result = launch(
            path,
            instance=instance,
            registered=registered,
            names=names or registered,
            select=select,
            overrides=overrides,
            limit=limit,
            retry_failed=retry_failed,
        )
    if result.is_interrupted:
        raise KeyboardInterrupt
    seconds = time.monotonic() - started
    statuses, corpus = read_statuses(config, names or registered, overrides)
    if as_json:
        print_json({**status_document(statuses, corpus), "run_ids": result.run_ids, "seconds": round(seconds, 3)})
    else:
        print_status(statuses, corpus)
        out.print(f"\n{seconds:.1f} s; tables lie in {config.warehouse}", soft_wrap=True)
    for message in result.errors:
        err.print(f"error: {message}", markup=False, soft_wrap=True)
    for message in result.warnings:
        err.print(f"warning: {message}", markup=False, soft_wrap=True)
    if select and not any(status["raw_videos"]["outcomes"] for status in statuses.values()):
        err.print(
            "nothing was listed yet: name raw_videos too, for example --select '*clips' for clips and all that it needs", markup=False
        )
    if result.errors:
        return EXIT_RUN_FAILED
    fraction = failed_fraction(list(statuses.values()))
    if fraction > config.max_failed_fraction:
        err.print(
            f"error: {fraction:.1%} of the items failed, max_failed_fraction is {config.max_failed_fraction:.1%}; see curation-assets failures"
        )
        return EXIT_TOO_MANY_FAILED
    return 0


def _kept_settings(warehouse: Any, record: Any) -> Any:
    """Keep a known source's own settings and options when the command line gives its URI again."""
    from dataclasses import replace

    if record.name not in warehouse.registry.names():
        return record
    known = warehouse.registry.get(record.name)
    return replace(record, storage_options=known.storage_options, settings=known.settings)


@contextmanager
def _progress(*, as_json: bool) -> Iterator[Callable[[Any], None]]:
    """Give a listener: a bar on a terminal, plain lines elsewhere, both on stderr."""
    if as_json or not err.is_terminal:
        yield lambda update: err.print(str(update), markup=False, soft_wrap=True)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=err) as bar:
        tasks: dict[tuple[str, str], Any] = {}

        def tell(update: Any) -> None:
            key = (update.source, update.stage)
            if key not in tasks:
                tasks[key] = bar.add_task(f"{update.source}: {update.stage}", total=update.num_total, note="")
            note = update.rate_text + (f", {update.num_failed} failed" if update.num_failed else "")
            bar.update(tasks[key], completed=update.videos_done, total=update.num_total, note=note)

        yield tell


def _dry_run(
    config: Config,
    added: dict[str, SourceSettings],
    names: list[str],
    overrides: dict[str, Any],
    *,
    as_json: bool,
    limit: int | None,
    retry_failed: bool,
) -> None:
    from curation_assets.configuration import check_overrides_are_taken, resolve_settings
    from curation_assets.curation.estimate import estimate_run
    from curation_assets.curation.progress import format_seconds
    from curation_assets.curation.shards import check_shards, with_shards
    from curation_assets.curation.sources import SourceRecord
    from curation_assets.curation.warehouse import Warehouse

    records = {record.name: record for record in source_records(config)}
    present = list(records)
    check_shards({name: settings.shards for name, settings in config.sources.items()}, present)
    for name, settings in config.sources.items():
        records |= {record.name: record for record in SourceRecord.all_from_settings(name, settings)}
    for name, settings in added.items():
        new = added_records(config, present, name, settings)
        records |= {record.name: _kept_settings(Warehouse.of(config), record) for record in new}
    names = with_shards(names, records)
    missing = [name for name in names if name not in records]
    if missing:
        raise SettingsError(f"no source named {missing[0]!r}; known: {', '.join(sorted(records)) or 'none yet'}")
    chosen = [records[name] for name in names or sorted(records)]
    check_overrides_are_taken(
        overrides, [resolve_settings(config.processing(), record.settings, overrides).clips.splitter for record in chosen]
    )
    estimates = []
    for record in chosen:
        with source_run(config, record, overrides=overrides, limit=limit, retry_failed=retry_failed) as source:
            estimates.append(estimate_run(source))
    if as_json:
        print_json({"sources": [item.as_dict() for item in estimates]})
        return
    table = Table("source", "objects", "new or changed", "gone", "stale", "GB to read", "hours of video", "about")
    for item in estimates:
        counts = (item.num_objects, item.num_new, item.num_gone, item.num_stale)
        table.add_row(
            cell(item.source), *map(str, counts), f"{item.bytes_to_read / 1e9:.3f}", f"{item.hours:.3f}", format_seconds(item.seconds)
        )
    out.print(table)
    out.print("nothing was written")


@cli.command()
@click.option(
    "--folder",
    default=DEMO_CONFIG.parent,
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where the sample videos and the warehouse go.",
)
@click.pass_context
def demo(context: click.Context, folder: Path) -> None:
    """Make a few sample videos, good and bad, curate them in one Dagster run, and show what came out."""
    from curation_assets.demo import make_demo_videos

    folder.mkdir(parents=True, exist_ok=True)
    videos = make_demo_videos(folder / "videos")
    path = (folder / DEMO_CONFIG.name).absolute()
    path.write_text("warehouse: ./warehouse\nsources:\n  demo: {uri: ./videos}\nclips:\n  splitter: {clip_len_s: 4}\n", encoding="utf-8")
    out.print(f"made {len(videos)} sample videos in {folder / 'videos'}")
    code = curate(path, load_config(path), {}, ["demo"], (), {}, limit=None, retry_failed=False, as_json=False)
    here = command_line(path)
    out.print("\nWhat failed or was cut short, and why:")
    context.obj = str(path)
    context.invoke(failures, names=(), as_json=False)
    write_page(load_config(path), folder / "contact_sheet.html")
    left_out = _tell_of_files(load_config(path))
    out.print(
        f'\nNext:\n  {here} sql "select key, count(*) as clips from clips join raw_videos using (video_id) group by key"\n'
        f"  {here} ui      (the same run in Dagster's UI, on http://127.0.0.1:3000)\n"
        f"  open {folder / 'contact_sheet.html'} in a browser: every clip moving, selected or why not\n"
        f"  {here} why {left_out}      (the whole story of a clip that was left out)\n"
        f"  {command_line(None)} run --source mine=/path/to/your/videos",
        markup=False,
        soft_wrap=True,
    )
    context.exit(code)


def _tell_of_files(config: Config) -> str:
    """Say what the files are and where; return the id of a clip that was left out."""
    from curation_assets.curation.query import connect_config

    query = """SELECT count(*), count(*) FILTER (is_selected), count(duplicate_of), count(*) FILTER (how = 'copy'), count(*) FILTER (how = 'encode'),
        min(clip_id) FILTER (NOT is_selected) FROM curated_clips LEFT JOIN transcoded_clips USING (clip_id)"""
    with connect_config(config) as connection:
        num_clips, num_selected, num_duplicates, num_copied, num_encoded, left_out = connection.execute(query).fetchall()[0]
    out.print(
        f"\n{num_clips} clips: {num_selected} selected, {num_duplicates} near-duplicates left out; {num_copied} copied and {num_encoded} encoded as MP4 "
        f"under {config.warehouse}/media",
        markup=False,
        soft_wrap=True,
    )
    return str(left_out)
