"""Status: what the tables say of every source: how items ended, what waits, what failed and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation_assets.curation.aesthetic import expected_aesthetic
from curation_assets.curation.clips import expected_clips
from curation_assets.curation.embeddings import expected_embeddings
from curation_assets.curation.expected import Expected
from curation_assets.curation.frame_sets import expected_frames
from curation_assets.curation.previews import expected_previews
from curation_assets.curation.transcoded_clips import expected_transcoded_clips
from curation_assets.curation.warehouse import SourceRun, table_specs
from curation_assets.schemas import names
from curation_assets.schemas.clip_scores import CLIP_SCORES_AESTHETIC, CLIP_SCORES_PIXELS
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.schemas.outcomes import Outcome, OutcomeClass, codes, outcome_class
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.schemas.table import TableSpec
from curation_assets.schemas.transcoded_clips import TRANSCODED_CLIPS


def table_status(run: SourceRun, spec: TableSpec) -> dict[str, Any]:
    """Count one table's items by outcome, and the videos that wait for work.

    Returns:
        {"outcomes": {outcome: n}, "pending": n}. Items are the view's rows; a video whose own outcome none of its rows has (it failed before it had rows,
        or it is cut short and its rows are fine) counts as one more. Pending are videos whose rows are missing or stale under these settings, those that
        wait for an earlier stage included.
    """
    names = ["video_id", "outcome"]
    rows = run.read(spec, names)
    outcomes = _counts(rows)
    if not spec.rows_are_headers:
        headers = run.table(spec).headers([*names, "num_rows"])
        # a video without rows that is ok, because none of its clips is kept, is no item
        is_item = pc.or_(pc.greater(headers.column("num_rows"), 0), pc.not_equal(headers.column("outcome"), Outcome.OK.value))
        headers = headers.filter(is_item).select(names)
        outcomes.update(_counts(headers.join(rows.group_by(names).aggregate([]), names, join_type="left anti")))
    return {"outcomes": dict(sorted(outcomes.items())), "pending": num_pending(run, spec)}


def _counts(rows: pa.Table) -> Counter[str]:
    return Counter({item["values"].as_py(): item["counts"].as_py() for item in rows.column("outcome").combine_chunks().value_counts()})


def expected_for(run: SourceRun, spec: TableSpec) -> Expected | None:
    """Say what a table should hold; None for `raw_videos`, which only a listing can tell."""
    if spec is RAW_VIDEOS:
        return None
    if spec is CLIPS:
        return expected_clips(run)
    if spec in (FRAME_SETS, CLIP_SCORES_PIXELS):
        return expected_frames(run, spec)
    if spec is CLIP_SCORES_AESTHETIC:
        return expected_aesthetic(run)
    if spec.asset == TRANSCODED_CLIPS.asset:
        return expected_transcoded_clips(run)
    if spec.asset.startswith(f"{names.PREVIEWS}/"):
        return expected_previews(run, spec.asset.partition("/")[2])
    return expected_embeddings(run, spec.asset.partition("/")[2])


def num_pending(run: SourceRun, spec: TableSpec) -> int:
    """Count the videos whose rows in a table are missing or stale."""
    headers = run.headers(spec)
    expected = expected_for(run, spec)
    if expected is None:
        return sum(1 for header in headers.values() if outcome_class(header.outcome) is OutcomeClass.WAITING)
    return len(expected.work(headers)) + len(expected.blocked) + len(expected.gone(headers))


def is_behind(run: SourceRun, spec: TableSpec) -> bool:
    """Say whether a run of this table alone would find something to do: what waits for an earlier stage does not count."""
    expected = expected_for(run, spec)
    if expected is None:
        return num_pending(run, spec) > 0
    headers = run.headers(spec)
    return bool(expected.work(headers) or expected.gone(headers))


def source_status(run: SourceRun, specs: Sequence[TableSpec] | None = None) -> dict[str, Any]:
    """Give the status of one source: {view: {"outcomes": …, "pending": n}}.

    Args:
        run: the source.
        specs: the project's tables: a source may leave models out and still have rows of them that are to go. None: the source's own.
    """
    return {spec.view: table_status(run, spec) for spec in specs or table_specs(run.settings)}


def failures(run: SourceRun, specs: Sequence[TableSpec] | None = None) -> Iterator[dict[str, Any]]:
    """Yield what failed, was cut short, or could not be read this time, in one source: one record per item, or per video where the video as a whole is meant.

    Yields:
        {source, table, video_id, clip_id, key, outcome, detail}, in the order of the tables and of the keys.
    """
    raw = run.table(RAW_VIDEOS).headers(["video_id", "key"])
    keys = dict(zip(raw.column("video_id").to_pylist(), raw.column("key").to_pylist(), strict=True))
    unread = (Outcome.UNAVAILABLE, Outcome.CHANGED, Outcome.VANISHED)  # tried again at the next run, but not done: that must be seen
    bad = ", ".join(f"'{code}'" for code in (*codes(OutcomeClass.FAILED, OutcomeClass.PARTIAL), *unread))
    for spec in specs or table_specs(run.settings):
        columns = ["video_id", "outcome", "detail"]
        with_clips = [*columns, "clip_id"] if "clip_id" in spec.schema.names else columns
        found = run.read(spec, with_clips, where=f"outcome IN ({bad})").to_pylist()
        if not spec.rows_are_headers:
            told = {(row["video_id"], row["outcome"]) for row in found}
            headers = run.table(spec).scan(columns, where=f"outcome IN ({bad})", rows="headers")
            found += [row for batch in headers for row in batch.to_pylist() if (row["video_id"], row["outcome"]) not in told]
        for row in sorted(found, key=lambda row: (keys.get(row["video_id"], ""), row.get("clip_id") or "")):
            yield {
                "source": run.source,
                "table": spec.view,
                "video_id": row["video_id"],
                "clip_id": row.get("clip_id"),
                "key": keys.get(row["video_id"]),
                "outcome": row["outcome"],
                "detail": row["detail"],
            }


def failed_fraction(statuses: Sequence[Mapping[str, Mapping[str, Any]]]) -> float:
    """Return the share of all items, over tables and sources, that failed; waiting and excluded ones count as neither."""
    counts: Counter[OutcomeClass] = Counter()
    for tables in statuses:
        for table in tables.values():
            for outcome, number in table["outcomes"].items():
                counts[outcome_class(outcome)] += number
    judged = counts[OutcomeClass.OK] + counts[OutcomeClass.PARTIAL] + counts[OutcomeClass.FAILED]
    return counts[OutcomeClass.FAILED] / judged if judged else 0.0
