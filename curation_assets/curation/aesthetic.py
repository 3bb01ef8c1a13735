"""clip_scores/aesthetic: score the stored frames of each clip, and give the clip the least or the mean of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from curation_assets.curation.expected import Expected
from curation_assets.curation.fingerprints import fingerprint
from curation_assets.curation.frame_batches import FrameBatch, FrameShape
from curation_assets.curation.incremental import StageReport
from curation_assets.curation.model_frames import frame_set_of
from curation_assets.curation.model_stage import stored_frames_ready, update_from_frames
from curation_assets.curation.pieces import Row
from curation_assets.curation.warehouse import SourceRun
from curation_assets.models import aesthetic
from curation_assets.models.weights import check_weights
from curation_assets.schemas.clip_scores import CLIP_SCORES_AESTHETIC
from curation_assets.schemas.outcomes import Outcome

CODE_VERSION = "1"


def update_aesthetic(run: SourceRun) -> StageReport:
    """Bring one source's aesthetic scores up to date with its frame sets.

    Raises:
        WeightsError: the weights are not there, or not as published.
        ValueError: a GPU is demanded, and there is none.
    """
    return update_from_frames(
        run,
        CLIP_SCORES_AESTHETIC,
        expected_aesthetic(run),
        frame_set=frame_set_of(run.settings, aesthetic.SPEC.name),
        shape=FrameShape(aesthetic.SPEC.height_px, aesthetic.SPEC.width_px, aesthetic.SPEC.resize, select=np.arange),
        frames_per_batch=run.settings.clip_scores.aesthetic.batch_size,
        load=lambda: _load(run),
    )


def expected_aesthetic(run: SourceRun) -> Expected:
    """Say which videos the table should hold."""
    settings = run.settings.clip_scores.aesthetic
    ready, waiting = stored_frames_ready(run, frame_set_of(run.settings, aesthetic.SPEC.name))
    made_by = [CODE_VERSION, aesthetic.SPEC.revision, settings.reduction, settings.dtype]
    return Expected({identity: fingerprint(CLIP_SCORES_AESTHETIC.asset, made_by, frames) for identity, frames in ready.items()}, waiting)


def _load(run: SourceRun) -> Callable[[FrameBatch], Iterator[Row]]:
    settings, cache_dir = run.settings.clip_scores.aesthetic, run.settings.models.cache_dir
    check_weights(
        aesthetic.SPEC.weights, model=aesthetic.SPEC.name, cache_dir=cache_dir
    )  # a run that was not started from the command line has not been checked yet
    scorer = aesthetic.AestheticScorer(cache_dir, device=settings.device, dtype=settings.dtype, batch_size=settings.batch_size)

    def to_rows(batch: FrameBatch) -> Iterator[Row]:
        scores = scorer.score_frames(batch.frames).astype(np.float64)
        of_clips = iter(np.split(scores, np.cumsum(batch.counts)[:-1]))
        for clip in batch.clips:
            outcome, detail = clip.refusal or (Outcome(clip.outcome), clip.detail)
            score, num_frames = None, 0
            if clip.refusal is None:
                own = next(of_clips)
                score, num_frames = float(own.min() if settings.reduction == "min" else own.mean()), len(own)
                if not np.isfinite(score):
                    outcome, detail, score = (
                        Outcome.INVALID_SCORE,
                        f"the model gave {np.count_nonzero(~np.isfinite(own))} scores of NaN",
                        None,
                    )
            yield {
                "video_id": clip.video_id,
                "row_id": clip.clip_id,
                "clip_id": clip.clip_id,
                "outcome": outcome.value,
                "detail": detail,
                "num_frames": num_frames,
                "aesthetic_score": score,
            }

    return to_rows
