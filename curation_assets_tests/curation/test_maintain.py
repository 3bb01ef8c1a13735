"""Maintain: what goes, what stays, and that nothing of the data changes."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from curation_assets.configuration import merge
from curation_assets.curation.corpus import CorpusRun
from curation_assets.curation.curated_clips import update_curated_clips
from curation_assets.curation.maintain import MaintainOptions, maintain
from curation_assets.curation.query import connect_config
from curation_assets.curation.warehouse import Warehouse, table_specs
from curation_assets.definitions import build_defs
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.transcoded_clips import TRANSCODED_CLIPS
from curation_assets.settings import Config, SettingsError
from curation_assets.storage.leases import Lease
from curation_assets.storage.objects_local import TEMP_PREFIX
from curation_assets_tests import makevideo
from curation_assets_tests.curation.project import MEDIA_STAGES
from curation_assets_tests.storage.conftest import Root, local_root, root, s3_options, s3_root  # noqa: F401 - fixtures

spawn = multiprocessing.get_context("spawn")
DAY = MaintainOptions(timedelta(days=1))
ALL_OF_IT = MaintainOptions(timedelta(0), is_alone=True)


def config_of(root: Root, *videos: Path, **more) -> Config:  # noqa: F811
    tree = {
        "warehouse": f"{root.uri}/warehouse",
        "storage_options": root.options,
        "sources": {path.name: {"uri": str(path)} for path in videos},
        "clips": {"splitter": {"clip_len_s": 2, "min_clip_len_s": 0.5}},
        "engine": {"workers": 0},
    }
    return Config(**merge(tree, more))


def curate(config: Config, stages=MEDIA_STAGES) -> None:
    Warehouse.of(config).registry.sync(config)
    run = CorpusRun(config)
    for name in run.sources:
        source = run.source_run(name)
        for stage in stages:
            MEDIA_STAGES[stage](source)
    if stages is MEDIA_STAGES:
        update_curated_clips(run, tables=table_specs(config), model=None)


def keys(config: Config) -> dict[str, int]:
    """Every object, but for the leases, which each run writes."""
    found = {info.key: info.size_bytes for page in Warehouse.of(config).store.list_pages() for info in page}
    return {key: size for key, size in found.items() if not key.startswith("leases/")}


def contents(config: Config) -> dict[str, list]:
    """Every row that the views show, URIs of media below the warehouse, and the keys of all media."""
    place = config.warehouse + "/"
    with connect_config(config) as connection:
        found = {
            view: sorted(
                repr([value.removeprefix(place) if isinstance(value, str) else value for value in row])
                for row in connection.execute(f"SELECT * FROM {view}").fetchall()
            )
            for view in connection.views
        }
    return {**found, "media": sorted(key for key in keys(config) if key.startswith("media/"))}


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    makevideo.make_cuts(folder / "cuts.mp4", seconds=2, scenes=2)
    return folder


def test_it_frees_what_nothing_needs_and_changes_nothing(root, videos, tmp_path):  # noqa: F811
    config = config_of(root, videos)
    curate(config)
    for number in range(2):
        makevideo.make_cuts(videos / f"more{number}.mp4", seconds=2, scenes=1, seed=number)
        curate(config)
    # a source that was removed, a model that was taken out, a preview that was renamed
    shutil.copytree(videos, tmp_path / "gone")
    both = config_of(root, videos, tmp_path / "gone")
    curate(both, ["raw_videos", "clips"])
    Warehouse.of(config).registry.remove("gone")
    config = config_of(root, videos, embeddings={"models": []}, previews={"small": {"height_px": 90}})
    curate(config, ["raw_videos", "clips", "frame_sets", "transcoded_clips"])
    store = Warehouse.of(config).store
    store.put("media/transcoded_clips/mine/nobody-12345678.mp4", b"x" * 1000)
    before = contents(config)
    young = maintain(config, DAY).as_dict()
    assert (young["bytes_freed"], young["versions_dropped"], young["files_removed"]) == (0, 0, 0)
    assert young["fragments_merged"] > 0

    before_keys = keys(config)
    promised = maintain(config, MaintainOptions(timedelta(0), is_dry_run=True, is_alone=True))
    assert keys(config) == before_keys
    done = maintain(config, ALL_OF_IT)
    assert {table.table for table in done.of_state("left_over")} == {
        "tables/raw_videos/gone.lance",
        "tables/clips/gone.lance",
        "tables/embeddings/fingerprint/mine.lance",
        "tables/previews/240p/mine.lance",
    }
    assert not done.of_state("busy") + done.of_state("failed")
    (transcoded,) = (table for table in done.tables if table.table == "tables/transcoded_clips/mine.lance")
    assert (transcoded.files_removed, transcoded.versions_dropped > 3) == (1, True)
    assert promised.as_dict() == {**done.as_dict(), "is_dry_run": True}
    del before["media"][before["media"].index("media/transcoded_clips/mine/nobody-12345678.mp4")]
    assert contents(config) == before
    run = CorpusRun(config).source_run("mine")
    for spec in table_specs(run.settings):
        snapshot = run.table(spec).snapshot()
        assert snapshot is None or (len(snapshot.dataset.versions()), len(snapshot.dataset.get_fragments())) == (1, 1), spec.asset
    again = maintain(config, ALL_OF_IT).as_dict()
    assert {again[name] for name in ("bytes_freed", "fragments_merged", "versions_dropped", "files_removed", "temporary_removed")} == {0}

    left = maintain(config, MaintainOptions(timedelta(days=1), remove_left_over=True))
    assert len(left.of_state("removed")) == 4
    assert left.as_dict()["bytes_freed"] > 1000
    assert not [key for key in keys(config) if "gone.lance" in key or key.startswith(("tables/embeddings", "media/previews/240p"))]
    before["media"] = [key for key in before["media"] if not key.startswith("media/previews/240p/")]
    assert contents(config)["clips"] == before["clips"]
    assert contents(config)["media"] == before["media"]


def test_a_table_that_a_run_is_writing_is_left(root, videos):  # noqa: F811
    config = config_of(root, videos)
    curate(config, ["raw_videos", "clips"])
    warehouse, lines = Warehouse.of(config), []
    with Lease(warehouse.store, warehouse.layout.lease_prefix("clips", "mine"), run_id="a run") as lease:
        report = maintain(config, ALL_OF_IT, log=lines.append)
        lease.check()
    assert [table.table for table in report.of_state("busy")] == ["tables/clips/mine.lance"]
    assert "run a run" in report.of_state("busy")[0].detail
    assert any("left for the next time" in line for line in lines)
    assert report.of_state("done")[0].versions_dropped == 1
    assert maintain(config, ALL_OF_IT).of_state("busy") == []


def test_a_damaged_table_is_named_and_the_others_get_theirs(local_root, videos):  # noqa: F811
    config = config_of(local_root, videos)
    curate(config, ["raw_videos", "clips", "frame_sets"])
    for manifest in (Path(config.warehouse) / "tables/raw_videos/mine.lance/_versions").glob("*.manifest"):
        manifest.write_bytes(b"")
    report = maintain(config, ALL_OF_IT)
    assert [table.table for table in report.of_state("failed")] == ["tables/raw_videos/mine.lance"]
    assert "raw_videos" in report.of_state("failed")[0].detail
    assert len(report.of_state("done")) == 3


def test_leases_of_runs_that_are_gone(local_root, videos):  # noqa: F811
    config = config_of(local_root, videos)
    curate(config, ["raw_videos", "clips"])
    for path in (Path(config.warehouse) / "leases").rglob("*.json"):
        os.utime(path, (time.time() - 2 * 86400,) * 2)
    with Lease(Warehouse.of(config).store, "leases/clips/mine/", run_id="a run"):
        assert maintain(config, MaintainOptions(timedelta(days=1), is_dry_run=True)).leases_removed == 1
        maintain(config, DAY)
        assert maintain(config, DAY).leases_removed == 0
        assert list((Path(config.warehouse) / "leases/clips/mine").glob("*.json"))


def test_files_of_killed_writes_go_wherever_they_are(local_root, videos):  # noqa: F811
    config = config_of(local_root, videos)
    curate(config, ["raw_videos"])
    left = []
    for folder in ("sources", "tables/raw_videos", "media", "leases", "changes/done", "watch/uploads", "queues/main/pending"):
        path = Path(config.warehouse) / folder / f"{TEMP_PREFIX}killed"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (0, 0))
        left.append(path)
    assert maintain(config, MaintainOptions(timedelta(days=1))).temporary_removed == len(left)
    assert not any(path.exists() for path in left)


def test_a_source_that_was_deleted_with_its_tables_leaves_nothing_over(root, videos):  # noqa: F811
    config = config_of(root, videos)
    curate(config, ["raw_videos", "clips"])
    store = Warehouse.of(config).store
    for key in [info.key for page in store.list_pages("tables/clips/") for info in page]:
        store.delete(key)
    store.delete("sources/mine.json")
    report = maintain(config.model_copy(update={"sources": {}}), DAY)
    assert [table.table for table in report.of_state("left_over")] == ["tables/raw_videos/mine.lance"]


def test_what_cannot_be_asked_for(local_root, videos):  # noqa: F811
    config = config_of(local_root, videos)
    with pytest.raises(SettingsError, match=r"at least --older-than 0\.25"):
        MaintainOptions(timedelta(hours=5))
    with pytest.raises(SettingsError, match="leave --source out"):
        MaintainOptions(timedelta(days=1), remove_left_over=True, sources=("mine",))
    with pytest.raises(SettingsError, match="no source named 'other'; known: mine"):
        maintain(config, MaintainOptions(timedelta(days=1), sources=("other",)))


def test_one_source_alone(local_root, videos, tmp_path):  # noqa: F811
    shutil.copytree(videos, tmp_path / "other")
    config = config_of(local_root, videos, tmp_path / "other")
    curate(config, ["raw_videos", "clips"])
    report = maintain(config, MaintainOptions(timedelta(0), is_alone=True, sources=("other",)))
    assert {table.table for table in report.tables} == {"tables/raw_videos/other.lance", "tables/clips/other.lance"}


def maintain_for_ever(config: Config, options: MaintainOptions, ready) -> None:
    while True:
        maintain(config, options)
        ready.set()


@contextmanager
def maintaining(config: Config, options: MaintainOptions):
    """Maintain again and again in another process, which is killed in the end."""
    ready = spawn.Event()
    process = spawn.Process(target=maintain_for_ever, args=(config, options, ready), daemon=True)
    process.start()
    try:
        assert ready.wait(60)
        yield
        assert process.is_alive()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()


def test_beside_runs_and_killed_at_any_moment(local_root, videos):  # noqa: F811
    """The next run goes on at once, although the dead one held leases; what is there in the end is what there would be without it."""
    config, delays = config_of(local_root, videos), random.Random(2)
    curate(config)
    for number in range(2):
        makevideo.make_cuts(videos / f"more{number}.mp4", seconds=2, scenes=1, seed=number)
        with maintaining(config, DAY):
            curate(config)  # at the same time
        with maintaining(config, ALL_OF_IT):
            time.sleep(delays.uniform(0, 0.3))
    makevideo.make_cuts(videos / "last.mp4", seconds=2, scenes=1, seed=9)
    curate(config)
    assert not maintain(config, ALL_OF_IT).of_state("busy")
    undisturbed = config_of(Root(f"{local_root.uri}/second"), videos)
    curate(undisturbed)
    found, expected = contents(config), contents(undisturbed)
    assert found["media"] == expected["media"]
    for view in ("raw_videos", "clips", "frame_sets", "clip_scores", "embeddings_fingerprint", "transcoded_clips", "curated_clips"):
        assert found[view] == expected[view], view


def test_the_job_and_its_schedule(tmp_path, videos, monkeypatch):
    import yaml

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    tree = {"warehouse": "warehouse", "sources": {"mine": {"uri": str(videos)}}, "maintenance": {"older_than_days": 3}}
    (tmp_path / "curation.yaml").write_text(yaml.safe_dump(tree))
    config = config_of(Root(str(tmp_path)), videos)
    curate(config, ["raw_videos", "clips"])
    shutil.copytree(tmp_path / "warehouse/tables/clips/mine.lance", tmp_path / "warehouse/tables/clips/left.lance")
    definitions = build_defs()
    schedule = definitions.resolve_schedule_def("weekly_maintenance_schedule")
    assert (schedule.default_status, schedule.job_name) == (dg.DefaultScheduleStatus.STOPPED, "maintain_warehouse")
    job = definitions.resolve_job_def("maintain_warehouse")
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance)
        assert result.success
        (output,) = (event for event in result.all_events if event.event_type == dg.DagsterEventType.STEP_OUTPUT)
        metadata = {name: value.value for name, value in output.event_specific_data.metadata.items()}
        assert (metadata["left_over"], metadata["versions_dropped"], metadata["failed"]) == (1, 0, 0)
        removing = {"ops": {"maintain_warehouse_op": {"config": {"remove_left_over": True}}}}
        assert job.execute_in_process(instance=instance, run_config=removing).success
    assert not list((tmp_path / "warehouse/tables/clips/left.lance").rglob("*.lance"))
    run = CorpusRun(config).source_run("mine")
    assert run.table(CLIPS).num_rows() == 2
    assert run.table(TRANSCODED_CLIPS).snapshot() is None


def test_the_command(tmp_path, videos):
    (tmp_path / "curation.yaml").write_text(
        f"warehouse: ./warehouse\nsources: {{mine: {{uri: {videos}}}}}\nmaintenance: {{older_than_days: 30}}\n"
    )
    curate(config_of(Root(str(tmp_path)), videos), ["raw_videos", "clips"])
    orphan = tmp_path / "warehouse/media/transcoded_clips/mine/nobody-12345678.mp4"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"x" * 2_000_000)

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from curation_assets.cli import main; main()", "maintain", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    dry = call("--dry-run", "--alone", "--older-than", "0", "--json")
    assert dry.returncode == 0, dry.stderr
    document = json.loads(dry.stdout)
    assert (dry.returncode, document["is_dry_run"], document["files_removed"], document["versions_dropped"]) == (0, True, 1, 2)
    assert orphan.exists()
    refused = call("--older-than", "0.1")
    assert (refused.returncode, "--alone" in refused.stderr) == (2, True)
    done = call("--alone", "--older-than", "0")
    assert done.returncode == 0, done.stderr
    assert re.match(r"freed 2\.\d MB in \d tables: 2 old versions, 1 files that nothing names", done.stdout), done.stdout
    assert not orphan.exists()
