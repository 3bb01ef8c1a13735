"""clips: one demux per video gives its packet index, and from that the spans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curation_assets.curation.expected import Expected
from curation_assets.curation.fingerprints import fingerprint
from curation_assets.curation.incremental import Piece, Plan, Result, Row, StageReport, on_engine, run_stage
from curation_assets.curation.reading import ObjectRef, reading
from curation_assets.curation.warehouse import SourceRun
from curation_assets.media.errors import MediaError
from curation_assets.media.packets import index_packets
from curation_assets.media.spans import fixed_stride_spans
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.outcomes import Outcome, is_usable
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.settings import ClipsSettings
from curation_assets.storage.layout import clip_id

CODE_VERSION = "1"
Regions = list[tuple[int, int]] | None


def update_clips(run: SourceRun) -> StageReport:
    """Bring one source's clips up to date with its objects and the splitter's settings."""
    with run.writing(CLIPS) as writer:
        headers = run.headers(CLIPS)
        videos = _usable_videos(run)
        expected = _expected(videos, run.settings.clips)
        work = run.limited(expected.work(headers, retry_failed=run.retry_failed))

        def plans() -> Iterator[Plan]:
            for identity in work:
                video = videos[identity]
                ref = ObjectRef.of(video["uri"], video["etag"], storage_options=run.record.storage_options, engine=run.settings.engine)
                job = SplitJob(identity, ref, run.settings.clips, video["regions_ns"])
                yield Plan(identity, {CLIPS.asset: expected.fingerprints[identity]}, [Piece(identity, split_video, job)])

        report = run_stage(
            plans(), stage=_Splitting(), writer=writer, run_pieces=on_engine(run.engine), progress=run.progress(CLIPS, len(work))
        )
        gone = expected.gone(headers)
        run.table(CLIPS).delete_videos(gone)
        report.num_removed = len(gone)
        report.num_unchanged = len(expected.fingerprints) - len(work)
    return report


def expected_clips(run: SourceRun) -> Expected:
    """Say which videos the clips table should hold."""
    return _expected(_usable_videos(run), run.settings.clips)


def _usable_videos(run: SourceRun) -> dict[str, dict[str, Any]]:
    rows = run.table(RAW_VIDEOS).headers(["video_id", "outcome", "uri", "etag", "regions_ns"]).to_pylist()
    return {row["video_id"]: row for row in rows if is_usable(row["outcome"])}


def _expected(videos: Mapping[str, Mapping[str, Any]], settings: ClipsSettings) -> Expected:
    tree = settings.model_dump(mode="json")
    return Expected(
        {identity: fingerprint("clips", CODE_VERSION, video["etag"], video["regions_ns"], tree) for identity, video in videos.items()}
    )


@dataclass(frozen=True, slots=True)
class SplitJob:
    """What a worker needs to split one video."""

    video_id: str
    ref: ObjectRef
    settings: ClipsSettings
    regions_ns: Regions


def split_video(job: SplitJob) -> Result:
    """Index one video's packets and cut its timeline into spans."""
    try:
        with reading(job.ref, whole=True) as source:
            index = index_packets(source)
    except MediaError as error:
        return Result(outcome=error.outcome, detail=error.detail)
    if index.is_truncated and job.settings.on_truncated == "refuse":
        return Result(outcome=Outcome.TRUNCATED_REFUSED, detail=f"{index.detail}; clips.on_truncated is refuse")
    splitter = job.settings.splitter
    spans = fixed_stride_spans(
        index,
        clip_len_s=splitter.clip_len_s,
        clip_stride_s=splitter.clip_stride_s or splitter.clip_len_s,
        min_clip_len_s=splitter.min_clip_len_s,
        start_offset_s=splitter.start_offset_s,
        end_offset_s=splitter.end_offset_s,
        snap_to_keyframes=splitter.snap_to_keyframes,
        regions_ns=None if job.regions_ns is None else [(start, end) for start, end in job.regions_ns],
    )
    if not spans:
        detail = f"{index.end_ns / 1e9:.3f} s of video give no clip of at least {splitter.min_clip_len_s:g} s"
        return Result(outcome=Outcome.TOO_SHORT, detail=detail)
    rows: list[Row] = []
    for span in spans:
        identity = clip_id(job.video_id, span.start_ns, span.end_ns)
        rows.append(
            {
                "row_id": identity,
                "clip_id": identity,
                "start_ns": span.start_ns,
                "end_ns": span.end_ns,
                "method": splitter.method,
                "shot_index": span.shot_index,
                "num_frames": span.num_frames,
                "is_vfr": span.is_vfr,
            }
        )
    return Result(
        rows={CLIPS.asset: rows},
        outcome=Outcome.TRUNCATED if index.is_truncated else Outcome.OK,
        detail=index.detail or None,
        header={CLIPS.asset: {"packet_index": index.to_bytes()}},
    )


class _Splitting:
    def failed(self, piece: Piece, outcome: Outcome, detail: str) -> Result:
        return Result(outcome=outcome, detail=detail)

    def finish(self, plan: Plan, partials: Sequence[Any]) -> Mapping[str, Sequence[Row]]:
        return {}
