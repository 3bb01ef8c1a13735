from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import lance
import psutil
import pyarrow as pa
import pytest

from curation_assets.schemas import columns as c
from curation_assets.storage import snapshots
from curation_assets.storage.errors import Forbidden, NoSpace, StoreError, WriteConflict
from curation_assets.storage.layout import Layout
from curation_assets.storage.tables import VideoTable, VideoWrite
from curation_assets.storage.upkeep import drop_old_versions
from curation_assets_tests.storage.conftest import Root, unprivileged
from curation_assets_tests.storage.rows import SPEC, header, items, to_table, vid, video

spawn = multiprocessing.get_context("spawn")


def open_table(root: Root, spec=SPEC) -> VideoTable:
    return VideoTable(Layout(root.uri).table_uri(spec.asset, "src"), spec, source="src", storage_options=root.options)


def visible(table: VideoTable) -> dict[str, tuple[str, int]]:
    """Fingerprint and number of rows per video, as readers see them; fails on duplicates and mixtures."""
    headers = {row["video_id"]: row for row in table.headers().to_pylist()}
    seen: dict[str, list[tuple[str, str]]] = {video_id: [] for video_id in headers}
    for batch in table.scan(["row_id", "video_id", "fingerprint"]):
        for row in batch.to_pylist():
            seen[row["video_id"]].append((row["row_id"], row["fingerprint"]))
    for video_id, rows in seen.items():
        assert len({row_id for row_id, _ in rows}) == len(rows) == headers[video_id]["num_rows"]
        assert {fingerprint for _, fingerprint in rows} <= {headers[video_id]["fingerprint"]}
    return {video_id: (row["fingerprint"], row["num_rows"]) for video_id, row in headers.items()}


def test_an_absent_table_is_empty(root: Root):
    table = open_table(root)
    assert table.headers().num_rows == 0
    assert table.headers(("video_id", "work_s")).schema.names == ["video_id", "work_s"]
    assert list(table.scan(["row_id"])) == list(table.scan_blobs(["frames"])) == []
    assert (table.num_rows(), table.unfinished_rows(vid(1), "f"), table.compact()) == (0, {}, 0)
    table.delete_videos([vid(1)])


def test_write_replace_shrink_delete(root: Root):
    table = open_table(root)
    for number in (1, 2):
        rows, writes = video(number, "old", 5)
        table.commit(rows, replace=writes)
    rows, writes = video(1, "new", 3)
    table.commit(rows, replace=writes)
    assert visible(table) == {vid(1): ("new", 3), vid(2): ("old", 5)}
    assert table.num_rows() == 8
    assert table.snapshot().dataset.count_rows() == 10
    assert table.headers(video_ids=[vid(2), vid(9)])["video_id"].to_pylist() == [vid(2)]
    assert table.headers(video_ids=[]).num_rows == 0
    frames = [
        frame
        for batch in table.scan_blobs(["frames"], where=f"video_id = '{vid(1)}'")
        for row in batch["frames"].to_pylist()
        for frame in row
    ]
    assert Counter(frames) == Counter(frame for row in items(vid(1), "new", range(3)) for frame in row["frames"])
    rows, writes = video(2, "none", 0)
    table.commit(rows, replace=writes)  # done, with no rows
    assert visible(table) == {vid(1): ("new", 3), vid(2): ("none", 0)}
    table.delete_videos([vid(1), vid(7)])
    assert visible(table) == {vid(2): ("none", 0)}


def test_headers_are_those_of_the_table_that_is_there(local_root: Root):
    """They are kept in memory; another table in the same place has the same version numbers."""
    versions = set()
    for name in ("one", "other"):
        table = open_table(local_root)
        for number in (1, 2):
            rows, writes = video(number, name, 2)
            table.commit(rows, replace=writes)
            assert {row["fingerprint"] for row in table.headers().to_pylist()} == {name}
        table.delete_videos([vid(1)])
        assert [row["video_id"] for row in table.headers().to_pylist()] == [vid(2)]
        versions.add(table.snapshot().dataset.version)
        shutil.rmtree(table.uri)
        assert table.headers().num_rows == 0
    assert len(versions) == 1


def test_kept_headers_are_bounded():
    cache = snapshots._HeaderCache(1000)
    tables = [pa.table({"x": pa.array(range(number, number + 25))}) for number in range(8)]
    for number, table in enumerate(tables):
        cache.put(number, table)
        cache.get(0)
    assert [number for number in range(8) if cache.get(number) is not None] == [0, 4, 5, 6, 7]
    cache.put("large", pa.table({"x": pa.array(range(100))}))
    assert cache.get("large") is None


def test_several_videos_in_one_commit(local_root: Root):
    table = open_table(local_root)
    parts = [video(number, "a", number) for number in range(5)]
    table.commit(
        pa.concat_tables([rows for rows, _ in parts], promote_options="default"), replace=[write for _, writes in parts for write in writes]
    )
    assert visible(table) == {vid(number): ("a", number) for number in range(5)}


def test_blobs_are_read_only_by_the_blob_scan(local_root: Root):
    table = open_table(local_root)
    rows, writes = video(1, "a", 1)
    table.commit(rows, replace=writes)
    with pytest.raises(ValueError, match="scan_blobs"):
        list(table.scan(["frames"]))


def test_a_long_video_in_chunks_is_seen_whole_or_not_at_all(root: Root):
    table = open_table(root)
    for number in (1, 2):
        rows, writes = video(number, "old", 4)
        table.commit(rows, replace=writes)
    table.commit(to_table(items(vid(1), "new", range(3))), replace=[VideoWrite(vid(1), "new", is_last=False)])
    assert visible(table) == {vid(2): ("old", 4)}
    assert table.num_rows() == 4
    assert set(table.unfinished_rows(vid(1), "new")) == {f"{vid(1)}:{i}" for i in range(3)}
    table.commit(to_table(items(vid(1), "new", range(3, 6))), replace=[VideoWrite(vid(1), "new", is_first=False, is_last=False)])
    assert visible(table) == {vid(2): ("old", 4)}
    last = [*items(vid(1), "new", range(6, 8)), header(vid(1), "new", 8)]
    table.commit(to_table(last), replace=[VideoWrite(vid(1), "new", is_first=False)])
    assert visible(table) == {vid(1): ("new", 8), vid(2): ("old", 4)}
    assert table.snapshot().dataset.count_rows() == 14


def test_a_long_video_started_anew_drops_what_an_interrupted_run_left(local_root: Root):
    table = open_table(local_root)
    table.commit(to_table(items(vid(1), "f", range(5))), replace=[VideoWrite(vid(1), "f", is_last=False)])
    table.commit(to_table(items(vid(1), "f", range(2))), replace=[VideoWrite(vid(1), "f", is_last=False)])
    assert len(table.unfinished_rows(vid(1), "f")) == 2
    table.commit(to_table(items(vid(1), "g", range(2))), replace=[VideoWrite(vid(1), "g", is_first=False, is_last=False)])
    assert table.unfinished_rows(vid(1), "f") == {}


def test_a_header_without_all_its_rows_is_taken_back(local_root: Root):
    table = open_table(local_root)
    table.commit(to_table(items(vid(1), "f", range(2))), replace=[VideoWrite(vid(1), "f", is_last=False)])
    rows, writes = video(1, "other", 3)
    table.commit(rows, replace=writes)  # another writer comes in between
    with pytest.raises(WriteConflict, match="run again"):
        table.commit(
            to_table([*items(vid(1), "f", range(2, 4)), header(vid(1), "f", 4)]), replace=[VideoWrite(vid(1), "f", is_first=False)]
        )
    assert visible(table) == {}


def test_readers_do_not_trust_a_header_that_promises_other_rows(local_root: Root):
    table = open_table(local_root)
    rows, writes = video(1, "f", 3)
    table.commit(rows, replace=writes)
    rows, writes = video(2, "f", 2)
    table.commit(rows, replace=writes)
    table.snapshot().dataset.delete(f"row_id = '{vid(1)}:0'")  # as nothing of ours does
    assert [row["video_id"] for batch in table.scan(["video_id"]) for row in batch.to_pylist()] == [vid(2)] * 2
    assert table.num_rows() == 2


@pytest.mark.parametrize(
    ("rows", "writes", "message"),
    [
        ([header(vid(1), "f", 1)], [VideoWrite(vid(1), "f")], "says 1 rows, the commit has 0"),
        (items(vid(1), "f", range(1)), [VideoWrite(vid(1), "f")], "needs one header row"),
        ([header(vid(1), "f", 0)], [VideoWrite(vid(1), "f", is_last=False)], "needs one header row"),
        ([header(vid(1), "f", 0)], [VideoWrite(vid(2), "f")], "not being written"),
        ([header(vid(1), "f", 0)], [VideoWrite(vid(1), "g")], "not being written"),
        ([header(vid(1), "f", 2), *items(vid(1), "f", range(1)) * 2], [VideoWrite(vid(1), "f")], "same row_id"),
        ([{**header(vid(1), "f", 0), "row_id": "x"}], [VideoWrite(vid(1), "f")], "must be the video's id"),
    ],
)
def test_rows_that_do_not_fit_are_refused(local_root: Root, rows, writes, message):
    table = open_table(local_root)
    with pytest.raises(ValueError, match=message):
        table.commit(to_table(rows), replace=writes)
    assert table.snapshot() is None


def test_data_version_is_about_content_only(local_root: Root, tmp_path: Path):
    first, second = open_table(local_root), VideoTable(str(tmp_path / "other.lance"), SPEC)
    empty = first.data_version()
    for number in (1, 2, 3):
        rows, writes = video(number, "f", 2)
        first.commit(rows, replace=writes)
    for number in (3, 1, 2, 1):
        rows = [header(vid(number), "f", 2, run_id=f"other {number}"), *items(vid(number), "f", range(2))]
        second.commit(to_table(rows), replace=[VideoWrite(vid(number), "f")])
    assert first.data_version() == second.data_version() != empty
    second.compact(max_fragments=0)
    assert first.data_version() == second.data_version()
    second.commit(to_table([header(vid(3), "f", 0, outcome="corrupt")]), replace=[VideoWrite(vid(3), "f")])
    assert first.data_version() != second.data_version()


def test_new_columns_are_added_and_older_readers_go_on(root: Root):
    table = open_table(root)
    rows, writes = video(1, "f", 1)
    table.commit(rows, replace=writes)
    newer = open_table(root, replace(SPEC, columns=(*SPEC.columns, c.CODEC, c.IS_VFR)))
    assert [row for batch in newer.scan(["clip_id", "codec"]) for row in batch.to_pylist()] == [{"clip_id": f"{vid(1)}:0", "codec": None}]
    assert [row for batch in newer.scan(["codec"]) for row in batch.to_pylist()] == [{"codec": None}]
    added = [header(vid(2), "f", 1), {**items(vid(2), "f", range(1))[0], "codec": "png"}]
    newer.commit(to_table(added, newer.spec), replace=[VideoWrite(vid(2), "f")])
    assert sorted(row["codec"] or "" for batch in newer.scan(["codec"]) for row in batch.to_pylist()) == ["", "png"]
    for number in (2, 3):
        rows, writes = video(number, "g", 2)
        table.commit(rows, replace=writes)  # an older version of the schema writes beside it
    assert visible(newer) == {vid(1): ("f", 1), vid(2): ("g", 2), vid(3): ("g", 2)}
    assert "unenforced-primary-key" in str(newer.snapshot().dataset.schema.field("row_id").metadata)


def test_a_clashing_type_is_a_clear_error(local_root: Root):
    table = open_table(local_root)
    rows, writes = video(1, "f", 1)
    table.commit(rows, replace=writes)
    other = open_table(local_root, replace(SPEC, columns=(*SPEC.columns[:2], replace(c.FPS, type=pa.string()))))
    with pytest.raises(StoreError, match="column fps is double, this version of curation_assets needs string"):
        other.headers()


def test_creating_prints_nothing(local_root: Root, capfd: pytest.CaptureFixture[str]):
    rows, writes = video(1, "f", 1)
    open_table(local_root).commit(rows, replace=writes)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("num_videos", [14, 12], ids=["no deletions", "deletions"])
def test_compaction_bounds_the_fragments(local_root: Root, num_videos: int):
    table = open_table(local_root)
    for number in range(14):
        rows, writes = video(number % num_videos, f"f{number}", 2)
        table.commit(rows, replace=writes)
    before, frames = visible(table), frames_of(table)
    assert not table.compact(max_fragments=20)
    assert table.compact(max_fragments=10)
    assert len(table.snapshot().dataset.get_fragments()) == 1
    assert table.snapshot().dataset.get_fragments()[0].num_deletions == 0
    assert (visible(table), frames_of(table)) == (before, frames)
    assert drop_old_versions(table.snapshot(), timedelta(0)).num_bytes > 0
    assert (visible(table), frames_of(table)) == (before, frames)


def frames_of(table: VideoTable) -> dict[str, list[bytes]]:
    return {row["row_id"]: row["frames"] for batch in table.scan_blobs(["row_id", "frames"]) for row in batch.to_pylist()}


def test_a_full_disk_leaves_the_table_as_it_was(local_root: Root, file_size_limit):
    table = open_table(local_root)
    rows, writes = video(1, "old", 2)
    table.commit(rows, replace=writes)
    rows, writes = video(1, "new", 50, blob_bytes=100_000)
    with file_size_limit(100_000), pytest.raises(NoSpace, match="Make room"):
        table.commit(rows, replace=writes)
    assert visible(table) == {vid(1): ("old", 2)}
    table.commit(rows, replace=writes)
    assert visible(table) == {vid(1): ("new", 50)}


def test_no_permission_is_one_clear_error(public_folder: Path):
    table = VideoTable(str(public_folder / "w/t.lance"), SPEC)
    rows, writes = video(1, "old", 2)
    (public_folder / "w").mkdir(mode=0o555)
    with unprivileged(), pytest.raises(Forbidden, match="access"):
        table.commit(rows, replace=writes)
    table.commit(rows, replace=writes)
    rows, writes = video(1, "new", 2)
    with unprivileged(), pytest.raises(Forbidden, match="access"):
        table.commit(rows, replace=writes)
    assert visible(table) == {vid(1): ("old", 2)}


def write_videos(root: Root, numbers: list[int], fingerprint: str, num_rows: int, barrier) -> None:
    table = open_table(root)
    barrier.wait()
    for number in numbers:
        rows, writes = video(number, fingerprint, num_rows)
        table.commit(rows, replace=writes)


@pytest.mark.parametrize("root", ["local", "s3"], indirect=True)
def test_several_writing_processes(root: Root):
    """Three processes write the same and other videos at once, the table not there yet."""
    barrier = spawn.Barrier(3)
    plans = [([1, 2, 3, 10], "a", 3), ([3, 1, 2, 11], "b", 5), ([2, 3, 1, 12], "c", 1)]
    processes = [spawn.Process(target=write_videos, args=(root, *plan, barrier)) for plan in plans]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    found = visible(open_table(root))
    sizes = {fingerprint: num_rows for _, fingerprint, num_rows in plans}
    assert set(found) == {vid(number) for number in (1, 2, 3, 10, 11, 12)}
    assert {vid(10): found[vid(10)], vid(11): found[vid(11)], vid(12): found[vid(12)]} == {
        vid(10): ("a", 3),
        vid(11): ("b", 5),
        vid(12): ("c", 1),
    }
    assert all(num_rows == sizes[fingerprint] for fingerprint, num_rows in found.values())
    assert open_table(root).snapshot().dataset.count_rows() == len(found) + sum(num_rows for _, num_rows in found.values())


def write_for_ever(uri: str, ready) -> None:
    table = VideoTable(uri, SPEC)
    generation = 0
    while True:
        generation += 1
        fingerprint = f"{os.getpid()}-{generation:06d}"
        rows, writes = video(1, fingerprint, generation % 5 + 1, blob_bytes=20_000)
        table.commit(rows, replace=writes)
        ready.set()
        table.commit(to_table(items(vid(2), fingerprint, range(3))), replace=[VideoWrite(vid(2), fingerprint, is_last=False)])
        rest = [*items(vid(2), fingerprint, range(3, 5)), header(vid(2), fingerprint, 5)]
        table.commit(to_table(rest), replace=[VideoWrite(vid(2), fingerprint, is_first=False)])
        table.compact(max_fragments=6)


def test_killed_writers_leave_a_whole_table(tmp_path: Path):
    """Writers killed at random moments: a short video is never missing or mixed, a long one is whole or not there."""
    uri = str(tmp_path / "t.lance")
    table = VideoTable(uri, SPEC)
    delays = random.Random(5)
    for _ in range(4):
        ready = spawn.Event()
        process = spawn.Process(target=write_for_ever, args=(uri, ready))
        process.start()
        assert ready.wait(60)
        time.sleep(delays.uniform(0, 0.4))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        found = visible(table)
        assert found[vid(1)][1] == int(found[vid(1)][0].rsplit("-")[1]) % 5 + 1
        assert found.get(vid(2), ("", 5))[1] == 5
    rows, writes = video(1, "after", 4)
    table.commit(rows, replace=writes)
    assert visible(table)[vid(1)] == ("after", 4)


def scan_and_measure(uri: str, queue) -> None:
    table, process = VideoTable(uri, SPEC), psutil.Process()
    table.headers()
    before, peaks, is_done = process.memory_info().rss, [0], threading.Event()

    def watch() -> None:
        while not is_done.wait(0.005):
            peaks.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    num_bytes = sum(batch.nbytes for batch in table.scan_blobs(["row_id", "frames"]))
    is_done.set()
    watcher.join()
    queue.put((max(peaks) - before, num_bytes))


def test_a_filtered_blob_scan_gives_what_a_plain_scan_gives(local_root: Root, monkeypatch):
    monkeypatch.setattr(snapshots, "_ROWS_PER_FILTER", 3)
    table = open_table(local_root)
    for number in range(1, 5):
        rows, writes = video(number, "f", 5)
        table.commit(rows, replace=writes)
    table.delete_videos([vid(3)])
    for where in (f"video_id IN ('{vid(1)}', '{vid(4)}')", f"video_id = '{vid(3)}'", "is_header", "outcome = 'ok'", None):
        plain = [row for batch in table.scan(["row_id", "video_id"], where=where) for row in batch.to_pylist()]
        blobs = [row for batch in table.scan_blobs(["row_id", "video_id", "frames"], where=where) for row in batch.to_pylist()]
        assert [{"row_id": row["row_id"], "video_id": row["video_id"]} for row in blobs] == plain
        assert all(row["frames"] for row in blobs)


def test_a_blob_scan_is_bounded_in_memory(tmp_path: Path):
    uri = str(tmp_path / "t.lance")
    for number in range(6):
        rows, writes = video(number, "f" * 16, 50, blob_bytes=500_000)
        VideoTable(uri, SPEC).commit(rows, replace=writes)
    VideoTable(uri, SPEC).compact(max_fragments=0)  # into large fragments, of which a plain scan makes large batches
    queue = spawn.Queue()
    process = spawn.Process(target=scan_and_measure, args=(uri, queue))
    process.start()
    growth, num_bytes = queue.get(timeout=60)
    process.join()
    assert num_bytes > 290e6
    assert growth < 500e6  # a plain scan grows by 630 MB here, and by more with every further fragment; this one does not
    assert lance.dataset(uri).count_rows() == 306
