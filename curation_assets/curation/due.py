"""Due: what a source has to be worked on for, from its tables alone; nothing is listed and no video is opened."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from curation_assets.curation.fingerprints import combine
from curation_assets.curation.raw_videos import expected_fingerprint
from curation_assets.curation.source_object import SourceObject
from curation_assets.curation.status import expected_for
from curation_assets.curation.warehouse import SourceRun, table_specs
from curation_assets.schemas.outcomes import OutcomeClass, outcome_class
from curation_assets.schemas.raw_videos import RAW_VIDEOS

_LISTED = ["video_id", "key", "uri", "size_bytes", "etag", "regions_ns", "fingerprint", "outcome"]


@dataclass(frozen=True, slots=True)
class Due:
    """What a source waits for.

    Attributes:
        num_items: videos in tables where they are missing, stale, gone upstream, or to be tried again; a source that was never listed is one.
        state: hash of which ones, and of the fingerprints that they should have: the same until something changes.
        has_tables: whether the source was ever listed and had objects; one that is empty looks like one that was never listed.
    """

    num_items: int
    state: str
    has_tables: bool = True


def source_due(run: SourceRun, *, tables: Collection[str] | None = None) -> Due:
    """Say what a run of this source would find to do, beyond what a new listing shows.

    With the run's `retry_failed`, items that failed count too.

    Args:
        run: the source.
        tables: assets of the tables that the run makes; None for all.

    Raises:
        StoreError: a table cannot be read.
    """
    if run.table(RAW_VIDEOS).snapshot() is None:
        return Due(1 if tables is None or RAW_VIDEOS.asset in tables else 0, combine(["never listed"]), has_tables=False)
    items = list(_items(run, tables))
    return Due(len(items), combine(items))


def _items(run: SourceRun, tables: Collection[str] | None) -> Iterator[str]:
    """Yield one text per video and table that is due."""
    for spec in table_specs(run.settings):
        if tables is not None and spec.asset not in tables:
            continue
        if spec is RAW_VIDEOS:
            yield from _listed_items(run)
            continue
        expected = expected_for(run, spec)
        if expected is not None:
            headers = run.headers(spec)
            for identity in expected.work(headers, retry_failed=run.retry_failed):
                yield f"{spec.asset} {identity} {expected.fingerprints[identity]}"
            # what waits for a table that this run does not make is not due here
            blocked = expected.blocked if tables is None or RAW_VIDEOS.asset in tables else ()
            for identity in (*blocked, *expected.gone(headers)):
                yield f"{spec.asset} {identity}"


def _listed_items(run: SourceRun) -> Iterator[str]:
    """Yield the videos that wait, or whose row was made under other limits or by other code, as far as the last listing tells."""
    for row in run.table(RAW_VIDEOS).headers(_LISTED).to_pylist():
        kind = outcome_class(row["outcome"])
        if kind is OutcomeClass.WAITING or (run.retry_failed and kind is OutcomeClass.FAILED):
            yield f"{RAW_VIDEOS.asset} {row['video_id']} {row['fingerprint']}"
        elif row["etag"]:  # without one the listing itself said that it cannot be read
            item = SourceObject(row["key"], row["uri"], row["size_bytes"], row["etag"], None, row["regions_ns"])
            if row["fingerprint"] != (expected := expected_fingerprint(item, run.settings.raw_videos)):
                yield f"{RAW_VIDEOS.asset} {row['video_id']} {expected}"
