"""Estimate: what a run would do, without doing it: counts, hours, bytes, and about how long it would take."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from curation_assets.curation.incremental import needs_work
from curation_assets.curation.raw_videos import distinct_videos, expected_fingerprint
from curation_assets.curation.reading import ObjectRef
from curation_assets.curation.source_object import SourceObject
from curation_assets.curation.sources import list_objects
from curation_assets.curation.status import expected_for
from curation_assets.curation.warehouse import SourceRun, table_specs
from curation_assets.curation.workers import ProbeJob, probe_object
from curation_assets.engine.local import Done, cpu_count
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.schemas.outcomes import is_usable
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.schemas.transcoded_clips import TRANSCODED_CLIPS

_NUM_PROBES = 16
# Measured with benchmarks/whole_path.py on 720p x264: CPU seconds per second of video. Only used until this source has been worked on.
_TYPICAL_WORK_PER_S = 0.06
_TYPICAL_ENCODING_PER_S = 0.25  # benchmarks/transcode.py, x264


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run over one source would find.

    Attributes:
        num_objects: videos in the listing.
        num_new: those that are new, changed, or to be tried again.
        num_gone: those that the tables have and the listing does not.
        num_stale: videos whose rows in a later table are missing or stale.
        bytes_to_read: bytes of the objects that would be read whole.
        hours: hours of video that would be decoded; new ones judged by probing a few.
        seconds: about how long it would take on this machine.
    """

    source: str
    num_objects: int
    num_new: int
    num_gone: int
    num_stale: int
    bytes_to_read: int
    hours: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


def estimate_run(run: SourceRun) -> Estimate:
    """List a source and compare it with its tables; writes nothing.

    Raises:
        StoreError: the source cannot be listed.
    """
    settings = run.settings.raw_videos
    headers = run.headers(RAW_VIDEOS)
    known = {identity: (header.fingerprint, header.outcome) for identity, header in headers.items()}
    new: dict[str, SourceObject] = {}
    seen: set[str] = set()
    for page in list_objects(run.record):
        objects = distinct_videos(run, page, seen)
        expected = {identity: expected_fingerprint(item, settings) for identity, item in objects.items()}
        for identity in needs_work(expected, known, retry_failed=run.retry_failed):
            if run.limit is None or len(new) < run.limit:
                new[identity] = objects[identity]
    stale: set[str] = set()
    for spec in table_specs(run.settings)[1:]:
        found = expected_for(run, spec)
        if found:
            stale.update(run.limited(found.work(run.headers(spec), retry_failed=run.retry_failed)))
    rows = run.read(RAW_VIDEOS, ["video_id", "outcome", "size_bytes", "duration_ns"]).to_pylist()
    known_rows = {row["video_id"]: row for row in rows if is_usable(row["outcome"])}
    stale = {identity for identity in stale & known_rows.keys() & seen if identity not in new}
    seconds_of_video = sum((known_rows[identity]["duration_ns"] or 0) / 1e9 for identity in stale)
    seconds_of_video += _seconds_of_new(run, list(new.values()))
    workers = run.settings.engine.workers or cpu_count()
    return Estimate(
        source=run.source,
        num_objects=len(seen),
        num_new=len(new),
        num_gone=len(headers.keys() - seen),
        num_stale=len(stale),
        bytes_to_read=sum(item.size_bytes for item in new.values()) + sum(known_rows[identity]["size_bytes"] or 0 for identity in stale),
        hours=round(seconds_of_video / 3600, 4),
        seconds=round(seconds_of_video * _work_per_second(run, known_rows) / workers, 1),
    )


def _seconds_of_new(run: SourceRun, objects: list[SourceObject]) -> float:
    """Probe a few of the new objects, and take the others to be as long per byte."""
    with_bytes = sorted((item for item in objects if item.size_bytes), key=lambda item: item.key)
    step = max(1, len(with_bytes) // _NUM_PROBES)
    options, engine, limits = run.record.storage_options, run.settings.engine, run.settings.raw_videos.limits
    jobs = [
        ProbeJob(item, ObjectRef.of(item.uri, item.etag, storage_options=options, engine=engine), limits) for item in with_bytes[::step]
    ]
    seconds = num_bytes = 0.0
    for result in run.engine.map(probe_object, jobs):
        if isinstance(result, Done):
            seconds += (result.value.header[RAW_VIDEOS.asset].get("duration_ns") or 0) / 1e9
            num_bytes += result.item.item.size_bytes
    return seconds / num_bytes * sum(item.size_bytes for item in with_bytes) if num_bytes else 0.0


def _work_per_second(run: SourceRun, videos: dict[str, dict[str, Any]]) -> float:
    """Say how many worker seconds a second of this source's video took so far."""
    work_s = video_s = 0.0
    for spec in (CLIPS, FRAME_SETS, TRANSCODED_CLIPS):
        for row in run.table(spec).headers(["video_id", "work_s"]).to_pylist():
            if row["video_id"] in videos and row["work_s"]:
                work_s += row["work_s"]
                video_s += (videos[row["video_id"]]["duration_ns"] or 0) / 1e9 if spec is FRAME_SETS else 0.0
    typical = _TYPICAL_WORK_PER_S + (_TYPICAL_ENCODING_PER_S if run.settings.transcoded_clips.enabled else 0.0)
    return work_s / video_s if video_s else typical
