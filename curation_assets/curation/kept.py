"""Kept: which clips pass the source's thresholds, asked of the tables with the same SQL that the view `clip_scores` shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from curation_assets.curation.aesthetic import expected_aesthetic
from curation_assets.curation.clips import expected_clips
from curation_assets.curation.expected import Expected
from curation_assets.curation.frame_sets import expected_frames
from curation_assets.curation.select import judging_tables, reject_reason_sql
from curation_assets.curation.warehouse import Header, SourceRun
from curation_assets.schemas.clip_scores import CLIP_SCORES_AESTHETIC, CLIP_SCORES_PIXELS
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.table import TableSpec

# clip ids of fixed length in their order: any other set of clips gives another digest
_DIGESTS = "SELECT video_id, md5(string_agg(clip_id, ',' ORDER BY clip_id)) FROM {kept} GROUP BY video_id"
_MEMBERS = "SELECT video_id, clip_id FROM {kept} WHERE video_id IN ({ids})"
NO_CLIPS = "none"
_FEW_CLIPS = 10_000


def kept_digests(run: SourceRun, *, without: TableSpec | None = None) -> tuple[dict[str, str], set[str]]:
    """Say which clips of every video are kept, as one digest per video.

    Args:
        run: the source.
        without: duplicates that do not count as kept, as they are committed.

    Returns:
        The digest by video_id, `NO_CLIPS` for videos none of whose clips is kept; and the videos whose clips, or whose scores where there are thresholds, are
        not up to date.
    """
    ready, waiting = expected_clips(run).usable(run.headers(CLIPS))
    judged = set(ready)
    for table in judging_tables(run.settings.clip_scores.thresholds):
        scored, unscored = _expected_scores(run, table).usable(run.headers(table))
        waiting |= unscored
        judged &= scored.keys()
    judged -= waiting
    digests = {identity: NO_CLIPS for identity in ready if identity not in waiting}
    if judged and without is None and not judging_tables(run.settings.clip_scores.thresholds) and _num_clips(ready) <= _FEW_CLIPS:
        # all of them are kept: DuckDB would take ten times as long to start as to count, and thousands of sources are asked
        clips: dict[str, list[str]] = {}
        rows = run.read(CLIPS, ["video_id", "clip_id"])
        for identity, clip in zip(rows.column("video_id").to_pylist(), rows.column("clip_id").to_pylist(), strict=True):
            clips.setdefault(identity, []).append(clip)
        digests |= {identity: digest_of(sorted(found)) for identity, found in clips.items() if identity in judged and identity in digests}
    elif judged:
        with _connected(run, without) as connection:
            for identity, digest in connection.execute(_DIGESTS.format(kept=_kept_sql(run, without))).fetchall():
                if identity in judged and identity in digests:
                    digests[identity] = digest
    return digests, waiting


def kept_clips(run: SourceRun, video_ids: Sequence[str], *, without: TableSpec | None = None) -> dict[str, list[str]]:
    """List the ids of the kept clips of some videos, sorted, by video_id; videos without any are left out."""
    ids = ", ".join(f"'{identity}'" for identity in video_ids)
    found: dict[str, list[str]] = {}
    with _connected(run, without) as connection:
        for identity, clip in connection.execute(_MEMBERS.format(kept=_kept_sql(run, without), ids=ids)).fetchall():
            found.setdefault(identity, []).append(clip)
    return {identity: sorted(clips) for identity, clips in found.items()}


def digest_of(clip_ids: Sequence[str]) -> str:
    """Return the digest that `kept_digests` has for a sorted list of clips."""
    import hashlib

    return hashlib.md5(",".join(clip_ids).encode(), usedforsecurity=False).hexdigest() if clip_ids else NO_CLIPS


def _num_clips(headers: Mapping[str, Header]) -> int:
    return sum(header.num_rows for header in headers.values())


def _expected_scores(run: SourceRun, table: TableSpec) -> Expected:
    return expected_aesthetic(run) if table is CLIP_SCORES_AESTHETIC else expected_frames(run, table)


def _kept_sql(run: SourceRun, without: TableSpec | None) -> str:
    judges = judging_tables(run.settings.clip_scores.thresholds)
    left_out = f"clip_id NOT IN (SELECT clip_id FROM {without.view})" if without is not None else "true"
    return f"(SELECT video_id, clip_id FROM {'clip_scores WHERE kept' if judges else 'clips WHERE true'} AND {left_out})"


@contextmanager
def _connected(run: SourceRun, without: TableSpec | None) -> Iterator[Any]:
    from curation_assets.storage.views import connect  # DuckDB, which the definitions load without

    thresholds = run.settings.clip_scores.thresholds
    warehouse = run.warehouse
    judging = judging_tables(thresholds)
    # the view has the first one's name; a table that judges nothing would only cost its join
    specs = [
        CLIPS,
        CLIP_SCORES_PIXELS,
        *(spec for spec in judging if spec is not CLIP_SCORES_PIXELS),
        *([without] if without is not None else []),
    ]
    with connect(
        warehouse.layout,
        specs,
        [run.source],
        storage_options=warehouse.storage_options,
        reject_sql={run.plain_name: reject_reason_sql(thresholds)},
        judged_by={run.plain_name: judging},
        scorers=judging,
    ) as connection:
        yield connection
