"""raw_videos: list a source, see what is new or changed by its etag, probe the headers of that, and forget what is gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from curation_assets.curation.fingerprints import fingerprint
from curation_assets.curation.incremental import Piece, Plan, Result, Row, StageReport, needs_work, on_engine, run_stage
from curation_assets.curation.reading import ObjectRef, reading
from curation_assets.curation.sources import SourceObject, list_objects
from curation_assets.curation.warehouse import SourceRun
from curation_assets.media.errors import MediaError
from curation_assets.media.probe import VideoHeader, probe_header
from curation_assets.schemas.outcomes import Outcome
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.settings import Limits, RawVideosSettings
from curation_assets.storage.layout import video_id

CODE_VERSION = "1"
PARTIAL_ENDINGS = (".part", ".partial", ".crdownload", ".tmp", ".filepart")


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

        num_unchanged = 0

        def plans() -> Iterator[Plan]:
            nonlocal num_unchanged
            for page in list_objects(run.record):
                objects = {video_id(run.source, item.key): item for item in page if is_video_name(item.key, settings.extensions)}
                seen.update(objects)
                expected = {identity: expected_fingerprint(item, settings) for identity, item in objects.items()}
                work = needs_work(expected, known, retry_failed=run.retry_failed)
                num_unchanged += len(expected) - len(work)
                for identity in work:
                    if run.limit is not None and progress.num_total >= run.limit:
                        continue  # the listing goes on: what is gone must still be seen
                    progress.num_total += 1
                    yield _plan(run, identity, objects[identity], expected[identity])

        report = run_stage(plans(), stage=_Probing(), writer=writer, run_pieces=on_engine(run.engine), progress=progress)
        gone = [identity for identity in headers if identity not in seen]
        table.delete_videos(gone)
        report.num_removed = len(gone)
        report.num_unchanged = num_unchanged
    return report


def is_video_name(key: str, extensions: Sequence[str]) -> bool:
    """Say whether a key is a video by its ending, an upload under way (`x.mp4.part`) included."""
    name = key.lower()
    for ending in PARTIAL_ENDINGS:
        name = name.removesuffix(ending)
    return name.endswith(tuple(extensions))


def expected_fingerprint(item: SourceObject, settings: RawVideosSettings) -> str:
    """Hash what an object's row is made from."""
    limits = settings.limits.model_dump(mode="json")
    return fingerprint("raw_videos", CODE_VERSION, item.uri, item.etag, item.size_bytes, item.regions_ns, limits)


@dataclass(frozen=True, slots=True)
class ProbeJob:
    """What a worker needs to probe one object."""

    item: SourceObject
    ref: ObjectRef
    limits: Limits


def probe_object(job: ProbeJob) -> Result:
    """Probe one object's header and judge it by the limits."""
    item = job.item
    if not item.etag:
        return _result(item, Outcome.VANISHED, "the manifest names it, the store does not have it")
    if item.key.lower().endswith(PARTIAL_ENDINGS):
        return _result(item, Outcome.PARTIAL_UPLOAD, "the name says that the upload is under way; it is taken when it has its final name")
    if item.size_bytes == 0:
        return _result(item, Outcome.EMPTY_OBJECT, "zero bytes; it is taken when there are some")
    try:
        with reading(job.ref, whole=False) as source:
            header = probe_header(source)
    except MediaError as error:
        return _result(item, error.outcome, error.detail)
    outcome, detail = judge(header, item.size_bytes, job.limits)
    return _result(item, outcome, detail, header)


def judge(header: VideoHeader, size_bytes: int, limits: Limits) -> tuple[Outcome, str | None]:
    """Judge a video by the limits; what is unknown passes.

    Returns:
        OK and None, or the reason code of the first limit that it breaks and what was seen.
    """
    sides = sorted(side for side in (header.width_px, header.height_px) if side)
    duration_s = None if header.duration_ns is None else header.duration_ns / 1e9
    aspect = header.width_px / header.height_px if header.width_px and header.height_px else None
    rules = (
        (sides[0] if sides else None, limits.min_side_px, None, Outcome.TOO_SMALL, "shorter side in pixels"),
        (sides[-1] if sides else None, None, limits.max_side_px, Outcome.TOO_LARGE, "longer side in pixels"),
        (size_bytes, None, limits.max_size_bytes, Outcome.TOO_LARGE, "size in bytes"),
        (aspect, limits.min_aspect, limits.max_aspect, Outcome.BAD_ASPECT, "width / height"),
        (duration_s, limits.min_duration_s, None, Outcome.TOO_SHORT, "seconds"),
        (duration_s, None, limits.max_duration_s, Outcome.TOO_LONG, "seconds"),
    )
    for value, least, most, outcome, what in rules:
        if value is not None and least is not None and value < least:
            return outcome, f"{what}: {value:g}, the limit is at least {least:g}"
        if value is not None and most is not None and value > most:
            return outcome, f"{what}: {value:g}, the limit is at most {most:g}"
    return Outcome.OK, None


def _plan(run: SourceRun, identity: str, item: SourceObject, expected: str) -> Plan:
    ref = ObjectRef.of(item.uri, item.etag, storage_options=run.record.storage_options, engine=run.settings.engine)
    job = ProbeJob(item, ref, run.settings.raw_videos.limits)
    return Plan(identity, {RAW_VIDEOS.asset: expected}, [Piece(identity, probe_object, job)])


def _result(item: SourceObject, outcome: Outcome, detail: str | None, header: VideoHeader | None = None) -> Result:
    columns: Row = {
        "key": item.key,
        "uri": item.uri,
        "size_bytes": item.size_bytes,
        "etag": item.etag,
        "last_modified": item.last_modified,
        "regions_ns": None if item.regions_ns is None else [list(region) for region in item.regions_ns],
        **(asdict(header) if header else {}),
    }
    return Result(outcome=outcome, detail=detail, header={RAW_VIDEOS.asset: columns})


class _Probing:
    def failed(self, piece: Piece, outcome: Outcome, detail: str) -> Result:
        return _result(piece.payload.item, outcome, detail)

    def finish(self, plan: Plan, partials: Sequence[Any]) -> Mapping[str, Sequence[Row]]:
        return {}
