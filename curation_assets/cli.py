"""Command line: parses, calls, prints. What it prints of the tables is what they say."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Column, Table

from curation_assets.settings import Config, SettingsError, SourceSettings, find_config, load_config, parse_assignments
from curation_assets.storage.errors import StoreError

EXIT_TOO_MANY_FAILED, EXIT_USAGE, EXIT_RUN_FAILED, EXIT_INTERRUPTED = 1, 2, 3, 130
_FIRST_CONFIG = """\
# Settings of curation_assets. Everything has a default: `curation-assets config schema` prints them all.
warehouse: ./warehouse
# sources:
#   holidays: {uri: ./videos}
# clips:
#   splitter: {clip_len_s: 10}
"""

_WIDTH_OF_A_PIPE = 200

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


def main() -> None:
    """Run the command line; every error that a user can mend ends as one message and an exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)  # a shell's `&` leaves it ignored
    try:
        sys.exit(cli.main(prog_name="curation-assets", standalone_mode=False) or 0)
    except (KeyboardInterrupt, click.Abort):
        err.print("interrupted; what was committed stays, and the next run goes on from there")
        sys.exit(EXIT_INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except SettingsError as error:
        err.print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(EXIT_USAGE)
    except StoreError as error:
        err.print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(EXIT_RUN_FAILED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@click.group(cls=_AnywhereGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "config_path", metavar="FILE", help="Settings file; else CURATION_CONFIG, else ./curation.yaml.")
@click.version_option(package_name="curation_assets")
@click.pass_context
def cli(context: click.Context, config_path: str | None) -> None:
    """Curate video with Dagster: sources in, a queryable warehouse of clips, frames, scores and embeddings out."""
    context.obj = config_path


def _with_json(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout; logs go to stderr.")(function)


def _config(context: click.Context, overrides: dict[str, Any] | None = None) -> tuple[Path | None, Config]:
    path = find_config(context.obj)
    return path, load_config(path, overrides)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1, default=str) + "\n")


# ----------------------------------------------------------------------------------------------------------------------------------- run


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
@_with_json
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
    """Curate sources in one Dagster run; only what is new or changed costs anything."""
    overrides = parse_assignments(assignments)
    named = dict(_parse_source(text) for text in sources)
    path, config = _config(context, overrides)
    added = {name: SourceSettings(uri=_absolute(uri), storage_options={}) for name, uri in named.items() if uri is not None}
    if dry_run:
        _dry_run(config, added, list(named), as_json=as_json, limit=limit, retry_failed=retry_failed)
        return
    if path is None:
        path = Path("curation.yaml").resolve()
        path.write_text(_FIRST_CONFIG, encoding="utf-8")
        err.print(f"wrote {path}", soft_wrap=True)
        config = load_config(path, overrides)
    result = _curate(path, config, added, list(named), select, overrides, limit=limit, retry_failed=retry_failed, as_json=as_json)
    context.exit(result)


def _parse_source(text: str) -> tuple[str, str | None]:
    name, equals, uri = text.partition("=")
    if equals and not uri:
        raise SettingsError(f"--source {text!r}: write NAME=URI, for example --source holidays=./videos")
    return name, uri if equals else None


def _absolute(uri: str) -> str:
    from curation_assets.settings import absolute_uri

    return absolute_uri(uri, Path.cwd())


def _curate(
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
    import time

    from curation_assets.curation.sources import SourceRecord
    from curation_assets.curation.status import failed_fraction
    from curation_assets.curation.warehouse import Warehouse
    from curation_assets.defs.instance import open_instance
    from curation_assets.defs.launch import launch
    from curation_assets.defs.resources import listening

    warehouse = Warehouse.of(config)
    for name, settings in added.items():
        warehouse.registry.put(_kept_settings(warehouse, SourceRecord.from_settings(name, settings)))
    registered = warehouse.registry.sync(config)
    for name in names:
        warehouse.registry.get(name)  # an unknown one is named here, before anything starts
    if not registered:
        raise SettingsError("there is no source yet; name one: curation-assets run --source holidays=./videos")
    started = time.monotonic()
    with open_instance() as instance, _progress(as_json=as_json) as listener, listening(listener):
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
    statuses = _statuses(config, names or registered)
    if as_json:
        _print_json({**_status_document(statuses), "run_ids": result.run_ids, "seconds": round(seconds, 3)})
    else:
        _print_status(statuses)
        out.print(f"\n{seconds:.1f} s; tables lie in {config.warehouse}", soft_wrap=True)
    for message in result.errors:
        err.print(f"error: {message}", markup=False, soft_wrap=True)
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
            note = f"{update.rate:.2g} videos/s" + (f", {update.num_failed} failed" if update.num_failed else "")
            bar.update(tasks[key], completed=update.videos_done, total=update.num_total, note=note)

        yield tell


def _dry_run(
    config: Config, added: dict[str, SourceSettings], names: list[str], *, as_json: bool, limit: int | None, retry_failed: bool
) -> None:
    from curation_assets.curation.estimate import estimate_run
    from curation_assets.curation.progress import format_seconds
    from curation_assets.curation.sources import SourceRecord

    records = {record.name: record for record in _records(config)}
    records |= {name: SourceRecord.from_settings(name, settings) for name, settings in {**config.sources, **added}.items()}
    missing = [name for name in names if name not in records]
    if missing:
        raise SettingsError(f"no source named {missing[0]!r}; known: {', '.join(sorted(records)) or 'none yet'}")
    estimates = []
    for name in names or sorted(records):
        with _source_run(config, records[name], limit=limit, retry_failed=retry_failed) as source:
            estimates.append(estimate_run(source))
    if as_json:
        _print_json({"sources": [item.as_dict() for item in estimates]})
        return
    table = Table("source", "objects", "new or changed", "gone", "stale", "GB to read", "hours of video", "about")
    for item in estimates:
        counts = (item.num_objects, item.num_new, item.num_gone, item.num_stale)
        table.add_row(item.source, *map(str, counts), f"{item.bytes_to_read / 1e9:.3f}", f"{item.hours:.3f}", format_seconds(item.seconds))
    out.print(table)
    out.print("nothing was written")


# -------------------------------------------------------------------------------------------------------------------------------- status


def _records(config: Config) -> list[Any]:
    from curation_assets.curation.warehouse import Warehouse

    registry = Warehouse.of(config).registry
    return [registry.get(name) for name in registry.names()]


@contextmanager
def _source_run(config: Config, record: Any, *, limit: int | None = None, retry_failed: bool = False) -> Iterator[Any]:
    from curation_assets.curation.warehouse import SourceRun, Warehouse
    from curation_assets.engine.local import LocalEngine
    from curation_assets.settings import resolve_settings

    settings = resolve_settings(config.processing(), record.settings, where=f"settings of source {record.name!r}")
    with LocalEngine(workers=settings.engine.workers, timeout_s=settings.engine.timeout_s) as engine:
        yield SourceRun(record, settings, Warehouse.of(config), engine, limit=limit, retry_failed=retry_failed)


def _statuses(config: Config, names: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    from curation_assets.curation.status import source_status

    statuses = {}
    for record in _records(config):
        if not names or record.name in names:
            with _source_run(config, record) as source:
                statuses[record.name] = source_status(source)
    return statuses


def _status_document(statuses: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {"sources": [{"source": name, "tables": tables} for name, tables in statuses.items()], "corpus": {}}


def _print_status(statuses: dict[str, dict[str, Any]]) -> None:
    table = Table("source", Column("table", no_wrap=True), "items", "ok", "not ok", "pending videos")
    for name, tables in statuses.items():
        for place, (view, status) in enumerate(tables.items()):
            outcomes = dict(status["outcomes"])
            ok = outcomes.pop("ok", 0)
            bad = ", ".join(f"{number:,} {code}" for code, number in outcomes.items())
            total = ok + sum(outcomes.values())
            table.add_row(name if place == 0 else "", view, f"{total:,}", f"{ok:,}", bad, f"{status['pending']:,}")
    out.print(table)


@cli.command()
@_with_json
@click.pass_context
def status(context: click.Context, as_json: bool) -> None:
    """Show how the items of every table ended, and how many videos wait for work."""
    statuses = _statuses(_config(context)[1])
    if as_json:
        _print_json(_status_document(statuses))
    elif statuses:
        _print_status(statuses)
    else:
        out.print("no sources yet; add one: curation-assets run --source holidays=./videos")


@cli.command()
@click.option("--source", "names", multiple=True, help="Only these sources.")
@_with_json
@click.pass_context
def failures(context: click.Context, names: tuple[str, ...], as_json: bool) -> None:
    """List what failed or was cut short, and why."""
    from curation_assets.curation.status import failures as list_failures

    config = _config(context)[1]
    found: list[dict[str, Any]] = []
    for record in _records(config):
        if not names or record.name in names:
            with _source_run(config, record) as source:
                found.extend(list_failures(source))
    if as_json:
        _print_json(found)
        return
    if not found:
        out.print("nothing failed")
        return
    table = Table("source", "table", "key", "clip", "outcome", "detail")
    for item in found:
        table.add_row(item["source"], item["table"], item["key"], (item["clip_id"] or "")[:8], item["outcome"], item["detail"])
    out.print(table)


@cli.command()
@click.argument("clip_id")
@_with_json
@click.pass_context
def why(context: click.Context, clip_id: str, as_json: bool) -> None:
    """Tell the whole story of a clip: where it comes from, its scores, whether it is kept and why."""
    from curation_assets.curation.query import clip_story

    story = clip_story(_config(context)[1], clip_id)
    if story is None:
        raise SettingsError(f"no clip {clip_id!r}; curation-assets sql 'select clip_id from clips' lists them")
    if as_json:
        _print_json(story)
        return
    clip, video, scores = story["clip"], story["video"], story["scores"]
    out.print(f"clip {clip['clip_id']}", markup=False)
    out.print(f"  from    {video['uri']}", markup=False, soft_wrap=True)
    out.print(f"  span    {clip['start_ns'] / 1e9:.3f} to {clip['end_ns'] / 1e9:.3f} s, {clip['num_frames']} frames, by {clip['method']}")
    if scores is None:
        out.print("  kept    not judged: there are no scores for it yet")
    else:
        verdict = "yes, it passes every threshold" if scores["kept"] else f"no: {scores['reject_reason']}"
        out.print(f"  kept    {verdict}")
        values = {name: value for name, value in scores.items() if isinstance(value, float)}
        out.print("  scores  " + ", ".join(f"{name} {value:.4g}" for name, value in values.items()))
    for item in story["frame_sets"]:
        fps = "" if item["fps"] is None else f" at {item['fps']:g} fps"
        detail = f" ({item['detail']})" if item["detail"] else ""
        size = f"{item['width_px']}x{item['height_px']}"
        out.print(f"  frames  {item['name']}: {item['num_frames']}{fps}, {size} {item['codec']}, {item['outcome']}{detail}", markup=False)
    for view, item in story["embeddings"].items():
        out.print(f"  vector  {view}: {item['outcome']}{' (' + item['detail'] + ')' if item['detail'] else ''}", markup=False)


@cli.command()
@click.argument("query")
@_with_json
@click.pass_context
def sql(context: click.Context, query: str, as_json: bool) -> None:
    """Ask the warehouse with SQL (DuckDB). Views: raw_videos, clips, frame_sets, clip_scores, embeddings_<model>."""
    import duckdb

    from curation_assets.curation.query import connect_config
    from curation_assets.storage.views import json_rows

    with connect_config(_config(context)[1]) as connection:
        try:
            rows = json_rows(connection.execute(query))
        except (duckdb.Error, ValueError) as error:
            raise SettingsError(f"{error}\nviews: {', '.join(connection.views)}") from error
    if as_json:
        _print_json(rows)
        return
    table = Table(*(rows[0] if rows else ["no rows"]))
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    out.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and len(value) > 6:
        return f"[{', '.join(_cell(item) for item in value[:3])}, … {len(value)} values]"
    return "" if value is None else str(value)


# ------------------------------------------------------------------------------------------------------------------------------- sources


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
@click.pass_context
def sources_add(context: click.Context, name: str, uri: str, options: tuple[str, ...], assignments: tuple[str, ...], kind: str) -> None:
    """Add a source, or replace it: a folder, a store prefix, or a manifest."""
    from pydantic import ValidationError

    from curation_assets.curation.sources import SourceRecord
    from curation_assets.curation.warehouse import Warehouse
    from curation_assets.settings import resolve_settings

    config = _config(context)[1]
    tree = parse_assignments(assignments)
    resolve_settings(config.processing(), tree, where=f"source {name!r}")
    pairs = dict(text.partition("=")[::2] for text in options)
    try:
        settings = SourceSettings(uri=_absolute(uri), kind=kind, storage_options=pairs, settings=tree)  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError("; ".join(str(problem["msg"]) for problem in error.errors())) from error
    warehouse = Warehouse.of(config)
    warehouse.registry.put(SourceRecord.from_settings(name, settings))
    _sync_partitions(warehouse.registry.sync(config))
    out.print(f"added {name}: {settings.uri}", markup=False, soft_wrap=True)


@sources.command("list")
@_with_json
@click.pass_context
def sources_list(context: click.Context, as_json: bool) -> None:
    """List the sources."""
    from dataclasses import asdict

    from curation_assets.curation.warehouse import Warehouse

    config = _config(context)[1]
    Warehouse.of(config).registry.sync(config)
    records = _records(config)
    if as_json:
        _print_json([asdict(record) for record in records])
        return
    table = Table("name", "uri", "kind", "own settings")
    for record in records:
        table.add_row(
            record.name, record.uri, "manifest" if record.is_manifest else "prefix", json.dumps(record.settings) if record.settings else ""
        )
    out.print(table)


@sources.command("remove")
@click.argument("name")
@click.option("--delete-tables", is_flag=True, help="Delete what was made from it too.")
@click.pass_context
def sources_remove(context: click.Context, name: str, delete_tables: bool) -> None:
    """Forget a source; its videos are never touched."""
    from curation_assets.curation.query import all_specs
    from curation_assets.curation.warehouse import Warehouse

    path, config = _config(context)
    warehouse = Warehouse.of(config)
    warehouse.registry.get(name)
    warehouse.registry.remove(name)
    if delete_tables:
        for spec in all_specs(config):
            warehouse.store.delete_prefix(warehouse.layout.table_key(spec.asset, name) + "/")
    _sync_partitions(warehouse.registry.names())
    out.print(f"removed {name}" + (" and its tables" if delete_tables else "; its tables stay"))
    if name in config.sources:
        out.print(f"{path} still lists it: the next run adds it again")


def _sync_partitions(names: Sequence[str]) -> None:
    from curation_assets.defs.instance import open_instance
    from curation_assets.defs.partitions import sync_partitions

    with open_instance() as instance:
        sync_partitions(instance, names)


# -------------------------------------------------------------------------------------------------------------------------------- config


@cli.group()
def config() -> None:
    """Print the settings' schema, or check a settings file."""


@config.command("schema")
def config_schema() -> None:
    """Print the JSON schema of curation.yaml: every key, its meaning and its default."""
    _print_json(Config.model_json_schema())


@config.command("check")
@click.pass_context
def config_check(context: click.Context) -> None:
    """Check the settings file: keys, values, models, and the settings of every source."""
    from curation_assets.curation.warehouse import table_specs
    from curation_assets.settings import resolve_settings

    path, checked = _config(context)
    try:
        table_specs(checked)
        for record in _records(checked):
            table_specs(resolve_settings(checked.processing(), record.settings, where=f"source {record.name!r}"))
    except ValueError as error:
        raise SettingsError(str(error)) from error
    out.print(f"{path or 'no settings file: defaults'}: fine", markup=False, soft_wrap=True)


# ---------------------------------------------------------------------------------------------------------------- doctor, demo, ui


@cli.command()
@_with_json
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Check this machine: Python, encoders, GPU, disk, and that the warehouse can be written."""
    from curation_assets.curation.doctor import examine

    findings = examine(_config(context)[1])
    if as_json:
        _print_json([finding.as_dict() for finding in findings])
    else:
        for finding in findings:
            mark = {"ok": "[green]ok  [/]", "note": "[yellow]note[/]", "bad": "[red]bad [/]"}[finding.level]
            out.print(f"{mark} {finding.what}: ", end="")
            out.print(finding.seen, markup=False, soft_wrap=True)
    if any(finding.level == "bad" for finding in findings):
        context.exit(1)


@cli.command()
@click.option(
    "--folder", default="demo", show_default=True, type=click.Path(path_type=Path), help="Where the sample videos and the warehouse go."
)
@click.pass_context
def demo(context: click.Context, folder: Path) -> None:
    """Make a few sample videos, good and bad, curate them in one Dagster run, and show what came out."""
    from curation_assets.demo import make_demo_videos

    folder.mkdir(parents=True, exist_ok=True)
    videos = make_demo_videos(folder / "videos")
    path = (folder / "curation.yaml").resolve()
    path.write_text("warehouse: ./warehouse\nsources:\n  demo: {uri: ./videos}\nclips:\n  splitter: {clip_len_s: 4}\n", encoding="utf-8")
    out.print(f"made {len(videos)} sample videos in {folder / 'videos'}")
    code = _curate(path, load_config(path), {}, ["demo"], (), {}, limit=None, retry_failed=False, as_json=False)
    option = f"--config {os.path.relpath(path)}"
    out.print("\nWhat failed or was cut short, and why:")
    context.obj = str(path)
    context.invoke(failures, names=(), as_json=False)
    out.print(
        f'\nNext:\n  curation-assets {option} sql "select key, count(*) as clips from clips join raw_videos using (video_id) group by key"\n'
        f"  CURATION_CONFIG={os.path.relpath(path)} make ui      (the same run in Dagster's UI, on http://127.0.0.1:3000)\n"
        "  curation-assets run --source mine=/path/to/your/videos",
        markup=False,
        soft_wrap=True,
    )
    context.exit(code)


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; Dagster's UI has no login.")
@click.option("--port", default=3000, show_default=True, type=click.IntRange(1, 65535))
@click.pass_context
def ui(context: click.Context, host: str, port: int) -> None:
    """Start Dagster's UI, daemon and code location for the settings' warehouse (dagster dev)."""
    from curation_assets.curation.warehouse import Warehouse
    from curation_assets.defs.instance import ensure_instance_file, shipped_file

    path, loaded = _config(context)
    dagster = shutil.which("dagster", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if dagster is None:
        raise SettingsError("dagster is not on the PATH; activate the virtual environment")
    if not os.environ.get("DAGSTER_HOME"):
        ensure_instance_file(Path.cwd())
    _sync_partitions(Warehouse.of(loaded).registry.sync(loaded))
    workspace = Path("workspace.yaml") if Path("workspace.yaml").is_file() else shipped_file("workspace.yaml")
    environment = {**os.environ, "DAGSTER_DISABLE_TELEMETRY": "1"}
    if path is not None:
        environment["CURATION_CONFIG"] = str(path)
    os.execve(dagster, [dagster, "dev", "-w", str(workspace), "-h", host, "-p", str(port)], environment)


if __name__ == "__main__":
    main()
