"""Nearest: the k rows most similar to a vector, out of batches of any number, the same whatever the batches are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_DECIMALS = 6  # float32 holds no more of a cosine
_MARGIN = 1e-4  # above the error of a float32 product, whose last digits depend on the batch


@dataclass(frozen=True, slots=True, order=True)
class Near:
    """A row that was found; the smallest one comes first.

    Attributes:
        distance: minus the cosine, rounded to six decimals.
        clip_id: breaks ties.
        source: of the clip.
        video_id: of the clip.
        start_ns: its span's start.
        end_ns: its span's end.
    """

    distance: float
    clip_id: str
    source: str
    video_id: str
    start_ns: int
    end_ns: int


class NearestRows:
    """The k nearest rows so far: by cosine rounded to six decimals, then by clip_id.

    Args:
        query: float32 (D,), unit length.
        k: how many.
        without: clip that is no hit.
    """

    def __init__(self, query: npt.NDArray[np.float32], k: int, *, without: str | None = None) -> None:
        self._query = query
        self._exact_query = query.astype(np.float64)
        self._k = k
        self._most = k + (without is not None)  # rows of a batch that may matter
        self._without = without
        self._rows: list[Near] = []

    def add(self, batch: pa.RecordBatch) -> None:
        """Look at rows with the columns clip_id, source, video_id, start_ns, end_ns and embedding."""
        if not batch.num_rows:
            return
        vectors = batch.column("embedding").flatten().to_numpy(zero_copy_only=False).reshape(batch.num_rows, -1)
        rough = np.einsum(
            "nd,d->n", vectors, self._query
        )  # a BLAS product this small waits for its threads: up to 12 ms on busy cores, against 0.15
        least = -self._rows[-1].distance if len(self._rows) == self._k else -2.0
        if batch.num_rows > self._most:
            least = max(least, float(np.partition(rough, -self._most)[-self._most]))
        places = np.flatnonzero(rough >= least - _MARGIN)
        # each row's sum on its own, so that equal vectors have equal scores
        distances = -np.clip(np.round((vectors[places].astype(np.float64) * self._exact_query).sum(axis=1), _DECIMALS), -1, 1)
        ids = np.asarray(batch.column("clip_id").take(pa.array(places)).to_pylist(), "S36")
        best = np.lexsort((ids, distances))[: self._most]
        taken = batch.select([name for name in batch.schema.names if name != "embedding"]).take(pa.array(places[best])).to_pylist()
        found = [
            Near(float(distance), row["clip_id"], row["source"], row["video_id"], row["start_ns"], row["end_ns"])
            for distance, row in zip(distances[best], taken, strict=True)
            if row["clip_id"] != self._without
        ]
        self._rows = sorted([*self._rows, *found])[: self._k]

    def rows(self) -> list[Near]:
        """Give what was found, the nearest first."""
        return list(self._rows)
