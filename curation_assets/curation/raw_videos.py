"""raw_videos: list a source, see what is new or changed by its etag, probe the headers of that, and forget what is gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from curation_assets.curation.fingerprints import fingerprint
from curation_assets.curation.incremental import Plan, StageReport, needs_work, on_engine, run_stage
from curation_assets.curation.pieces import Piece, Result, Row
from curation_assets.curation.reading import ObjectRef
from curation_assets.curation.source_object import SourceObject
from curation_assets.curation.sources import list_objects
from curation_assets.curation.warehouse import SourceRun
from curation_assets.curation.workers import PARTIAL_ENDINGS, ProbeJob, probe_object, probe_result
from curation_assets.schemas.outcomes import Outcome, OutcomeClass, outcome_class
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.settings import RawVideosSettings
from curation_assets.storage.layout import video_id

CODE_VERSION = "1"


def update_raw_videos(run: SourceRun) -> StageReport:
    """Bring one source's table up to date with its objects.

    Raises:
        StoreError: the source cannot be listed; nothing is removed then.
    """
    settings = run.settings.raw_videos
    with run.writing(RAW_VIDEOS) as writer:
        table = run.table(RAW_VIDEOS)
        headers = run.headers(RAW_VIDEOS)
        known = {identity: (header.fingerprint, header.outcome) for identity, header in headers.items()}
        seen: set[str] = set()
        progress = run.progress(RAW_VIDEOS, 0)

        num_unchanged = num_new = 0

        def plans() -> Iterator[Plan]:
            nonlocal num_unchanged, num_new
            for page in list_objects(run.record):
                objects = distinct_videos(run, page, seen)
                expected = {identity: expected_fingerprint(item, settings) for identity, item in objects.items()}
                work = needs_work(expected, known, retry_failed=run.retry_failed)
                num_unchanged += len(expected) - len(work)
                for identity in work:
                    is_waiting = identity in known and outcome_class(known[identity][1]) is OutcomeClass.WAITING
                    if run.limit is not None and num_new >= run.limit and not is_waiting:
                        continue  # the listing goes on: what is gone must still be seen
                    num_new += not is_waiting  # what is looked at in every run would else keep the others out for ever
                    progress.num_total += 1
                    yield _plan(run, identity, objects[identity], expected[identity])

        report = run_stage(plans(), stage=_Probing(), writer=writer, run_pieces=on_engine(run.engine), progress=progress)
        gone = [identity for identity in headers if identity not in seen]
        table.delete_videos(gone)
        report.num_removed = len(gone)
        report.num_unchanged = num_unchanged
    return report


def distinct_videos(run: SourceRun, page: Sequence[SourceObject], seen: set[str]) -> dict[str, SourceObject]:
    """Keep a page's videos by id, less the warehouse's own media, and local files that are still being written to, which are only seen.

    Two names that differ only in Unicode form are one key: the first in the listing's order counts.
    """
    objects: dict[str, SourceObject] = {}
    quiet_s, now = run.settings.raw_videos.quiet_period_s, datetime.now(UTC)
    own = None if run.record.is_manifest else run.warehouse.layout.media_below(run.record.uri)
    for item in page:
        if is_video_name(item.key, run.settings.raw_videos.extensions) and not (own and item.key.startswith(own)):
            identity = video_id(run.plain_name, item.key)
            if identity in seen:
                run.log(f"{item.uri}: left out, another object has the same name in another Unicode form; rename one of them")
                continue
            seen.add(identity)
            if not (quiet_s and "://" not in item.uri and is_young(item.last_modified, quiet_s, now)):
                objects[identity] = item  # else it keeps the rows that it has
    return objects


def is_young(written: datetime | None, quiet_s: float, now: datetime) -> bool:
    """Say whether something was written to within the quiet period. A time in the future is a wrong clock, which hides nothing for long."""
    return written is not None and abs((now - written).total_seconds()) < quiet_s


def is_video_name(key: str, extensions: Sequence[str]) -> bool:
    """Say whether a key is a video by its ending, an upload under way (`x.mp4.part`) included."""
    name = key.lower()
    for ending in PARTIAL_ENDINGS:
        name = name.removesuffix(ending)
    return name.endswith(tuple(extensions))


def expected_fingerprint(item: SourceObject, settings: RawVideosSettings) -> str:
    """Hash what an object's row is made from."""
    limits = settings.limits.model_dump(mode="json")
    return fingerprint("raw_videos", CODE_VERSION, item.uri, item.etag, item.size_bytes, item.regions_ns, item.outcome, limits)


def _plan(run: SourceRun, identity: str, item: SourceObject, expected: str) -> Plan:
    ref = ObjectRef.of(item.uri, item.etag, storage_options=run.record.storage_options, engine=run.settings.engine)
    job = ProbeJob(item, ref, run.settings.raw_videos.limits)
    return Plan(identity, item.etag, {RAW_VIDEOS.asset: expected}, [Piece(identity, probe_object, job)])


class _Probing:
    def failed(self, piece: Piece, outcome: Outcome, detail: str) -> Result:
        return probe_result(piece.payload.item, outcome, detail)

    def finish(self, plan: Plan, partials: Sequence[Any]) -> Mapping[str, Sequence[Row]]:
        return {}
