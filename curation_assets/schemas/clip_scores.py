"""clip_scores: one table per scorer, one row per clip; the view joins them and applies the thresholds."""

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
