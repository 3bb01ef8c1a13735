from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from curation_assets.storage.cache import ObjectCache
from curation_assets.storage.errors import NoSpace, NotFound, ObjectChanged
from curation_assets_tests.storage.conftest import Root

spawn = multiprocessing.get_context("spawn")


def test_a_local_object_is_used_in_place(local_root: Root, tmp_path: Path):
    store = local_root.store()
    store.put("a b.mp4", b"1")
    with ObjectCache(tmp_path / "cache", max_bytes=10).fetch(store, "a b.mp4", etag=store.head("a b.mp4").etag) as path:
        assert path == store.local_path("a b.mp4")
    assert not (tmp_path / "cache").exists()
    with pytest.raises(NotFound), ObjectCache(tmp_path, max_bytes=10).fetch(store, "nope", etag="x"):
        pass


def test_fetched_once_and_longest_unused_goes_first(s3_root: Root, tmp_path: Path):
    store, cache = s3_root.store(), ObjectCache(tmp_path / "cache", max_bytes=250)
    etags = {}
    for name in "abc":
        store.put(f"{name}.mp4", name.encode() * 100)
        etags[name] = store.head(f"{name}.mp4").etag
    for name in "ab":
        with cache.fetch(store, f"{name}.mp4", etag=etags[name], size_bytes=100) as path:
            assert path.read_bytes() == name.encode() * 100
            assert path.suffix == ".mp4"
    store.delete("a.mp4")
    time.sleep(0.02)
    with cache.fetch(store, "a.mp4", etag=etags["a"]) as path:  # from the cache: the object is gone
        assert path.read_bytes() == b"a" * 100
    with cache.fetch(store, "c.mp4", etag=etags["c"], size_bytes=100):
        pass
    store.delete("b.mp4")
    with cache.fetch(store, "a.mp4", etag=etags["a"]), pytest.raises(NotFound), cache.fetch(store, "b.mp4", etag=etags["b"]):
        pass
    assert sum(file.stat().st_size for file in (tmp_path / "cache").iterdir()) == 200


def test_an_object_larger_than_the_cache_is_removed_after_use(s3_root: Root, tmp_path: Path):
    store, cache = s3_root.store(), ObjectCache(tmp_path, max_bytes=10)
    store.put("big", b"x" * 100)
    with cache.fetch(store, "big", etag=store.head("big").etag, size_bytes=100) as path:
        with cache.fetch(store, "big", etag=store.head("big").etag) as again:
            assert again == path
        assert path.read_bytes() == b"x" * 100
    assert list(tmp_path.iterdir()) == []


def test_a_replaced_object_and_a_new_version(s3_root: Root, tmp_path: Path):
    store, cache = s3_root.store(), ObjectCache(tmp_path, max_bytes=1000)
    store.put("k", b"old")
    old = store.head("k").etag
    store.put("k", b"newer")
    with pytest.raises(ObjectChanged), cache.fetch(store, "k", etag=old):
        pass
    with cache.fetch(store, "k", etag=store.head("k").etag) as path:
        assert path.read_bytes() == b"newer"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_and_what_a_killed_download_left(s3_root: Root, tmp_path: Path, file_size_limit):
    store, cache = s3_root.store(), ObjectCache(tmp_path, max_bytes=1_000_000)
    store.put("k", b"x" * 10_000)
    with file_size_limit(5000), pytest.raises(NoSpace, match="Free the disk"), cache.fetch(store, "k", etag=store.head("k").etag):
        pass
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".curation-tmp-dead").write_bytes(b"x")
    os.utime(tmp_path / ".curation-tmp-dead", (0, 0))
    with cache.fetch(store, "k", etag=store.head("k").etag) as path:
        assert list(tmp_path.iterdir()) == [path]


def fetch_all(root: Root, folder: Path, seed: int) -> None:
    store, cache = root.store(), ObjectCache(folder, max_bytes=25_000)
    for i in range(60):
        name = f"{(i * 7 + seed) % 6}"
        with cache.fetch(store, name, etag=store.head(name).etag, size_bytes=10_000) as path:
            assert path.read_bytes() == name.encode() * 10_000


def test_several_processes_share_a_small_cache(s3_root: Root, tmp_path: Path):
    for i in range(6):
        s3_root.store().put(f"{i}", f"{i}".encode() * 10_000)
    processes = [spawn.Process(target=fetch_all, args=(s3_root, tmp_path, seed)) for seed in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 25_000
