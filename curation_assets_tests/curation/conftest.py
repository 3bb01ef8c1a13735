"""A project with a few small videos, made once and copied per test."""

import shutil

import pytest

from curation_assets_tests import makevideo
from curation_assets_tests.curation.project import Project


@pytest.fixture(scope="session")
def sample_videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    makevideo.make_cuts(folder / "cuts.mp4", seconds=2, scenes=3)
    makevideo.make_vfr(folder / "vfr.mkv", seconds=4)
    makevideo.make_webm(folder / "web.webm", seconds=3)
    makevideo.make_text(folder / "text.mp4")
    makevideo.make_zero_bytes(folder / "empty.mp4")
    return folder


@pytest.fixture
def project(tmp_path, sample_videos):
    shutil.copytree(sample_videos, tmp_path / "videos")
    return Project(tmp_path / "videos", str(tmp_path / "warehouse"), {"clips": {"splitter": {"clip_len_s": 2, "min_clip_len_s": 0.5}}})
