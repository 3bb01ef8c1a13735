"""embeddings/<model>: read stored frames, embed clips in batches that span videos, and give each video the mean of its clips."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from curation_assets.curation.expected import Expected
from curation_assets.curation.fingerprints import fingerprint
from curation_assets.curation.frame_batches import BATCHES_AHEAD, FrameBatch, FrameShape, Refusal, read_frame_batches
from curation_assets.curation.frame_model import FrameModel
from curation_assets.curation.incremental import PieceResults, StageReport
from curation_assets.curation.loaded_models import LoadedModel, load_model, out_of_memory
from curation_assets.curation.model_frames import frame_set_of
from curation_assets.curation.model_stage import name_gpu_error, stored_frames_ready, update_from_frames
from curation_assets.curation.pieces import Piece, Result, Row
from curation_assets.curation.warehouse import Header, SourceRun
from curation_assets.engine.local import Done
from curation_assets.models import registry
from curation_assets.models.batching import Uploader
from curation_assets.models.embedder import EmbedderSpec, select_first_frames, select_frames
from curation_assets.schemas.columns import TEXT_SCORES
from curation_assets.schemas.embeddings import embeddings_table
from curation_assets.schemas.outcomes import Outcome, OutcomeClass, outcome_class
from curation_assets.settings import EmbeddingsSettings
from curation_assets.storage.layout import item_row_id
from curation_assets.storage.snapshots import in_list

CODE_VERSION = "1"


def update_embeddings(run: SourceRun, model: str) -> StageReport:
    """Bring one source's vectors of one model up to date with its frame sets.

    Args:
        run: the source.
        model: registry name.
    """
    spec = registry.spec(model)
    return update_from_frames(
        run,
        embeddings_table(model, spec.dim),
        lambda: expected_embeddings(run, model),
        load=partial(_Embedding, spec=spec),
        may_use_gpu=bool(spec.weights) and run.settings.embeddings.device != "cpu",
        # vectors as wanted, with other texts than those that are asked for now
        is_kept=lambda header, wanted: _has_vectors(header, wanted) and not (run.retry_failed and _may_be_retried(header)),
    )


def expected_embeddings(run: SourceRun, model: str) -> Expected:
    """Say which videos one model's table should hold: none of a source that does not use the model.

    A fingerprint is that of the vectors; where texts are compared with them, that of the texts follows after a dash.
    """
    settings, spec = run.settings.embeddings, registry.spec(model)
    if model not in settings.models:
        return Expected({})
    ready, waiting = stored_frames_ready(run, frame_set_of(run.settings, model))
    # Of the policies only `refuse` is about the model; what the others do to the frames is in the frames' own fingerprint.
    tree: list[Any] = ["refuse" if settings.too_few_frames == "refuse" else "repeat", sorted(settings.scopes)]
    if settings.selection != "uniform":
        tree.append(settings.selection)
    if spec.weights and settings.dtype != "auto":
        tree.append(settings.dtype)
    texts = f"-{fingerprint('text_scores', CODE_VERSION, settings.texts_to_verify)}" if spec.has_text and settings.texts_to_verify else ""
    return Expected(
        {
            identity: fingerprint("embeddings", CODE_VERSION, model, spec.revision, frames, tree, retried) + texts
            for identity, (frames, retried) in ready.items()
        },
        waiting,
    )


def _may_be_retried(header: Header | None) -> bool:
    return header is not None and outcome_class(header.outcome) is OutcomeClass.FAILED


def _has_vectors(header: Header | None, wanted: str) -> bool:
    """Say whether a video's vectors are as wanted although its fingerprint, texts included, is another."""
    return header is not None and header.fingerprint != wanted and header.fingerprint.partition("-")[0] == wanted.partition("-")[0]


class _Embedding(FrameModel):
    """One model over one source's stored frames."""

    def __init__(self, run: SourceRun, spec: EmbedderSpec) -> None:
        self._run = run
        self._spec = spec
        self._settings: EmbeddingsSettings = run.settings.embeddings
        self._texts = self._settings.texts_to_verify if spec.has_text else []
        self._frame_set = frame_set_of(run.settings, spec.name)
        self._table = embeddings_table(spec.name, spec.dim)
        select = select_frames if self._settings.selection == "uniform" else select_first_frames
        self._shape = FrameShape(
            spec.height_px, spec.width_px, spec.resize, select=lambda count: select(count, spec.frames), refuse=self._refusal
        )

    @cached_property
    def _loaded(self) -> tuple[LoadedModel, Callable[[], int]]:
        """The model, and how many clips it takes at a time; not loaded for rows that only lose their texts."""
        return load_model(self._run.settings, self._spec, log=lambda text: self._run.log(f"{self._run.source}: {text}"))

    def batches(self, video_ids: Iterator[str], consumed: Mapping[str, str]) -> Iterator[tuple[FrameBatch, Iterable[Row]]]:
        """Embed clips in batches; see `FrameModel.batches`."""
        for batch, vectors in self._embedded(video_ids, consumed):
            yield batch, self._rows(batch, vectors)

    def _embedded(self, video_ids: Iterator[str], consumed: Mapping[str, str]) -> Iterator[tuple[FrameBatch, npt.NDArray[np.float32]]]:
        """Yield batches with their vectors, (number of clips taken, D).

        Raises:
            DeviceError: the GPU failed.
            SettingsError: its memory does not hold one clip.
        """
        spec = self._spec
        model, clips_at_once = self._loaded
        gpu = model.gpu
        uploader = Uploader(gpu.device) if gpu else None
        batches = read_frame_batches(
            self._run,
            self._frame_set,
            fingerprints=consumed,
            video_ids=video_ids,
            shape=self._shape,
            frames_per_batch=lambda: clips_at_once() * spec.frames,
            allocate=uploader.allocate if uploader else None,
            prepare=uploader.upload if uploader else None,
            batches_ahead=BATCHES_AHEAD if uploader else 0,
        )
        with closing(batches):
            while True:
                num_clips = clips_at_once()
                try:
                    batch = next(batches, None)
                    if batch is None:
                        return
                    frames = batch.frames.reshape(-1, spec.frames, spec.height_px, spec.width_px, 3)
                    vectors = gpu(frames) if gpu else model.embedder.embed_frames(frames)
                except RuntimeError as error:
                    raise self._named(error) from error
                if clips_at_once() < num_clips:
                    self._run.log(f"{self._run.source}: {spec.name}: out of GPU memory; {clips_at_once()} clips at a time from here on")
                yield batch, vectors

    def _named(self, error: RuntimeError) -> Exception:
        if not self._spec.weights:
            return error
        return name_gpu_error(error, self._spec.name, no_room=out_of_memory, on_cpu="with --set embeddings.device=cpu")

    def _rows(self, batch: FrameBatch, found: npt.NDArray[np.float32]) -> Iterator[Row]:
        """Make a row of every clip of a batch, in input order."""
        vectors = iter(found)
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

    def again(self, pieces: Sequence[Piece]) -> PieceResults:
        """Give stored rows as they are, with the scores of the texts that are asked for now."""
        own = ["video_id", "row_id", "outcome", "detail", *(column.name for column in self._table.columns if column is not TEXT_SCORES)]
        rows: dict[str, list[Row]] = {piece.video_id: [] for piece in pieces}
        for batch in self._run.table(self._table).scan(own, where=in_list("video_id", rows)):
            for row in batch.to_pylist():
                vector = row["embedding"]
                row["embedding"] = None if vector is None else np.array(vector, np.float32)
                rows[row.pop("video_id")].append(row)
        for piece in pieces:
            yield Done(piece, Result(rows={self._table.asset: self._scored(rows[piece.video_id])}))

    def _scored(self, rows: list[Row]) -> list[Row]:
        """Compare each vector with the texts."""
        vectors = [row["embedding"] for row in rows if row.get("embedding") is not None]
        if not self._texts or not vectors:
            return rows
        scores = iter(text_scores(np.stack(vectors), self._loaded[0].embed_texts(self._texts)).tolist())
        return [
            {**row, "text_scores": [{"text": text, "score": score} for text, score in zip(self._texts, next(scores), strict=True)]}
            if row.get("embedding") is not None
            else row
            for row in rows
        ]

    def finish(self, video_id: str, rows: list[Row]) -> list[Row]:
        """Add the video's own row, and compare the vectors with the texts."""
        return self._scored(self._with_video(video_id, rows))

    def _with_video(self, video_id: str, rows: list[Row]) -> list[Row]:
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


def text_scores(vectors: npt.NDArray[np.float32], texts: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Compute how well each vector fits each text, against the other texts: the softmax of 100 times the cosines, as CLIP and InternVideo2 score.

    Args:
        vectors: (N, D), rows L2 = 1.
        texts: (M, D), rows L2 = 1, M at least 1.

    Returns:
        float32 (N, M), rows sum to 1.
    """
    logits = 100.0 * (vectors.astype(np.float64) @ texts.astype(np.float64).T)
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    found: npt.NDArray[np.float32] = (exponentials / exponentials.sum(1, keepdims=True)).astype(np.float32)
    return found
