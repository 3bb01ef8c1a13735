"""Pieces: the unit of work that a worker process gets, and what it gives back. Light to import: every worker does."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from curation_assets.schemas.outcomes import Outcome

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """What a piece of work gives.

    Attributes:
        rows: item rows by asset; each has `row_id`, `outcome` (ok when absent) and the table's own columns.
        outcome: how the video ended as a whole; the rows' outcomes may be worse.
        detail: the reason in words.
        header: more header columns by asset, for example the packet index.
        partials: parts of a row that spans pieces; the stage's `finish` puts them together.
        work_s: seconds that the piece took.
        error: what keeps this and every other piece from being written: a full disk, a store that denies it. The run ends with it.
    """

    rows: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    outcome: Outcome = Outcome.OK
    detail: str | None = None
    header: Mapping[str, Row] = field(default_factory=dict)
    partials: Sequence[Any] = ()
    work_s: float = 0.0
    error: Exception | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A unit of work that a worker gets: a module-level function and its one picklable argument."""

    video_id: str
    function: Callable[[Any], Result]
    payload: Any


def run_piece(piece: Piece) -> Result:
    """Do one piece of work and take its time."""
    started = time.monotonic()
    result = piece.function(piece.payload)
    return replace(result, work_s=time.monotonic() - started)
