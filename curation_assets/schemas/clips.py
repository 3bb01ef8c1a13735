"""clips: the spans of each video; the header row keeps the packet index for the later stages."""

from curation_assets.schemas import columns as c
from curation_assets.schemas import names
from curation_assets.schemas.table import TableSpec

CLIPS = TableSpec(
    asset=names.CLIPS,
    view="clips",
    columns=(c.CLIP_ID, c.START_NS, c.END_NS, c.METHOD, c.SHOT_INDEX, c.NUM_FRAMES, c.IS_VFR, c.PACKET_INDEX),
    view_columns=(
        "source", "video_id", "clip_id", "outcome", "detail", "start_ns", "end_ns", "method", "shot_index", "num_frames", "is_vfr",
    ),
    blob_columns=("packet_index",),
)  # fmt: skip
