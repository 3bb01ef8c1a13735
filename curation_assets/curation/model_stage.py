"""Model stage: the driver of a stage whose model reads stored frames, in this process and in batches that span clips and videos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from curation_assets.curation.expected import Expected
from curation_assets.curation.frame_model import DeviceError, FrameModel, video_piece, work_on
from curation_assets.curation.frame_sets import expected_frames
from curation_assets.curation.incremental import PieceResults, Plan, StageReport, run_stage
from curation_assets.curation.model_actors import ModelWork, group_videos, on_actors
from curation_assets.curation.model_frames import frame_sets
from curation_assets.curation.pieces import Piece, Result, Row
from curation_assets.curation.warehouse import Header, SourceRun
from curation_assets.engine.ray import RayEngine
from curation_assets.models.batching import is_device_error
from curation_assets.models.shared import release
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.schemas.outcomes import Outcome, OutcomeClass, outcome_class
from curation_assets.schemas.table import TableSpec
from curation_assets.settings import SettingsError


def stored_frames_ready(run: SourceRun, frame_set: str) -> tuple[dict[str, tuple[str, str | None]], set[str]]:
    """Say what a stage that reads one frame set consumes.

    Args:
        run: the source.
        frame_set: its name; sets beside it change nothing.

    Returns:
        By video_id what the stage's fingerprint is to have in it, for the videos whose frames are ready; and the videos whose frames are not up to date.
    """
    frames = expected_frames(run, FRAME_SETS)
    ready, waiting = frames.usable(run.headers(FRAME_SETS))
    is_only = set(frame_sets(run.settings)) == {frame_set}
    consumed = frames if is_only else expected_frames(run, FRAME_SETS, only=frame_set)
    # frames that failed may be there after a retry, with the same fingerprint: then their content differs
    retried = {identity: header.content_hash for identity, header in ready.items() if outcome_class(header.outcome) is not OutcomeClass.OK}
    return {identity: (consumed.fingerprints[identity], retried.get(identity)) for identity in ready}, waiting


def describe_waiting(run: SourceRun, expected: Expected) -> str | None:
    """Say which videos have no frames to look at yet, and what to do; None when there are none."""
    if not expected.blocked:
        return None
    known = run.headers(FRAME_SETS).keys() & expected.blocked
    parts = [
        f"of {len(known)} the stored frames were made with other settings, from other clips or from an older upload" if known else "",
        f"{len(expected.blocked) - len(known)} have no frames yet" if len(known) < len(expected.blocked) else "",
    ]
    is_clips = bool(expected_frames(run, FRAME_SETS).blocked)
    remedy = "run without --select: clips are to be made first" if is_clips else "add --select frame_sets to the run"
    return f"{len(expected.blocked)} videos wait and keep what they have: {', '.join(filter(None, parts))}; {remedy}"


def name_gpu_error(error: RuntimeError, model: str, *, no_room: Callable[[str, BaseException], SettingsError], on_cpu: str) -> Exception:
    """Name what a GPU gave up with; anything else is left alone. A model on a lost device is let go of.

    Args:
        error: what the model raised; torch is imported by then.
        model: which one.
        no_room: makes the error for memory that does not hold one clip.
        on_cpu: how the user has it run on the CPU.
    """
    import torch

    if isinstance(error, torch.cuda.OutOfMemoryError):
        return no_room(model, error)
    if not is_device_error(error):
        return error
    release()
    return DeviceError(
        f"the GPU failed while {model} ran ({str(error).splitlines()[0]}); what was committed stays: see to the GPU (nvidia-smi, dmesg) and run again, or {on_cpu}"
    )


def update_from_frames(
    run: SourceRun,
    table: TableSpec,
    expected: Callable[[], Expected],
    *,
    load: Callable[[SourceRun], FrameModel],
    may_use_gpu: bool,
    is_kept: Callable[[Header | None, str], bool] = lambda *_: False,
) -> StageReport:
    """Bring a model's table up to date with the stored frames.

    Args:
        run: the source.
        table: what is written.
        expected: gives what it should hold, once the table's lease is held.
        load: builds the model, when there is work for it; picklable, for an engine that does so on other machines.
        may_use_gpu: whether it runs on a GPU where there is one.
        is_kept: says, from a video's header and the fingerprint that is wanted, that its rows come from `FrameModel.again`, without its frames.
    """
    with run.writing(table) as writer:
        headers = run.headers(table)
        wanted = expected()
        work = run.limited(wanted.work(headers, retry_failed=run.retry_failed))
        made_from = run.table(FRAME_SETS).headers(["video_id", "video_etag"])
        etags = dict(zip(made_from.column("video_id").to_pylist(), made_from.column("video_etag").to_pylist(), strict=True))
        kept = {identity for identity in work if is_kept(headers.get(identity), wanted.fingerprints[identity])}
        work.sort(key=lambda identity: identity not in kept)
        plans = (
            Plan(
                identity, etags[identity], {table.asset: wanted.fingerprints[identity]}, [video_piece(identity, has_rows=identity in kept)]
            )
            for identity in work
        )

        def run_pieces(pieces: Iterable[Piece]) -> PieceResults:
            consumed = expected_frames(run, FRAME_SETS).fingerprints
            if isinstance(run.engine, RayEngine):
                groups = group_videos(run, work, kept, consumed, num_actors=run.engine.num_actors(may_use_gpu=may_use_gpu))
                model = ModelWork(run.record, run.settings, run.warehouse.uri, run.warehouse.storage_options, table.asset, load)
                yield from on_actors(run, run.engine, model, pieces, groups, may_use_gpu=may_use_gpu)
            else:
                run.engine.close()  # the model works in this process; idle workers would only hold memory
                yield from work_on(run, table.asset, load(run), pieces, consumed)

        report = run_stage(
            plans,
            stage=_Nothing(),
            writer=writer,
            run_pieces=run_pieces if work else lambda _: iter(()),
            progress=run.progress(table, len(work)),
        )
        gone = wanted.gone(headers)
        run.table(table).delete_videos(gone)
        report.num_removed = len(gone)
        report.num_unchanged = len(wanted.fingerprints) - len(work)
    if waiting := describe_waiting(run, wanted):
        run.log(f"{run.source}: {table.asset}: {waiting}")
    return report


class _Nothing:
    def failed(self, piece: Piece, outcome: Outcome, detail: str) -> Result:
        return Result(outcome=outcome, detail=detail)

    def finish(self, plan: Plan, partials: Sequence[Any]) -> Mapping[str, Sequence[Row]]:
        return {}
