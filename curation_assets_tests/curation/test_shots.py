"""Shots in the clips stage: what recomputes, what fails, and the stages after it."""

import os
import signal

import pytest

from curation_assets.curation import shot_workers, splitters
from curation_assets.curation.shot_workers import run_task
from curation_assets.engine.local import LocalEngine
from curation_assets.settings import SettingsError
from curation_assets_tests import makevideo

METHODS = [
    pytest.param(name, marks=pytest.mark.skipif(bool(splitters.missing_packages(name)), reason="extra shots"))
    for name in ("transnetv2", "content")
]


def splitter(method, **options):
    return {"clips": {"splitter": {"method": method, "min_clip_len_s": 0.5, **options}}}


@pytest.fixture
def cuts(project):
    """The samples, and the settings of the project without the splitter's."""
    project.settings = {}
    return project


@pytest.mark.parametrize("method", METHODS)
def test_the_whole_path(cuts, method):
    cuts.run(splitter(method))
    rows = cuts.rows("clips", ["outcome", "method", "shot_index", "start_ns", "end_ns"], splitter(method))
    assert {row["method"] for row in rows} == {method}
    assert {(2 * k * 10**9, 2 * (k + 1) * 10**9) for k in range(3)} <= {(row["start_ns"], row["end_ns"]) for row in rows}
    assert len(cuts.rows("frame_sets", ["clip_id"], splitter(method))) == len(rows)
    assert set(cuts.work(splitter(method), stages=("clips", "frame_sets", "embeddings")).values()) == {0}


@pytest.mark.parametrize("method", METHODS)
def test_only_what_decides_the_clips_recomputes(cuts, method):
    assert cuts.work(splitter(method), stages=("raw_videos", "clips"))["clips"] == 3
    how = {"num_cpus": 2, "decoder": "cpu", **({"batch_size": 2, "device": "cpu"} if method == "transnetv2" else {})}
    assert cuts.work(splitter(method, **how), stages=("clips",))["clips"] == 0
    assert cuts.work(splitter(method, threshold=0.6), stages=("clips",))["clips"] == 3
    assert cuts.work(splitter(method, crop_s=0.1, threshold=0.6), stages=("clips",))["clips"] == 3


def crash_on_vfr(task):
    if task.function is not shot_workers.index_task and "vfr" in _uri(task.job):
        os.kill(os.getpid(), signal.SIGKILL)
    return run_task(task)


def _uri(job):
    part = job[0] if isinstance(job, tuple) else job.part
    return part.ref.uri


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_range_that_crashes_costs_its_video(cuts, method, monkeypatch):
    monkeypatch.setattr(splitters, "run_task", crash_on_vfr)
    cuts.engine = LocalEngine(workers=2, timeout_s=60)
    with cuts.engine:
        cuts.run(splitter(method), stages=("raw_videos", "clips"))
    outcomes = {row["key"]: row["outcome"] for row in cuts.failures() if row["table"] == "clips"}
    assert outcomes == {"vfr.mkv": "crashed"}
    assert cuts.rows("clips", ["clip_id"], splitter(method))


@pytest.mark.parametrize("method", METHODS)
def test_demands_that_cannot_be_met_stop_before_any_work(cuts, method):
    cuts.run(stages=("raw_videos",))
    if splitters.nvdec.why_missing() is not None:
        with pytest.raises(SettingsError, match="decoder is nvdec, and FFmpeg finds no CUDA device"):
            cuts.run(splitter(method, decoder="nvdec"), stages=("clips",))
    if method == "transnetv2":
        with pytest.raises(SettingsError, match="there is no file"):
            cuts.run(splitter(method, weights="/nowhere/weights.pth"), stages=("clips",))
    assert cuts.rows("clips", ["clip_id"]) == []


@pytest.mark.parametrize("method", METHODS)
def test_auto_says_that_the_cpu_decodes(cuts, method):
    if splitters.nvdec.why_missing() is None:
        pytest.skip("there is a GPU")
    lines = []
    cuts.run(splitter(method), stages=("raw_videos", "clips"), log=lines.append)
    assert [line for line in lines if "decoder auto" in line] == [
        f"test: decoder auto: {splitters.nvdec.why_missing()}, so frames are decoded on the CPU"
    ]


@pytest.mark.parametrize("method", METHODS)
def test_undecodable_frames_are_a_row(cuts, method):
    import av

    path = makevideo.make_cfr(cuts.videos / "garbage.mp4", seconds=1)
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for pos, size in places:
        data[pos + 5 : pos + size] = b"\xff" * (size - 5)
    path.write_bytes(bytes(data))
    cuts.run(splitter(method), stages=("raw_videos", "clips"))
    assert {row["key"]: row["outcome"] for row in cuts.failures() if row["table"] == "clips"} == {"garbage.mp4": "no_frames"}
