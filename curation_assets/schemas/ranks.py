"""Ranks: the columns by which `dedup.which_to_keep` may rank clips. Light to import: settings check names by it."""

from __future__ import annotations

from collections.abc import Mapping

RANK_COLUMNS: Mapping[str, tuple[str, ...]] = {  # by view
    "raw_videos": (
        "source", "key", "width_px", "height_px", "num_pixels", "bit_rate_bps", "size_bytes", "last_modified", "duration_ns",
    ),
    "clips": ("start_ns", "end_ns", "num_frames"),
    "clip_scores": (
        "motion_mean", "motion_p95", "still_share", "black_share", "sharpness", "letterbox_share", "aesthetic_score",
    ),
}  # fmt: skip
"""`num_pixels` is width_px times height_px; the others are the views' own."""
