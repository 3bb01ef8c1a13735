"""raw_videos: odd entries of a folder, files that change under the reader, and limits."""

import os
import shutil
import socket
import unicodedata
from pathlib import Path

import pytest

from curation_assets.curation import workers
from curation_assets.curation.raw_videos import is_video_name
from curation_assets.curation.warehouse import table_specs
from curation_assets.settings import VIDEO_EXTENSIONS
from curation_assets_tests import makevideo
from curation_assets_tests.curation.project import WITH_MEDIA, Project
from curation_assets_tests.storage.conftest import public_folder, unprivileged  # noqa: F401 - a fixture

SHORT = {"clips": {"splitter": {"clip_len_s": 1, "min_clip_len_s": 0}}}


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return makevideo.make_cfr(tmp_path_factory.mktemp("one") / "v.mp4", seconds=1)


@pytest.fixture
def empty(tmp_path):
    (tmp_path / "videos").mkdir()
    return Project(tmp_path / "videos", str(tmp_path / "warehouse"), SHORT)


def outcomes(project):
    return {row["key"]: row["outcome"] for row in project.rows("raw_videos", ["key", "outcome"])}


def test_names():
    for name in ("a.mp4", "A.MP4", "x/y.MkV", "a.mp4.part", "a.MP4.crdownload", ".mp4"):
        assert is_video_name(name, VIDEO_EXTENSIONS), name
    for name in ("a.mp4.txt", "mp4", "a.part", "a.mp4/", "a.mp4.part.jpg"):
        assert not is_video_name(name, VIDEO_EXTENSIONS), name


def test_odd_entries_of_a_folder(empty, video, tmp_path, monkeypatch):
    root = empty.videos
    for name in ("UPPER.MP4", ".hidden.mp4", 'it\'s 100% "#?".mp4', "new\nline.mp4", "tab\t.mp4"):
        shutil.copy(video, root / name)
    odd = Path(os.fsdecode(os.fsencode(root) + b"/latin\xe9/caf\xe9.mp4"))
    odd.parent.mkdir()
    shutil.copy(video, odd)
    (root / "link.mp4").symlink_to(video)
    (root / "dangling.mp4").symlink_to(tmp_path / "nowhere")
    (root / "folder.mp4").mkdir()
    shutil.copy(video, root / "folder.mp4/in it.mp4")
    os.mkfifo(root / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(root)  # names of sockets must be short
        listener.bind("socket.mp4")
        (root / "up.mp4.part").write_bytes(b"abc")
        (root / "empty.mp4").write_bytes(b"")
        (root / "notes.txt").write_bytes(b"abc")
        empty.run()
    fine = ["UPPER.MP4", ".hidden.mp4", 'it\'s 100% "#?".mp4', "new\nline.mp4", "tab\t.mp4", "latin\uefe9/caf\uefe9.mp4", "link.mp4"]
    assert outcomes(empty) == {
        **dict.fromkeys([*fine, "folder.mp4/in it.mp4"], "ok"),
        "dangling.mp4": "vanished", "up.mp4.part": "partial_upload", "empty.mp4": "empty_object",
    }  # fmt: skip
    assert {row["outcome"] for row in empty.rows("frame_sets", ["outcome"])} == {"ok"}
    assert len(empty.rows("frame_sets", ["outcome"])) == len(fine) + 1
    # waiting ones become videos when they are ready
    (root / "up.mp4.part").unlink()
    for name in ("up.mp4", "empty.mp4"):
        shutil.copy(video, root / name)
    (root / "dangling.mp4").unlink()
    empty.run()
    assert set(outcomes(empty).values()) == {"ok"}


def test_a_folder_that_holds_the_warehouse(empty, video):
    """`run --source mine=.` beside a curation.yaml: the clips that are made are no videos of the source."""
    shutil.copy(video, empty.videos / "a.mp4")
    project = Project(empty.videos, str(empty.videos / "warehouse"), SHORT, config=WITH_MEDIA)
    project.run()
    assert list(empty.videos.rglob("warehouse/media/**/*.mp4"))
    assert project.run()["raw_videos"].num_unchanged == 1
    assert outcomes(project) == {"a.mp4": "ok"}


def test_two_unicode_forms_of_one_name_are_one_row_and_said(empty, video):
    for form in ("NFC", "NFD"):
        shutil.copy(video, empty.videos / unicodedata.normalize(form, "café.mp4"))
    lines = []
    assert empty.run(log=lines.append)["raw_videos"].num_work == 1
    assert len(outcomes(empty)) == 1
    assert "another Unicode form" in lines[0]
    assert empty.run()["raw_videos"].num_work == 0


def test_an_unreadable_file_is_a_row(public_folder, video, tmp_path):  # noqa: F811
    for name in ("a.mp4", "closed.mp4"):
        shutil.copy(video, public_folder / name)
    (public_folder / "closed.mp4").chmod(0)
    (public_folder / "wh").mkdir(mode=0o777)
    (public_folder / "wh").chmod(0o777)
    project = Project(public_folder, str(public_folder / "wh"), SHORT)
    with unprivileged():
        project.run()
        assert outcomes(project) == {"a.mp4": "ok", "closed.mp4": "forbidden"}
    assert [(item["key"], item["outcome"]) for item in project.failures()] == [("closed.mp4", "forbidden")]
    (public_folder / "closed.mp4").chmod(0o644)
    project.run(retry_failed=True)
    assert outcomes(project) == {"a.mp4": "ok", "closed.mp4": "ok"}


@pytest.mark.parametrize(
    ("harm", "outcome"),
    [
        (lambda path: path.unlink(), "vanished"),
        (lambda path: path.write_bytes(path.read_bytes() + b"more"), "changed"),
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "changed"),
        (lambda path: (path.unlink(), path.mkdir()), "vanished"),
    ],
)
@pytest.mark.parametrize("step", ["probe_header", "index_packets", "sample_frames"])
def test_files_that_change_while_they_are_read(empty, video, monkeypatch, harm, outcome, step):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        shutil.copy(video, empty.videos / name)
    work = getattr(workers, step)

    def disturbed(source, **arguments):
        result = work(source, **arguments)
        result = list(result) if step == "sample_frames" else result
        if Path(source).name == "b.mp4":
            harm(Path(source))
        return result

    with monkeypatch.context() as patch:
        patch.setattr(workers, step, disturbed)
        empty.run()
    asset = {"probe_header": "raw_videos", "index_packets": "clips", "sample_frames": "frame_sets"}[step]
    source = empty.source()
    (spec,) = (spec for spec in table_specs(source.settings) if spec.asset == asset)
    headers = [header.outcome for header in source.headers(spec).values()]
    assert sorted(headers) == sorted(["ok", "ok", outcome])
    if not (empty.videos / "b.mp4").is_file():
        shutil.rmtree(empty.videos / "b.mp4", ignore_errors=True)
    shutil.copy(video, empty.videos / "b.mp4")
    empty.run()
    assert set(outcomes(empty).values()) == {"ok"}
    assert [header.outcome for header in source.headers(spec).values()] == ["ok"] * 3


@pytest.mark.parametrize(
    ("limits", "outcome"),
    [
        ({"min_side_px": 65}, "too_small"), ({"max_side_px": 95}, "too_large"), ({"max_size_bytes": 100}, "too_large"), ({"min_aspect": 1.6}, "bad_aspect"),
        ({"max_aspect": 1.4}, "bad_aspect"), ({"min_duration_s": 1.5}, "too_short"), ({"max_duration_s": 0.5}, "too_long"),
        ({"min_side_px": 64, "max_side_px": 96, "min_aspect": 1.5, "max_aspect": 1.5, "min_duration_s": 0.9, "max_duration_s": 1.1}, "ok"),
    ],
)  # fmt: skip
def test_limits(empty, video, limits, outcome):
    shutil.copy(video, empty.videos / "v.mp4")
    empty.run({"raw_videos": {"limits": limits}}, stages=("raw_videos",))
    assert outcomes(empty) == {"v.mp4": outcome}


def test_a_limit_does_not_starve_behind_what_is_waiting(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("0.mp4", "1.mp4"):
        (folder / name).touch()
    for name in ("2.mp4", "3.mp4"):
        makevideo.make_cuts(folder / name, seconds=1, scenes=1)
    project = Project(folder, str(tmp_path / "warehouse"), {"clips": {"splitter": {"clip_len_s": 1, "min_clip_len_s": 0.5}}})
    for _ in range(4):
        project.run(limit=1)
    assert project.status()["raw_videos"]["outcomes"] == {"empty_object": 2, "ok": 2}
    assert project.status()["clips"]["outcomes"] == {"ok": 2}
