"""Near-duplicates among 100,000 x 512 vectors: seconds, memory, and the share of the exact search's pairs that the clustered one finds.

The vectors are made: topics of uneven size (Zipf), clips spread around them (cosine with the topic about 0.78), and a fifth of the clips near copies of
others (cosine about 0.97), as re-encodes are. The clustered search is what a run does with the default settings; the exact one compares every clip with
every kept one.

    python benchmarks/duplicates.py [--num 100000] [--output benchmarks/results/duplicates.json]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from common import write_report
from memory import run_measured

from curation_assets.curation.dedup import cluster_vectors, find_duplicates
from curation_assets.settings import DedupSettings

DIM, NUM_TOPICS, EPS = 512, 3000, 0.1
MOST_SECONDS, MOST_BYTES, LEAST_RECALL = 120.0, 2e9, 0.99


def make_vectors(path: Path, num: int) -> None:
    """Write float32 unit vectors (N, 512) around topics, a fifth of them near copies."""
    rng = np.random.default_rng(0)
    centres = _unit(rng.standard_normal((NUM_TOPICS, DIM)))
    topics = np.minimum(rng.zipf(1.3, num) - 1, NUM_TOPICS - 1)
    vectors = _unit(centres[topics] + 0.8 / DIM**0.5 * rng.standard_normal((num, DIM)))
    copies = rng.choice(num, num // 5, replace=False)
    originals = rng.integers(0, num, num // 5)
    vectors[copies] = _unit(vectors[originals] + 0.25 / DIM**0.5 * rng.standard_normal((num // 5, DIM)))
    np.save(path, vectors.astype(np.float32))


def search(path: Path, *, is_exact: bool) -> dict[str, Any]:
    """Search with the default settings, or exactly; save the pairs beside the vectors."""
    settings = DedupSettings()
    vectors = np.load(path)
    start_s = time.perf_counter()
    clusters = cluster_vectors(vectors, num_clusters=settings.n_clusters)
    clustered_s = time.perf_counter()
    found = find_duplicates(
        vectors,
        order=np.arange(len(vectors)),
        clusters=clusters,
        eps=EPS,
        num_probes=settings.n_probes,
        exact_max_items=len(vectors) if is_exact else settings.exact_max_clips,
    )
    np.save(path.with_suffix(".exact.npy" if is_exact else ".pairs.npy"), found.kept_index)
    return {"clustering_s": clustered_s - start_s, "search_s": time.perf_counter() - clustered_s, "num_clusters": len(clusters.centroids)}


def _unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _measured(path: Path, kind: str) -> dict[str, Any]:
    run = run_measured([sys.executable, __file__, "--search", kind, "--vectors", str(path)], folder=path.parent)
    if run.exit_code:
        raise SystemExit(f"the search ended with {run.exit_code}")
    told = json.loads(run.output)
    return {**{name: round(value, 2) for name, value in told.items()}, "peak_pss_gigabytes": round(run.peak.total_bytes / 1e9, 3)}


def main() -> None:
    """Measure both searches in processes of their own and compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=100_000)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--search", choices=["default", "exact"])
    parser.add_argument("--vectors", type=Path)
    options = parser.parse_args()
    if options.search:
        sys.stdout.write(json.dumps(search(options.vectors, is_exact=options.search == "exact")))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        make_vectors(path, options.num)
        default, exact = _measured(path, "default"), _measured(path, "exact")
        found, truth = np.load(path.with_suffix(".pairs.npy")), np.load(path.with_suffix(".exact.npy"))
    is_pair = truth >= 0
    recall = float((found[is_pair] == truth[is_pair]).mean())
    seconds = default["clustering_s"] + default["search_s"]
    write_report(
        "near-duplicates among 100,000 x 512 vectors: under 2 minutes and 2 GB, at least 0.99 of the exact search's pairs",
        {
            "num_vectors": options.num,
            "dim": DIM,
            "eps": EPS,
            "default": default,
            "exact": exact,
            "num_pairs_exact": int(is_pair.sum()),
            "num_pairs_default": int((found >= 0).sum()),
            "recall_of_pairs": round(recall, 5),
            "recall_of_duplicates": round(float((found[is_pair] >= 0).mean()), 5),
            "passes": bool(seconds <= MOST_SECONDS and default["peak_pss_gigabytes"] * 1e9 <= MOST_BYTES and recall >= LEAST_RECALL),
        },
        output=options.output,
    )


if __name__ == "__main__":
    main()
