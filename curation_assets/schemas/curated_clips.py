"""curated_clips: one row per clip of all sources: whether it is selected, and if not, every reason why."""

from curation_assets.schemas import columns as c
from curation_assets.schemas import names
from curation_assets.schemas.table import TableSpec

SCORES = (
    c.MOTION_MEAN, c.MOTION_P95, c.STILL_SHARE, c.BLACK_SHARE, c.SHARPNESS, c.LETTERBOX_SHARE, c.AESTHETIC_SCORE,
)  # fmt: skip
_COLUMNS = (
    c.SOURCE, c.KEY, c.VIDEO_ID, c.CLIP_ID, c.START_NS, c.END_NS, c.MEDIA_URI, c.IS_SELECTED, c.REJECT_REASONS, *SCORES, c.CAPTION, c.DUPLICATE_OF,
)  # fmt: skip

CURATED_CLIPS = TableSpec(
    asset=names.CURATED_CLIPS,
    view="curated_clips",
    columns=_COLUMNS,
    view_columns=tuple(column.name for column in _COLUMNS),
    rows_are_headers=True,
    is_corpus=True,
)
