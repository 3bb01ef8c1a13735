"""previews: one table per preview of the settings, one row per kept clip, the animated WebP beside it."""

import re

from curation_assets.schemas import columns as c
from curation_assets.schemas import names
from curation_assets.schemas.table import TableSpec


def previews_table(name: str) -> TableSpec:
    """Build the table of one preview.

    Args:
        name: its name in the settings, for example `240p`; the view has `_` for other characters than letters and digits.
    """
    return TableSpec(
        asset=f"{names.PREVIEWS}/{name}",
        view=f"previews_{re.sub('[^A-Za-z0-9]', '_', name)}",
        columns=(c.CLIP_ID, c.MEDIA_URI, c.HEIGHT_PX, c.WIDTH_PX, c.FPS, c.NUM_FRAMES, c.SIZE_BYTES, c.CLIP_FINGERPRINT),
        view_columns=(
            "source", "video_id", "clip_id", "outcome", "detail", "uri", "height_px", "width_px", "fps", "num_frames", "size_bytes",
        ),
    )  # fmt: skip
