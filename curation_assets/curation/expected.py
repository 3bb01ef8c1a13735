"""Expected: which videos a table should have, and with which fingerprint, from what lies upstream of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from curation_assets.curation.incremental import needs_work
from curation_assets.curation.warehouse import Header


@dataclass(frozen=True, slots=True)
class Expected:
    """What a table should hold.

    Attributes:
        fingerprints: by video_id, for the videos whose upstream is ready.
        blocked: videos whose upstream is itself stale or missing: they wait, and keep what they have.
    """

    fingerprints: dict[str, str]
    blocked: set[str] = field(default_factory=set)

    def work(self, headers: Mapping[str, Header], *, retry_failed: bool = False) -> list[str]:
        """List the videos to work on."""
        known = {identity: (header.fingerprint, header.outcome) for identity, header in headers.items()}
        work = needs_work(self.fingerprints, known, retry_failed=retry_failed)
        # what is tried again comes last: under a limit it would keep what is new waiting for ever
        return sorted(work, key=lambda identity: known.get(identity, ("",))[0] == self.fingerprints[identity])

    def gone(self, headers: Mapping[str, Header]) -> list[str]:
        """List the videos that the table has and that are no longer upstream."""
        return [identity for identity in headers if identity not in self.fingerprints and identity not in self.blocked]

    def usable(self, headers: Mapping[str, Header]) -> tuple[dict[str, Header], set[str]]:
        """Split the expected videos into those that the next stage may read, and those that it must wait for.

        Videos that ended with a failure, or with no rows, are in neither.
        """
        ready: dict[str, Header] = {}
        waiting = set(self.blocked)
        for identity, expected in self.fingerprints.items():
            header = headers.get(identity)
            if header is None or header.fingerprint != expected:
                waiting.add(identity)
            elif header.num_rows:
                ready[identity] = header
        return ready, waiting
