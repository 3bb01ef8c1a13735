"""Model stage: the driver of a stage whose model reads stored frames, in this process and in batches that span clips and videos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from curation_assets.curation.embeddings import DeviceError, describe_waiting
from curation_assets.curation.expected import Expected
from curation_assets.curation.frame_batches import FrameBatch, FrameShape, read_frame_batches
from curation_assets.curation.frame_sets import expected_frames
from curation_assets.curation.incremental import PieceResults, Plan, StageReport, run_stage
from curation_assets.curation.pieces import Piece, Result, Row
from curation_assets.curation.warehouse import SourceRun
from curation_assets.engine.local import Done
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.schemas.outcomes import Outcome, OutcomeClass, outcome_class
from curation_assets.schemas.table import TableSpec
from curation_assets.settings import SettingsError


def stored_frames_ready(run: SourceRun, frame_set: str) -> tuple[dict[str, list[str | None]], set[str]]:
    """Say what a stage that reads one frame set consumes.

    Args:
        run: the source.
        frame_set: its name; sets beside it change nothing.

    Returns:
        By video_id what the stage's fingerprint is to have in it, for the videos whose frames are ready; and the videos whose frames are not up to date.
    """
    ready, waiting = expected_frames(run, FRAME_SETS).usable(run.headers(FRAME_SETS))
    consumed = expected_frames(run, FRAME_SETS, only=frame_set).fingerprints
    # frames that failed may be there after a retry, with the same fingerprint: then their content differs
    retried = {identity: header.content_hash for identity, header in ready.items() if outcome_class(header.outcome) is not OutcomeClass.OK}
    return {identity: [consumed[identity], retried.get(identity)] for identity in ready}, waiting


def update_from_frames(
    run: SourceRun,
    table: TableSpec,
    expected: Expected,
    *,
    frame_set: str,
    shape: FrameShape,
    frames_per_batch: int,
    load: Callable[[], Callable[[FrameBatch], Iterator[Row]]],
) -> StageReport:
    """Bring a table with one row per clip up to date with a frame set.

    Args:
        run: the source.
        table: what is written.
        expected: what it should hold.
        frame_set: what the model reads.
        shape: how it takes it.
        frames_per_batch: most frames at once, but for a clip that has more.
        load: builds the model, when there is work for it; it gives a function from a batch to one row per clip of it, each with its `video_id`.
    """
    with run.writing(table) as writer:
        headers = run.headers(table)
        work = run.limited(expected.work(headers, retry_failed=run.retry_failed))
        made_from = run.table(FRAME_SETS).headers(["video_id", "video_etag"])
        etags = dict(zip(made_from.column("video_id").to_pylist(), made_from.column("video_etag").to_pylist(), strict=True))
        plans = (
            Plan(identity, etags[identity], {table.asset: expected.fingerprints[identity]}, [Piece(identity, _no_piece, None)])
            for identity in work
        )
        fingerprints = expected_frames(run, FRAME_SETS).fingerprints

        def run_pieces(pieces: Iterable[Piece]) -> PieceResults:
            run.engine.close()  # the model works in this process; idle workers would only hold memory
            to_rows = load()
            by_video: dict[str, Piece] = {}
            rows: dict[str, list[Row]] = {}

            def video_ids() -> Iterator[str]:
                for piece in pieces:
                    by_video[piece.video_id], rows[piece.video_id] = piece, []
                    yield piece.video_id

            batches = read_frame_batches(
                run, frame_set, fingerprints=fingerprints, video_ids=video_ids(), shape=shape, frames_per_batch=lambda: frames_per_batch
            )
            try:
                with closing(batches):
                    for batch in batches:
                        for row in to_rows(batch):
                            rows[row.pop("video_id")].append(row)
                        for identity in batch.complete:
                            piece, found = by_video.pop(identity), rows.pop(identity)
                            if identity in batch.changed:
                                run.log(f"{run.source}: video {identity}: another run changed its frames meanwhile; it stays pending")
                            else:
                                yield Done(piece, Result(rows={table.asset: found}))
            except (DeviceError, SettingsError) as error:  # what is complete is committed before the run ends with it
                yield Done(next(iter(by_video.values())), Result(error=error))

        report = run_stage(
            plans,
            stage=_Nothing(),
            writer=writer,
            run_pieces=run_pieces if work else lambda _: iter(()),
            progress=run.progress(table, len(work)),
        )
        gone = expected.gone(headers)
        run.table(table).delete_videos(gone)
        report.num_removed = len(gone)
        report.num_unchanged = len(expected.fingerprints) - len(work)
    if waiting := describe_waiting(run, expected):
        run.log(f"{run.source}: {table.asset}: {waiting}")
    return report


def _no_piece(_: None) -> Result:
    raise AssertionError("a model works on many pieces at once, never on one")


class _Nothing:
    def failed(self, piece: Piece, outcome: Outcome, detail: str) -> Result:
        return Result(outcome=outcome, detail=detail)

    def finish(self, plan: Plan, partials: Sequence[Any]) -> Mapping[str, Sequence[Row]]:
        return {}
