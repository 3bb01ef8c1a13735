"""Query: the SQL views with every source's thresholds applied, single tables, and the whole story of one clip."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from curation_assets.configuration import resolve_settings
from curation_assets.curation.select import judging_tables, reject_reason_sql
from curation_assets.curation.shards import shards_by_source
from curation_assets.curation.sources import some_names
from curation_assets.curation.warehouse import Warehouse, corpus_specs, table_specs
from curation_assets.models import registry
from curation_assets.schemas import names
from curation_assets.schemas.clip_scores import CLIP_SCORES_AESTHETIC, SCORER_TABLES
from curation_assets.schemas.duplicates import duplicates_table
from curation_assets.schemas.embeddings import embeddings_table
from curation_assets.schemas.search_index import search_index_table
from curation_assets.schemas.table import TableSpec
from curation_assets.schemas.transcoded_clips import TRANSCODED_CLIPS
from curation_assets.settings import Config, SettingsError
from curation_assets.storage import views

_SOME_IDS = 3
_MOST_NAMED = 10
_CATALOG = re.compile(r"\b(show|information_schema|duckdb_(tables|views|columns)|pg_catalog|sqlite_master)\b", re.IGNORECASE)


def all_specs(config: Config) -> list[TableSpec]:
    """List the tables that may exist: those of the settings, and of every model in the registry."""
    specs = {spec.asset: spec for spec in table_specs(config)}
    for spec in (*SCORER_TABLES.values(), TRANSCODED_CLIPS):
        specs.setdefault(spec.asset, spec)
    for model in registry.names():
        spec = embeddings_table(model, registry.spec(model).dim)
        specs.setdefault(spec.asset, spec)
    return list(specs.values())


def all_corpus_specs(config: Config) -> list[TableSpec]:
    """List the tables over all sources that may exist."""
    models = registry.names()
    indexes = (search_index_table(model, registry.spec(model).dim) for model in models)
    specs = {spec.asset: spec for spec in (*corpus_specs(config), *map(duplicates_table, models), *indexes)}
    return list(specs.values())


def connect_config(config: Config, overrides: Mapping[str, Any] | None = None) -> views.SqlConnection:
    """Open all sources' tables for SQL, lazily; a run's overrides of the thresholds win over the sources' own."""
    warehouse = Warehouse.of(config)
    records = warehouse.registry.records()
    base, by_tree = config.processing(), {}  # thousands of sources have few different settings
    rejects, judges = {}, {}
    for name, record in records.items():
        tree = json.dumps(record.settings, sort_keys=True)
        if tree not in by_tree:
            thresholds = resolve_settings(base, record.settings, overrides or {}, where=f"source {name!r}").clip_scores.thresholds
            by_tree[tree] = reject_reason_sql(thresholds), judging_tables(thresholds)
        rejects[record.plain_name], judges[record.plain_name] = by_tree[tree]
    specs = [*all_specs(config), *all_corpus_specs(config)]
    running = [SCORER_TABLES[name] for name in config.clip_scores.scorers]
    return views.connect(
        warehouse.layout,
        specs,
        list(records),
        storage_options=warehouse.storage_options,
        reject_sql=rejects,
        judged_by=judges,
        scorers=running or None,  # of a project that has switched all of them off, what they left
    )


def ask(connection: views.SqlConnection, query: str) -> list[dict[str, Any]]:
    """Run a query and return its rows as JSON-ready objects.

    Views are made when a query names them, so one that asks the catalog what there is has all of them made first.
    """
    if _CATALOG.search(query):
        connection.execute(f"SELECT 1 -- {' '.join(connection.views)}")
    return views.json_rows(connection.execute(query))


def open_dataset(config: Config, view: str, source: str | None) -> Any:
    """Open the Lance dataset behind one view and source; source None for a table over all sources."""
    specs = {spec.view: spec for spec in (all_corpus_specs(config) if source is None else all_specs(config))}
    if view not in specs:
        raise KeyError(f"no table {view!r} {'over all sources' if source is None else 'of one source'}; there are {', '.join(specs)}")
    warehouse = Warehouse.of(config)
    registered = warehouse.registry
    if source and registered.find(source) is None and (shards := shards_by_source(registered.names()).get(source)):
        raise KeyError(f"source {source!r} is split into shards, each with a table of its own; open one of {some_names(shards)}")
    table = warehouse.corpus_table(specs[view]) if source is None else warehouse.table(specs[view], source)
    snapshot = table.snapshot()
    if snapshot is None:
        where = "the warehouse" if source is None else f"source {source!r}"
        raise KeyError(f"{where} has no table {view!r} yet; curation-assets status shows what there is")
    return snapshot.dataset


def _named(found: list[dict[str, Any]], rows: Callable[[str, Sequence[Any]], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Say of the clips of a few rows which video they are from."""
    query = "SELECT source, key, start_ns, end_ns FROM clips JOIN raw_videos USING (source, video_id) WHERE clip_id = ?"
    return [{**row, **next(iter(rows(query, [row["clip_id"]])), {})} for row in found[:_MOST_NAMED]]


def find_clip(connection: views.SqlConnection, clip_id: str) -> dict[str, Any] | None:
    """Find a clip by its id or by the beginning of it, in letters of either case; None when there is none.

    Raises:
        SettingsError: several clips begin so.
    """
    clip_id = clip_id.lower()
    clips = views.json_rows(connection.execute("SELECT * FROM clips WHERE clip_id = ?", [clip_id]))
    if not clips:  # a range, which the scan takes over; a function of the column it would not
        found = connection.execute(
            "SELECT * FROM clips WHERE clip_id >= ? AND clip_id < ? ORDER BY clip_id", [clip_id, clip_id + chr(0x10FFFF)]
        )
        clips = views.json_rows(found)
    ids = list(dict.fromkeys(row["clip_id"] for row in clips))
    if len(ids) > 1:
        some = ", ".join(ids[:_SOME_IDS]) + (", …" if len(ids) > _SOME_IDS else "")
        raise SettingsError(f"{len(ids)} clips begin with {clip_id!r}: {some}; give more of the id")
    return clips[0] if clips else None


def clip_story(config: Config, clip_id: str) -> dict[str, Any] | None:
    """Gather what the tables say of one clip.

    Args:
        config: settings.
        clip_id: the clip, or the beginning of its id.

    Returns:
        The clip, its video (None when it has left the source), scores with the verdict, how the scoring of its frames ended (None where it was not tried),
        frame sets, embeddings, files, what it duplicates or is kept for, and
        whether it is selected; None when there is no such clip.

    Raises:
        SettingsError: several clips begin so.
    """
    with connect_config(config) as connection:

        def rows(query: str, parameters: Sequence[Any]) -> list[dict[str, Any]]:
            return views.json_rows(connection.execute(query, list(parameters)))

        clip = find_clip(connection, clip_id)
        if clip is None:
            return None
        clip_id = clip["clip_id"]
        story: dict[str, Any] = {"clip": clip}
        videos = rows("SELECT * FROM raw_videos WHERE source = ? AND video_id = ?", [clip["source"], clip["video_id"]])
        story["video"] = videos[0] if videos else None
        scores = rows("SELECT * FROM clip_scores WHERE source = ? AND clip_id = ?", [clip["source"], clip_id])
        story["scores"] = scores[0] if scores else None
        aesthetic = f"SELECT outcome, detail, num_frames FROM {CLIP_SCORES_AESTHETIC.view} WHERE source = ? AND clip_id = ?"
        story["aesthetic"] = next(iter(rows(aesthetic, [clip["source"], clip_id])), None)
        story["frame_sets"] = rows(
            "SELECT name, outcome, detail, fps, height_px, width_px, num_frames, codec, time_ns FROM frame_sets WHERE source = ? AND clip_id = ?",
            [clip["source"], clip_id],
        )
        story["embeddings"] = {
            spec.view: found[0]
            for spec in table_specs(config)
            if spec.asset.startswith("embeddings/")
            and (found := rows(f"SELECT outcome, detail FROM {spec.view} WHERE source = ? AND clip_id = ?", [clip["source"], clip_id]))
        }
        story["files"] = {
            spec.view: found[0]
            for spec in table_specs(config)
            if spec is TRANSCODED_CLIPS or spec.asset.startswith(f"{names.PREVIEWS}/")
            if (found := rows(f"SELECT * FROM {spec.view} WHERE source = ? AND clip_id = ?", [clip["source"], clip_id]))
        }
        story["duplicates"] = {
            spec.view: {
                "duplicate_of": _named(rows(f"SELECT kept_id AS clip_id, similarity FROM {spec.view} WHERE clip_id = ?", [clip_id]), rows),
                "kept_for": _named(
                    rows(f"SELECT clip_id, similarity FROM {spec.view} WHERE kept_id = ? ORDER BY clip_id", [clip_id]), rows
                ),
            }
            for spec in corpus_specs(config)
            if spec.asset.startswith("duplicates/")
        }
        curated = rows(
            "SELECT is_selected, reject_reasons, uri, duplicate_of FROM curated_clips WHERE source = ? AND clip_id = ?",
            [clip["source"], clip_id],
        )
        story["curated"] = curated[0] if curated else None
    return story
