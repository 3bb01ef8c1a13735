"""raw_videos: one row per object of a source, with the listing and a probe of the header."""

from curation_assets.schemas import columns as c
from curation_assets.schemas import names
from curation_assets.schemas.table import TableSpec

RAW_VIDEOS = TableSpec(
    asset=names.RAW_VIDEOS,
    view="raw_videos",
    columns=(
        c.KEY, c.URI, c.SIZE_BYTES, c.ETAG, c.LAST_MODIFIED, c.CONTAINER, c.CODEC, c.WIDTH_PX, c.HEIGHT_PX, c.ROTATION_DEG, c.FPS_NUM, c.FPS_DEN,
        c.DURATION_NS, c.BIT_RATE_BPS, c.HAS_AUDIO, c.AUDIO_CODEC, c.IS_HDR, c.PIX_FMT, c.REGIONS_NS,
    ),
    view_columns=(
        "source", "key", "uri", "video_id", "outcome", "detail", "size_bytes", "etag", "last_modified", "container", "codec", "width_px", "height_px",
        "rotation_deg", "fps_num", "fps_den", "duration_ns", "bit_rate_bps", "has_audio", "audio_codec", "is_hdr", "pix_fmt",
    ),
    rows_are_headers=True,
)  # fmt: skip
