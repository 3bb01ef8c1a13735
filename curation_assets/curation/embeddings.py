"""embeddings/<model>: read stored frames, embed clips in batches that span videos, and give each video the mean of its clips."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from curation_assets.curation.expected import Expected
from curation_assets.curation.fingerprints import fingerprint
from curation_assets.curation.frame_sets import expected_frames
from curation_assets.curation.incremental import PieceResults, Plan, StageReport, batched, run_stage
from curation_assets.curation.model_frames import frame_set_of, frame_sets
from curation_assets.curation.pieces import Piece, Result, Row
from curation_assets.curation.warehouse import SourceRun
from curation_assets.engine.local import Done, cpu_count
from curation_assets.media.images import decode_image
from curation_assets.models import load, registry
from curation_assets.models.embedder import Embedder, EmbedderSpec, select_frames
from curation_assets.models.weights import check_weights
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.embeddings import embeddings_table
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.schemas.outcomes import Outcome, OutcomeClass, is_usable, outcome_class
from curation_assets.settings import EmbeddingsSettings
from curation_assets.storage.layout import item_row_id

CODE_VERSION = "1"
_VIDEOS_PER_READ = 64


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

    def run_pieces(self, pieces: Iterable[Piece]) -> PieceResults:
        """Embed the videos of many pieces together."""
        with ThreadPoolExecutor(cpu_count(), thread_name_prefix="decode-jpeg") as threads:
            for group in batched(pieces, _VIDEOS_PER_READ):
                by_video = {piece.video_id: piece for piece in group}
                rows: dict[str, list[Row]] = {identity: [] for identity in by_video}
                changed: set[str] = set()
                for batch in batched(self._clips(list(by_video), changed), self._settings.batch_size):
                    for row in self._embed(batch, threads):
                        rows[row.pop("video_id")].append(row)
                for identity, piece in by_video.items():
                    if identity in changed or not rows[identity]:
                        self._run.log(f"{self._run.source}: video {identity}: another run changed its frames meanwhile; it stays pending")
                        continue
                    yield Done(piece, Result(rows={self._asset: self._finish(identity, rows[identity])}))

    def _clips(self, video_ids: Sequence[str], changed: set[str]) -> Iterator[Row]:
        """Read stored frames clip by clip; videos whose rows are not those that the work list was made from go into `changed`."""
        ids = ", ".join(f"'{identity}'" for identity in video_ids)
        clips = self._run.read(CLIPS, ["clip_id", "start_ns", "end_ns"], where=f"video_id IN ({ids})")
        spans = {row["clip_id"]: (row["start_ns"], row["end_ns"]) for row in clips.to_pylist()}
        columns = ["video_id", "clip_id", "fingerprint", "outcome", "detail", "height_px", "width_px", "codec", "frames"]
        where = f"name = '{self._frame_set}' AND video_id IN ({ids})"
        for batch in self._run.table(FRAME_SETS).scan_blobs(columns, where=where):
            for row in batch.to_pylist():
                if row["fingerprint"] != self._consumed.get(row["video_id"]) or row["clip_id"] not in spans:
                    changed.add(row["video_id"])
                    continue
                start_ns, end_ns = spans[row["clip_id"]]
                yield {**row, "start_ns": start_ns, "end_ns": end_ns}

    def _embed(self, clips: Sequence[Row], threads: ThreadPoolExecutor) -> Iterator[Row]:
        """Embed one batch; every clip gives one row, in input order."""
        refused = [self._refusal(clip) for clip in clips]
        taken = [clip for clip, refusal in zip(clips, refused, strict=True) if refusal is None]
        vectors: npt.NDArray[np.float32] = np.zeros((0, self._spec.dim), np.float32)
        if taken:
            # filled in place: a list of the clips' frames and a stack of it would be the largest thing in the run, twice
            frames = np.empty((len(taken), self._spec.frames, self._spec.height_px, self._spec.width_px, 3), np.uint8)
            for place, clip_frames in enumerate(threads.map(self._frames, taken)):
                frames[place] = clip_frames
            vectors = self._embedder.embed_frames(frames)
        remaining = iter(vectors)
        for clip, refusal in zip(clips, refused, strict=True):
            vector = None
            outcome, detail = refusal or (Outcome(clip["outcome"]), clip["detail"])
            if refusal is None:
                vector = next(remaining)
                norm = float(np.linalg.norm(vector))
                if not abs(norm - 1.0) < 1e-3:  # also true for NaN
                    outcome, detail, vector = Outcome.INVALID_VECTOR, f"the model gave a vector of norm {norm}", None
            yield {
                "video_id": clip["video_id"],
                "row_id": item_row_id(clip["video_id"], clip["clip_id"], "clip"),
                "clip_id": clip["clip_id"],
                "scope": "clip",
                "start_ns": clip["start_ns"],
                "end_ns": clip["end_ns"],
                "outcome": outcome.value,
                "detail": detail,
                "embedding": vector,
            }

    def _refusal(self, clip: Row) -> tuple[Outcome, str | None] | None:
        if not is_usable(clip["outcome"]):
            return Outcome(clip["outcome"]), clip["detail"]
        num_frames = len(clip["frames"])
        if num_frames < self._spec.frames and self._settings.too_few_frames == "refuse":
            return Outcome.TOO_FEW_FRAMES, f"{num_frames} frames, the model takes {self._spec.frames}; embeddings.too_few_frames is refuse"
        return None

    def _frames(self, clip: Row) -> npt.NDArray[np.uint8]:
        """Decode the model's frames of one clip: uint8 (T, H, W, 3)."""
        chosen = select_frames(len(clip["frames"]), self._spec.frames)
        decoded = {
            index: self._fitted(decode_image(clip["frames"][index], clip["codec"], height_px=clip["height_px"], width_px=clip["width_px"]))
            for index in dict.fromkeys(chosen.tolist())
        }
        return np.stack([decoded[index] for index in chosen.tolist()])

    def _fitted(self, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Bring a stored frame of another size to the model's."""
        size = (self._spec.width_px, self._spec.height_px)
        if picture.shape[1::-1] == size:
            return picture
        image = Image.fromarray(picture)
        return np.asarray(ImageOps.fit(image, size) if self._spec.resize == "crop" else image.resize(size))

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
