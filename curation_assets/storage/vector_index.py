"""Vector index: Lance's inverted file (IVF) over the unit vectors of a corpus table, with product-quantised codes (PQ) and the exact vectors to rank what they find.

Reference: Jegou, Douze, Schmid, "Product Quantization for Nearest Neighbor Search", 2011; Lance's guide to vector search.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation_assets.storage.snapshots import Snapshot, in_list, lance_errors
from curation_assets.storage.upkeep import drop_old_versions

COLUMN = "embedding"
_NAME = "embedding_ivf"
_ROWS_PER_PARTITION = 1000
_DIMS_PER_CODE = 8  # of which each is one byte: 64 bytes for a vector of 512
_NUM_PROBES = 64
_REFINE_FACTOR = 20  # so many times k are taken by their codes and ranked by their vectors
_KEEP_OLD = timedelta(hours=1)  # a search that began before the index was replaced still reads the old one
_LEAST_ROWS = 256  # of which Lance learns its codes


def build_index(snapshot: Snapshot) -> None:
    """Build the index over all rows of a table, and drop versions of the table that were replaced more than an hour ago.

    Memory is that of a sample of 64 vectors per partition of 1,000 rows, and of the codes: 0.2 GB and 0.1 GB for a million of 512.

    Args:
        snapshot: of a table with a vector column; of fewer than 256 rows every one is compared, without an index.

    Raises:
        NoSpace, Forbidden, Unavailable, WriteConflict: the table is as before.
    """
    num_rows = snapshot.num_items()
    if num_rows < _LEAST_ROWS:
        return
    dim = snapshot.spec.schema.field(COLUMN).type.list_size
    with lance_errors(snapshot.dataset.uri):
        snapshot.dataset.create_index(
            COLUMN,
            "IVF_PQ",
            name=_NAME,
            metric="cosine",
            replace=True,
            num_partitions=max(1, num_rows // _ROWS_PER_PARTITION),
            num_sub_vectors=next(parts for parts in range(dim // _DIMS_PER_CODE, 0, -1) if dim % parts == 0)
            if dim >= _DIMS_PER_CODE
            else 1,
            sample_rate=64,
        )
    cast("Any", snapshot.dataset).checkout_latest()
    drop_old_versions(snapshot, _KEEP_OLD)


def has_index(snapshot: Snapshot) -> bool:
    """Say whether there is an index over this version, or too few rows for one."""
    if snapshot.num_items() < _LEAST_ROWS:
        return True
    with lance_errors(snapshot.dataset.uri):
        return any(index.name == _NAME for index in snapshot.dataset.describe_indices())


def nearest_rows(
    snapshot: Snapshot, query: npt.NDArray[np.float32], k: int, columns: Sequence[str], *, sources: Collection[str] | None = None
) -> pa.Table:
    """Read the rows that lie near a vector, about the nearest ones, in no order.

    Args:
        snapshot: of a table with an index; without one every row is compared.
        query: float32 (D,), unit length.
        k: how many; more than there are rows stands for all of them.
        columns: columns to read.
        sources: only rows of these; None for all. Others are left out before the search, not after it.
    """
    num_rows = snapshot.num_items()
    k = min(k, num_rows)  # Lance makes room for refine_factor times k rows at once, and ends the process where it cannot
    if not k:
        return snapshot.spec.schema.empty_table().select(list(columns))
    refine_factor = min(_REFINE_FACTOR, -(-num_rows // k))
    near = {"column": COLUMN, "q": query, "k": k, "metric": "cosine", "nprobes": _NUM_PROBES, "refine_factor": refine_factor}
    with lance_errors(snapshot.dataset.uri):
        scanner = snapshot.dataset.scanner(
            columns=list(columns),
            nearest=near,
            filter=None if sources is None else in_list("source", sources),
            prefilter=sources is not None,
            disable_scoring_autoprojection=True,
        )
        return scanner.to_table()
