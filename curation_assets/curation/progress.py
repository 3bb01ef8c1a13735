"""Progress: how far a stage is, told to whoever listens, at most once in a few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ProgressUpdate:
    """State of one stage of one source.

    Attributes:
        num_done: videos that are complete.
        videos_done: the same, with the done pieces of long videos as fractions.
        num_total: videos in the work list, as far as it is known.
    """

    stage: str
    source: str
    num_done: int
    videos_done: float
    num_total: int
    num_failed: int
    seconds: float

    @property
    def rate(self) -> float:
        """Videos per second so far."""
        return self.videos_done / self.seconds if self.seconds > 0 else 0.0

    @property
    def rate_text(self) -> str:
        """The rate as people say it: 0.42 videos/s, 140 videos/s."""
        return f"{self.rate:,.0f} videos/s" if self.rate >= 10 else f"{self.rate:.2g} videos/s"

    @property
    def eta_s(self) -> float | None:
        """Seconds left at this rate; None before anything is done."""
        return (self.num_total - self.videos_done) / self.rate if self.rate else None

    def __str__(self) -> str:
        text = f"{self.source}: {self.stage} {self.num_done:,} of {self.num_total:,} videos"
        if self.num_done < self.num_total:
            text += f" ({self.videos_done / self.num_total:.0%})"
        text += f", {self.rate_text}"
        if self.num_failed:
            text += f", {self.num_failed} failed"
        if self.eta_s is not None and self.num_done < self.num_total:
            text += f", about {format_seconds(self.eta_s)} left"
        return text


Listener = Callable[[ProgressUpdate], None]


@dataclass(slots=True)
class Progress:
    """Counts videos and passes updates on.

    Args:
        stage: asset name.
        source: source name.
        num_total: videos in the work list.
        listener: called at the end, and in between at most once per `interval_s`.
        interval_s: seconds between calls; a Dagster log event costs milliseconds and a row in its store.
    """

    stage: str
    source: str
    num_total: int
    listener: Listener | None = None
    interval_s: float = 5.0
    num_done: int = 0
    num_failed: int = 0
    videos_done: float = 0.0
    _started: float = field(default_factory=time.monotonic)
    _told: float = field(default_factory=time.monotonic)

    def add_piece(self, share: float) -> None:
        """Count a piece of a video.

        Args:
            share: the piece's share of its video, 0 to 1.
        """
        self.videos_done += share
        now = time.monotonic()
        if now - self._told >= self.interval_s:
            self._told = now
            self._tell(now)

    def add_video(self, *, failed: bool) -> None:
        """Count a video whose pieces are all done."""
        self.num_done += 1
        self.num_failed += failed

    def finish(self) -> None:
        """Tell the final state, unless there was nothing to do."""
        if self.num_total:
            self._tell(time.monotonic())

    def _tell(self, now: float) -> None:
        if self.listener:
            seconds = max(now - self._started, 1e-9)
            self.listener(
                ProgressUpdate(self.stage, self.source, self.num_done, self.videos_done, self.num_total, self.num_failed, seconds)
            )


def format_seconds(seconds: float) -> str:
    """Write a duration as people say it: 42 s, 5 min, 3.2 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
