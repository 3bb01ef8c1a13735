"""Progress: how far a stage is, told to whoever listens, at most once in a few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ProgressUpdate:
    """State of one stage of one source."""

    stage: str
    source: str
    num_done: int
    num_total: int
    num_failed: int
    seconds: float

    @property
    def rate(self) -> float:
        """Videos per second so far."""
        return self.num_done / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds left at this rate; None before the first is done."""
        return (self.num_total - self.num_done) / self.rate if self.rate else None

    def __str__(self) -> str:
        eta = "" if self.eta_s is None or self.num_done == self.num_total else f", about {format_seconds(self.eta_s)} left"
        failed = f", {self.num_failed} failed" if self.num_failed else ""
        return f"{self.source}: {self.stage} {self.num_done:,} of {self.num_total:,} videos, {self.rate:.2g} videos/s{failed}{eta}"


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
    _started: float = field(default_factory=time.monotonic)
    _told: float = field(default_factory=time.monotonic)

    def add(self, *, failed: bool = False) -> None:
        """Count one video."""
        self.num_done += 1
        self.num_failed += failed
        now = time.monotonic()
        if now - self._told >= self.interval_s:
            self._told = now
            self._tell(now)

    def finish(self) -> None:
        """Tell the final state, unless there was nothing to do."""
        if self.num_total:
            self._tell(time.monotonic())

    def _tell(self, now: float) -> None:
        if self.listener:
            self.listener(
                ProgressUpdate(self.stage, self.source, self.num_done, self.num_total, self.num_failed, max(now - self._started, 1e-9))
            )


def format_seconds(seconds: float) -> str:
    """Write a duration as people say it: 42 s, 5 min, 3.2 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
