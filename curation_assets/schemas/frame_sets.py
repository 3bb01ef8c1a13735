"""frame_sets: stored frames, one row per clip and frame set, or per whole video and frame set (clip_id NULL)."""

from curation_assets.schemas import columns as c
from curation_assets.schemas import names
from curation_assets.schemas.table import TableSpec

FRAME_SETS = TableSpec(
    asset=names.FRAME_SETS,
    view="frame_sets",
    columns=(c.CLIP_ID, c.NAME, c.FPS, c.HEIGHT_PX, c.WIDTH_PX, c.TIME_NS, c.NUM_FRAMES, c.CODEC, c.FRAMES, c.SET_FINGERPRINTS),
    view_columns=(
        "source", "video_id", "clip_id", "name", "outcome", "detail", "fps", "height_px", "width_px", "time_ns", "num_frames", "codec",
    ),
    blob_columns=("frames",),
)  # fmt: skip
