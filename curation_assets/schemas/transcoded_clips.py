"""transcoded_clips: the MP4 file of each kept clip, one row per clip."""

from dataclasses import replace

from curation_assets.schemas import columns as c
from curation_assets.schemas import names
from curation_assets.schemas.table import TableSpec

TRANSCODED_CLIPS = TableSpec(
    asset=names.TRANSCODED_CLIPS,
    view="transcoded_clips",
    columns=(
        c.CLIP_ID, c.MEDIA_URI, c.HOW, c.CODEC, c.SIZE_BYTES, c.NUM_FRAMES,
        replace(c.DURATION_NS, meaning="Duration of the file's video in nanoseconds, measured by opening it."),
        c.SHA256, c.WIDTH_PX, c.HEIGHT_PX, c.HAS_AUDIO, c.CLIP_FINGERPRINT,
    ),
    view_columns=(
        "source", "video_id", "clip_id", "outcome", "detail", "uri", "how", "codec", "size_bytes", "num_frames", "duration_ns", "sha256",
    ),
)  # fmt: skip
