"""duplicates/<model>: read all sources' vectors, find near-duplicates of better clips, and replace the table."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation_assets.curation.corpus import CorpusReport, CorpusRun, unchanged
from curation_assets.curation.curated_clips import same_video
from curation_assets.curation.dedup import NO_NEIGHBOUR, Floats, Indices, cluster_vectors, find_duplicates, rank_by_centroid
from curation_assets.curation.fingerprints import fingerprint
from curation_assets.curation.select import judging_tables, reject_reason_sql
from curation_assets.models import registry
from curation_assets.schemas.clip_scores import SCORER_TABLES, score_names
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.duplicates import duplicates_table
from curation_assets.schemas.embeddings import embeddings_table
from curation_assets.schemas.outcomes import OutcomeClass, codes
from curation_assets.schemas.ranks import RANK_COLUMNS
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.schemas.transcoded_clips import TRANSCODED_CLIPS
from curation_assets.settings import DedupSettings
from curation_assets.storage.snapshots import quoted

CODE_VERSION = "1"
HISTOGRAM_BINS = 40
_USABLE = ", ".join(f"'{code}'" for code in codes(OutcomeClass.OK, OutcomeClass.PARTIAL))
_ALIASES = {"raw_videos": "v", "clips": "c", "clip_scores": "s"}  # in the query that ranks
_IN_MEMORY_BYTES = 512_000_000  # more vectors than this are kept in a file


def update_duplicates(run: CorpusRun, model: str) -> CorpusReport:
    """Bring one model's duplicates up to date with the vectors of all sources.

    Args:
        run: all sources.
        model: registry name.
    """
    started = time.monotonic()
    spec = duplicates_table(model)
    with run.writing(spec) as table:
        expected = duplicates_fingerprint(run, model)
        if report := unchanged(table, expected, started):
            return report
        ids = _ranked_ids(run, model)
        run.log(f"{spec.asset}: {len(ids):,} clips")
        with _vectors(run, model, ids) as vectors:
            batch, facts = _search(vectors, ids, run.config.dedup, eps=duplicate_eps(run, model), schema=spec.schema)
        table.replace([batch], fingerprint=expected, facts=facts)
        return CorpusReport(batch.num_rows, False, facts, time.monotonic() - started)


def duplicate_eps(run: CorpusRun, model: str) -> float:
    """Return the largest cosine distance of near-duplicates: the settings', or the model's own."""
    return run.config.dedup.eps if run.config.dedup.eps is not None else registry.spec(model).duplicate_eps


def duplicates_fingerprint(run: CorpusRun, model: str) -> str:
    """Hash all that one model's duplicates are made from."""
    settings = run.config.dedup
    ranks = settings.which_to_keep if isinstance(settings.which_to_keep, list) else []
    tree = settings.model_dump(mode="json", exclude={"model", "eps"})
    versions = [run.data_versions(table) for table in (CLIPS, embeddings_table(model, registry.spec(model).dim))]
    thresholds = {name: reject_reason_sql(own.clip_scores.thresholds) for name, (_, own) in run.sources.items()}
    # what judges and ranks clips matters only where it is read
    judging = [spec for _, own in run.sources.values() for spec in judging_tables(own.clip_scores.thresholds)]
    others: list[Any] = [
        run.data_versions(spec)
        for spec in SCORER_TABLES.values()
        if spec in judging or {*score_names(spec)} & {rank.removeprefix("-") for rank in ranks}
    ]
    if run.config.transcoded_clips.enabled:
        others.append(_failed_transcodes(run))
    if any(rank.removeprefix("-") in {*RAW_VIDEOS.view_columns, "num_pixels"} for rank in ranks):
        others.append(run.data_versions(RAW_VIDEOS))
    return fingerprint("duplicates", CODE_VERSION, model, duplicate_eps(run, model), tree, versions, thresholds, others)


def _failed_transcodes(run: CorpusRun) -> str:
    """Hash which clips have no file because making it failed."""

    def failed(name: str) -> list[str]:
        batches = run.warehouse.table(TRANSCODED_CLIPS, name).scan(["clip_id"], where=f"clip_id IS NOT NULL AND outcome NOT IN ({_USABLE})")
        return sorted(clip_id for batch in batches for clip_id in batch.column("clip_id").to_pylist())

    found = run.summaries.values("clips without file", list(run.sources), failed)
    clips = sorted(clip_id for ids in found.values() for clip_id in ids)
    return hashlib.md5(",".join(clips).encode(), usedforsecurity=False).hexdigest() if clips else str(None)


def _ranked_ids(run: CorpusRun, model: str) -> npt.NDArray[np.bytes_]:
    """List the clips to compare, best first where columns rank them, else sorted: those with a vector that pass their source's thresholds, less those
    whose file could not be made. None of the others can be selected, so nothing may be left out for them.
    """
    which = run.config.dedup.which_to_keep
    order = "e.clip_id"
    if isinstance(which, list):
        order = ", ".join([*(_rank_sql(rank) for rank in which), order])
    view = embeddings_table(model, registry.spec(model).dim).view
    judging = (record.plain_name for record, own in run.sources.values() if judging_tables(own.clip_scores.thresholds))
    judged = [quoted(name) for name in dict.fromkeys(judging)]
    passes = f"CASE WHEN e.source IN ({', '.join(judged)}) THEN coalesce(s.kept, false) ELSE true END" if judged else "true"
    has_file, files = "", ""
    if run.config.transcoded_clips.enabled:
        files = f"LEFT JOIN _{TRANSCODED_CLIPS.view}_rows t ON t.source = e.source AND t.clip_id = e.clip_id AND {same_video('t')}"
        has_file = f"AND coalesce(t.outcome IN ({_USABLE}), true)"
    query = f"""
        SELECT e.clip_id FROM _{view}_rows e JOIN raw_videos v USING (source, video_id)
        JOIN _clips_rows c ON c.source = e.source AND c.clip_id = e.clip_id AND {same_video("e")}
        LEFT JOIN (SELECT s.*, r.video_etag FROM clip_scores s JOIN _clip_scores_rows r USING (source, video_id, clip_id)) s
            ON s.source = e.source AND s.clip_id = e.clip_id AND {same_video("s")}
        {files}
        WHERE e.scope = 'clip' AND e.outcome IN ({_USABLE}) AND {passes} {has_file}
        ORDER BY {order}"""
    with run.connect() as connection:
        found = connection.execute(query).fetchnumpy()["clip_id"]
    return np.asarray(found, dtype="S36")


def _rank_sql(rank: str) -> str:
    name = rank.removeprefix("-")
    (view,) = (view for view, columns in RANK_COLUMNS.items() if name in columns)
    place = "v.width_px * v.height_px" if name == "num_pixels" else f"{_ALIASES[view]}.{name}"
    return f"{place} {'DESC' if rank.startswith('-') else 'ASC'} NULLS LAST"


@contextmanager
def _vectors(run: CorpusRun, model: str, ids: npt.NDArray[np.bytes_]) -> Iterator[Floats]:
    """Read the vectors of some clips: float32 (N, D) in the order of the ids, in a temporary file when they are many; zeros where there is none."""
    spec = embeddings_table(model, registry.spec(model).dim)
    dim = registry.spec(model).dim
    sorter = np.argsort(ids, kind="stable")
    in_order = ids[sorter]
    with tempfile.TemporaryFile(prefix="curation-assets-vectors-") as file:
        shape = (max(1, len(ids)), dim)
        vectors: Floats = (
            np.memmap(file, np.float32, "w+", shape=shape) if 4 * len(ids) * dim > _IN_MEMORY_BYTES else np.zeros(shape, np.float32)
        )[: len(ids)]
        for name in run.sources if len(ids) else ():
            for batch in run.warehouse.table(spec, name).scan(["clip_id", "embedding"], where="scope = 'clip' AND embedding IS NOT NULL"):
                wanted = np.asarray(batch.column("clip_id").to_pylist(), dtype="S36")
                places = np.minimum(np.searchsorted(in_order, wanted), len(ids) - 1)
                is_there = in_order[places] == wanted
                rows = batch.column("embedding").flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
                vectors[sorter[places[is_there]]] = rows[is_there]
        yield vectors


def _search(
    vectors: Floats, ids: npt.NDArray[np.bytes_], settings: DedupSettings, *, eps: float, schema: pa.Schema
) -> tuple[pa.RecordBatch, dict[str, Any]]:
    """Search, and build the rows, sorted by clip_id."""
    clusters = cluster_vectors(vectors, num_clusters=settings.n_clusters)
    if isinstance(settings.which_to_keep, list):
        order: Indices = np.arange(len(ids))
    else:
        order = rank_by_centroid(clusters, ids, which_to_keep=settings.which_to_keep)
    found = find_duplicates(
        vectors, order=order, clusters=clusters, eps=eps, num_probes=settings.n_probes, exact_max_items=settings.exact_max_clips
    )
    places = np.flatnonzero(found.kept_index >= 0)
    places = places[np.argsort(ids[places])]
    columns = {
        "clip_id": ids[places].astype("U36"),
        "kept_id": ids[found.kept_index[places]].astype("U36"),
        "similarity": np.clip(found.similarity[places], -1.0, 1.0),
        "cluster": clusters.assigned[places],
    }
    batch = pa.record_batch([pa.array(columns[field.name], field.type) for field in schema], schema=schema)
    compared = found.similarity[found.similarity > NO_NEIGHBOUR]
    counts, _ = np.histogram(np.clip(compared, -1, 1), bins=HISTOGRAM_BINS, range=(-1, 1))
    facts = {
        "num_clips": len(ids),
        "num_duplicates": len(places),
        "num_invalid": found.num_invalid,
        "num_clusters": len(clusters.centroids),
        "eps": eps,
        "similarity_counts": counts.tolist(),
    }
    return batch, facts
