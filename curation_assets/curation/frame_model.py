"""Frame model: what a stage does with a model that reads stored frames, and how videos go through it, in batches that span clips and videos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from curation_assets.curation.frame_batches import FrameBatch
from curation_assets.curation.incremental import PieceResults, batched
from curation_assets.curation.pieces import Piece, Result, Row
from curation_assets.curation.warehouse import SourceRun
from curation_assets.engine.local import Done
from curation_assets.settings import SettingsError

_VIDEOS_PER_READ = 64


class DeviceError(Exception):
    """The GPU failed while a model ran; this process cannot use it any more."""


class FrameModel:
    """What a stage does with its model; made when there is work for it."""

    def batches(self, video_ids: Iterator[str], consumed: Mapping[str, str]) -> Iterator[tuple[FrameBatch, Iterable[Row]]]:
        """Read the stored frames of videos and yield each batch with one row per clip of it, which has its `video_id`.

        Args:
            video_ids: whose; drawn lazily.
            consumed: by video_id, the fingerprint of the frames that are meant.

        Raises:
            DeviceError: the GPU failed.
            SettingsError: its memory does not hold one clip.
        """
        raise NotImplementedError

    def finish(self, video_id: str, rows: list[Row]) -> list[Row]:
        """Make a video's rows from those of its clips; by default they are those."""
        del video_id
        return rows

    def again(self, pieces: Sequence[Piece]) -> PieceResults:
        """Make the rows of videos from those that they have; for a stage that says which these are."""
        raise NotImplementedError


def video_piece(video_id: str, *, has_rows: bool) -> Piece:
    """Make the piece of one video, which `work_on` takes together with others; `has_rows` where its rows come from `FrameModel.again`."""
    return Piece(video_id, _no_piece, has_rows)


def work_on(run: SourceRun, asset: str, model: FrameModel, pieces: Iterable[Piece], consumed: Mapping[str, str]) -> PieceResults:
    """Run a model over videos; one whose frames another run changed gives no result.

    Args:
        run: the source.
        asset: whose rows are made.
        model: that makes them.
        pieces: of `video_piece`; drawn lazily.
        consumed: by video_id, the fingerprint of the frames that are meant.
    """
    for has_rows, some in groupby(pieces, key=lambda piece: bool(piece.payload)):
        if has_rows:
            for group in batched(some, _VIDEOS_PER_READ):
                yield from model.again(group)
        else:
            yield from _from_frames(run, asset, model, some, consumed)


def _from_frames(run: SourceRun, asset: str, model: FrameModel, pieces: Iterable[Piece], consumed: Mapping[str, str]) -> PieceResults:
    by_video: dict[str, Piece] = {}
    rows: dict[str, list[Row]] = {}

    def video_ids() -> Iterator[str]:
        for piece in pieces:
            by_video[piece.video_id], rows[piece.video_id] = piece, []
            yield piece.video_id

    try:
        for batch, found in model.batches(video_ids(), consumed):
            for row in found:
                rows[row.pop("video_id")].append(row)
            for identity in batch.complete:
                piece, own = by_video.pop(identity), rows.pop(identity)
                if identity in batch.changed:
                    run.log(f"{run.source}: video {identity}: another run changed its frames meanwhile; it stays pending")
                else:
                    yield Done(piece, Result(rows={asset: model.finish(identity, own)}))
    except (DeviceError, SettingsError) as error:  # what is complete is committed before the run ends with it
        yield Done(next(iter(by_video.values())), Result(error=error))


def _no_piece(_: bool) -> Result:
    raise AssertionError("a model works on many pieces at once, never on one")
