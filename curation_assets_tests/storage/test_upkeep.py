"""Old versions of tables: which go, and that readers, writers and kills do not mind."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import lance
import pytest

from curation_assets.storage import vector_index
from curation_assets.storage.tables import VideoTable
from curation_assets.storage.upkeep import drop_old_versions
from curation_assets_tests.storage.conftest import Root
from curation_assets_tests.storage.rows import vid, video
from curation_assets_tests.storage.test_tables import frames_of, open_table, visible

spawn = multiprocessing.get_context("spawn")


def write(table: VideoTable, number: int, fingerprint: str, **settings) -> None:
    rows, writes = video(number, fingerprint, 3, **settings)
    table.commit(rows, replace=writes)


def test_a_version_stays_for_some_time_after_it_was_replaced(root: Root):
    table = open_table(root)
    write(table, 1, "old")
    time.sleep(1.5)
    reader = table.snapshot()
    write(table, 1, "new")  # the reader's version is as old as the table, and was replaced just now
    drop_old_versions(table.snapshot(), timedelta(seconds=1))
    found = [row for batch in reader.batches(["row_id", "frames"], is_blob_scan=True) for row in batch.to_pylist()]
    assert len(found) == 3
    time.sleep(1.1)
    expected = drop_old_versions(table.snapshot(), timedelta(seconds=1), is_dry_run=True)
    assert expected.num_versions >= 1
    assert len(table.snapshot().dataset.versions()) > 1
    assert drop_old_versions(table.snapshot(), timedelta(seconds=1)) == expected
    assert [version["version"] for version in table.snapshot().dataset.versions()] == [table.snapshot().dataset.version]
    assert visible(table) == {vid(1): ("new", 3)}
    assert drop_old_versions(table.snapshot(), timedelta(0)) == (0, 0)


def test_files_of_a_write_that_is_under_way_stay(local_root: Root):
    table = open_table(local_root)
    write(table, 1, "a")
    for name, age_days in (("young", 6), ("old", 8)):
        path = Path(table.uri) / "data" / f"{name}.lance"
        path.write_bytes(b"x" * 100)
        os.utime(path, (time.time() - age_days * 86400,) * 2)
    assert drop_old_versions(table.snapshot(), timedelta(days=1)).num_bytes == 100
    assert {path.name for path in (Path(table.uri) / "data").iterdir()} >= {"young.lance"}
    assert not (Path(table.uri) / "data" / "old.lance").exists()
    assert drop_old_versions(table.snapshot(), timedelta(days=1), is_alone=True).num_bytes == 100
    assert visible(table) == {vid(1): ("a", 3)}


def test_a_search_that_began_before_its_index_was_replaced_goes_on(tmp_path: Path, monkeypatch):
    import numpy as np
    import pyarrow as pa

    from curation_assets.schemas.search_index import search_index_table
    from curation_assets.storage.corpus import CorpusTable

    monkeypatch.setattr(vector_index, "_KEEP_OLD", timedelta(seconds=1))
    spec = search_index_table("fingerprint", 32)
    table = CorpusTable(str(tmp_path / "t.lance"), spec)

    def rows(seed: int) -> pa.RecordBatch:
        vectors = np.random.default_rng(seed).normal(size=(300, 32)).astype(np.float32)
        columns = {
            "clip_id": [str(i) for i in range(300)], "source": ["a"] * 300, "video_id": ["v"] * 300, "start_ns": [0] * 300, "end_ns": [1] * 300,
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 32),
        }  # fmt: skip
        return pa.table([columns[name] for name in spec.schema.names], schema=spec.schema).to_batches()[0]

    table.replace([rows(0)], fingerprint="a")
    vector_index.build_index(table.snapshot())
    time.sleep(1.5)
    reader = table.snapshot()
    table.replace([rows(1)], fingerprint="b")
    vector_index.build_index(table.snapshot())
    query = np.ones(32, np.float32)
    assert vector_index.nearest_rows(reader, query, 5, ["clip_id"]).num_rows == 5
    assert vector_index.has_index(table.snapshot())


def write_for_ever(root: Root, ready) -> None:
    table, number = open_table(root), 0
    while True:
        write(table, number % 6, f"f{number}", blob_bytes=5000)
        time.sleep(0.1)  # a merge gives way to every write that is quicker
        number += 1
        if number == 8:
            ready.set()


def keep_for_ever(root: Root, ready) -> None:
    table = open_table(root)
    while True:
        table.compact(max_fragments=1, max_deleted_share=0.1)
        drop_old_versions(table.snapshot(), timedelta(seconds=2))
        ready.set()


def test_writers_and_readers_go_on_beside_it(root: Root):
    """The writer takes no lease: the worst case, a run that has lost it and does not know yet."""
    ready, table, num_dropped, reads = spawn.Event(), open_table(root), 0, 0
    writer = spawn.Process(target=write_for_ever, args=(root, ready), daemon=True)
    writer.start()
    try:
        assert ready.wait(60)
        end_s = time.monotonic() + 6
        while time.monotonic() < end_s:
            reader = table.snapshot()
            table.compact(max_fragments=1, max_deleted_share=0.1)
            num_dropped += drop_old_versions(table.snapshot(), timedelta(seconds=2)).num_versions
            found = [row for batch in reader.batches(["row_id", "frames"], is_blob_scan=True) for row in batch.to_pylist()]
            assert len(found) == len({row["row_id"] for row in found}) == 18
            reads += 1
            assert writer.is_alive()
    finally:
        writer.kill()
        writer.join()
    assert num_dropped > 0
    assert reads > 1
    assert {count for _, count in visible(table).values()} == {3}
    assert len(visible(table)) == 6
    table.compact(max_fragments=1, max_deleted_share=0.1)
    assert len(table.snapshot().dataset.get_fragments()) == 1


def test_killed_at_any_moment(tmp_path: Path):
    root, delays = Root(str(tmp_path)), random.Random(3)
    table = open_table(root)
    for number in range(12):
        write(table, number, "f", blob_bytes=100_000)
    before, frames = visible(table), frames_of(table)
    for attempt in range(4):
        write(table, attempt, "f", blob_bytes=100_000)
        ready = spawn.Event()
        process = spawn.Process(target=keep_for_ever, args=(root, ready), daemon=True)
        process.start()
        if attempt % 2:
            assert ready.wait(60)
        time.sleep(delays.uniform(0, 0.5) + (0 if attempt % 2 else 1.5))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert (visible(table), frames_of(table)) == (before, frames)
    table.compact(max_fragments=1)
    drop_old_versions(table.snapshot(), timedelta(0), is_alone=True)
    assert (visible(table), frames_of(table)) == (before, frames)
    assert len(lance.dataset(table.uri).versions()) == 1


def test_temporary_files_go_when_they_are_old(local_root: Root):
    store = local_root.store()
    store.put("tables/t.lance/data/whole.lance", b"x")
    folder = Path(local_root.uri) / "tables" / "t.lance" / "data"
    for name in (".curation-tmp-0123", ".tmpAbC123", ".tmpyoung1"):
        (folder / name).write_bytes(b"x")
        if name != ".tmpyoung1":
            os.utime(folder / name, (time.time() - 7200,) * 2)
    before = datetime.now(UTC) - timedelta(hours=1)
    assert store.delete_temporary("tables/", before=before, is_dry_run=True) == 2
    assert store.delete_temporary("tables/", before=before) == 2
    assert sorted(path.name for path in folder.iterdir()) == [".tmpyoung1", "whole.lance"]


@pytest.mark.parametrize("prefix", ["", "a/"])
def test_folders(root: Root, prefix: str):
    store = root.store()
    assert store.folders(prefix) == []
    for key in ("b/1", "b/c/2", "é x/3", "file", "100%/4"):
        store.put(f"{prefix}{key}", b"x")
    assert store.folders(prefix) == ["100%", "b", "é x"]
    assert store.folders(f"{prefix}b") == ["c"]
    assert store.folders(f"{prefix}none") == []
