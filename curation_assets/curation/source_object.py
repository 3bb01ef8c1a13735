"""SourceObject: one entry of a source's listing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from curation_assets.schemas.outcomes import Outcome


@dataclass(frozen=True, slots=True)
class SourceObject:
    """One object of a source.

    Attributes:
        key: key below the root, or the manifest's entry, Unicode NFC.
        uri: where it lies, spelled as the store spells it.
        etag: version tag; "" for an object that cannot be looked up.
        regions_ns: spans [start, end) that a manifest limits it to, or None.
        outcome: why the listing alone says that it cannot be read, or None.
        detail: that reason in words.
    """

    key: str
    uri: str
    size_bytes: int
    etag: str
    last_modified: datetime | None
    regions_ns: tuple[tuple[int, int], ...] | None = None
    outcome: Outcome | None = None
    detail: str | None = None
