"""Kept media: the driver of every stage that makes one file per kept clip, and keeps table and files together.

Which clips are kept is no part of a file's fingerprint: when a threshold changes, files that are still wanted are carried over, row and all, and only the
others are made or removed. The same makes an interrupted video go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curation_assets.curation.expected import Expected
from curation_assets.curation.fingerprints import fingerprint
from curation_assets.curation.frame_sets import SplitVideo, read_videos
from curation_assets.curation.incremental import Plan, StageReport, batched, on_engine, run_stage
from curation_assets.curation.kept import digest_of, kept_clips, kept_digests
from curation_assets.curation.media_files import delete_media, media_sizes, sweep_media, work_folder
from curation_assets.curation.media_workers import AnyJob, MediaClip, MediaJob, carry_over, media_failed
from curation_assets.curation.pieces import Piece, Result, Row
from curation_assets.curation.warehouse import SourceRun
from curation_assets.schemas.outcomes import Outcome, OutcomeClass, outcome_class
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.schemas.table import TableSpec
from curation_assets.storage.tables import VideoTable

_VIDEOS_PER_READ = 64


@dataclass(frozen=True)
class MediaStage:
    """What differs between the stages.

    Attributes:
        spec: the table.
        ext: ending of the files.
        recipe: JSON-like: the code's version and the settings that change bytes.
        function: the worker.
        build_job: makes the worker's argument for some clips of a video; called as the work is drawn.
        also_ready: by video_id, what a file is made from beside the video, and the videos whose part of it is not up to date; None where that is nothing.
        without: duplicates that are left out as they are committed; None leaves none out.
    """

    spec: TableSpec
    ext: str
    recipe: Any
    function: Callable[[Any], Result]
    build_job: Callable[[SourceRun, SplitVideo, MediaJob], AnyJob]
    also_ready: Callable[[SourceRun], tuple[Mapping[str, str], set[str]]] | None = None
    without: TableSpec | None = None


def expected_media(run: SourceRun, stage: MediaStage) -> Expected:
    """Say which videos one stage's table should hold."""
    digests, waiting = kept_digests(run, without=stage.without)
    ready: Mapping[str, str] = {}
    if stage.also_ready is not None:
        ready, more = stage.also_ready(run)
        waiting = waiting | more
        digests = {identity: digest for identity, digest in digests.items() if identity in ready and identity not in waiting}
    etags = _etags(run)
    return Expected(
        {
            identity: fingerprint(stage.spec.asset, stage.recipe, etags[identity], digest, ready.get(identity))
            for identity, digest in digests.items()
            if identity in etags
        },
        waiting,
    )


def update_kept_media(run: SourceRun, stage: MediaStage) -> StageReport:
    """Bring one source's files and their table up to date with its kept clips.

    Raises:
        StoreError: the warehouse or the folder for temporary files is full, or may not be written; what is complete was committed.
    """
    spec = stage.spec
    with run.writing(spec) as writer:
        headers = run.headers(spec)
        expected = expected_media(run, stage)
        work = expected.work(headers, retry_failed=run.retry_failed)
        present = media_sizes(run, spec) if run.retry_failed else None
        if present is not None:  # a file that somebody deleted or damaged is made again
            known = set(work)
            work += [
                identity
                for identity in _videos_without_files(run, spec, present)
                if identity in expected.fingerprints and identity not in known
            ]
        work = run.limited(work)
        planner = _Planner(run, stage, expected, present)
        report = run_stage(
            planner.plans(work),
            stage=_Making(),
            writer=writer,
            run_pieces=on_engine(run.engine),
            progress=run.progress(spec, len(work)),
        )
        gone = expected.gone(headers)
        for group in batched(gone, _VIDEOS_PER_READ):
            left = [row for rows in _stored_rows(run.table(spec), group).values() for row in rows]
            run.table(spec).delete_videos(group)
            delete_media(run, {row["uri"] for row in left if row["uri"]})
        delete_media(run, planner.obsolete)
        if work or gone:
            sweep_media(run, spec)
        report.num_removed = len(gone)
        report.num_unchanged = len(expected.fingerprints) - len(work)
    return report


class _Planner:
    """Plans videos: what is carried over, what is made, and what goes."""

    def __init__(self, run: SourceRun, stage: MediaStage, expected: Expected, present: Mapping[str, int] | None) -> None:
        self.obsolete: set[str] = set()
        self._run, self._stage, self._expected, self._present = run, stage, expected, present
        self._own = tuple(column.name for column in stage.spec.columns)

    def plans(self, work: Sequence[str]) -> Iterator[Plan]:
        """Yield the plans of some videos, read group by group."""
        run, stage = self._run, self._stage
        if not work:
            return
        folder = work_folder(run.settings.engine)
        also = stage.also_ready(run)[0] if stage.also_ready is not None else {}
        for group in batched(work, _VIDEOS_PER_READ):
            videos = read_videos(run, group)
            kept = kept_clips(run, group, without=stage.without)
            stored = _stored_rows(run.table(stage.spec), group)
            for identity in group:
                video, wanted = videos.get(identity), kept.get(identity, [])
                wants = fingerprint(stage.spec.asset, stage.recipe, video.etag if video else None, digest_of(wanted), also.get(identity))
                if video is None or wants != self._expected.fingerprints[identity]:
                    run.log(f"{run.source}: video {identity}: another run changed its clips meanwhile; it stays pending")
                    continue
                yield self._plan(video, set(wanted), stored.get(identity, []), also.get(identity), folder)

    def _plan(self, video: SplitVideo, wanted: set[str], stored: Sequence[Row], also: str | None, folder: str) -> Plan:
        run, stage = self._run, self._stage
        layout, asset = run.warehouse.layout, stage.spec.asset
        clips = {}
        for clip_id, start_ns, end_ns in video.clips:
            if clip_id in wanted:
                wants = fingerprint(asset, stage.recipe, video.etag, clip_id, also)
                key = layout.media_key(asset, run.source, clip_id=clip_id, fingerprint=wants, ext=stage.ext)
                clips[clip_id] = MediaClip(clip_id, start_ns, end_ns, wants, key)
        carried: list[Row] = []
        for row in stored:
            clip = clips.get(row["clip_id"])
            if clip is not None and row["clip_fingerprint"] == clip.fingerprint and self._may_stay(row):
                carried.append({name: row[name] for name in (*self._own, "row_id", "outcome", "detail", "content_hash")})
            elif row["uri"] and (clip is None or row["uri"] != clip.key):
                self.obsolete.add(row["uri"])
        done = {row["clip_id"] for row in carried}
        left = [clip for clip in clips.values() if clip.clip_id not in done]
        groups = list(batched(left, run.settings.engine.clips_per_chunk))
        common = (run.warehouse.layout.root_uri, run.warehouse.storage_options, folder)
        jobs = [MediaJob(video.video_id, asset, self._own, group, *common) for group in groups]
        pieces: Sequence[Piece] = _LazyPieces(run, stage, video, jobs) if jobs else [Piece(video.video_id, carry_over, None)]
        return Plan(video.video_id, video.etag, {asset: self._expected.fingerprints[video.video_id]}, pieces, carried={asset: carried})

    def _may_stay(self, row: Row) -> bool:
        kind = outcome_class(row["outcome"])
        if kind is OutcomeClass.FAILED:
            return not self._run.retry_failed
        is_there = self._present is None or (row["uri"] is not None and self._present.get(row["uri"]) == row["size_bytes"])
        return kind in (OutcomeClass.OK, OutcomeClass.PARTIAL) and is_there


class _LazyPieces(Sequence[Piece]):
    """The pieces of one video, each made when it is drawn: stored frames of a long video do not fit into memory at once."""

    def __init__(self, run: SourceRun, stage: MediaStage, video: SplitVideo, jobs: Sequence[MediaJob]) -> None:
        self._run, self._stage, self._video, self._jobs = run, stage, video, jobs

    def __len__(self) -> int:
        return len(self._jobs)

    def __getitem__(self, place: Any) -> Any:
        return Piece(self._video.video_id, self._stage.function, self._stage.build_job(self._run, self._video, self._jobs[place]))


def _stored_rows(table: VideoTable, video_ids: Sequence[str]) -> dict[str, list[Row]]:
    """Read the rows of some videos as the table has them, complete or not, by video_id."""
    snapshot = table.snapshot()
    rows: dict[str, list[Row]] = {}
    if snapshot is None:
        return rows
    columns = ["video_id", "row_id", "outcome", "detail", "content_hash", *(column.name for column in table.spec.columns)]
    where = f"video_id IN ({', '.join(repr(identity) for identity in video_ids)})"
    for batch in snapshot.all_items(columns, where=where):
        for row in batch.to_pylist():
            rows.setdefault(row["video_id"], []).append(row)
    return rows


def _videos_without_files(run: SourceRun, spec: TableSpec, present: Mapping[str, int]) -> list[str]:
    rows = run.read(spec, ["video_id", "uri", "size_bytes"], where="uri IS NOT NULL").to_pylist()
    return list(dict.fromkeys(row["video_id"] for row in rows if present.get(row["uri"]) != row["size_bytes"]))


def _etags(run: SourceRun) -> dict[str, str]:
    rows = run.table(RAW_VIDEOS).headers(["video_id", "etag"])
    return dict(zip(rows.column("video_id").to_pylist(), rows.column("etag").to_pylist(), strict=True))


class _Making:
    def failed(self, piece: Piece, outcome: Outcome, detail: str) -> Result:
        if piece.payload is None:
            return Result(outcome=outcome, detail=detail)
        job: MediaJob = piece.payload.media
        return Result(rows={job.asset: media_failed(job, outcome, detail)})

    def finish(self, plan: Plan, partials: Sequence[Any]) -> Mapping[str, Sequence[Row]]:
        return {}
