"""Checks: what must hold of a table, judged from the tables alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation_assets.curation.corpus import CorpusRun
from curation_assets.curation.media_files import media_sizes
from curation_assets.curation.model_stage import describe_waiting
from curation_assets.curation.status import expected_for, failed_fraction
from curation_assets.curation.warehouse import SourceRun
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.schemas.table import TableSpec

WARN_FAILED_FRACTION = 0.05
_NORM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """How a check of one table ended."""

    name: str
    passed: bool
    description: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    is_warning: bool = False


def failure_rate(status: Mapping[str, Any]) -> CheckOutcome:
    """Warn when more than 5 % of a table's items failed.

    Args:
        status: of the table, from `table_status`.
    """
    fraction = failed_fraction([{"table": status}])
    return CheckOutcome(
        "failure_rate",
        fraction <= WARN_FAILED_FRACTION,
        f"{fraction:.1%} of the items failed; curation-assets failures lists them",
        {"failed_fraction": fraction},
        is_warning=True,
    )


def referential_integrity(run: SourceRun, spec: TableSpec) -> CheckOutcome:
    """Check that every row's video is in raw_videos, and every clip in clips; stale rows, which the next run replaces, are left out."""
    videos = run.table(RAW_VIDEOS).headers(["video_id"]).column("video_id")
    expected = expected_for(run, spec)
    headers = run.headers(spec).items()
    fresh = pa.array(
        (identity for identity, header in headers if expected is None or expected.fingerprints.get(identity) == header.fingerprint),
        pa.string(),
    )
    orphans = _num_missing(fresh, videos)
    if spec is not CLIPS:
        clips = run.read(CLIPS, ["clip_id"]).column("clip_id")
        rows = run.read(spec, ["video_id", "clip_id"], where="clip_id IS NOT NULL")
        found = rows.filter(pc.is_in(rows.column("video_id"), value_set=fresh)).column("clip_id")
        orphans += _num_missing(pc.unique(found), clips)
    return CheckOutcome(
        "referential_integrity", not orphans, f"{orphans} rows point at a video or clip that does not exist", {"num_orphans": orphans}
    )


def frames_ready(run: SourceRun, spec: TableSpec) -> CheckOutcome:
    """Warn when videos wait for their frames: they were left out of the run. Under a limit they are meant to."""
    expected = expected_for(run, spec)
    waiting = describe_waiting(run, expected) if expected is not None and run.limit is None else None
    num_waiting = len(expected.blocked) if expected is not None else 0
    return CheckOutcome(
        "frames_ready", waiting is None, waiting or "no video waits for its frames", {"num_waiting": num_waiting}, is_warning=True
    )


def media_exists(run: SourceRun, spec: TableSpec) -> CheckOutcome:
    """Check that the file of every row is where the row says, with the row's size; the folder is listed, no file is opened."""
    present = media_sizes(run, spec)
    found = run.read(spec, ["uri", "size_bytes"], where="uri IS NOT NULL")
    rows = list(zip(found.column("uri").to_pylist(), found.column("size_bytes").to_pylist(), strict=True))
    missing = [uri for uri, size_bytes in rows if present.get(uri) != size_bytes]
    some = f", for example {missing[0]}; curation-assets run --retry-failed makes them again" if missing else ""
    return CheckOutcome(
        "media_exists",
        not missing,
        f"{len(missing)} of {len(rows)} files are missing or damaged{some}",
        {"num_missing": len(missing), "num_files": len(rows)},
    )


def corpus_integrity(run: CorpusRun, spec: TableSpec) -> CheckOutcome:
    """Check that every row's clip is in clips, once."""
    query = f"SELECT count(*) - count(DISTINCT t.clip_id), count(*) - count(c.clip_id) FROM {spec.view} t LEFT JOIN clips c USING (clip_id)"
    with run.connect() as connection:
        num_twice, num_orphans = connection.execute(query).fetchone()
    text = f"{num_orphans} rows point at a clip that does not exist, {num_twice} clips are there twice"
    return CheckOutcome("referential_integrity", not (num_twice or num_orphans), text, {"num_orphans": num_orphans, "num_twice": num_twice})


def no_chains(run: CorpusRun, spec: TableSpec) -> CheckOutcome:
    """Check that no duplicate is what another one is kept for: a chain would delete unlike clips."""
    query = f"SELECT count(*) FROM {spec.view} WHERE kept_id IN (SELECT clip_id FROM {spec.view})"
    with run.connect() as connection:
        (num_chained,) = connection.execute(query).fetchone()
    return CheckOutcome(
        "no_chains", not num_chained, f"{num_chained} duplicates have a duplicate as their kept clip", {"num_chained": num_chained}
    )


def _num_missing(ids: pa.Array, there: pa.ChunkedArray) -> int:
    return len(ids) - (pc.sum(pc.is_in(ids, value_set=there.combine_chunks())).as_py() or 0)


def unit_norms(run: SourceRun, spec: TableSpec) -> CheckOutcome:
    """Check that every stored vector has length 1."""
    num_bad = num_rows = 0
    dim = spec.schema.field("embedding").type.list_size
    for batch in run.table(spec).scan(["embedding"], where="embedding IS NOT NULL"):
        vectors = batch.column("embedding").flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
        norms = np.linalg.norm(vectors, axis=1)
        num_rows += len(norms)
        num_bad += int(np.count_nonzero(~(np.abs(norms - 1) < _NORM_TOLERANCE)))
    return CheckOutcome(
        "unit_norms", not num_bad, f"{num_bad} of {num_rows} vectors are not of length 1", {"num_bad": num_bad, "num_vectors": num_rows}
    )
