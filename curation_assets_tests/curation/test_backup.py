"""A copy of the warehouse that was made while a run wrote, restored elsewhere: nothing is lost, and nothing that was complete is made again."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from curation_assets.curation.checks import media_exists, referential_integrity
from curation_assets.curation.corpus import CorpusRun
from curation_assets.curation.status import source_status
from curation_assets.curation.warehouse import table_specs
from curation_assets.schemas.transcoded_clips import TRANSCODED_CLIPS
from curation_assets_tests import makevideo
from curation_assets_tests.curation.project import MEDIA_STAGES
from curation_assets_tests.curation.test_maintain import config_of, contents, curate
from curation_assets_tests.storage.conftest import Root, local_root, root, s3_options, s3_root  # noqa: F401 - fixtures

SCRIPT = Path(__file__).parent.parent.parent / "deploy" / "backup.sh"
spawn = multiprocessing.get_context("spawn")


def add_videos_for_ever(config, folder: Path, ready) -> None:
    number = 0
    while True:
        makevideo.make_cuts(folder / f"more{number}.mp4", seconds=2, scenes=1, seed=number)
        curate(config)
        number += 1
        ready.set()


def work(config) -> dict[str, int]:
    source = CorpusRun(config).source_run("mine")
    return {name: stage(source).num_work for name, stage in MEDIA_STAGES.items()}


def written(config) -> dict[tuple[str, str], str]:
    """When each video's rows were written, by table and video."""
    source = CorpusRun(config).source_run("mine")
    columns = ["video_id", "written_at"]
    return {
        (spec.asset, row["video_id"]): row["written_at"]
        for spec in table_specs(source.settings)
        for batch in source.table(spec).scan(columns, rows="headers")
        for row in batch.to_pylist()
    }


def back_up(source: str, target: str, options: dict[str, str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "AWS_DEFAULT_REGION": "us-east-1"}
    if options:
        environment["AWS_ENDPOINT_URL"] = options["aws_endpoint"]
    return subprocess.run([SCRIPT, source, target], env=environment, capture_output=True, text=True, timeout=300)


def test_a_copy_made_while_a_run_writes(root, tmp_path):  # noqa: F811
    if root.options and shutil.which("aws") is None:
        pytest.skip("the aws command is not there")
    videos = tmp_path / "mine"
    videos.mkdir()
    for number in range(2):
        makevideo.make_cuts(videos / f"first{number}.mp4", seconds=2, scenes=1, seed=100 + number)
    config = config_of(root, videos)
    curate(config)
    complete, ready = written(config), spawn.Event()
    writer = spawn.Process(target=add_videos_for_ever, args=(config, videos, ready), daemon=True)
    writer.start()
    try:
        assert ready.wait(60)
        done = back_up(config.warehouse, f"{root.uri}/elsewhere/warehouse", root.options)
        assert done.returncode == 0, done.stderr
        assert writer.is_alive()
    finally:
        writer.kill()
        writer.join()
    assert back_up(config.warehouse, f"{root.uri}/elsewhere/warehouse", root.options).returncode == 2  # not empty
    restored = config_of(Root(f"{root.uri}/elsewhere", root.options), videos)
    source = CorpusRun(restored).source_run("mine")
    assert source_status(source)["raw_videos"]["outcomes"]["ok"] >= 2
    assert media_exists(source, TRANSCODED_CLIPS).passed
    curate(restored)
    after = written(restored)
    assert {key: after[key] for key in complete} == complete  # nothing of the first videos was made again
    assert referential_integrity(CorpusRun(restored).source_run("mine"), TRANSCODED_CLIPS).passed
    curate(config)  # the original, to its end
    assert contents(restored) == contents(config)


def test_a_warehouse_and_its_videos_that_were_moved(local_root, tmp_path):  # noqa: F811
    """A warehouse may be moved as it is. Videos that lie elsewhere are looked at again, and nothing is made anew from them."""
    videos = tmp_path / "mine"
    videos.mkdir()
    makevideo.make_cuts(videos / "cuts.mp4", seconds=2, scenes=2)
    config = config_of(local_root, videos)
    curate(config)
    before = contents(config)
    shutil.move(config.warehouse, tmp_path / "moved" / "warehouse")
    moved = config_of(Root(str(tmp_path / "moved")), videos)
    assert contents(moved) == before
    assert set(work(moved).values()) == {0}
    shutil.copytree(videos, tmp_path / "other disk" / "mine")
    shutil.rmtree(videos)
    elsewhere = config_of(Root(str(tmp_path / "moved")), tmp_path / "other disk" / "mine")
    curate(elsewhere)
    after = contents(elsewhere)
    assert [row.replace("other disk/", "") for row in after.pop("raw_videos")] == before.pop("raw_videos")
    assert after == before
    assert work(elsewhere)["raw_videos"] == 0


def test_it_says_how_it_is_used(tmp_path):
    done = subprocess.run([SCRIPT, tmp_path], capture_output=True, text=True)
    assert (done.returncode, "usage:" in done.stderr) == (2, True)


def test_what_is_no_warehouse_is_not_backed_up(root, tmp_path):  # noqa: F811
    """The folder above the warehouse, say: an empty backup would be found out on the day that it is needed."""
    if root.options and shutil.which("aws") is None:
        pytest.skip("the aws command is not there")
    done = back_up(f"{root.uri}/nothing", f"{root.uri}/backup", root.options)
    assert done.returncode == 2
    assert "is no warehouse" in done.stderr
    assert not any(tmp_path.rglob("media"))


def test_a_file_that_cannot_be_read_fails_a_backup():
    with tempfile.TemporaryDirectory() as name:  # tmp_path is closed to the user that root becomes here, whom no file is closed to
        top = Path(name)
        for key in ("sources/mine.json", "media/previews/clip.webp"):
            (top / "warehouse" / key).parent.mkdir(parents=True)
            (top / "warehouse" / key).write_text("{}")
        (top / "warehouse" / "tables").mkdir()
        (top / "warehouse" / "media" / "previews" / "clip.webp").chmod(0)
        (top / "backup").mkdir()
        for folder in (top, top / "backup"):
            folder.chmod(0o777)
        script = shutil.copy(SCRIPT, top)
        user = 65534 if os.geteuid() == 0 else None
        done = subprocess.run([script, top / "warehouse", top / "backup"], capture_output=True, text=True, user=user, timeout=60)
    assert done.returncode == 1
    assert "clip.webp" in done.stderr
    assert "is not complete" in done.stderr
