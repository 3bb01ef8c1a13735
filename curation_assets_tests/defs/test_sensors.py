"""Sensors: what Dagster gets of a tick, and a real daemon that is killed again and again while uploads come in."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import dagster as dg
import psutil
import pytest
import yaml

import curation_assets
from curation_assets.configuration import load_config
from curation_assets.curation.warehouse import Warehouse
from curation_assets.definitions import build_defs
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets_tests import makevideo
from curation_assets_tests.defs.conftest import put_in_queue


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return makevideo.make_cfr(tmp_path_factory.mktemp("one") / "v.mp4", seconds=1, size=(64, 48))


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder with settings that watch `up`."""
    (tmp_path / "up").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.delenv("CURATION_CONFIG", raising=False)
    write(tmp_path)
    return tmp_path


def write(folder, **settings):
    tree = {
        "warehouse": "warehouse",
        "watch": {"up": {"uri": "up", "quiet_period_s": 0}},
        "engine": {"workers": 0},
        "clips": {"splitter": {"clip_len_s": 1, "min_clip_len_s": 0.2}},
        "transcoded_clips": {"enabled": False},
        "previews": {},
        "embeddings": {"models": []},
    }
    (folder / "curation.yaml").write_text(yaml.safe_dump({**tree, **settings}))


def upload(folder, key, video, *, number=0):
    """Put a video as an uploader does that takes care: under another name first. The bytes behind its end make each its own."""
    path = folder / "up" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_suffix(".tmp")
    shutil.copyfile(video, temp)
    with temp.open("ab") as file:
        file.write(bytes(number))
    temp.rename(path)


def tick(instance, cursor=None):
    defs = build_defs()
    with dg.build_sensor_context(instance=instance, cursor=cursor, definitions=defs) as context:
        return defs.resolve_sensor_def("bucket_upload_sensor")(context)


def test_a_tick_adds_partitions_and_asks_for_runs(site, video):
    for number in range(30):
        upload(site, f"{number:02}/1.mp4", video)
    write(site, sensors={"max_requests_per_tick": 20})
    with dg.DagsterInstance.ephemeral() as instance:
        found = tick(instance)
        assert len(found.run_requests) == 20
        request = found.run_requests[0]
        assert (request.partition_key, request.tags["curation/reason"]) == ("up-00", "new: 1 videos")
        assert request.run_key.startswith("up-00:")
        assert [len(item.partition_keys) for item in found.dynamic_partitions_requests] == [20]
        found = tick(instance, found.cursor)
        assert [request.partition_key for request in found.run_requests] == [f"up-{number}" for number in range(20, 30)]
        found = tick(instance, found.cursor)
        assert not found.run_requests
        assert found.skip_reason.skip_message == "30 objects looked at, nothing to do"


def test_a_source_that_changes_all_the_time_has_one_run_that_waits(site, video):
    """Files come one by one, and runs are slower: what has not begun will see them all."""
    job = build_defs().resolve_job_def("curate_source")
    with dg.DagsterInstance.ephemeral() as instance:
        cursor, runs = None, []
        for number in range(4):
            upload(site, f"cam/{number}.mp4", video, number=number)
            found = tick(instance, cursor)
            before, cursor = cursor, found.cursor
            for request in found.run_requests or []:
                created = instance.create_run_for_job(job, tags={"dagster/partition": request.partition_key})
                assert tick(instance, before).run_requests  # not in the queue yet: a tick that is done again asks again
                instance.delete_run(created.run_id)
                runs.append(put_in_queue(instance, job.name, request.partition_key))
        assert len(runs) == 1
        assert found.skip_reason.skip_message == "1 sources changed for which a run waits already"
        instance.report_run_canceled(runs[0])
        instance.create_run_for_job(job, tags=runs[0].tags, status=dg.DagsterRunStatus.STARTED)  # it may have listed already
        upload(site, "cam/4.mp4", video)
        assert [request.partition_key for request in tick(instance, cursor).run_requests] == ["up-cam"]


def test_what_is_wrong_is_a_skip_reason(site, video):
    upload(site, "a/1.mp4", video)
    with dg.DagsterInstance.ephemeral() as instance:
        cursor = tick(instance).cursor
        (site / "up").rename(site / "elsewhere")
        found = tick(instance, cursor)
        assert "watch up: " in found.skip_reason.skip_message
        assert "that the disk is mounted" in found.skip_reason.skip_message
        (site / "elsewhere").rename(site / "up")
        found = tick(instance, found.cursor)
        assert found.skip_reason.skip_message == "1 objects looked at, nothing to do"
        shutil.rmtree(site / "warehouse")
        (site / "warehouse").write_text("a file")
        skipped = tick(instance, found.cursor)  # without a cursor: the one before stays
        assert isinstance(skipped, dg.SkipReason)
        assert "cannot be used" in skipped.skip_message


def test_it_runs_by_itself_when_something_is_watched(site):
    def status():
        return build_defs().resolve_sensor_def("bucket_upload_sensor").default_status

    assert status() is dg.DefaultSensorStatus.RUNNING
    write(site, watch={})
    assert status() is dg.DefaultSensorStatus.STOPPED
    with dg.DagsterInstance.ephemeral() as instance:
        assert "nothing is watched" in tick(instance).skip_message


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_upload_is_curated_once_though_the_daemon_is_killed(site, video, monkeypatch):
    """dagster-daemon with runs of its own is killed at odd moments; in the end every video has its rows, and each version was asked for once."""
    write(site, sensors={"interval_s": 5, "max_requests_per_tick": 2}, clip_scores={"scorers": []}, frame_sets={"sets": {}})
    home = site / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\nconcurrency: {runs: {max_concurrent_runs: 3}}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    keys = [f"{name}/{number}.mp4" for name in "abc" for number in range(2)]
    for number, key in enumerate(keys):
        upload(site, key, video, number=number)
    with dg.DagsterInstance.get() as instance, ExitStack() as daemons:
        for num_runs, pause_s in ((0, 0.3), (2, 0.0)):
            daemon = daemons.enter_context(Daemon(site))
            wait_for(lambda least=num_runs: len(instance.get_runs()) > least, 150)
            time.sleep(pause_s)
            daemon.kill()
        upload(site, "d/0.mp4", video, number=50)
        upload(site, "a/2.mp4", video, number=51)
        keys += ["d/0.mp4", "a/2.mp4"]
        daemons.enter_context(Daemon(site))
        wait_for(lambda: clips_of(site) == sorted(keys), 300)
        requested = [run.tags["dagster/run_key"] for run in instance.get_runs()]
    assert len({key.rpartition(":")[0] for key in requested}) == len(requested)


def clips_of(site):
    """List the keys of the videos that have their clips, each as often as it has rows."""
    warehouse = Warehouse.of(load_config(site / "curation.yaml"))
    found = []
    for source in warehouse.registry.names():
        videos = {row["video_id"]: row["key"] for row in rows(warehouse, RAW_VIDEOS, source, ["video_id", "key"])}
        folder = warehouse.registry.get(source).uri.rpartition("/")[2]
        found += [f"{folder}/{videos[row['video_id']]}" for row in rows(warehouse, CLIPS, source, ["video_id"])]
    return sorted(found)


def rows(warehouse, spec, source, columns):
    table = warehouse.table(spec, source)
    return [row for batch in table.scan(columns) for row in batch.to_pylist()]


class Daemon:
    """A dagster-daemon. Its code server and the runs outlive it when it is killed; they end with the `with` block."""

    def __init__(self, site):
        root = str(Path(curation_assets.__file__).parent.parent)
        environment = {**os.environ, "PYTHONPATH": root, "DAGSTER_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-m", "dagster._daemon", "run", "-m", "curation_assets.definitions", "-a", "defs"]
        with (site / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=site, env=environment, stdout=log, stderr=log)
        self.children = []

    def kill(self):
        """Kill it, and nothing else."""
        self.children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.kill()
        for child in self.children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(self.children, timeout=10)


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing came in time"
        time.sleep(0.5)
