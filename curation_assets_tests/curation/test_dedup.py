"""dedup: against a plain loop over every pair, and what must hold whatever the data are."""

import numpy as np
import pytest

from curation_assets.curation import dedup
from curation_assets.curation.dedup import Clusters, cluster_vectors, find_duplicates, hash_of, rank_by_centroid


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def topics(num, *, dim=64, num_topics=12, num_copies=0, spread=0.8, copy_spread=0.2, seed=0):
    """Vectors around topics, some of them near copies of others: cosine with the original about 1 / (1 + copy_spread ** 2) ** 0.5."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.standard_normal((num_topics, dim)))
    vectors = unit(centres[rng.integers(0, num_topics, num)] + rng.standard_normal((num, dim)) * spread / dim**0.5)
    chosen = rng.choice(num, num_copies, replace=False)
    originals = rng.integers(0, num, num_copies)
    vectors[chosen] = unit(vectors[originals] + rng.standard_normal((num_copies, dim)) * copy_spread / dim**0.5)
    return vectors


def naive(vectors, order, eps):
    """The definition, item by item."""
    kept, result = [], {}
    for item in order:
        if kept:
            cosines = vectors[kept] @ vectors[item]
            nearest = int(cosines.argmax())
            if cosines[nearest] >= 1 - eps:
                result[int(item)] = kept[nearest]
                continue
        kept.append(int(item))
    return result


def search(vectors, *, order=None, eps=0.1, num_clusters=None, num_probes=16, exact_max_items=10**9):
    clusters = cluster_vectors(vectors, num_clusters=num_clusters)
    order = np.arange(len(vectors)) if order is None else order
    found = find_duplicates(vectors, order=order, clusters=clusters, eps=eps, num_probes=num_probes, exact_max_items=exact_max_items)
    return {int(place): int(found.kept_index[place]) for place in np.flatnonzero(found.kept_index >= 0)}, found


@pytest.mark.parametrize("eps", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("is_exact", [True, False])
def test_equals_the_definition(eps, is_exact, monkeypatch):
    monkeypatch.setattr(dedup, "_BLOCK", 100)  # several blocks, sub-blocks and tiles
    monkeypatch.setattr(dedup, "_SUB_BLOCK", 32)
    monkeypatch.setattr(dedup, "_TILE", (17, 40))
    vectors = topics(700, num_copies=200)
    order = np.random.default_rng(1).permutation(700)
    # every cluster may be probed: then the clustered search is exact too, by the triangle inequality
    found, _ = search(vectors, order=order, eps=eps, num_clusters=20, num_probes=20, exact_max_items=10**9 if is_exact else 0)
    expected = naive(vectors, order, eps)
    assert found == expected
    assert (len(expected) > 100) == (eps >= 0.1)


def test_the_bound_leaves_clusters_out_and_loses_nothing():
    vectors = topics(3000, num_topics=60, num_copies=600, spread=0.3, copy_spread=0.1)
    clusters = cluster_vectors(vectors, num_clusters=60)
    pairs = dedup._probes(vectors, clusters, np.arange(3000), eps=0.02, num_probes=60)
    assert sum(len(rows) for _, rows in pairs) < 0.3 * 3000 * 60
    assert search(vectors, eps=0.02, num_clusters=60, num_probes=60, exact_max_items=0)[0] == search(vectors, eps=0.02)[0]


def test_few_probes_find_nearly_all():
    vectors = topics(6000, dim=128, num_topics=200, num_copies=1500)
    exact, _ = search(vectors)
    found, _ = search(vectors, num_probes=8, exact_max_items=0)
    same = sum(found.get(item) == kept for item, kept in exact.items())
    assert same >= 0.99 * len(exact)
    assert len(exact) > 1000


def test_a_chain_does_not_join_its_ends():
    angles = np.arange(0, 90, 10) * np.pi / 180  # neighbours are 10 degrees apart: cosine 0.985
    vectors = unit(np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1))
    found, _ = search(vectors, eps=0.02)
    assert found == {1: 0, 3: 2, 5: 4, 7: 6}
    for item, kept in found.items():
        assert kept not in found
        assert vectors[item] @ vectors[kept] >= 0.98


def test_many_identical_clips_keep_one():
    vectors = np.repeat(topics(1, dim=16), 50_000, axis=0)
    for exact_max_items in (10**9, 0):
        found, search_ = search(vectors, num_clusters=4, exact_max_items=exact_max_items)
        assert set(found.values()) == {0}
        assert len(found) == 49_999
        assert search_.similarity[0] == dedup.NO_NEIGHBOUR


@pytest.mark.parametrize("num", [0, 1, 2])
def test_few_vectors(num):
    vectors = topics(num, dim=8) if num else np.zeros((0, 8), np.float32)
    found, _ = search(vectors, eps=0.001)
    assert found == {}


def test_bad_vectors_are_left_out():
    vectors = topics(20, dim=8)
    vectors[3] = np.nan
    vectors[4] = 0
    vectors[5] = np.inf
    vectors[6] *= 2
    vectors[8] = vectors[7]
    found, search_ = search(vectors, eps=0.0001)
    assert found == {8: 7}
    assert search_.num_invalid == 4
    every = np.full((3, 8), np.nan, np.float32)
    assert search(every)[0] == {}


def test_ranking():
    vectors = topics(300, dim=16, num_topics=3)
    clusters = cluster_vectors(vectors, num_clusters=3)
    ids = np.array([b"%036d" % n for n in range(300)])
    hard = rank_by_centroid(clusters, ids, which_to_keep="hard")
    easy = rank_by_centroid(clusters, ids, which_to_keep="easy")
    lots = rank_by_centroid(clusters, ids, which_to_keep="random")
    assert (np.diff(np.round(clusters.similarity[hard], 5)) >= 0).all()
    assert (np.diff(np.round(clusters.similarity[easy], 5)) <= 0).all()
    assert sorted(lots) == list(range(300))
    assert list(lots) != list(range(300))
    # by the clip's id alone: another order of the input, or more clips, leave it as it is
    shuffled = np.random.default_rng(0).permutation(300)
    moved = Clusters(clusters.centroids, clusters.assigned[shuffled], clusters.similarity[shuffled])
    for which, order in (("hard", hard), ("easy", easy), ("random", lots)):
        assert (ids[shuffled][rank_by_centroid(moved, ids[shuffled], which_to_keep=which)] == ids[order]).all()
    assert hash_of(b"a") == 3405396810240292928  # BLAKE2b, the same on every machine


def test_every_run_gives_the_same():
    vectors = topics(5000, num_copies=1000)
    first, again = (search(vectors, num_probes=4, exact_max_items=0)[1] for _ in range(2))
    assert (first.kept_index == again.kept_index).all()
    assert (first.similarity == again.similarity).all()


def test_vectors_in_a_file(tmp_path):
    vectors = topics(2000, num_copies=400)
    stored = np.memmap(tmp_path / "vectors", np.float32, "w+", shape=vectors.shape)
    stored[:] = vectors
    assert search(stored, exact_max_items=0)[0] == search(vectors, exact_max_items=0)[0]
