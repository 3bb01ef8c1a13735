"""MediaError: what every function of this package raises for a video that it cannot use."""

from __future__ import annotations

from curation_assets.schemas.outcomes import Outcome


class MediaError(Exception):
    """A video, or a part of it, cannot be used.

    Attributes:
        outcome: reason code for the row.
        detail: what was seen, in words.
    """

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(f"{outcome}: {detail}")
        self.outcome = outcome
        self.detail = detail

    def __reduce__(self) -> tuple[type[MediaError], tuple[Outcome, str]]:
        """Pickle by arguments, so that the error crosses process borders."""
        return type(self), (self.outcome, self.detail)
