"""Search: the clips of all sources that lie nearest to a text, a stored clip, or a video from anywhere.

Every vector is looked at where there is no index, where a filter is given, and in sources that changed since the index was made; the index serves the others.
So no clip that is gone or replaced is found, none that was added is missed, and a filter loses no hit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt

from curation_assets.curation.corpus import CorpusRun
from curation_assets.curation.nearest import Near, NearestRows
from curation_assets.curation.query_vectors import Query, check_utf8, choose_model, query_vector
from curation_assets.curation.search_index import COLUMNS, NO_IDS, live_clips, open_vectors
from curation_assets.models import registry
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.schemas.search_index import search_index_table
from curation_assets.settings import SettingsError
from curation_assets.storage.layout import plain_name
from curation_assets.storage.vector_index import nearest_rows

Vector = npt.NDArray[np.float32]
MOST_HITS = 2**63 - 1  # what is more than this is a slip; below, more than there are clips stands for all


@dataclass(frozen=True, slots=True)
class Hit:
    """A clip that was found: where it is, and the cosine of its vector with the query's, to six decimals."""

    clip_id: str
    video_id: str
    source: str
    key: str | None
    start_ns: int
    end_ns: int
    score: float

    def as_dict(self) -> dict[str, Any]:
        """Give the hit for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Attributes:
        hits: the nearest first; of equal scores the smaller clip_id.
        model: whose vectors were compared.
        notes: what to know of the query, in words.
    """

    hits: list[Hit]
    model: str
    notes: Sequence[str] = ()


def search(run: CorpusRun, query: Query, *, model: str | None = None, k: int = 10, where: str | None = None) -> Found:
    """Find the clips that lie nearest to a query.

    Args:
        run: all sources.
        query: what to look for.
        model: registry name; None is the first of `embeddings.models` that can take the query and has vectors.
        k: most hits.
        where: SQL condition over the columns of the views clips, raw_videos, clip_scores and curated_clips; only clips that fulfil it are looked at.
            Of columns of one name the first of clips, clip_scores, curated_clips (uri alone) and raw_videos is meant.

    Raises:
        SettingsError: the query, the model or the condition cannot be used; the message says why and what to do.
    """
    if not 1 <= k <= MOST_HITS:
        raise SettingsError(f"k is {k}; it must be at least 1 and at most {MOST_HITS}")
    check_utf8(where, "the filter")
    check_utf8(model, "the model's name")
    if where is not None and not where.strip():
        raise SettingsError("the filter is empty; give a condition such as is_selected, or leave it out")
    model = choose_model(run, query, model)
    searcher = Searcher(run, model, where=where)  # a wrong filter is told before a model is loaded
    vector = query_vector(run, query, model)
    return Found(searcher.nearest(vector.values, k, without=vector.clip_id), model, vector.notes)


class Searcher:
    """One model's vectors of all sources as they are now, ready for any number of queries.

    Args:
        run: all sources.
        model: registry name.
        where: as in `search`.

    Raises:
        SettingsError: the condition is wrong.
    """

    def __init__(self, run: CorpusRun, model: str, *, where: str | None = None) -> None:
        self._run = run
        self._keys: dict[str, dict[str, str | None]] = {}
        self._vectors = open_vectors(run, model)
        table = run.table(search_index_table(model, registry.spec(model).dim))
        facts = table.facts()
        versions = facts.get("versions", {}) if facts.get("is_indexed") and where is None else {}
        self._index = table.snapshot() if versions else None
        # the index knows the source of a row, not its shard: where one of them changed, all are looked at
        changed = {name for name, one in self._vectors.items() if name not in versions or versions[name] != one.version} | (
            versions.keys() - self._vectors.keys()
        )
        changed = {plain_name(name) for name in changed}
        unchanged = {plain_name(name) for name in versions} - changed
        self._indexed = None if len(unchanged) == len({plain_name(name) for name in versions}) else sorted(unchanged)
        self.exact_sources = list(dict.fromkeys(one.source for one in self._vectors.values() if one.source in changed))
        try:
            self._live = live_clips(run, model, self.exact_sources, where=where)
        except (duckdb.Error, ValueError) as error:
            if where is None:
                raise
            said = " ".join(str(error).partition("\nLINE ")[0].split())  # the line is one of a query that nobody wrote
            raise SettingsError(f"the filter {where!r} is wrong: {said}") from error

    def nearest(self, query: Vector, k: int, *, without: str | None = None) -> list[Hit]:
        """Find the k nearest clips.

        Args:
            query: float32 (D,), unit length.
            k: most hits.
            without: clip that is no hit.
        """
        found = NearestRows(query, k, without=without)
        if self._index is not None and self._indexed != []:
            rows = nearest_rows(self._index, query, k + (without is not None), COLUMNS, sources=self._indexed)
            for batch in rows.combine_chunks().to_batches():
                found.add(batch)
        for one in self._vectors.values():
            for batch in one.batches(self._live.get(one.source, NO_IDS)):
                found.add(batch)
        return self._hits(found.rows())

    def _hits(self, rows: Sequence[Near]) -> list[Hit]:
        places = [self._run.partition_of(row.source, row.video_id) for row in rows]
        for source in set(places) - self._keys.keys():
            headers = self._run.warehouse.table(RAW_VIDEOS, source).headers(["video_id", "key"])
            self._keys[source] = dict(zip(headers.column("video_id").to_pylist(), headers.column("key").to_pylist(), strict=True))
        return [
            Hit(
                row.clip_id,
                row.video_id,
                row.source,
                self._keys[place].get(row.video_id),
                row.start_ns,
                row.end_ns,
                score=0.0 - row.distance,
            )
            for row, place in zip(rows, places, strict=True)
        ]


def clock(time_ns: int) -> str:
    """Write a time as h:mm:ss.mmm."""
    milliseconds = math.floor(time_ns / 1e6 + 0.5)
    seconds, milliseconds = divmod(milliseconds, 1000)
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}.{milliseconds:03}"
