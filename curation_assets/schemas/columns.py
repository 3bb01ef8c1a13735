"""Columns: every column's name, type, unit and meaning, said once.

Tables are put together from these. A unit ends the name (`_ns _px _bytes _bps _fps`); times are int64 nanoseconds on the video's own timeline, which is
zero at the first displayed frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Column:
    """One column: Arrow type, and what a value means; `is_media_key`: the table has a key in the warehouse, of which the view makes the URI."""

    name: str
    type: pa.DataType
    meaning: str
    nullable: bool = True
    is_media_key: bool = False

    def field(self) -> pa.Field:
        """Build the Arrow field, its meaning in the field's metadata."""
        metadata = {"meaning": self.meaning}
        if self.name == "row_id":
            # Lance's key for merge_insert: without it two writers that insert the same row at once would duplicate it in silence.
            metadata["lance-schema:unenforced-primary-key"] = "true"
        return pa.field(self.name, self.type, nullable=self.nullable, metadata=metadata)


STRING, INT64, FLOAT64, BOOL = pa.string(), pa.int64(), pa.float64(), pa.bool_()
TIME_UTC = pa.timestamp("us", tz="UTC")

# bookkeeping, in every table
ROW_ID = Column("row_id", STRING, "Key of the row: video_id in header rows, else the item's own id.", nullable=False)
SOURCE = Column("source", STRING, "Name of the video source.", nullable=False)
VIDEO_ID = Column("video_id", STRING, "UUID of the video, from source name and key; stable across runs.", nullable=False)
IS_HEADER = Column(
    "is_header", BOOL, "True in the one row per video that says how the video ended in this table; views hide it.", nullable=False
)
OUTCOME = Column("outcome", STRING, "How the item ended: ok, or a reason code.", nullable=False)
DETAIL = Column("detail", STRING, "The reason in words, NULL when there is nothing to say.")
NUM_ROWS = Column("num_rows", INT64, "Header rows: how many item rows the video has in this table.")
FINGERPRINT = Column(
    "fingerprint", STRING, "Hash of all that this video's rows were made from; a different expected value means stale.", nullable=False
)
VIDEO_ETAG = Column(
    "video_etag", STRING, "Version of the object that the row was made from; rows of two tables belong together when it is the same."
)
CONTENT_HASH = Column("content_hash", STRING, "Header rows: hash of what the rows say, for data versions and for the next stage.")
SECONDS = Column("work_s", FLOAT64, "Header rows: seconds of work spent on the video.")
RUN_ID = Column("run_id", STRING, "Dagster run that wrote the row.")
WRITTEN_AT = Column("written_at", TIME_UTC, "When the row was written, UTC.", nullable=False)
BOOKKEEPING = (
    ROW_ID,
    SOURCE,
    VIDEO_ID,
    IS_HEADER,
    OUTCOME,
    DETAIL,
    NUM_ROWS,
    FINGERPRINT,
    VIDEO_ETAG,
    CONTENT_HASH,
    SECONDS,
    RUN_ID,
    WRITTEN_AT,
)

# objects
KEY = Column("key", STRING, "Object key below the source's root, or the entry of a manifest, Unicode NFC.")
URI = Column("uri", STRING, "Where the object lies.")
SIZE_BYTES = Column("size_bytes", INT64, "Object size in bytes.")
ETAG = Column("etag", STRING, "The store's version tag; size and modification time where the store has none.")
LAST_MODIFIED = Column("last_modified", TIME_UTC, "When the store says that the object was last modified, UTC.")
CONTAINER = Column("container", STRING, "Container format by its demuxer's short name, for example mp4 or matroska.")
CODEC = Column("codec", STRING, "Codec name: of the best video stream, or of stored frames (jpeg, png, raw).")
WIDTH_PX = Column("width_px", INT64, "Width in pixels as displayed, after rotation.")
HEIGHT_PX = Column("height_px", INT64, "Height in pixels as displayed, after rotation.")
ROTATION_DEG = Column("rotation_deg", INT64, "Clockwise turn that the player applies: 0, 90, 180 or 270.")
FPS_NUM = Column("fps_num", INT64, "Numerator of the average frame rate from the header.")
FPS_DEN = Column("fps_den", INT64, "Denominator of the average frame rate from the header.")
DURATION_NS = Column("duration_ns", INT64, "Duration from the header in nanoseconds; clips come from the packets, not from this.")
BIT_RATE_BPS = Column("bit_rate_bps", INT64, "Bit rate of the container in bits per second.")
HAS_AUDIO = Column("has_audio", BOOL, "Whether there is an audio stream.")
AUDIO_CODEC = Column("audio_codec", STRING, "Codec name of the first audio stream.")
IS_HDR = Column("is_hdr", BOOL, "Whether the transfer function is PQ or HLG.")
PIX_FMT = Column("pix_fmt", STRING, "Pixel format as the decoder names it.")
REGIONS_NS = Column(
    "regions_ns", pa.list_(pa.list_(INT64, 2)), "Spans [start, end) that a manifest limits the video to; NULL means all of it."
)

# clips
CLIP_ID = Column("clip_id", STRING, "UUID of the clip, from video_id and its span.")
START_NS = Column("start_ns", INT64, "Start of the span [start, end) in nanoseconds.")
END_NS = Column("end_ns", INT64, "End of the span [start, end) in nanoseconds; the next frame after the span is shown then.")
METHOD = Column("method", STRING, "Splitter that made the clip.")
SHOT_INDEX = Column("shot_index", INT64, "Index of the shot within the video, from zero; NULL where the splitter knows no shots.")
NUM_FRAMES = Column(
    "num_frames",
    INT64,
    "Frames: of a clip, those that the packets show in its span; of a frame set, those stored; of a score, those scored.",
)
IS_VFR = Column("is_vfr", BOOL, "Whether frame intervals in the span differ by more than the container's rounding.")
PACKET_INDEX = Column("packet_index", pa.large_binary(), "Header rows: the packed packet index (times, keyframes) for the later stages.")

# frame sets
NAME = Column("name", STRING, "Name of the frame set in the settings.")
FPS = Column("fps", FLOAT64, "Frames per second of the sampling grid that was used; NULL for the policy middle.")
TIME_NS = Column("time_ns", pa.list_(INT64), "Time of each stored frame in nanoseconds on the video's timeline.")
SET_FINGERPRINTS = Column(
    "set_fingerprints",
    pa.list_(STRING),
    "Header rows: what each frame set was made from, so that a set which is still as wanted is kept when others change; NULL in rows of earlier releases.",
)
# list<large_binary> breaks Lance's filter pushdown for the whole table (pylance 14.0), list<binary> does not.
FRAMES = Column("frames", pa.list_(pa.binary()), "The encoded frames, in order of time.")

# scores
MOTION_MEAN = Column("motion_mean", FLOAT64, "Mean absolute luma difference of frames one motion step apart, 0 (still) to 1.")
MOTION_P95 = Column("motion_p95", FLOAT64, "95th percentile over the clip's pairs of the same difference, 0 to 1.")
STILL_SHARE = Column("still_share", FLOAT64, "Share of the clip's pairs that do not differ visibly, 0 to 1.")
BLACK_SHARE = Column("black_share", FLOAT64, "Share of the sampled frames that are black, 0 to 1.")
SHARPNESS = Column(
    "sharpness", FLOAT64, "Median over frames of the variance of the Laplacian of luma, luma as 0 to 1; small means blurred."
)
LETTERBOX_SHARE = Column("letterbox_share", FLOAT64, "Share of the picture that is black bars through the whole clip, 0 to 1.")
AESTHETIC_SCORE = Column(
    "aesthetic_score",
    FLOAT64,
    "How much people like the picture by the aesthetics model, about 1 to 10; NULL where no frame could be scored.",
)
KEPT = Column(
    "kept", BOOL, "Whether the clip passes the source's thresholds; NULL while a scorer that one of them is for has not scored it."
)
REJECT_REASON = Column(
    "reject_reason",
    STRING,
    "Reason code of the first threshold that the clip fails, `not_scored` while it is not judged, NULL when it is kept.",
)

# embeddings
SCOPE = Column("scope", STRING, "clip or video.")

# media
HOW = Column("how", STRING, "How the file was made: copy, encode or smart_cut.")
SHA256 = Column("sha256", STRING, "SHA-256 of the file, hex.")
CLIP_FINGERPRINT = Column(
    "clip_fingerprint", STRING, "Hash of all that this file was made from; a clip that is still wanted so is not made again."
)


def embedding_column(dim: int) -> Column:
    """Build the vector column of one model: float32, unit length, fixed size."""
    return Column("embedding", pa.list_(pa.float32(), dim), "Unit-length vector; NULL unless the outcome is ok or truncated.")


TEXT_SCORES = Column(
    "text_scores",
    pa.list_(pa.struct([pa.field("text", STRING), pa.field("score", pa.float32())])),
    "Texts of embeddings.texts_to_verify, each with its share of the softmax of 100 times the cosines; NULL where none are given or the model has no texts.",
)

# duplicates
KEPT_ID = Column(
    "kept_id", STRING, "The kept clip that this one is a near-duplicate of: the most similar of those that rank before it.", nullable=False
)
SIMILARITY = Column("similarity", pa.float32(), "Cosine of the two clips' vectors.", nullable=False)
CLUSTER = Column("cluster", INT64, "The duplicate's k-means cluster; numbers mean nothing beyond one run.", nullable=False)

# curated clips
MEDIA_URI = Column(
    "uri",
    STRING,
    "The clip's file, NULL where there is none. In the Lance table: its key in the warehouse, which may be moved.",
    is_media_key=True,
)
IS_SELECTED = Column("is_selected", BOOL, "Whether nothing speaks against the clip.", nullable=False)
REJECT_REASONS = Column(
    "reject_reasons", pa.list_(STRING), "Reason codes of all that speaks against the clip; empty when it is selected.", nullable=False
)
CAPTION = Column("caption", STRING, "Caption; NULL where no captioner has run.")
DUPLICATE_OF = Column("duplicate_of", STRING, "The kept clip that this one is a near-duplicate of, by the deciding model (`dedup.model`).")
