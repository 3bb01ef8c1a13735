"""embeddings/<model>: read stored frames, embed clips in batches that span videos, and give each video the mean of its clips."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt

from curation_assets.curation.expected import Expected
from curation_assets.curation.fingerprints import fingerprint
from curation_assets.curation.frame_batches import FrameBatch, FrameShape, Refusal, read_frame_batches
from curation_assets.curation.frame_sets import expected_frames
from curation_assets.curation.incremental import PieceResults, Plan, StageReport, run_stage
from curation_assets.curation.model_frames import frame_set_of, frame_sets
from curation_assets.curation.pieces import Piece, Result, Row
from curation_assets.curation.warehouse import SourceRun
from curation_assets.engine.local import Done
from curation_assets.models import load, registry
from curation_assets.models.embedder import Embedder, EmbedderSpec, select_frames
from curation_assets.models.weights import check_weights
from curation_assets.schemas.embeddings import embeddings_table
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.schemas.outcomes import Outcome, OutcomeClass, outcome_class
from curation_assets.settings import EmbeddingsSettings
from curation_assets.storage.layout import item_row_id

CODE_VERSION = "1"


def update_embeddings(run: SourceRun, model: str) -> StageReport:
    """Bring one source's vectors of one model up to date with its frame sets.

    Args:
        run: the source.
        model: registry name.
    """
    spec = registry.spec(model)
    table = embeddings_table(model, spec.dim)
    with run.writing(table) as writer:
        headers = run.headers(table)
        expected = expected_embeddings(run, model)
        work = run.limited(expected.work(headers, retry_failed=run.retry_failed))
        made_from = run.table(FRAME_SETS).headers(["video_id", "video_etag"])
        etags = dict(zip(made_from.column("video_id").to_pylist(), made_from.column("video_etag").to_pylist(), strict=True))
        plans = (
            Plan(identity, etags[identity], {table.asset: expected.fingerprints[identity]}, [Piece(identity, _no_piece, None)])
            for identity in work
        )
        if work:
            run.engine.close()  # the model works in this process; idle workers would only hold memory
        embedding = _Embedding(run, spec) if work else None
        report = run_stage(
            plans,
            stage=_Nothing(),
            writer=writer,
            run_pieces=lambda pieces: embedding.run_pieces(pieces) if embedding else iter(()),
            progress=run.progress(table, len(work)),
        )
        gone = expected.gone(headers)
        run.table(table).delete_videos(gone)
        report.num_removed = len(gone)
        report.num_unchanged = len(expected.fingerprints) - len(work)
    return report


def expected_embeddings(run: SourceRun, model: str) -> Expected:
    """Say which videos one model's table should hold."""
    settings = run.settings.embeddings
    frames = expected_frames(run, FRAME_SETS)
    headers = run.headers(FRAME_SETS)
    ready, waiting = frames.usable(headers)
    # Frames that failed may be there after a retry, with the same fingerprint: then their content differs.
    retried = {identity: header.content_hash for identity, header in ready.items() if outcome_class(header.outcome) is not OutcomeClass.OK}
    # What the model consumes is the one frame set that it reads, so that another set beside it recomputes nothing.
    frame_set = frame_set_of(run.settings, model)
    is_only = set(frame_sets(run.settings)) == {frame_set}
    consumed = frames if is_only else expected_frames(run, FRAME_SETS, only=frame_set)
    tree = [settings.too_few_frames, sorted(settings.scopes)]
    revision = registry.spec(model).revision
    return Expected(
        {
            identity: fingerprint("embeddings", CODE_VERSION, model, revision, consumed.fingerprints[identity], tree, retried.get(identity))
            for identity in ready
        },
        waiting,
    )


class _Embedding:
    """One model over one source's stored frames."""

    def __init__(self, run: SourceRun, spec: EmbedderSpec) -> None:
        self._run = run
        self._spec = spec
        self._settings: EmbeddingsSettings = run.settings.embeddings
        cache_dir = run.settings.models.cache_dir
        if spec.weights:  # a run that was not started from the command line has not been checked yet
            check_weights(spec.weights, model=spec.name, cache_dir=cache_dir)
        self._embedder: Embedder = load(
            spec.name, weights=cache_dir if spec.weights else None, allow_remote_code=spec.name in self._settings.allow_remote_code
        )
        self._frame_set = frame_set_of(run.settings, spec.name)
        self._asset = embeddings_table(spec.name, spec.dim).asset
        self._consumed = expected_frames(run, FRAME_SETS).fingerprints
        self._shape = FrameShape(
            spec.height_px, spec.width_px, spec.resize, select=lambda count: select_frames(count, spec.frames), refuse=self._refusal
        )

    def run_pieces(self, pieces: Iterable[Piece]) -> PieceResults:
        """Embed the videos of many pieces together."""
        by_video: dict[str, Piece] = {}
        rows: dict[str, list[Row]] = {}

        def video_ids() -> Iterator[str]:
            for piece in pieces:
                by_video[piece.video_id], rows[piece.video_id] = piece, []
                yield piece.video_id

        batches = read_frame_batches(
            self._run,
            self._frame_set,
            fingerprints=self._consumed,
            video_ids=video_ids(),
            shape=self._shape,
            frames_per_batch=lambda: self._settings.batch_size * self._spec.frames,
        )
        with closing(batches):
            for batch in batches:
                for row in self._embed(batch):
                    rows[row.pop("video_id")].append(row)
                for identity in batch.complete:
                    piece, found = by_video.pop(identity), rows.pop(identity)
                    if identity in batch.changed:
                        self._run.log(f"{self._run.source}: video {identity}: another run changed its frames meanwhile; it stays pending")
                    else:
                        yield Done(piece, Result(rows={self._asset: self._finish(identity, found)}))

    def _embed(self, batch: FrameBatch) -> Iterator[Row]:
        """Embed one batch; every clip gives one row, in input order."""
        spec = self._spec
        frames = batch.frames.reshape(-1, spec.frames, spec.height_px, spec.width_px, 3)
        vectors = iter(self._embedder.embed_frames(frames) if len(frames) else ())
        for clip in batch.clips:
            vector: npt.NDArray[np.float32] | None = None
            outcome, detail = clip.refusal or (Outcome(clip.outcome), clip.detail)
            if clip.refusal is None:
                vector = next(vectors)
                norm = float(np.linalg.norm(vector))
                if not abs(norm - 1.0) < 1e-3:  # also true for NaN
                    outcome, detail, vector = Outcome.INVALID_VECTOR, f"the model gave a vector of norm {norm}", None
            yield {
                "video_id": clip.video_id,
                "row_id": item_row_id(clip.video_id, clip.clip_id, "clip"),
                "clip_id": clip.clip_id,
                "scope": "clip",
                "start_ns": clip.start_ns,
                "end_ns": clip.end_ns,
                "outcome": outcome.value,
                "detail": detail,
                "embedding": vector,
            }

    def _refusal(self, num_frames: int) -> Refusal | None:
        if num_frames < self._spec.frames and self._settings.too_few_frames == "refuse":
            return Outcome.TOO_FEW_FRAMES, f"{num_frames} frames, the model takes {self._spec.frames}; embeddings.too_few_frames is refuse"
        return None

    def _finish(self, video_id: str, rows: list[Row]) -> list[Row]:
        rows.sort(key=lambda row: (row["start_ns"], row["end_ns"]))
        result = list(rows) if "clip" in self._settings.scopes else []
        if "video" not in self._settings.scopes:
            return result
        vectors = [row["embedding"] for row in rows if row["embedding"] is not None]
        mean = np.mean(np.stack(vectors), axis=0, dtype=np.float64) if vectors else np.zeros(self._spec.dim)
        norm = float(np.linalg.norm(mean))
        row: Row = {
            "row_id": item_row_id(video_id, None, "video"),
            "clip_id": None,
            "scope": "video",
            "start_ns": rows[0]["start_ns"] if rows else None,
            "end_ns": max((row["end_ns"] for row in rows), default=None),
        }
        if not vectors:
            outcome, detail = (rows[0]["outcome"], rows[0]["detail"]) if rows else (Outcome.NO_FRAMES.value, "the video has no frames")
            return [*result, {**row, "outcome": outcome, "detail": detail}]
        if norm < 1e-6:
            return [*result, {**row, "outcome": Outcome.INVALID_VECTOR.value, "detail": "the clips' vectors cancel out"}]
        return [*result, {**row, "outcome": Outcome.OK.value, "embedding": (mean / norm).astype(np.float32)}]


def _no_piece(_: None) -> Result:
    raise AssertionError("embedding works on many pieces at once, never on one")


class _Nothing:
    def failed(self, piece: Piece, outcome: Outcome, detail: str) -> Result:
        return Result(outcome=outcome, detail=detail)

    def finish(self, plan: Plan, partials: Sequence[Any]) -> Mapping[str, Sequence[Row]]:
        return {}
