"""Presets: named, partial settings trees that a settings file takes by name."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # What the peers write: H.264 at 4 Mb/s, every clip encoded. With `encoder: libopenh264` it is their encoder as well.
    "peers_4mbps": {"transcoded_clips": {"way": "encode", "bit_rate_bps": 4_000_000}},
}
