"""Corpus status: what is in the tables over all sources, and whether they are behind."""

from __future__ import annotations

from typing import Any

from curation_assets.curation.corpus import CorpusRun
from curation_assets.curation.curated_clips import count_reasons, curated_fingerprint
from curation_assets.curation.duplicates import duplicates_fingerprint
from curation_assets.curation.search_index import search_index_fingerprint
from curation_assets.curation.warehouse import deciding_model, table_specs
from curation_assets.models import registry
from curation_assets.schemas.curated_clips import CURATED_CLIPS
from curation_assets.schemas.duplicates import duplicates_table
from curation_assets.schemas.search_index import search_index_table


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
