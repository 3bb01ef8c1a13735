"""clip_scores: one table per scorer, one row per clip; the view `clip_scores` joins them and applies the thresholds."""

from collections.abc import Mapping

from curation_assets.schemas import columns as c
from curation_assets.schemas import names
from curation_assets.schemas.table import TableSpec

PIXEL_SCORES = (c.MOTION_MEAN, c.MOTION_P95, c.STILL_SHARE, c.BLACK_SHARE, c.SHARPNESS, c.LETTERBOX_SHARE)

CLIP_SCORES_PIXELS = TableSpec(
    asset=names.CLIP_SCORES_PIXELS,
    view="clip_scores",
    columns=(c.CLIP_ID, *PIXEL_SCORES),
    view_columns=(
        "source", "video_id", "clip_id", *(column.name for column in PIXEL_SCORES), "aesthetic_score", "kept", "reject_reason",
    ),
)  # fmt: skip

CLIP_SCORES_AESTHETIC = TableSpec(
    asset=names.CLIP_SCORES_AESTHETIC,
    view="clip_scores_aesthetic",
    columns=(c.CLIP_ID, c.NUM_FRAMES, c.AESTHETIC_SCORE),
    view_columns=("source", "video_id", "clip_id", "outcome", "detail", "num_frames", "aesthetic_score"),
)

SCORER_TABLES: Mapping[str, TableSpec] = {"pixels": CLIP_SCORES_PIXELS, "aesthetic": CLIP_SCORES_AESTHETIC}
"""The table of each scorer of the settings."""

SCORED_BY = "scored_by"
"""Hidden column of the joined scores, `_clip_scores_rows`: the assets of the scorers that have scored the clip."""
NOT_SCORED = "not_scored"
"""The reason of a clip that is not judged, because scores are still to come."""


def score_names(spec: TableSpec) -> list[str]:
    """List the columns of a scorer's table that are scores."""
    return [column.name for column in (*PIXEL_SCORES, c.AESTHETIC_SCORE) if column in spec.columns]
