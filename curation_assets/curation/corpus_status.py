"""Corpus status: the status of every source, and what is in the tables over all sources and whether they are behind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from curation_assets.curation.corpus import CorpusRun
from curation_assets.curation.curated_clips import count_reasons, curated_fingerprint
from curation_assets.curation.duplicates import duplicates_fingerprint
from curation_assets.curation.fingerprints import fingerprint
from curation_assets.curation.search_index import search_index_fingerprint
from curation_assets.curation.shards import with_shards
from curation_assets.curation.sources import some_names
from curation_assets.curation.splitters import consumed_settings
from curation_assets.curation.status import source_status
from curation_assets.curation.summaries import code_hash
from curation_assets.curation.warehouse import deciding_model, table_specs
from curation_assets.models import registry
from curation_assets.schemas.curated_clips import CURATED_CLIPS
from curation_assets.schemas.duplicates import duplicates_table
from curation_assets.schemas.search_index import search_index_table
from curation_assets.settings import SettingsError


def source_statuses(run: CorpusRun, names: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """Give the status of all sources, or of some, by name: see `source_status`. What did not change since it was last read is remembered.

    Raises:
        SettingsError: a name that is none of a source.
    """
    chosen = list(run.sources) if names is None else sorted(set(with_shards(names, run.sources)))
    if unknown := [name for name in chosen if name not in run.sources]:
        raise SettingsError(f"no source named {unknown[0]!r}; known: {some_names(list(run.sources))}")
    specs = table_specs(run.config)
    if run.overrides:  # of this command alone
        return {name: source_status(run.source_run(name), specs) for name in chosen}
    base = fingerprint(run.config.processing(), code_hash())
    duplicates: str | None = None
    if any(settings.transcoded_clips.skip_duplicates for _, settings in run.sources.values()) and (model := deciding_model(run.config)):
        duplicates = run.table(duplicates_table(model)).fingerprint()
    by_tree: dict[str, str] = {}
    keys = {}
    for name in chosen:
        record, settings = run.sources[name]
        tree = json.dumps(record.settings, sort_keys=True)
        if tree not in by_tree:
            # a splitter's weights may be a file, which may be another one now
            consumed = [consumed_settings(settings), duplicates if settings.transcoded_clips.skip_duplicates else None]
            by_tree[tree] = fingerprint(base, record.settings, consumed)
        keys[name] = by_tree[tree]
    return run.summaries.values("status", chosen, lambda name: source_status(run.source_run(name), specs), keys=keys)


def corpus_status(run: CorpusRun) -> dict[str, dict[str, Any]]:
    """Give the status of the tables over all sources: {view: {"outcomes": {what: n}, "pending": 1 if the table would be made anew, else 0}}."""
    status: dict[str, dict[str, Any]] = {}
    for model in run.config.embeddings.models:
        table = run.table(duplicates_table(model))
        is_stale = table.fingerprint() != duplicates_fingerprint(run, model)
        number = table.num_rows()
        status[table.spec.view] = {"outcomes": {"duplicate": number} if number else {}, "pending": int(is_stale)}
    for model in run.config.embeddings.models:
        table = run.table(search_index_table(model, registry.spec(model).dim))
        number = table.num_rows()
        is_stale = table.fingerprint() != search_index_fingerprint(run, model)
        status[table.spec.view] = {"outcomes": {"indexed": number} if number else {}, "pending": int(is_stale)}
    curated = run.table(CURATED_CLIPS)
    expected = curated_fingerprint(run, tables=table_specs(run.config), model=deciding_model(run.config))
    status[CURATED_CLIPS.view] = {"outcomes": count_reasons(run), "pending": int(curated.fingerprint() != expected)}
    return status
