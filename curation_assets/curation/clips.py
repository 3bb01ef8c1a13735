"""clips: one demux per video gives its packet index; from that, and for shots from one decode, the spans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from curation_assets.curation.expected import Expected
from curation_assets.curation.fingerprints import fingerprint
from curation_assets.curation.incremental import Plan, StageReport, run_stage
from curation_assets.curation.pieces import Piece, Result, Row
from curation_assets.curation.reading import ObjectRef
from curation_assets.curation.splitters import build_splitter, consumed_settings
from curation_assets.curation.warehouse import SourceRun
from curation_assets.curation.workers import SplitJob, split_video
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.outcomes import Outcome, is_usable
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.settings import ProcessingSettings

CODE_VERSION = "1"
Regions = list[tuple[int, int]] | None


def update_clips(run: SourceRun) -> StageReport:
    """Bring one source's clips up to date with its objects and the splitter's settings."""
    with run.writing(CLIPS) as writer:
        headers = run.headers(CLIPS)
        videos = _usable_videos(run)
        expected = _expected(videos, run.settings)
        work = run.limited(expected.work(headers, retry_failed=run.retry_failed))

        def plans() -> Iterator[Plan]:
            for identity in work:
                video = videos[identity]
                ref = ObjectRef.of(video["uri"], video["etag"], storage_options=run.record.storage_options, engine=run.settings.engine)
                job = SplitJob(identity, ref, run.settings.clips, video["regions_ns"])
                yield Plan(identity, video["etag"], {CLIPS.asset: expected.fingerprints[identity]}, [Piece(identity, split_video, job)])

        splitter = (
            build_splitter(run.settings.clips.splitter, engine=run.engine, log=lambda line: run.log(f"{run.source}: {line}"))
            if work
            else None
        )
        report = run_stage(
            plans(),
            stage=_Splitting(),
            writer=writer,
            run_pieces=lambda pieces: splitter.run_pieces(pieces) if splitter else iter(()),
            progress=run.progress(CLIPS, len(work)),
        )
        gone = expected.gone(headers)
        run.table(CLIPS).delete_videos(gone)
        report.num_removed = len(gone)
        report.num_unchanged = len(expected.fingerprints) - len(work)
    return report


def expected_clips(run: SourceRun) -> Expected:
    """Say which videos the clips table should hold."""
    return _expected(_usable_videos(run), run.settings)


def _usable_videos(run: SourceRun) -> dict[str, dict[str, Any]]:
    rows = run.table(RAW_VIDEOS).headers(["video_id", "outcome", "uri", "etag", "regions_ns"]).to_pylist()
    return {row["video_id"]: row for row in rows if is_usable(row["outcome"])}


def _expected(videos: Mapping[str, Mapping[str, Any]], settings: ProcessingSettings) -> Expected:
    tree = consumed_settings(settings)
    return Expected(
        {identity: fingerprint("clips", CODE_VERSION, video["etag"], video["regions_ns"], tree) for identity, video in videos.items()}
    )


class _Splitting:
    def failed(self, piece: Piece, outcome: Outcome, detail: str) -> Result:
        return Result(outcome=outcome, detail=detail)

    def finish(self, plan: Plan, partials: Sequence[Any]) -> Mapping[str, Sequence[Row]]:
        return {}
