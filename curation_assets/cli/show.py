"""Show: `status`, `failures`, `why` and `sql`, which read and never write, but for what `status` remembers of many sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Column, Table

from curation_assets.cli.base import cell, cli, command_line, err, out, print_json, settings_of, source_records, source_run, with_json
from curation_assets.settings import Config, SettingsError

_MOST_SOURCES = 40  # of more the sums are printed


def read_statuses(
    config: Config, names: Sequence[str] | None = None, overrides: Mapping[str, Any] | None = None
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Read the status of all sources, or of some, by name, and that of the tables over all sources."""
    from curation_assets.curation.corpus import CorpusRun
    from curation_assets.curation.corpus_status import corpus_status, source_statuses

    run = CorpusRun(config, overrides=overrides or {}, log=lambda line: err.print(line, markup=False, soft_wrap=True))
    statuses, corpus = source_statuses(run, names), corpus_status(run)
    run.summaries.save()
    return statuses, corpus


def write_page(config: Config, page: Path) -> None:
    """Write the contact sheet."""
    from curation_assets.curation.corpus import CorpusRun
    from curation_assets.curation.sheet import render_sheet

    try:
        page.write_text(render_sheet(CorpusRun(config)), encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"--html {page}: {error.strerror}") from error
    err.print(f"wrote {page}", markup=False, soft_wrap=True)


def status_document(statuses: dict[str, dict[str, Any]], corpus: dict[str, Any]) -> dict[str, Any]:
    """Build the JSON document of `status`."""
    return {"sources": [{"source": name, "tables": tables} for name, tables in statuses.items()], "corpus": corpus}


def print_status(statuses: dict[str, dict[str, Any]], corpus: dict[str, Any]) -> None:
    """Print the status as a table; of many sources the sums, and those for which there is something to do."""
    table = Table("source", Column("table", no_wrap=True), "items", "ok", "not ok", "pending videos")
    shown, more = statuses, 0
    if len(statuses) > _MOST_SOURCES:
        _add_rows(table, f"{len(statuses):,} sources", _sums(statuses.values()))
        waiting = {name: tables for name, tables in statuses.items() if any(status["pending"] for status in tables.values())}
        shown = dict(list(waiting.items())[:_MOST_SOURCES])
        more = len(waiting) - len(shown)
    for name, tables in shown.items():
        _add_rows(table, name, tables)
    for place, (view, status) in enumerate(corpus.items()):
        total = sum(status["outcomes"].values())
        selected = status["outcomes"].get("selected")
        said = ", ".join(f"{number:,} {reason}" for reason, number in status["outcomes"].items() if reason != "selected")
        is_behind = "behind" if status["pending"] else "0"
        table.add_row("all" if place == 0 else "", view, f"{total:,}", "" if selected is None else f"{selected:,}", said, is_behind)
    out.print(table)
    if len(statuses) > _MOST_SOURCES:
        out.print(
            f"shown are the sums and sources with pending videos; {more:,} more have some. status --source NAME or --json shows the others"
        )


def _add_rows(table: Table, name: str, tables: Mapping[str, Mapping[str, Any]]) -> None:
    for place, (view, status) in enumerate(tables.items()):
        outcomes = dict(status["outcomes"])
        ok = outcomes.pop("ok", 0)
        bad = ", ".join(f"{number:,} {code}" for code, number in outcomes.items())
        total = ok + sum(outcomes.values())
        table.add_row(cell(name) if place == 0 else "", view, f"{total:,}", f"{ok:,}", bad, f"{status['pending']:,}")


def _sums(statuses: Iterable[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Add up the status of each view over sources."""
    sums: dict[str, dict[str, Any]] = {}
    for tables in statuses:
        for view, status in tables.items():
            total = sums.setdefault(view, {"outcomes": Counter(), "pending": 0})
            total["outcomes"].update(status["outcomes"])
            total["pending"] += status["pending"]
    return sums


@cli.command()
@click.option(
    "--html", "page", metavar="FILE", type=click.Path(path_type=Path), help="Write a page with a picture of each clip, selected or why not."
)
@click.option("--source", "names", multiple=True, metavar="NAME", help="Only these sources.")
@with_json
@click.pass_context
def status(context: click.Context, page: Path | None, names: tuple[str, ...], as_json: bool) -> None:
    """Show how the items of every table ended, and how many videos wait for work."""
    config = settings_of(context)[1]
    if page is not None:
        write_page(config, page)
    statuses, corpus = read_statuses(config, names or None)
    if as_json:
        print_json(status_document(statuses, corpus))
    elif statuses:
        print_status(statuses, corpus)
    else:
        out.print("no sources yet; add one: curation-assets run --source holidays=./videos")


@cli.command()
@click.option("--source", "names", multiple=True, help="Only these sources.")
@with_json
@click.pass_context
def failures(context: click.Context, names: tuple[str, ...], as_json: bool) -> None:
    """List what failed or was cut short, and why."""
    from curation_assets.curation.shards import with_shards
    from curation_assets.curation.sources import some_names
    from curation_assets.curation.status import failures as list_failures

    config = settings_of(context)[1]
    found: list[dict[str, Any]] = []
    records = source_records(config)
    names = tuple(with_shards(names, [record.name for record in records]))
    if unknown := set(names) - {record.name for record in records}:
        known = some_names([record.name for record in records])
        raise SettingsError(f"no source named {min(unknown)!r}; known: {known}")
    for record in records:
        if not names or record.name in names:
            with source_run(config, record) as source:
                found.extend(list_failures(source))
    if as_json:
        print_json(found)
        return
    if not found:
        out.print("nothing failed")
        return
    table = Table("source", "table", "key", "clip", "outcome", "detail")
    for item in found:
        table.add_row(
            *map(cell, (item["source"], item["table"], item["key"], (item["clip_id"] or "")[:8], item["outcome"], item["detail"]))
        )
    out.print(table)


@cli.command()
@click.argument("clip_id")
@with_json
@click.pass_context
def why(context: click.Context, clip_id: str, as_json: bool) -> None:
    """Tell the whole story of a clip: where it comes from, its scores, whether it is kept and why."""
    from curation_assets.curation.query import clip_story

    story = clip_story(settings_of(context)[1], clip_id)
    if story is None:
        raise SettingsError(f"no clip {clip_id!r}; curation-assets sql 'select clip_id from clips' lists them")
    story["recut"] = f"{command_line(context.obj)} cut {story['clip']['clip_id']}"
    if as_json:
        print_json(story)
        return
    clip, video, scores = story["clip"], story["video"], story["scores"]
    out.print(f"clip {clip['clip_id']}", markup=False)
    where = video["uri"] if video else "gone from its source; the next run removes the clip"
    out.print(f"  from    {where}", markup=False, soft_wrap=True)
    out.print(f"  span    {clip['start_ns'] / 1e9:.3f} to {clip['end_ns'] / 1e9:.3f} s, {clip['num_frames']} frames, by {clip['method']}")
    if scores is None:
        out.print("  kept    not judged: there are no scores for it yet")
    else:
        verdict = {
            True: "yes, it passes every threshold",
            False: f"no: {scores['reject_reason']}",
            None: "not judged: scores are still to come",
        }
        out.print(f"  kept    {verdict[scores['kept']]}")
        values = {name: value for name, value in scores.items() if isinstance(value, float)}
        out.print("  scores  " + ", ".join(f"{name} {value:.4g}" for name, value in values.items()))
    if (item := story["aesthetic"]) and (item["outcome"] != "ok" or scores is None):
        out.print(
            f"  scores  aesthetic: {item['num_frames']} frames, {item['outcome']}{' (' + item['detail'] + ')' if item['detail'] else ''}",
            markup=False,
        )
    for item in story["frame_sets"]:
        fps = "" if item["fps"] is None else f" at {item['fps']:g} fps"
        detail = f" ({item['detail']})" if item["detail"] else ""
        size = f"{item['width_px']}x{item['height_px']}"
        out.print(f"  frames  {item['name']}: {item['num_frames']}{fps}, {size} {item['codec']}, {item['outcome']}{detail}", markup=False)
    for view, item in story["embeddings"].items():
        out.print(f"  vector  {view}: {item['outcome']}{' (' + item['detail'] + ')' if item['detail'] else ''}", markup=False)
    for view, item in story["files"].items():
        what = [item["uri"] or item["outcome"], item.get("codec"), item.get("how"), item["detail"]]
        out.print(f"  file    {view}: {', '.join(word for word in what if word)}", markup=False, soft_wrap=True)
    for view, item in story["duplicates"].items():
        for word, others in (("is a near-duplicate of", item["duplicate_of"]), ("is kept for its near-duplicate", item["kept_for"])):
            for other in others:
                span = f" {other['start_ns'] / 1e9:.3f} to {other['end_ns'] / 1e9:.3f} s" if "key" in other else ""
                place = f"{other['source']}/{other['key']}{span}" if span else "a clip that is gone"
                out.print(
                    f"  double  {view}: {word} {other['clip_id']}, {place}, cosine {other['similarity']:.4f}", markup=False, soft_wrap=True
                )
    curated = story["curated"]
    if curated is None:
        out.print("  curated not yet: the next run judges it")
    else:
        out.print("  curated " + ("selected" if curated["is_selected"] else f"left out: {', '.join(curated['reject_reasons'])}"))
    out.print(f"  re-cut  {story['recut']}", markup=False, soft_wrap=True)


@cli.command()
@click.argument("query")
@with_json
@click.pass_context
def sql(context: click.Context, query: str, as_json: bool) -> None:
    """Ask the warehouse with SQL (DuckDB). Views: raw_videos, clips, frame_sets, clip_scores, embeddings_<model>."""
    import duckdb

    from curation_assets.curation.query import ask, connect_config

    with connect_config(settings_of(context)[1]) as connection:
        try:
            rows = ask(connection, query)
        except (duckdb.Error, ValueError) as error:
            raise SettingsError(f"{error}\nviews: {', '.join(connection.views)}") from error
    if as_json:
        print_json(rows)
        return
    table = Table(*(map(cell, rows[0]) if rows else ["no rows"]))
    for row in rows:
        table.add_row(*(cell(_cell(value)) for value in row.values()))
    out.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and len(value) > 6:
        return f"[{', '.join(_cell(item) for item in value[:3])}, … {len(value)} values]"
    return "" if value is None else str(value)
