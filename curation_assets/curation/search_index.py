"""search_index/<model>: the vectors that a search may find, of all sources, with an index over them once they are many."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation_assets.curation.corpus import CorpusReport, CorpusRun, unchanged
from curation_assets.curation.curated_clips import same_video
from curation_assets.curation.fingerprints import fingerprint
from curation_assets.curation.summaries import code_hash
from curation_assets.models import registry
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.embeddings import embeddings_table
from curation_assets.schemas.outcomes import Outcome
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.schemas.search_index import search_index_table
from curation_assets.storage.corpus import CorpusTable
from curation_assets.storage.layout import plain_name
from curation_assets.storage.snapshots import Snapshot, in_list
from curation_assets.storage.vector_index import build_index, has_index

CODE_VERSION = "1"
COLUMNS = ("clip_id", "source", "video_id", "start_ns", "end_ns", "embedding")
FOUND = f"scope = 'clip' AND outcome = '{Outcome.OK.value}' AND embedding IS NOT NULL"

Ids = npt.NDArray[np.bytes_]
NO_IDS: Ids = np.empty(0, "S36")


@dataclass(frozen=True)
class SourceVectors:
    """The vectors of one model of a source, or of one shard of it, in one version of its table.

    Attributes:
        run: all sources.
        partition: name of the source, or of the shard.
        snapshot: of the embeddings.
    """

    run: CorpusRun
    partition: str
    snapshot: Snapshot

    @property
    def source(self) -> str:
        """Name of the source, as the rows have it."""
        return plain_name(self.partition)

    @cached_property
    def version(self) -> str:
        """Hash what a search may find of the source: its vectors, and of their videos the version and the clips."""
        vectors = self.snapshot.headers(("video_id", "outcome", "content_hash"))
        videos = _by_video(self.run.warehouse.table(RAW_VIDEOS, self.partition).headers(["video_id", "etag"]))
        clips = _by_video(self.run.warehouse.table(CLIPS, self.partition).headers(["video_id", "content_hash"]))
        digest = hashlib.sha256()
        for row in sorted(zip(*(vectors.column(name).to_pylist() for name in vectors.column_names), strict=True)):
            digest.update(repr((row, videos.get(row[0]), clips.get(row[0]))).encode())
        return digest.hexdigest()

    def batches(self, live: Ids) -> Iterator[pa.RecordBatch]:
        """Read the vectors of some clips.

        Args:
            live: ids, sorted; others are passed over.
        """
        if not len(live):
            return
        for batch in self.snapshot.batches(COLUMNS, where=FOUND):
            ids = np.asarray(batch.column("clip_id").to_pylist(), "S36")
            places = np.minimum(np.searchsorted(live, ids), len(live) - 1)
            yield batch.filter(pa.array(live[places] == ids))


def _by_video(rows: pa.Table) -> dict[str, Any]:
    ids, *others = (rows.column(name).to_pylist() for name in rows.column_names)
    return dict(zip(ids, zip(*others, strict=True), strict=True))


def open_vectors(run: CorpusRun, model: str) -> dict[str, SourceVectors]:
    """Open the newest version of every source's vectors, by partition; those without a table are left out."""
    spec = embeddings_table(model, registry.spec(model).dim)
    snapshots = {name: run.warehouse.table(spec, name).snapshot() for name in run.sources}
    return {name: SourceVectors(run, name, snapshot) for name, snapshot in snapshots.items() if snapshot is not None}


def live_clips(run: CorpusRun, model: str, sources: Sequence[str], *, where: str | None = None) -> dict[str, Ids]:
    """List the clips that a search may find: those with a vector, made from the clip and the video that are there now.

    Args:
        run: all sources.
        model: registry name.
        sources: whose clips, as the column `source` has them.
        where: SQL condition over the columns of clips, raw_videos, clip_scores and curated_clips.

    Returns:
        Clip ids by source, sorted; sources without any are left out.

    Raises:
        duckdb.Error, ValueError: the condition is wrong, or is more than one condition; nothing of it was executed then.
    """
    if where is not None:
        _check_condition(where)
    if not sources:
        return {}
    view = embeddings_table(model, registry.spec(model).dim).view
    alive = f"""
        SELECT e.source, e.clip_id FROM _{view}_rows e
        JOIN _clips_rows c ON c.source = e.source AND c.clip_id = e.clip_id AND {same_video("e")}
        JOIN raw_videos v ON v.source = c.source AND v.video_id = c.video_id AND (v.etag = c.video_etag) IS NOT FALSE
        WHERE e.scope = 'clip' AND e.outcome = '{Outcome.OK.value}' AND e.{in_list("source", sources)}"""
    if where is not None:
        alive = f"SELECT source, clip_id FROM ({alive}) JOIN ({_FILTERED}\n) USING (source, clip_id) WHERE (\n{where}\n)"
    with run.connect() as connection:
        found = connection.execute(f"SELECT source, clip_id FROM ({alive}\n) ORDER BY source, clip_id").fetchnumpy()
    by_source = {name: np.asarray(found["clip_id"][found["source"] == name], "S36") for name in sources}
    return {name: ids for name, ids in by_source.items() if len(ids)}


def _check_condition(where: str) -> None:
    """Refuse, by parsing alone, what would end the query that it is put into, or is more than an expression.

    What closes a bracket that it did not open can fit into round ones or into square ones, never into both.
    """
    import duckdb  # not needed to load the definitions

    for query in (f"SELECT 1 WHERE (\n{where}\n)", f"SELECT [\n{where}\n]"):
        statements = duckdb.extract_statements(query)
        if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
            raise ValueError("it must be one SQL condition, without other statements")


# every column of the four views once: where two have one of a name, clips come first, then scores
_FILTERED = """
    SELECT c.*, s.* EXCLUDE (source, video_id, clip_id), u.uri, u.is_selected, u.reject_reasons, u.caption, u.duplicate_of,
        v.* EXCLUDE (source, video_id, outcome, detail, uri)
    FROM clips c JOIN raw_videos v ON v.source = c.source AND v.video_id = c.video_id
    LEFT JOIN clip_scores s ON s.source = c.source AND s.clip_id = c.clip_id
    LEFT JOIN curated_clips u ON u.source = c.source AND u.clip_id = c.clip_id"""


def update_search_index(run: CorpusRun, model: str) -> CorpusReport:
    """Bring one model's search index up to date with the vectors of all sources.

    Args:
        run: all sources.
        model: registry name.
    """
    started = time.monotonic()
    spec = search_index_table(model, registry.spec(model).dim)
    with run.writing(spec) as table:
        vectors = open_vectors(run, model)
        expected = _fingerprint(run, model, {name: one.version for name, one in vectors.items()})
        if (report := unchanged(table, expected, started)) and _is_whole(table):
            return report
        live = live_clips(run, model, list(dict.fromkeys(one.source for one in vectors.values())))
        num_vectors = sum(map(len, live.values()))
        is_indexed = num_vectors >= run.config.search.index_from
        facts = {
            "num_vectors": num_vectors,
            "is_indexed": int(is_indexed),
            "versions": {name: one.version for name, one in vectors.items()} if is_indexed else {},
        }
        run.log(f"{spec.asset}: {num_vectors:,} vectors, {'with an index' if is_indexed else 'searched one by one'}")
        read = [one for one in vectors.values() if one.source in live] if is_indexed else []
        rows = (batch.select(spec.schema.names) for one in read for batch in one.batches(live[one.source]))
        table.replace(rows, fingerprint=expected, facts=facts)
        if is_indexed and (snapshot := table.snapshot()):
            build_index(snapshot)
        return CorpusReport(num_vectors if is_indexed else 0, False, facts, time.monotonic() - started)


def search_index_fingerprint(run: CorpusRun, model: str) -> str:
    """Hash all that one model's search index is made from."""

    def version(name: str) -> str | None:
        snapshot = run.warehouse.table(spec, name).snapshot()
        return None if snapshot is None else SourceVectors(run, name, snapshot).version

    spec = embeddings_table(model, registry.spec(model).dim)
    versions = run.summaries.values(f"vectors of {model}", list(run.sources), version, keys=dict.fromkeys(run.sources, code_hash()))
    return _fingerprint(run, model, {name: found for name, found in versions.items() if found is not None})


def _fingerprint(run: CorpusRun, model: str, versions: dict[str, str]) -> str:
    return fingerprint("search_index", CODE_VERSION, model, run.config.search.index_from, versions)


def _is_whole(table: CorpusTable) -> bool:
    """Say whether the index over the rows was built too: a run may have been killed in between."""
    snapshot = table.snapshot()
    return snapshot is not None and (not table.facts().get("is_indexed") or has_index(snapshot))
