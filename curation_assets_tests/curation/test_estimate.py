"""estimate: what `--dry-run` says is near what a run then does, and writes nothing."""

import shutil
import unicodedata
from pathlib import Path

import pytest

from curation_assets.curation.estimate import estimate_run
from curation_assets_tests import makevideo
from curation_assets_tests.curation.project import Project


def test_hours_of_a_mixed_folder(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for number, seconds in enumerate([1, 2, 3, 5, 8]):
        for copy in range(4):
            makevideo.make_cfr(videos / f"{number}-{copy}.mp4", seconds=seconds, seed=number + 7 * copy)
    makevideo.make_webm(videos / "a.webm", seconds=4)
    makevideo.make_avi(videos / "b.avi", seconds=4)
    makevideo.make_text(videos / "c.mp4")
    project = Project(videos, str(tmp_path / "warehouse"))
    estimate = estimate_run(project.source())
    assert not Path(project.warehouse_uri).exists()
    assert estimate.hours * 3600 == pytest.approx(4 * 19 + 8, rel=0.2)
    assert (estimate.num_objects, estimate.num_new, estimate.num_gone, estimate.num_stale) == (23, 23, 0, 0)
    assert estimate.bytes_to_read == sum(path.stat().st_size for path in videos.iterdir())
    assert estimate.seconds > 0
    few = estimate_run(project.source(limit=3))
    assert (few.num_objects, few.num_new) == (23, 3)


def test_counts_after_runs_changes_and_settings(project):
    (project.videos / "empty.mp4").unlink()
    project.run()

    def counts(settings=None, **extra):
        found = estimate_run(project.source(settings, **extra))
        return found.num_objects, found.num_new, found.num_gone, found.num_stale

    assert counts() == (4, 0, 0, 0)
    assert estimate_run(project.source()).as_dict() | {"source": ""} == {
        "source": "", "num_objects": 4, "num_new": 0, "num_gone": 0, "num_stale": 0, "bytes_to_read": 0, "hours": 0, "seconds": 0,
    }  # fmt: skip
    assert counts(retry_failed=True) == (4, 1, 0, 0)
    assert counts({"clip_scores": {"pixels": {"motion_fps": 5}}}) == (4, 0, 0, 3)
    assert counts({"clips": {"splitter": {"clip_len_s": 1}}}) == (4, 0, 0, 3)
    makevideo.make_cfr(project.videos / "new.mp4", seconds=2)
    assert counts() == (5, 1, 0, 0)
    assert estimate_run(project.source()).hours * 3600 == pytest.approx(2, abs=0.2)
    (project.videos / "vfr.mkv").unlink()
    assert counts() == (4, 1, 1, 0)
    project.run()
    assert counts() == (4, 0, 0, 0)


def test_two_unicode_forms_are_not_new_for_ever(project):
    (project.videos / "empty.mp4").unlink()
    for form in ("NFC", "NFD"):
        shutil.copy(project.videos / "cuts.mp4", project.videos / unicodedata.normalize(form, "é.mp4"))
    project.run()
    found = estimate_run(project.source())
    assert (found.num_objects, found.num_new) == (5, 0)
