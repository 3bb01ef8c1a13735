"""Due: what a source has to be worked on for, from its tables alone; nothing is listed and no video is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from curation_assets.curation.fingerprints import combine
from curation_assets.curation.raw_videos import expected_fingerprint
from curation_assets.curation.source_object import SourceObject
from curation_assets.curation.status import expected_for
from curation_assets.curation.warehouse import SourceRun, table_specs
from curation_assets.schemas.outcomes import OutcomeClass, outcome_class
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.schemas.table import TableSpec

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


def source_due(run: SourceRun, *, is_own: Callable[[TableSpec], bool] = lambda _: True) -> Due:
    """Say what a run of this source would find to do, beyond what a new listing shows.

    Only tables that `is_own` accepts are looked at. With the run's `retry_failed`, items that failed count too.

    Raises:
        StoreError: a table cannot be read.
    """
    if run.table(RAW_VIDEOS).snapshot() is None and is_own(RAW_VIDEOS):
        return Due(1, combine(["never listed"]), has_tables=False)
    items = list(_items(run, is_own))
    return Due(len(items), combine(items))


def _items(run: SourceRun, is_own: Callable[[TableSpec], bool]) -> Iterator[str]:
    """Yield one text per video and table that is due."""
    for spec in filter(is_own, table_specs(run.settings)):
        if spec is RAW_VIDEOS:
            yield from _listed_items(run)
            continue
        expected = expected_for(run, spec)
        if expected is not None:
            headers = run.headers(spec)
            for identity in expected.work(headers, retry_failed=run.retry_failed):
                yield f"{spec.asset} {identity} {expected.fingerprints[identity]}"
            for identity in (*expected.blocked, *expected.gone(headers)):
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
