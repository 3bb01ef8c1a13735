"""Summaries: what is remembered of sources is what their tables say, whoever changed them, however he ended; and what did not change is not read again."""

import json
import shutil
import signal
import subprocess
import sys
from datetime import timedelta

import pytest

from curation_assets.configuration import load_config, resolve_settings
from curation_assets.curation import summaries as module
from curation_assets.curation.clips import update_clips
from curation_assets.curation.corpus import CorpusRun
from curation_assets.curation.corpus_status import corpus_status, source_statuses
from curation_assets.curation.raw_videos import update_raw_videos
from curation_assets.curation.removal import delete_source_tables
from curation_assets.curation.sources import SourceRecord
from curation_assets.curation.status import source_status
from curation_assets.curation.summaries import Summaries
from curation_assets.curation.warehouse import SourceRun, Warehouse
from curation_assets.engine.local import LocalEngine
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.settings import SettingsError
from curation_assets.storage.errors import LeaseLost
from curation_assets.storage.layout import REGISTRY_COPY_KEY, SUMMARIES_KEY
from curation_assets.storage.tables import VideoWrite
from curation_assets_tests import makevideo
from curation_assets_tests.storage.conftest import local_root, root, s3_options, s3_root  # noqa: F401 - fixtures
from curation_assets_tests.storage.rows import header, to_table, vid

SPLIT = "transcoded_clips: {enabled: false}\npreviews: {}\nclips: {splitter: {clip_len_s: 2, min_clip_len_s: 0.5}}\n"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(module, "WORTH_SAVING", 1)


class Tables:
    """A warehouse with a table of clips of two sources, and a count of how often each source was read."""

    def __init__(self, root):  # noqa: F811
        self.root = root
        self.reads = []
        for name in ("a", "b"):
            self.write(name, 1)

    def warehouse(self):
        return Warehouse(self.root.uri, self.root.options)

    def write(self, source, number, *, done=True):
        warehouse = self.warehouse()
        rows = to_table([header(vid(number), "f", 0) | {"source": source}], CLIPS)
        warehouse.table(CLIPS, source).commit(rows, replace=[VideoWrite(vid(number), "f")])
        if done:
            warehouse.changes.end(CLIPS.asset, source)

    def read(self, source):
        self.reads.append(source)
        return self.warehouse().table(CLIPS, source).headers(["video_id"]).num_rows

    def ask(self, *, meanwhile=lambda: None, keys=None):
        """Ask as a new process would; returns the values, and which sources were read."""
        self.reads = []
        summaries = Summaries(self.warehouse(), [CLIPS.asset, RAW_VIDEOS.asset])
        values = summaries.values("num", ["a", "b"], self.read, keys=keys)
        meanwhile()
        summaries.save()
        return values, sorted(self.reads)


@pytest.fixture
def tables(root):  # noqa: F811
    return Tables(root)


def test_what_did_not_change_is_read_once(tables):
    assert tables.ask() == ({"a": 1, "b": 1}, ["a", "b"])
    assert tables.ask() == ({"a": 1, "b": 1}, [])
    tables.write("b", 2)
    assert tables.ask() == ({"a": 1, "b": 2}, ["b"])
    assert tables.ask() == ({"a": 1, "b": 2}, [])


def test_other_settings_are_another_value(tables):
    assert tables.ask(keys={"a": "1", "b": "1"})[1] == ["a", "b"]
    assert tables.ask(keys={"a": "1", "b": "2"})[1] == ["b"]
    assert tables.ask(keys={"a": "1", "b": "2"})[1] == []


def test_while_somebody_writes_nothing_counts(tables):
    tables.ask()
    writer = tables.warehouse()
    writer.changes.begin(CLIPS.asset, "a")
    assert tables.ask()[1] == ["a"]
    tables.write("a", 2, done=False)  # this one is killed before he says that he is done
    writer.changes.end(CLIPS.asset, "a")  # holding the lease, the next one clears up
    assert tables.ask() == ({"a": 2, "b": 1}, ["a"])
    assert tables.ask() == ({"a": 2, "b": 1}, [])


def test_a_change_during_the_reading_is_not_lost(tables):
    values, _ = tables.ask(meanwhile=lambda: tables.write("a", 2))
    assert values["a"] == 1
    assert tables.ask() == ({"a": 2, "b": 1}, ["a"])

    tables.write("b", 2)
    values, _ = tables.ask(meanwhile=lambda: tables.write("b", 3, done=False))  # he goes on writing after the saving
    assert values["b"] == 2
    assert tables.ask() == ({"a": 2, "b": 3}, ["b"])
    assert tables.ask() == ({"a": 2, "b": 3}, ["b"])  # nobody has said that he is done


def test_a_run_that_was_taken_over_leaves_the_mark_of_the_other(tables):
    first, second = tables.warehouse(), tables.warehouse()
    holders = {"first": True}

    def check():
        if not holders["first"]:
            raise LeaseLost("taken over")

    def write_without_lease():
        with first.changes.ending(CLIPS.asset, "a", check=check):
            first.changes.begin(CLIPS.asset, "a")
            check()

    with first.changes.ending(CLIPS.asset, "a", check=check):
        first.changes.begin(CLIPS.asset, "a")
        second.changes.begin(CLIPS.asset, "a")
        holders["first"] = False
    assert first.changes.states([CLIPS.asset]).of("a") is None
    with pytest.raises(LeaseLost):
        write_without_lease()
    assert first.changes.states([CLIPS.asset]).of("a") is None
    with second.changes.ending(CLIPS.asset, "a", check=lambda: None):
        pass
    assert first.changes.states([CLIPS.asset]).of("a") is not None


def test_a_table_that_somebody_took_away_is_noticed(tables):
    tables.ask()
    warehouse = tables.warehouse()
    warehouse.store.delete_prefix(warehouse.layout.table_key(CLIPS.asset, "a") + "/")
    if warehouse.store.local_path("x") is not None:
        shutil.rmtree(warehouse.layout.table_uri(CLIPS.asset, "a"))
    assert tables.ask() == ({"a": 0, "b": 1}, ["a"])


def test_a_local_table_that_somebody_put_back_is_noticed(local_root, tmp_path):  # noqa: F811
    tables = Tables(local_root)
    folder = tables.warehouse().layout.table_uri(CLIPS.asset, "a")
    shutil.copytree(folder, tmp_path / "backup")
    tables.write("a", 2)
    assert tables.ask()[0]["a"] == 2
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "backup", folder)
    assert tables.ask() == ({"a": 1, "b": 1}, ["a"])


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b'{"form": 0, "sources": {"a": 1}}'])
def test_an_object_that_cannot_be_read_is_made_anew(tables, data):
    tables.ask()
    tables.warehouse().store.put(SUMMARIES_KEY, data)
    assert tables.ask()[1] == ["a", "b"]
    assert tables.ask()[1] == []


def test_long_reading_is_saved_on_the_way(tables, monkeypatch):
    monkeypatch.setattr(module, "_SAVE_INTERVAL_S", -1.0)
    summaries = Summaries(tables.warehouse(), [CLIPS.asset])
    summaries.values("num", ["a", "b"], tables.read)
    assert json.loads(tables.warehouse().store.get(SUMMARIES_KEY))["sources"].keys() == {"a", "b"}
    assert summaries.values("num", ["a", "b"], tables.read) == {"a": 1, "b": 1}
    assert sorted(tables.reads) == ["a", "b"]


def test_few_values_leave_no_object(tables, monkeypatch):
    monkeypatch.setattr(module, "WORTH_SAVING", 3)
    tables.ask()
    assert not tables.warehouse().store.exists(SUMMARIES_KEY)


# the status of real sources


@pytest.fixture
def project(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "videos" / name).mkdir(parents=True)
    makevideo.make_cfr(tmp_path / "videos" / "a" / "one.mp4", seconds=3, size=(48, 32))
    makevideo.make_cfr(tmp_path / "videos" / "b" / "two.mp4", seconds=5, size=(48, 32))
    write(tmp_path)
    curate(tmp_path, "a", "b")
    return tmp_path


def write(folder, more="", sources="{a: {uri: videos/a}, b: {uri: videos/b}}"):
    (folder / "curation.yaml").write_text(f"sources: {sources}\n{SPLIT}{more}")


def curate(folder, *names):
    config = load_config(folder / "curation.yaml")
    warehouse = Warehouse.of(config)
    warehouse.registry.sync(config)
    for name in names:
        record = warehouse.registry.get(name)
        run = SourceRun(record, resolve_settings(config.processing(), record.settings), warehouse, LocalEngine(workers=0))
        update_raw_videos(run)
        update_clips(run)


def statuses(folder):
    """The status as a new process gives it, which must be what the tables say; it is remembered for the next one."""
    run = CorpusRun(load_config(folder / "curation.yaml"))
    found = source_statuses(run), corpus_status(run)
    run.summaries.save()
    live = CorpusRun(run.config)
    assert found[0] == {name: source_status(live.source_run(name)) for name in live.sources}
    forgotten = CorpusRun(run.config)
    forgotten.summaries.__dict__["_stored"] = {}
    assert found[1] == corpus_status(forgotten)
    return found[0]


def test_the_status_is_what_the_tables_say(project):
    assert statuses(project)["a"]["clips"] == {"outcomes": {"ok": 2}, "pending": 0}

    makevideo.make_cfr(project / "videos" / "a" / "more.mp4", seconds=2, size=(48, 32))
    curate(project, "a")
    assert statuses(project)["a"]["clips"] == {"outcomes": {"ok": 3}, "pending": 0}

    write(project, "clip_scores: {pixels: {motion_fps: 2}}\n")
    assert statuses(project)["a"]["frame_sets"]["pending"] == 2

    write(project, sources="{a: {uri: videos/a}, b: {uri: videos/b, settings: {clips: {splitter: {clip_len_s: 1}}}}}")
    config = load_config(project / "curation.yaml")
    Warehouse.of(config).registry.sync(config)
    assert [statuses(project)[name]["clips"]["pending"] for name in ("a", "b")] == [0, 1]

    shutil.rmtree(project / "warehouse" / "tables" / "clips" / "b.lance")
    assert statuses(project)["b"]["clips"] == {"outcomes": {}, "pending": 1}

    assert delete_source_tables(config, "a")
    assert statuses(project)["a"]["raw_videos"] == {"outcomes": {}, "pending": 0}


KILLED = """
import os, signal, sys
from curation_assets_tests.curation.test_summaries import curate
from curation_assets.storage.tables import VideoTable
from pathlib import Path
commit = VideoTable.commit
def killed(table, rows, *, replace):
    commit(table, rows, replace=replace)
    if table.spec.asset == "clips":
        os.kill(os.getpid(), signal.SIGKILL)
VideoTable.commit = killed
if __name__ == "__main__":
    curate(Path(sys.argv[1]), "a")
"""


def test_a_killed_run_is_seen_and_the_next_one_clears_up(project):
    makevideo.make_cfr(project / "videos" / "a" / "more.mp4", seconds=2, size=(48, 32))
    run = CorpusRun(load_config(project / "curation.yaml"))
    source_statuses(run)
    run.summaries.save()
    (project / "killed.py").write_text(KILLED)
    assert subprocess.run([sys.executable, "killed.py", str(project)], cwd=project, check=False).returncode == -signal.SIGKILL
    assert run.warehouse.changes.states([CLIPS.asset]).of("a") is None
    assert statuses(project)["a"]["clips"]["outcomes"] == {"ok": 3}
    curate(project, "a")  # has nothing to do
    assert run.warehouse.changes.states([CLIPS.asset]).of("a") is not None
    assert statuses(project)["a"]["clips"] == {"outcomes": {"ok": 3}, "pending": 0}


def test_an_unknown_source_is_named(project):
    with pytest.raises(SettingsError, match=r"no source named 'c'; known: a, b"):
        source_statuses(CorpusRun(load_config(project / "curation.yaml")), ["a", "c"])


# the registry


def test_a_large_registry_is_read_from_its_copy_and_every_change_is_seen(root, monkeypatch):  # noqa: F811
    monkeypatch.setattr("curation_assets.curation.sources._WORTH_COPYING", 5)
    monkeypatch.setattr("curation_assets.curation.sources._SETTLED", timedelta(seconds=-60))

    def registry():
        return Warehouse(root.uri, root.options).registry

    records = {name: SourceRecord(name, f"/videos/{name}") for name in sorted(f"cam-{number}" for number in range(8))}
    for record in records.values():
        registry().put(record)
    assert registry().records() == records
    copied = registry()
    monkeypatch.setattr(copied, "_get_if_there", lambda name: pytest.fail(f"{name} was read again"))
    assert copied.records() == records == {record.name: record for record in copied.chosen(list(records))}

    records["cam-3"] = SourceRecord("cam-3", "/elsewhere", settings={"clips": {}})
    registry().put(records["cam-3"])
    registry().remove("cam-4")
    del records["cam-4"]
    records["new"] = SourceRecord("new", "/videos/new")
    registry().put(records["new"])
    assert registry().records() == records
    with pytest.raises(SettingsError, match="no source named 'cam-4'"):
        registry().chosen([*records, "cam-4"])

    store = Warehouse(root.uri, root.options).store
    store.put(REGISTRY_COPY_KEY, b"[")
    assert registry().records() == records
    store.put("sources/new.json", b'{"nome": 1}')
    with pytest.raises(SettingsError, match=r"new\.json is damaged"):
        registry().records()
