"""Dedup: which vectors are near-duplicates of better ones. Pure functions over arrays; the tables are read and written in `duplicates.py`.

Items are taken in the order of their rank, best first. An item is a duplicate when an item *that was kept before it* lies within `eps`; so a chain of small steps
never joins two unlike clips. The comparison with kept items goes through k-means clusters: by the triangle inequality a neighbour within the angle t of an item that
is a away from its own centroid lies in a cluster whose centroid is at most a + 2 t away from the item. All of these are probed, up to `num_probes` of them.
Reference: semantic deduplication, https://arxiv.org/abs/2303.09540, with the comparison limited to kept items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

NO_NEIGHBOUR = -2.0  # below any cosine
_ITEMS_PER_CLUSTER = 512
_MOST_CLUSTERS = 8192
_TRAINING_POINTS_PER_CLUSTER = 64
_TRAINING_ROUNDS = 10
_BLOCK = 16384  # items compared with the kept ones at once
_SUB_BLOCK = 1024  # items of which each is compared with each
_TILE = (4096, 8192)  # 128 MB of similarities
_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Clusters:
    """A k-means clustering of unit vectors.

    Attributes:
        centroids: float32 (K, D), unit length.
        assigned: int64 (N,), the nearest centroid of each item, -1 for an invalid one.
        similarity: float32 (N,), cosine with it.
    """

    centroids: Floats
    assigned: Indices
    similarity: Floats


@dataclass(frozen=True, slots=True)
class DuplicateSearch:
    """What the search found.

    Attributes:
        kept_index: int64 (N,), for a duplicate the most similar item that ranks before it and is kept; -1 for the others.
        similarity: float32 (N,), cosine with the most similar kept item before it, of duplicates and of kept items; NO_NEIGHBOUR where nothing was compared.
        num_invalid: vectors that are not finite or not of unit length; they are neither kept nor duplicates of anything.
    """

    kept_index: Indices
    similarity: Floats
    num_invalid: int


def valid_vectors(vectors: Floats) -> npt.NDArray[np.bool_]:
    """Say which rows are finite and of unit length: bool (N,)."""
    result = np.zeros(len(vectors), np.bool_)
    for start in range(0, len(vectors), _BLOCK):
        norms = np.linalg.norm(np.asarray(vectors[start : start + _BLOCK]), axis=1)
        result[start : start + _BLOCK] = np.abs(norms - 1.0) < _UNIT_TOLERANCE  # False for NaN
    return result


def cluster_vectors(vectors: Floats, *, num_clusters: int | None = None) -> Clusters:
    """Cluster unit vectors by spherical k-means, the same way for the same input.

    Args:
        vectors: float32 (N, D), rows of unit length or invalid ones; may be a memory map.
        num_clusters: K; None is one per 512 vectors, at most 8192.
    """
    is_valid = valid_vectors(vectors)
    places = np.flatnonzero(is_valid)
    assigned = np.full(len(vectors), -1, np.int64)
    similarity = np.full(len(vectors), NO_NEIGHBOUR, np.float32)
    wanted = num_clusters if num_clusters is not None else -(-len(places) // _ITEMS_PER_CLUSTER)
    count = max(1, min(wanted, _MOST_CLUSTERS, len(places)))
    if not len(places):
        return Clusters(np.zeros((0, vectors.shape[1]), np.float32), assigned, similarity)
    centroids = _train(vectors, places, count)
    for start in range(0, len(places), _BLOCK):
        chunk = places[start : start + _BLOCK]
        cosines = np.asarray(vectors[chunk]) @ centroids.T
        assigned[chunk] = cosines.argmax(axis=1)
        similarity[chunk] = cosines.max(axis=1)
    return Clusters(centroids, assigned, similarity)


def _train(vectors: Floats, places: Indices, count: int) -> Floats:
    import faiss

    sample = places
    if len(places) > count * _TRAINING_POINTS_PER_CLUSTER:
        sample = np.sort(np.random.default_rng(0).choice(places, count * _TRAINING_POINTS_PER_CLUSTER, replace=False))
    points = np.ascontiguousarray(vectors[sample])
    if count == 1:
        centroids = points.mean(axis=0, dtype=np.float64, keepdims=True).astype(np.float32)
    else:
        kmeans: Any = faiss.Kmeans(
            points.shape[1], count, niter=_TRAINING_ROUNDS, spherical=True, seed=1, min_points_per_centroid=1, max_points_per_centroid=10**9
        )
        kmeans.train(points)
        centroids = kmeans.centroids
    norms = np.linalg.norm(centroids, axis=1, keepdims=True)
    return np.asarray(centroids / np.maximum(norms, 1e-12), np.float32)


def rank_by_centroid(clusters: Clusters, ids: npt.NDArray[np.bytes_], *, which_to_keep: Literal["hard", "easy", "random"]) -> Indices:
    """Order items so that those to keep come first.

    Args:
        clusters: of the items.
        ids: bytes (N,), breaks ties, and draws the lots for `random`, so that the order of the input does not matter.
        which_to_keep: hard: far from the centroid first; easy: near it first; random: by lot.

    Returns:
        int64 (N,), a permutation.
    """
    if which_to_keep == "random":
        lots = np.array([hash_of(identity) for identity in ids], np.uint64)
        return np.lexsort((ids, lots))
    # rounded: sums in another order must not turn the ranking round
    closeness = np.round(clusters.similarity.astype(np.float64), 5)
    return np.lexsort((ids, closeness if which_to_keep == "hard" else -closeness))


def hash_of(identity: bytes) -> int:
    """Hash an id to 64 bits, the same on every machine."""
    import hashlib

    return int.from_bytes(hashlib.blake2b(identity, digest_size=8).digest(), "little")


def find_duplicates(
    vectors: Floats, *, order: Indices, clusters: Clusters, eps: float, num_probes: int, exact_max_items: int
) -> DuplicateSearch:
    """Mark each item that lies within `eps` of a kept item which ranks before it.

    Memory beside the vectors stays under about 1 GB for vectors of 512: one block of items, one tile of similarities, and per item a few numbers.

    Args:
        vectors: float32 (N, D), rows of unit length; others are left out; may be a memory map.
        order: int64 (N,), a permutation, best first.
        clusters: of the vectors.
        eps: largest cosine distance (1 - cosine) of a duplicate, in (0, 1).
        num_probes: most clusters whose kept items an item is compared with; all that can hold a neighbour are, where they are fewer.
        exact_max_items: up to so many items are compared with all kept ones, whatever their cluster.
    """
    threshold = np.float32(1.0 - eps)
    kept_index = np.full(len(vectors), -1, np.int64)
    similarity = np.full(len(vectors), NO_NEIGHBOUR, np.float32)
    is_valid = clusters.assigned >= 0
    order = order[is_valid[order]]
    is_exact = len(order) <= exact_max_items or len(clusters.centroids) < 2
    kept: list[list[Indices]] = [[] for _ in range(1 if is_exact else len(clusters.centroids))]
    for start in range(0, len(order), _BLOCK):
        items = order[start : start + _BLOCK]
        block = np.ascontiguousarray(vectors[items])
        best = np.full(len(items), NO_NEIGHBOUR, np.float32)
        nearest = np.full(len(items), -1, np.int64)
        if start:
            if is_exact:
                _compare(block, np.arange(len(items)), vectors, np.concatenate([np.zeros(0, np.int64), *kept[0]]), best, nearest)
            else:
                for cluster, rows in _probes(block, clusters, items, eps=eps, num_probes=num_probes):
                    if kept[cluster]:
                        kept[cluster] = [np.concatenate(kept[cluster])]
                        _compare(block, rows, vectors, kept[cluster][0], best, nearest)
        new_rows = _resolve(block, items, best, nearest, threshold)
        similarity[items] = best
        is_duplicate = best >= threshold
        kept_index[items[is_duplicate]] = nearest[is_duplicate]
        new = items[new_rows]
        if is_exact:
            kept[0].append(new)
        else:
            homes = clusters.assigned[new]
            by_home = np.argsort(homes, kind="stable")
            bounds = np.flatnonzero(np.diff(homes[by_home])) + 1
            for part in np.split(by_home, bounds):
                if len(part):
                    kept[int(homes[part[0]])].append(new[part])
    return DuplicateSearch(kept_index, similarity, int(np.count_nonzero(~is_valid)))


def _compare(block: Floats, rows: Indices, vectors: Floats, candidates: Indices, best: Floats, nearest: Indices) -> None:
    """Raise `best` and `nearest` of some rows of the block where a candidate is more similar."""
    for first in range(0, len(candidates), _TILE[1]):
        tile = candidates[first : first + _TILE[1]]
        right = np.asarray(vectors[tile])
        for start in range(0, len(rows), _TILE[0]):
            part = rows[start : start + _TILE[0]]
            cosines = block[part] @ right.T
            places = cosines.argmax(axis=1)
            found = cosines[np.arange(len(part)), places]
            is_better = found > best[part]
            best[part[is_better]] = found[is_better]
            nearest[part[is_better]] = tile[places[is_better]]


def _probes(block: Floats, clusters: Clusters, items: Indices, *, eps: float, num_probes: int) -> list[tuple[int, Indices]]:
    """List, for each cluster, the rows of the block that may have a neighbour in it."""
    pairs: list[tuple[Indices, Indices]] = []
    reach = 2 * float(np.arccos(1.0 - eps))
    for start in range(0, len(block), _TILE[0]):
        cosines = block[start : start + _TILE[0]] @ clusters.centroids.T
        own = np.arccos(np.clip(clusters.similarity[items[start : start + _TILE[0]]], -1, 1)).astype(np.float32)
        farthest = np.cos(np.minimum(own + reach, np.pi)).astype(np.float32)  # an angle of at most own + reach
        is_probed = cosines >= farthest[:, None] - np.float32(1e-6)
        if cosines.shape[1] > num_probes:
            least = -np.partition(-cosines, num_probes - 1, axis=1)[:, num_probes - 1]
            is_probed &= cosines >= least[:, None]
        columns, rows = np.nonzero(is_probed.T)
        pairs.append((columns, rows + start))
    columns = np.concatenate([pair[0] for pair in pairs])
    rows = np.concatenate([pair[1] for pair in pairs])
    by_cluster = np.argsort(columns, kind="stable")
    bounds = np.flatnonzero(np.diff(columns[by_cluster])) + 1
    return [(int(columns[part[0]]), rows[part]) for part in np.split(by_cluster, bounds) if len(part)]


def _resolve(block: Floats, items: Indices, best: Floats, nearest: Indices, threshold: np.float32) -> Indices:
    """Decide the items of a block among themselves, in their order; returns the rows that are kept."""
    kept_rows: list[Indices] = []
    for start in range(0, len(block), _SUB_BLOCK):
        stop = min(start + _SUB_BLOCK, len(block))
        rows = np.arange(start, stop)
        earlier = np.concatenate([np.zeros(0, np.int64), *kept_rows])
        if len(earlier):
            cosines = block[start:stop] @ block[earlier].T
            places = cosines.argmax(axis=1)
            found = cosines[np.arange(len(rows)), places]
            is_better = found > best[start:stop]
            best[rows[is_better]] = found[is_better]
            nearest[rows[is_better]] = items[earlier[places[is_better]]]
        among = block[start:stop] @ block[start:stop].T
        new = []
        for row in range(stop - start):
            if best[start + row] >= threshold:
                continue
            new.append(start + row)
            later = slice(start + row + 1, stop)
            is_better = among[row, row + 1 :] > best[later]
            np.copyto(best[later], among[row, row + 1 :], where=is_better)
            np.copyto(nearest[later], items[start + row], where=is_better)
        kept_rows.append(np.array(new, np.int64))
    return np.concatenate(kept_rows) if kept_rows else np.zeros(0, np.int64)
