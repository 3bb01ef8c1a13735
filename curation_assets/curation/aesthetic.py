"""clip_scores/aesthetic: score the stored frames of each clip, and give the clip the least or the mean of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from typing import Literal

import numpy as np
import numpy.typing as npt

from curation_assets.curation.expected import Expected
from curation_assets.curation.fingerprints import fingerprint
from curation_assets.curation.frame_batches import BATCHES_AHEAD, FrameBatch, FrameShape, read_frame_batches
from curation_assets.curation.frame_model import FrameModel
from curation_assets.curation.incremental import StageReport
from curation_assets.curation.model_frames import frame_set_of
from curation_assets.curation.model_stage import name_gpu_error, stored_frames_ready, update_from_frames
from curation_assets.curation.pieces import Row
from curation_assets.curation.warehouse import SourceRun
from curation_assets.models import aesthetic
from curation_assets.models.shared import shared
from curation_assets.models.weights import check_weights, snapshot_folder
from curation_assets.schemas.clip_scores import CLIP_SCORES_AESTHETIC
from curation_assets.schemas.outcomes import Outcome
from curation_assets.settings import SettingsError

CODE_VERSION = "1"
_ON_CPU = "clip_scores.aesthetic.device: cpu"


def update_aesthetic(run: SourceRun) -> StageReport:
    """Bring one source's aesthetic scores up to date with its frame sets.

    Raises:
        WeightsError: the weights are not there, or not as published.
        ValueError: a GPU is demanded, and there is none.
        SettingsError: its memory does not hold the model and one frame.
        DeviceError: the GPU failed.
    """
    return update_from_frames(
        run,
        CLIP_SCORES_AESTHETIC,
        lambda: expected_aesthetic(run),
        load=_Scoring,
        may_use_gpu=run.settings.clip_scores.aesthetic.device != "cpu",
    )


def expected_aesthetic(run: SourceRun) -> Expected:
    """Say which videos the table should hold."""
    settings = run.settings.clip_scores.aesthetic
    ready, waiting = stored_frames_ready(run, frame_set_of(run.settings, aesthetic.SPEC.name))
    made_by = [CODE_VERSION, aesthetic.SPEC.revision, settings.reduction, settings.dtype]
    return Expected({identity: fingerprint(CLIP_SCORES_AESTHETIC.asset, made_by, frames) for identity, frames in ready.items()}, waiting)


class _Scoring(FrameModel):
    """The scorer over one source's stored frames."""

    def __init__(self, run: SourceRun) -> None:
        self._run = run
        self._settings, cache_dir = run.settings.clip_scores.aesthetic, run.settings.models.cache_dir
        spec, settings = aesthetic.SPEC, self._settings

        def build() -> aesthetic.AestheticScorer:
            # a run that was not started from the command line has not been checked yet
            check_weights(spec.weights, model=spec.name, cache_dir=cache_dir)
            return aesthetic.AestheticScorer(cache_dir, device=settings.device, dtype=settings.dtype)

        files = tuple(str(snapshot_folder(weights, cache_dir)) for weights in spec.weights)
        self._scorer = shared((spec.name, settings.device, settings.dtype, files), build)
        if self._scorer.frames.device.type == "cuda":
            self._scorer.frames.at_once = settings.batch_size

    def batches(self, video_ids: Iterator[str], consumed: Mapping[str, str]) -> Iterator[tuple[FrameBatch, Iterable[Row]]]:
        """Score clips in batches; see `FrameModel.batches`."""
        spec = aesthetic.SPEC
        batches = read_frame_batches(
            self._run,
            frame_set_of(self._run.settings, spec.name),
            fingerprints=consumed,
            video_ids=video_ids,
            shape=FrameShape(spec.height_px, spec.width_px, spec.resize, select=np.arange),
            frames_per_batch=lambda: self._settings.batch_size,
            batches_ahead=BATCHES_AHEAD if self._scorer.frames.device.type == "cuda" else 0,
        )
        with closing(batches):
            for batch in batches:
                try:
                    scores = self._scorer.score_frames(batch.frames)
                except RuntimeError as error:
                    raise name_gpu_error(error, spec.name, no_room=_no_room, on_cpu=f"set {_ON_CPU}") from error
                yield batch, _rows(batch, scores.astype(np.float64), self._settings.reduction)


def _rows(batch: FrameBatch, scores: npt.NDArray[np.float64], reduction: Literal["min", "mean"]) -> Iterator[Row]:
    """Make a row of every clip of a batch, in input order, from the scores of the frames of those that have some."""
    of_clips = iter(np.split(scores, np.cumsum(batch.counts)[:-1]))
    for clip in batch.clips:
        outcome, detail = clip.refusal or (Outcome(clip.outcome), clip.detail)
        score: float | None = None
        num_frames = 0
        if clip.refusal is None:
            own = next(of_clips)
            score, num_frames = float(own.min() if reduction == "min" else own.mean()), len(own)
            if not np.isfinite(score):
                num_bad = np.count_nonzero(~np.isfinite(own))
                outcome, detail, score = Outcome.INVALID_SCORE, f"the model gave {num_bad} of {len(own)} frames no number", None
        yield {
            "video_id": clip.video_id,
            "row_id": clip.clip_id,
            "clip_id": clip.clip_id,
            "outcome": outcome.value,
            "detail": detail,
            "num_frames": num_frames,
            "aesthetic_score": score,
        }


def _no_room(model: str, error: BaseException) -> SettingsError:
    return SettingsError(
        f"{model} with one frame does not fit into the GPU's memory ({error}); end what else uses the card, or set {_ON_CPU}"
    )
