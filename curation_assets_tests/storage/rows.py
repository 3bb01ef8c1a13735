"""A small table with blobs, and its rows; imported by the processes that tests start."""

from __future__ import annotations

import datetime as dt
import hashlib
import random
import uuid

import pyarrow as pa

from curation_assets.schemas import columns as c
from curation_assets.schemas.table import TableSpec
from curation_assets.storage.tables import VideoWrite

SPEC = TableSpec(
    asset="frame_sets",
    view="frame_sets",
    columns=(c.CLIP_ID, c.NAME, c.FPS, c.TIME_NS, c.NUM_FRAMES, c.FRAMES),
    view_columns=("source", "video_id", "clip_id", "name", "outcome", "detail", "fps", "time_ns", "num_frames"),
    blob_columns=("frames",),
)
NOW = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


def vid(number: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, str(number)))


def header(video: str, fingerprint: str, num_rows: int, *, outcome: str = "ok", run_id: str = "run") -> dict[str, object]:
    return {
        "row_id": video, "source": "src", "video_id": video, "is_header": True, "outcome": outcome, "num_rows": num_rows,
        "fingerprint": fingerprint, "content_hash": hashlib.sha256(f"{video}{fingerprint}".encode()).hexdigest(), "run_id": run_id, "written_at": NOW,
    }  # fmt: skip


def items(video: str, fingerprint: str, numbers: range, *, blob_bytes: int = 100) -> list[dict[str, object]]:
    return [
        {
            "row_id": f"{video}:{i}", "source": "src", "video_id": video, "is_header": False, "outcome": "ok", "fingerprint": fingerprint,
            "written_at": NOW, "clip_id": f"{video}:{i}", "name": "sequence", "fps": 2.0, "time_ns": [i, i + 1], "num_frames": i,
            "frames": [random.Random(f"{fingerprint}{i}{frame}").randbytes(blob_bytes) for frame in range(2)],
        }
        for i in numbers
    ]  # fmt: skip


def to_table(rows: list[dict[str, object]], spec: TableSpec = SPEC) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.Table.from_pylist(rows, schema=pa.schema([spec.schema.field(name) for name in names]))


def video(number: int, fingerprint: str, num_rows: int, **settings) -> tuple[pa.Table, list[VideoWrite]]:
    """One whole video, ready for `commit`."""
    rows = [header(vid(number), fingerprint, num_rows), *items(vid(number), fingerprint, range(num_rows), **settings)]
    return to_table(rows), [VideoWrite(vid(number), fingerprint)]
