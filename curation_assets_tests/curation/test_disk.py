"""A full disk and a warehouse that may not be written: one clear error, tables whole, and the next run ends as an undisturbed one."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from curation_assets.storage.errors import StoreError
from curation_assets_tests import makevideo
from curation_assets_tests.curation.project import Project
from curation_assets_tests.storage.conftest import file_size_limit, public_folder, unprivileged  # noqa: F401 - fixtures


@pytest.mark.parametrize("limit_bytes", [300, 3_000, 12_000, 60_000])
def test_a_full_disk_in_every_stage(project, tmp_path, file_size_limit, limit_bytes):  # noqa: F811
    whole = Project(project.videos, str(tmp_path / "undisturbed"), project.settings)
    whole.run()
    with file_size_limit(limit_bytes), pytest.raises(StoreError) as caught:
        project.run()
    assert "\n" not in str(caught.value)
    assert any(word in str(caught.value) for word in ("room", "space", "File too large"))
    project.status()  # readable
    project.run()
    assert project.versions() == whole.versions()
    assert project.status() == whole.status()


def test_a_warehouse_that_may_not_be_written(project, public_folder):  # noqa: F811
    shutil.copytree(project.videos, public_folder / "videos")
    (public_folder / "wh").mkdir(mode=0o555)
    closed = Project(public_folder / "videos", str(public_folder / "wh"), project.settings)
    with unprivileged(), pytest.raises(StoreError, match=r"[Pp]ermission denied"):
        closed.run()
    assert os.listdir(public_folder / "wh") == []


COMMANDS = """
import json, resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import curation_assets.defs.assets.clips as asset
from curation_assets import cli

update_clips = asset.update_clips

def small_disk(run, *rest):
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        return update_clips(run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

for is_limited, words in json.loads(sys.argv[1]):
    asset.update_clips = small_disk if is_limited else update_clips
    sys.argv = ["curation-assets", *words]
    try:
        cli.main()
    except SystemExit as error:
        print("exit code", error.code or 0, file=sys.stderr)
"""


def test_the_command_line_says_it_once_and_ends_with_3(project, tmp_path):
    """A full disk while clips are made; the same run with room; a manifest that is none beside a good source."""
    (tmp_path / "list.csv").write_text("name\nx.mp4\n")
    makevideo.make_cfr(tmp_path / "videos/new.mp4", seconds=2)
    inline = ["--set", "engine.workers=0", "--json"]
    good, bad = ["--source", f"test={project.videos}"], ["--source", "bad=./list.csv"]
    commands = [(True, ["run", *good, *inline]), (False, ["run", *good, *inline]), (False, ["run", *bad, *good, *inline])]
    environment = {name: value for name, value in os.environ.items() if name not in ("DAGSTER_HOME", "CURATION_CONFIG")}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    told = done.stderr
    assert "Traceback" not in told
    full, with_room, malformed, _ = re.split(r"(?<=exit code \d)\n", told)
    errors = [[line for line in text.splitlines() if line.startswith(("error: ", "exit code"))] for text in (full, with_room, malformed)]
    assert errors[0][-1] == "exit code 3"
    assert len(errors[0]) == 2, full
    assert "Make room" in errors[0][0]
    assert errors[1] == ["exit code 0"], with_room
    assert errors[2][-1] == "exit code 3", malformed
    assert "entry 1 has no key" in errors[2][0]
    documents = [json.JSONDecoder().raw_decode("{" + text)[0] for text in done.stdout.split("\n{")[1:]]
    tables = {item["source"]: item["tables"] for item in documents[-1]["sources"]}
    assert tables["test"]["clips"]["pending"] == 0
    assert tables["test"]["clips"]["outcomes"]["ok"] > 0
