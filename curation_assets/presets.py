"""Presets: named parts of a settings tree. Whoever names one under `presets` gets its keys, and wins over them with keys of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # what the peers write: H.264 at 4 Mb/s, every clip encoded; with `encoder: libopenh264` it is their encoder as well
    "peers_4mbps": {"transcoded_clips": {"way": "encode", "bit_rate_bps": 4_000_000}},
    # scenes of 2 to 10 s: one clip per shot, a longer shot in equal parts
    "scene_segments": {"clips": {"splitter": {"method": "transnetv2", "min_clip_len_s": 2.0, "max_clip_len_s": 10.0}}},
}
