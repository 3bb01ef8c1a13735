"""Watching: every upload is asked for, none twice, whatever happens between two ticks; on disk and on S3."""

import json
import os
import shutil
import time
from dataclasses import asdict, replace

import pytest

from curation_assets.curation import watching
from curation_assets.curation.raw_videos import update_raw_videos
from curation_assets.curation.sources import SourceRecord, list_objects
from curation_assets.curation.warehouse import Warehouse
from curation_assets.curation.watched_names import source_folder, watched_source_name
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.settings import Config, SourceSettings
from curation_assets.storage.errors import SourceNotFound, StoreError
from curation_assets.storage.objects import open_store
from curation_assets.storage.objects_local import LocalStore
from curation_assets_tests.curation.project import Project
from curation_assets_tests.curation.test_sources import ODD_KEYS
from curation_assets_tests.listserver import ListServer
from curation_assets_tests.storage.conftest import BUCKET, client, local_root, public_folder, root, s3_options, s3_root, unprivileged  # noqa: F401 - fixtures

LATER_S = 3600  # all that a test wrote is quiet by then


class Watched:
    """Watched roots, and a sensor that keeps its cursor."""

    def __init__(self, warehouse, roots, **sensors):
        self.roots, self.sensors = roots, sensors
        self.warehouse = Warehouse(str(warehouse))
        self.cursor = None

    @property
    def config(self):
        return Config(storage_options={}, watch=self.roots, sensors=self.sensors, warehouse=self.warehouse.uri)

    def look(self, *, now=lambda: time.time() + LATER_S):
        """Do one tick, and leave its cursor aside."""
        return watching.look(self.config, self.warehouse, self.cursor, now=now)

    def tick(self, **options):
        """Do one tick and commit it."""
        tick = self.look(**options)
        self.cursor = tick.cursor
        return tick

    def asked(self, **options):
        """Do one tick; give what it asks for: reasons by source."""
        tick = self.tick(**options)
        assert len({request.source for request in tick.requests}) == len(tick.requests)
        return {request.source: request.reason for request in tick.requests}

    def all_asked(self, most_ticks=1000):
        """Tick until a tick ends the pass; give all run keys."""
        requests, num_ticks = [], 0
        while True:
            tick = self.tick()
            requests += tick.requests
            num_ticks += 1
            assert num_ticks <= most_ticks
            if tick.is_done:
                return requests, num_ticks

    def states(self):
        return [info.key for page in self.warehouse.store.list_pages("watch") for info in page]

    def videos(self, source):
        record = self.warehouse.registry.get(source)
        return [item.uri for page in list_objects(record) for item in page]


@pytest.fixture
def place(root, request):  # noqa: F811
    """Functions that put an object under the root, and delete one."""
    if root.uri.startswith("s3://"):
        s3, base = client(root.options), root.uri.removeprefix(f"s3://{BUCKET}/")
        return (
            lambda key, data=b"x": s3.put_object(Bucket=BUCKET, Key=f"{base}/{key}", Body=data),
            lambda key: s3.delete_object(Bucket=BUCKET, Key=f"{base}/{key}"),
        )
    store = open_store(root.uri)
    return lambda key, data=b"x": store.put(key, data), store.delete


@pytest.fixture
def watched(root, tmp_path):  # noqa: F811
    return Watched(tmp_path / "warehouse", {"up": {"uri": root.uri, "storage_options": root.options}})


@pytest.fixture
def folder(tmp_path):
    """A local root with three folders of two files each."""
    path = tmp_path / "up"
    for name in ("a", "b", "c"):
        (path / name).mkdir(parents=True)
        for number in range(2):
            (path / name / f"{number}.mp4").write_bytes(b"x")
    return path


@pytest.fixture
def on_disk(folder, tmp_path):
    return Watched(tmp_path / "warehouse", {"up": {"uri": str(folder)}})


def test_a_root_that_holds_the_warehouse(tmp_path):
    """What runs write there would be asked for, and make more, for ever."""
    watched = Watched(tmp_path / "warehouse", {"up": {"uri": str(tmp_path), "quiet_period_s": 0}})
    for key in ("a/1.mp4", "warehouse/media/transcoded_clips/up-a/1.mp4", "warehouse/mine/1.mp4"):
        (tmp_path / key).parent.mkdir(parents=True)
        (tmp_path / key).write_bytes(b"video")
    assert set(watched.asked()) == {"up-a", "up-warehouse"}
    (tmp_path / "warehouse/media/transcoded_clips/up-a/2.mp4").write_bytes(b"video")
    assert watched.asked() == {}


def test_each_change_asks_for_its_source_alone(watched, place):
    put, delete = place
    for key in ("a/1.mp4", "a/2.mp4", "b/deep/1.mkv", "b-c/1.MOV", "top.mp4", "notes/readme.txt"):
        put(key)
    assert watched.asked() == {"up-a": "new: 2 videos", "up-b": "new: 1 videos", "up-b-c": "new: 1 videos", "up": "new: 1 videos"}
    states = watched.states()
    assert watched.asked() == {}
    assert watched.states() == states
    put("a/3.mp4")
    put("notes/1.txt")
    assert watched.asked() == {"up-a": "changed: 3 videos, 2 before"}
    put("b/deep/1.mkv", b"other")
    put("top.mp4", b"other")
    assert watched.asked() == {"up-b": "changed: 1 videos, 1 before", "up": "changed: 1 videos, 1 before"}
    delete("a/1.mp4")
    delete("b-c/1.MOV")
    delete("top.mp4")
    assert watched.asked() == {"up-a": "changed: 2 videos, 3 before", "up-b-c": "deleted: 1 videos", "up": "deleted: 1 videos"}
    assert watched.asked() == {}
    put("b-c/1.MOV")
    assert watched.asked() == {"up-b-c": "new: 1 videos"}
    assert len(watched.states()) == 2  # the last, and the one that the last tick began with


def test_a_source_that_is_as_it_once_was_is_asked_for_again(watched, place):
    put, _ = place
    keys = []
    for data in (b"one", b"other", b"one", b"other"):
        put("a/1.mp4", data)
        keys += [request.run_key for request in watched.tick().requests]
    assert len(set(keys)) == 4


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_every_video_is_in_one_source(s3_root, tmp_path, depth):  # noqa: F811
    s3, base = client(s3_root.options), s3_root.uri.removeprefix(f"s3://{BUCKET}/")
    for key in [*ODD_KEYS, "K=V/x.mp4", "日本/語/x.mp4", "a/ b/x.mp4"]:
        s3.put_object(Bucket=BUCKET, Key=f"{base}/{key}", Body=b"x")
    watched = Watched(tmp_path / "warehouse", {"up": {"uri": s3_root.uri, "storage_options": s3_root.options, "depth": depth}})
    requests, _ = watched.all_asked()
    found = [uri for request in requests for uri in watched.videos(request.source)]
    store = s3_root.store()
    assert sorted(found) == sorted(store.uri(info.key) for page in store.list_pages() for info in page)
    assert watched.all_asked()[0] == []
    if not depth:
        assert [request.source for request in requests] == ["up"]


def test_names_are_different_valid_and_stay():
    folders = [
        "cam1",
        "Cam1",
        "CAM1",
        "cam-1",
        "cam 1",
        "cam_1",
        "a/b",
        "a-b",
        "a//b",
        "é",
        "日本",
        "..",
        "x" * 300,
        "x" * 301,
        "20261121",
        "cam-20261121",
    ]
    folders += [watched_source_name("up", name).removeprefix("up-") for name in folders]  # folders that are called as others' sources end
    names = {folder: watched_source_name("up", folder) for folder in folders}
    assert len({name.lower() for name in names.values()}) == len(set(folders))
    # once given, a name is never to change: tables and partitions have it
    assert [names[folder] for folder in ("cam1", "Cam1", "a/b", "日本", "cam-20261121")] == [
        "up-cam1", "up-cam1-7bf322fe", "up-a-b-c14cddc0", "up-x-cf2abf0c", "up-cam-20261121",
    ]  # fmt: skip
    assert watched_source_name("up", None) == watched_source_name("up", "") == "up"


def test_folders_at_a_depth():
    cases = [
        ("a/b.mp4", 1, "a"),
        ("b.mp4", 1, None),
        ("a/b.mp4", 2, None),
        ("a/b/c/d.mp4", 2, "a/b"),
        ("a//b.mp4", 2, None),
        ("/b.mp4", 1, None),
        ("x", 0, ""),
    ]
    for key, depth, expected in cases:
        assert source_folder(key, depth) == expected


def test_a_backlog_takes_several_ticks_and_nothing_is_asked_for_twice(tmp_path):
    for number in range(25):
        (tmp_path / "up" / f"{number:02}").mkdir(parents=True)
        (tmp_path / "up" / f"{number:02}" / "1.mp4").write_bytes(b"x")
    watched = Watched(tmp_path / "warehouse", {"up": {"uri": str(tmp_path / "up")}}, max_requests_per_tick=4)
    requests, num_ticks = watched.all_asked()
    assert [request.source for request in requests] == [f"up-{number:02}" for number in range(25)]
    assert num_ticks == 7
    assert watched.all_asked() == ([], 1)
    for number in range(2, 25):
        (tmp_path / "up" / f"{number:02}" / "1.mp4").unlink()
    requests, num_ticks = watched.all_asked()
    assert sorted(request.source for request in requests) == [f"up-{number:02}" for number in range(2, 25)]
    assert num_ticks == 6


def test_a_pass_in_pieces_finds_what_one_in_a_whole_finds(tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "_PAGE", 50)
    keys = [f"{name}/{number:05}.mp4" for name, count in (("a", 250), ("b", 1), ("c", 99), ("d", 321)) for number in range(count)]
    keys += (
        [f"a/{number:05}.txt" for number in range(150)]
        + [f"{name}.mp4" for name in "aAbcz"]
        + [f"e/{number:05}.txt" for number in range(120)]
    )
    with ListServer({key: f"etag of {key}" for key in keys}) as server:
        roots = {"up": {"uri": "s3://b/", "storage_options": {**server.options, "aws_skip_signature": "true"}}}
        whole = Watched(tmp_path / "whole", roots)
        pieces = Watched(tmp_path / "pieces", roots, max_tick_s=1e-9)
        requests, num_ticks = whole.all_asked()
        assert num_ticks == 1
        assert {request.source: request.reason for request in requests} == {
            "up-a": "new: 250 videos", "up-b": "new: 1 videos", "up-c": "new: 99 videos", "up-d": "new: 321 videos", "up": "new: 5 videos",
        }  # fmt: skip
        in_pieces, num_ticks = pieces.all_asked()
        assert num_ticks > 10
        digests = [{request.source: request.run_key.split(":")[1] for request in found} for found in (requests, in_pieces)]
        assert digests[0] == digests[1]
        assert pieces.all_asked()[0] == []
        assert max(len(pieces.tick().cursor) for _ in range(5)) < 5000
        server.put("c/00050.mp4", "another")
        assert [request.source for _ in range(2) for request in pieces.all_asked()[0]] == ["up-c"]


@pytest.mark.parametrize("when", ["before the state", "after the state", "before the cursor"])
def test_a_tick_that_died_is_done_again_with_the_same_keys(on_disk, folder, when, monkeypatch):
    on_disk.tick()
    (folder / "a" / "new.mp4").write_bytes(b"x")
    (folder / "d").mkdir()
    (folder / "d" / "new.mp4").write_bytes(b"x")
    expected = [request.run_key for request in on_disk.look().requests] if when == "before the cursor" else None
    if expected is None:
        real = LocalStore.put

        def put(self, key, data, **options):
            if key.startswith("watch/"):
                if when == "after the state":
                    real(self, key, data, **options)
                raise StoreError("the machine went down")
            real(self, key, data, **options)

        with monkeypatch.context() as patch:
            patch.setattr(LocalStore, "put", put)
            with pytest.raises(StoreError, match="went down"):
                on_disk.look()
    keys = [request.run_key for request in on_disk.look().requests]
    assert [request.run_key for request in on_disk.tick().requests] == keys == (expected or keys)
    assert [key.split(":")[0] for key in keys] == ["up-a", "up-d"]
    assert on_disk.asked() == {}
    for number in range(3):
        (folder / "a" / f"more{number}.mp4").write_bytes(b"x")
        on_disk.tick()
    assert len(on_disk.states()) == 2  # what the dead tick left is gone too


def test_a_tick_that_was_given_up_and_goes_on_takes_nothing_from_its_successor(on_disk, folder, monkeypatch):
    """Dagster gives up on a tick that takes too long; the code server works on it to its end all the same."""
    on_disk.tick()
    (folder / "a" / "new.mp4").write_bytes(b"x")
    real, successor = LocalStore.put, []

    def put(self, key, data, **options):
        if key.startswith("watch/") and not successor:
            successor.append(None)
            successor[0] = on_disk.tick()
        real(self, key, data, **options)

    monkeypatch.setattr(LocalStore, "put", put)
    given_up = on_disk.look()
    assert [request.run_key for request in given_up.requests] == [request.run_key for request in successor[0].requests]
    assert on_disk.asked() == {}


def test_a_listing_that_breaks_off_goes_on_where_it_broke(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    keys = [f"{name}/{number:05}.mp4" for name in "abcde" for number in range(70)]
    monkeypatch.setattr(watching, "_PAGE", 100)
    with ListServer(dict.fromkeys(keys, "e")) as server:
        roots = {"up": {"uri": "s3://b", "storage_options": {**server.options, "client_max_retries": "0"}}}
        watched = Watched(tmp_path / "warehouse", {**roots, "other": {"uri": str(tmp_path)}})
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "1.mp4").write_bytes(b"x")
        server.answer = lambda number, who: (503, "SlowDown") if number == 3 else None
        tick = watched.tick()
        assert [request.source for request in tick.requests] == ["other-x", "up-a", "up-b"]
        assert "watch up: s3://b" in tick.problems[0]
        assert "run again" in tick.problems[0]
        server.answer = lambda number, who: None
        assert [request.source for request in watched.tick().requests] == ["up-c", "up-d", "up-e"]
        assert watched.asked() == watched.asked() == {}
        for status, code in ((503, "SlowDown"), (403, "AccessDenied"), (404, "NoSuchBucket"), (500, "InternalError")):
            server.answer = lambda number, who, failure=(status, code): failure
            tick = watched.tick()
            assert (tick.requests, len(tick.problems)) == ([], 1)
        server.answer = lambda number, who: None
        assert watched.asked() == {}


def test_credentials_that_are_renewed_are_taken(tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    secrets = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(secrets))

    def renew(name):
        secrets.write_text(f"[default]\naws_access_key_id = {name}\naws_secret_access_key = secret\n")

    renew("OLD")
    with ListServer({"a/1.mp4": "e"}) as server:
        server.answer = lambda number, who: (403, "ExpiredToken") if "Credential=OLD/" in who else None
        watched = Watched(tmp_path / "warehouse", {"up": {"uri": "s3://b", "storage_options": server.options}})
        tick = watched.tick()
        assert not tick.requests
        assert "access denied" in tick.problems[0]
        renew("NEW")
        assert watched.asked() == {"up-a": "new: 1 videos"}


def test_what_is_still_being_written_waits(on_disk, folder):
    now = time.time()
    on_disk.asked(now=lambda: now + 100)
    for name in ("a/new.mp4", "b/copied.mp4", "c/ahead.mp4"):
        (folder / name).write_bytes(b"x")
    os.utime(folder / "b/copied.mp4", (1, 1))  # as a copy that keeps the time
    os.utime(folder / "c/ahead.mp4", (now + 10**7, now + 10**7))  # by a clock that is months ahead
    assert on_disk.asked(now=lambda: now + 30) == {}
    assert on_disk.asked(now=lambda: now + 100) == dict.fromkeys(("up-a", "up-b", "up-c"), "changed: 3 videos, 2 before")


def test_a_folder_whose_only_video_is_being_rewritten_is_not_gone(tmp_path):
    (tmp_path / "up" / "a").mkdir(parents=True)
    video = tmp_path / "up" / "a" / "1.mp4"
    video.write_bytes(b"x")
    watched = Watched(tmp_path / "warehouse", {"up": {"uri": str(tmp_path / "up")}})
    now = time.time()
    assert watched.asked(now=lambda: now + 100) == {"up-a": "new: 1 videos"}
    os.utime(video, (now + 200, now + 200))
    assert watched.asked(now=lambda: now + 210) == {}
    assert watched.asked(now=lambda: now + 300) == {"up-a": "changed: 1 videos, 1 before"}


def test_an_upload_under_way_by_its_name_is_no_video(on_disk, folder):
    on_disk.tick()
    (folder / "a" / "x.mp4.part").write_bytes(b"x")
    assert on_disk.asked() == {}
    (folder / "a" / "x.mp4.part").rename(folder / "a" / "x.mp4")
    assert on_disk.asked() == {"up-a": "changed: 3 videos, 2 before"}


def test_endings_follow_the_settings(folder, tmp_path):
    (folder / "a" / "x.tar.vid").write_bytes(b"x")
    settings = {"raw_videos": {"extensions": [".tar.vid", ".MP4"]}}
    watched = Watched(tmp_path / "warehouse", {"up": {"uri": str(folder), "settings": settings}})
    assert watched.asked()["up-a"] == "new: 3 videos"


def curate(watched, source):
    """Update raw_videos of a source as its run does; give the keys of its rows."""
    record = watched.warehouse.registry.get(source)
    run = replace(Project(None, watched.warehouse.uri, record.settings).source(), record=record)
    update_raw_videos(run)
    return sorted(run.read(RAW_VIDEOS, ["key"]).column("key").to_pylist())


def age(path):
    for file in path.rglob("*.mp4"):
        os.utime(file, (1_000_000_000, 1_000_000_000))


def test_a_run_of_what_vanished_removes_rows_but_never_without_the_root(on_disk, folder):
    age(folder)
    on_disk.tick()
    assert curate(on_disk, "up-a") == curate(on_disk, "up-b") == ["0.mp4", "1.mp4"]
    (folder / "a" / "0.mp4").unlink()
    assert curate(on_disk, "up-a") == ["1.mp4"]
    elsewhere = folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(SourceNotFound, match="mounted"):
        curate(on_disk, "up-b")
    folder.mkdir()  # as the place is where a disk is not mounted
    with pytest.raises(SourceNotFound, match="not mounted"):
        curate(on_disk, "up-b")
    folder.rmdir()
    elsewhere.rename(folder)
    assert curate(on_disk, "up-b") == ["0.mp4", "1.mp4"]
    for file in (folder / "b").iterdir():
        file.unlink()
    (folder / "b").rmdir()
    assert on_disk.asked()["up-b"] == "deleted: 2 videos"
    assert curate(on_disk, "up-b") == []


def test_a_run_leaves_a_file_that_is_being_written_and_keeps_its_rows(folder, tmp_path):
    age(folder)
    watched = Watched(tmp_path / "warehouse", {"up": {"uri": str(folder)}})
    watched.tick()
    assert curate(watched, "up-a") == ["0.mp4", "1.mp4"]
    (folder / "a" / "0.mp4").write_bytes(b"half")
    (folder / "a" / "new.mp4").write_bytes(b"half")
    before = watched.warehouse.registry.get("up-a").settings["raw_videos"]["quiet_period_s"]
    assert before == 30
    assert curate(watched, "up-a") == ["0.mp4", "1.mp4"]
    age(folder / "a")
    assert curate(watched, "up-a") == ["0.mp4", "1.mp4", "new.mp4"]


def test_the_files_above_the_depth_are_one_source(tmp_path):
    for name in ("a/b/1.mp4", "a/2.mp4", "3.mp4", "z/4.mp4"):
        (tmp_path / "up" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "up" / name).write_bytes(b"x")
    for number in range(2100):
        (tmp_path / "up" / "a" / "b" / f"{number}.txt").touch()
    age(tmp_path / "up")
    watched = Watched(tmp_path / "warehouse", {"up": {"uri": str(tmp_path / "up"), "depth": 2}})
    assert watched.asked() == {"up-a-b-c14cddc0": "new: 1 videos", "up": "new: 3 videos"}
    assert curate(watched, "up") == ["3.mp4", "a/2.mp4", "z/4.mp4"]
    assert curate(watched, "up-a-b-c14cddc0") == ["1.mp4"]


def test_a_root_that_is_not_there_loses_nothing(on_disk, folder, tmp_path):
    (tmp_path / "second" / "x").mkdir(parents=True)
    (tmp_path / "second" / "x" / "1.mp4").write_bytes(b"x")
    on_disk.roots["zweite"] = {"uri": str(tmp_path / "second")}
    on_disk.tick()
    elsewhere = folder.rename(folder.with_name("elsewhere"))
    (tmp_path / "second" / "x" / "2.mp4").write_bytes(b"x")
    tick = on_disk.tick()
    assert [request.source for request in tick.requests] == ["zweite-x"]
    assert "no such folder. Check the path, and that the disk is mounted" in tick.summary()
    folder.mkdir()
    tick = on_disk.tick()
    assert tick.requests == []
    assert "nothing is in it, as where a disk is not mounted" in tick.summary()
    folder.rmdir()
    elsewhere.rename(folder)
    assert on_disk.asked() == {}


def test_an_unreadable_folder_does_not_hide_the_others(public_watched):
    watched, folder = public_watched
    with unprivileged():
        watched.tick()
    (folder / "b").chmod(0o000)
    (folder / "c" / "new.mp4").write_bytes(b"x")
    with unprivileged():
        tick = watched.tick()
        assert [request.source for request in tick.requests] == ["up-c"]
        assert "/b: Permission denied" in tick.problems[0]
    (folder / "b").chmod(0o755)
    with unprivileged():
        assert watched.asked() == {}


@pytest.fixture
def public_watched(folder, public_folder):  # noqa: F811
    shutil.copytree(folder, public_folder / "up")
    return Watched(public_folder / "warehouse", {"up": {"uri": str(public_folder / "up")}}), public_folder / "up"


def test_a_source_of_somebody_else_is_left_alone(on_disk, folder):
    mine = SourceRecord.from_settings("up-b", SourceSettings(uri="/mine"))
    on_disk.warehouse.registry.put(mine)
    tick = on_disk.tick()
    assert [request.source for request in tick.requests] == ["up-a", "up-c"]
    assert "would be the source up-b, but there is another of that name, /mine" in tick.problems[0]
    assert on_disk.warehouse.registry.get("up-b") == mine
    on_disk.warehouse.registry.remove("up-b")
    assert on_disk.asked() == {"up-b": "new: 2 videos"}


def test_a_source_that_was_taken_away_returns_when_it_changes(on_disk, folder):
    on_disk.tick()
    on_disk.warehouse.registry.remove("up-a")
    on_disk.warehouse.registry.remove("up-b")
    assert on_disk.asked() == {}
    on_disk.roots["up"]["settings"] = {"clips": {"splitter": {"clip_len_s": 5}}}
    assert on_disk.asked() == {}
    assert on_disk.warehouse.registry.names() == ["up-c"]
    (folder / "a" / "new.mp4").write_bytes(b"x")
    for file in (folder / "b").iterdir():
        file.unlink()
    assert on_disk.asked() == {"up-a": "changed: 3 videos, 2 before"}


def test_new_settings_reach_the_registry_without_runs(on_disk):
    on_disk.tick()
    on_disk.roots["up"] |= {"settings": {"clips": {"splitter": {"clip_len_s": 5}}}, "quiet_period_s": 10}
    assert on_disk.asked() == {}
    for name in ("up-a", "up-b", "up-c"):
        assert on_disk.warehouse.registry.get(name).settings == {
            "raw_videos": {"quiet_period_s": 5},
            "clips": {"splitter": {"clip_len_s": 5}},
        }


def test_another_depth_or_root_begins_anew(on_disk, folder):
    on_disk.tick()
    on_disk.roots["up"]["depth"] = 0
    assert on_disk.asked() == {"up": "new: 6 videos"}
    moved = folder.rename(folder.with_name("moved"))
    on_disk.roots["up"] |= {"uri": str(moved), "depth": 1}
    assert set(on_disk.asked()) == {"up-a", "up-b", "up-c"}
    assert on_disk.warehouse.registry.get("up-a").uri == str(moved / "a")


@pytest.mark.parametrize("loss", ["{", '{"roots": {"up": 3}}', "", "the state"])
def test_a_lost_cursor_or_state_asks_for_everything_again(on_disk, loss):
    before = {request.run_key for request in on_disk.tick().requests}
    if loss == "the state":
        on_disk.warehouse.store.delete_prefix("watch")
    else:
        on_disk.cursor = loss
        time.sleep(1.1)  # the number of a first state is a second
    again = {request.run_key for request in on_disk.tick().requests}
    assert len(before) == len(again) == 3
    assert not before & again
    assert on_disk.asked() == {}


def test_a_large_root_does_not_keep_the_others_waiting(tmp_path):
    for name in ("first", "second", "third"):
        for number in range(30):
            (tmp_path / name / f"{number:02}").mkdir(parents=True)
            (tmp_path / name / f"{number:02}" / "1.mp4").write_bytes(b"x")
    roots = {name: {"uri": str(tmp_path / name)} for name in ("first", "second", "third")}
    watched = Watched(tmp_path / "warehouse", roots, max_requests_per_tick=5)
    heads = [{request.source.partition("-")[0] for request in watched.tick().requests} for _ in range(3)]
    assert heads == [{"first"}, {"second"}, {"third"}]


def test_a_folder_whose_name_is_not_utf8(on_disk, folder):
    odd = os.fsencode(folder) + b"/cam\xff"
    os.mkdir(odd)
    (folder / "a" / "0.mp4").rename(os.fsdecode(odd + b"/0.mp4"))
    found = on_disk.asked()
    (name,) = set(found) - {"up-a", "up-b", "up-c"}
    assert len(on_disk.videos(name)) == 1
    assert on_disk.asked() == {}


def test_the_registry_reads_entries_from_before(on_disk):
    registry = on_disk.warehouse.registry
    record = SourceRecord.from_settings("old", SourceSettings(uri="/videos"))
    tree = {key: value for key, value in asdict(record).items() if key not in ("watch", "watched_root", "above_depth")}
    on_disk.warehouse.store.put("sources/old.json", json.dumps(tree).encode())
    assert registry.get("old") == record


def test_a_root_is_listed_as_often_as_its_settings_say(on_disk, folder):
    on_disk.roots["up"]["poll_interval_s"] = 600
    start = time.time() + LATER_S
    on_disk.tick(now=lambda: start)
    (folder / "new").mkdir()
    (folder / "new" / "1.mp4").write_bytes(b"1")
    assert on_disk.asked(now=lambda: start + 599) == {}
    assert set(on_disk.asked(now=lambda: start + 600)) == {"up-new"}
    on_disk.roots["up"]["depth"] = 0
    assert set(on_disk.asked(now=lambda: start + 601)) == {"up"}
