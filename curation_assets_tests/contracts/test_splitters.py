"""What every splitter must do, through the path that a run takes: one suite for `fixed_stride`, `transnetv2` and `content`."""

from __future__ import annotations

import importlib.util
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from curation_assets.curation import splitters
from curation_assets.curation.pieces import Piece, Result
from curation_assets.curation.reading import ObjectRef
from curation_assets.curation.splitters import build_splitter, missing_packages
from curation_assets.curation.workers import SplitJob, split_video
from curation_assets.engine.local import Done, LocalEngine
from curation_assets.media.packets import PacketIndex, index_packets
from curation_assets.schemas.outcomes import Outcome
from curation_assets.settings import ClipsSettings
from curation_assets.storage.layout import clip_id
from curation_assets.storage.objects import open_store
from curation_assets_tests import makevideo

METHODS = ["fixed_stride", "transnetv2", "content"]
SHOT_METHODS = METHODS[1:]
VIDEO_ID = "6a1c1d8e-4c1f-5a52-9b35-1d9f3c4b7f11"
NS = 10**9


def job(path: Path, splitter: dict, *, regions_ns=None, video_id=VIDEO_ID, **clips) -> SplitJob:
    info = open_store("/", options={}).head(str(path).lstrip("/"))
    settings = ClipsSettings.model_validate({"splitter": {"min_clip_len_s": 0, **splitter}, **clips})
    return SplitJob(video_id, ObjectRef(str(path), info.etag), settings, regions_ns)


def split_all(jobs: list[SplitJob], engine: LocalEngine | None = None) -> dict[str, Result]:
    engine = engine or LocalEngine(workers=0)
    splitter = build_splitter(jobs[0].settings.splitter, engine=engine)
    results = {}
    for result in splitter.run_pieces(Piece(item.video_id, split_video, item) for item in jobs):
        assert result.item.video_id not in results
        results[result.item.video_id] = result.value if isinstance(result, Done) else Result(outcome=result.outcome, detail=result.detail)
    return results


def split(path: Path, splitter: dict, **options) -> Result:
    return split_all([job(path, splitter, **options)])[VIDEO_ID]


def spans(result: Result) -> list[tuple[int, int]]:
    return [(row["start_ns"], row["end_ns"]) for row in result.rows["clips"]]


@pytest.fixture(params=METHODS)
def method(request):
    if missing := missing_packages(request.param):
        pytest.skip(f"needs {missing}")
    return {"method": request.param}


@pytest.fixture(params=SHOT_METHODS)
def shots(request):
    if missing := missing_packages(request.param):
        pytest.skip(f"needs {missing}")
    return {"method": request.param}


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """Four scenes of 2 s at 25 frames per second."""
    return makevideo.make_cuts(tmp_path_factory.mktemp("splitters") / "scenes.mp4", seconds=2, scenes=4, size=(160, 96))


SOURCES = [
    "cuts",
    "cfr",
    "vfr",
    "vfr_mkv",
    "film_mkv",
    "late_start",
    "edit_list",
    "open_gop",
    "avi",
    "mpeg_ps",
    "gif",
    "one_frame",
    "rotated",
    "live_mkv",
]


@pytest.mark.parametrize("name", SOURCES)
def test_spans_tile_the_video_on_real_times(method, name, made):
    path = made(name)
    index = index_packets(str(path))
    result = split(path, method)
    assert result.outcome is Outcome.OK
    rows, found = result.rows["clips"], spans(result)
    times = index.display_times_ns.tolist()
    assert found == sorted(set(found))
    assert found[0][0] == 0
    assert found[-1][1] == index.end_ns
    assert all(a[1] == b[0] for a, b in pairwise(found)), "hard cuts, or none, lose no frame"
    assert all(start in times and (end in times or end == index.end_ns) for start, end in found)
    assert sum(row["num_frames"] for row in rows) == len(index.display_pts)
    for row in rows:
        assert row["num_frames"] == sum(row["start_ns"] <= time < row["end_ns"] for time in times)
        assert row["clip_id"] == row["row_id"] == clip_id(VIDEO_ID, row["start_ns"], row["end_ns"])
        assert row["method"] == method["method"]
    if method["method"] == "fixed_stride":
        assert {row["shot_index"] for row in rows} == {None}
    else:
        assert [row["shot_index"] for row in rows] == list(range(len(rows)))
    stored = PacketIndex.from_bytes(result.header["clips"]["packet_index"])
    assert stored.pts.tolist() == index.pts.tolist()
    assert result.rows == split(path, method).rows


def test_the_cuts_are_found(shots, scenes):
    assert spans(split(scenes, shots)) == [(2 * k * NS, 2 * (k + 1) * NS) for k in range(4)]


def test_ranges_change_nothing(shots, scenes, monkeypatch):
    whole = split(scenes, shots)
    monkeypatch.setattr(splitters, "FRAMES_PER_RANGE", 7)
    parts = split(scenes, shots)
    assert parts.rows == whole.rows


@pytest.mark.slow
def test_workers_and_company_change_nothing(method, scenes, made):
    names = ["cuts", "vfr", "one_frame"]
    jobs = [job(path, method, video_id=f"{VIDEO_ID[:-1]}{k}") for k, path in enumerate([scenes, *map(made, names)])]
    with LocalEngine(workers=2, timeout_s=60) as engine:
        together = split_all(jobs, engine)
    for item in jobs:
        assert together[item.video_id].rows == split_all([item])[item.video_id].rows


def test_regions(method, scenes):
    regions = [(5 * NS, 7 * NS), (1 * NS, 3 * NS + 1), (40 * NS, 50 * NS)]
    result = split(scenes, {**method, "crop_s": 0.2} if method["method"] != "fixed_stride" else method, regions_ns=regions)
    found = spans(result)
    if method["method"] == "fixed_stride":
        assert found == [(1 * NS, 3 * NS + 40_000_000), (5 * NS, 7 * NS)]
        return
    # cropped at the cuts at 2 and 6 s, not at the regions' ends
    assert found == [(1 * NS, 1_800_000_000), (2_200_000_000, 3_040_000_000), (5 * NS, 5_800_000_000), (6_200_000_000, 7 * NS)]


def test_empty_regions_give_no_clip(method, scenes):
    result = split(scenes, method, regions_ns=[])
    assert (result.outcome, result.rows) == (Outcome.TOO_SHORT, {})
    assert "no clip" in result.detail


def test_offsets(method, scenes):
    found = spans(split(scenes, {**method, "start_offset_s": 1.01, "end_offset_s": 1}))
    assert (found[0][0], found[-1][1]) == (1_040_000_000, 7 * NS)
    assert spans(split(scenes, {**method, "start_offset_s": 1, "end_offset_s": 6.5}))[0][0] == 1 * NS
    assert split(scenes, {**method, "start_offset_s": 9}).outcome is Outcome.TOO_SHORT


@pytest.mark.parametrize(
    ("settings", "regions_ns", "detail"),
    [
        ({}, [], "no clip: no region of the video is wanted"),
        ({}, [(40 * NS, 50 * NS), (30 * NS, 31 * NS)], "no clip: its first region begins at 30.000 s, and the video ends at 8.000 s"),
        ({"start_offset_s": 5, "end_offset_s": 4}, None, "no clip: start_offset_s 5 and end_offset_s 4 leave nothing of 8.000 s of video"),
        ({"start_offset_s": 5}, [(1 * NS, 2 * NS)], "no clip: no frame begins in its regions, less start_offset_s 5 and end_offset_s 0"),
        ({}, [(1 * NS + 1, 1 * NS + 2)], "no clip: no frame begins in its regions"),
        ({"min_clip_len_s": 9}, None, "no clip: it has 8.000 s, less than min_clip_len_s 9"),
        (
            {"min_clip_len_s": 4, "start_offset_s": 5},
            None,
            "no clip: it has 3.000 s after start_offset_s 5 and end_offset_s 0, less than min_clip_len_s 4",
        ),
        (
            {"min_clip_len_s": 4},
            [(0, 1 * NS), (2 * NS, 5 * NS)],
            "no clip: the longest of its regions has 3.000 s, less than min_clip_len_s 4",
        ),
    ],
)
def test_what_left_no_clip_is_said(method, scenes, settings, regions_ns, detail):
    result = split(scenes, {**method, **settings}, regions_ns=regions_ns)
    assert (result.outcome, result.detail) == (Outcome.TOO_SHORT, detail)


def test_short_shots_are_said(shots, scenes):
    settings = {**shots, "min_clip_len_s": 2, "crop_s": 0.2}
    result = split(scenes, settings, regions_ns=[(1 * NS, 3 * NS)])
    assert result.detail == "no clip: of 2.000 s, no shot or part of one after crop_s 0.2 at transitions is as long as min_clip_len_s 2"


def test_short_clips_are_left_out(shots, scenes):
    result = split(scenes, {**shots, "min_clip_len_s": 2.2})
    assert result.outcome is Outcome.TOO_SHORT
    kept = split(scenes, {**shots, "min_clip_len_s": 2, "start_offset_s": 1})
    assert [row["shot_index"] for row in kept.rows["clips"]] == [1, 2, 3]


def test_long_shots(shots, scenes):
    def lengths(mode, longest):
        result = split(scenes, {**shots, "max_clip_len_s": longest, "max_length_mode": mode})
        first = [row for row in result.rows["clips"] if row["shot_index"] == 0]
        return [(row["start_ns"] / NS, row["end_ns"] / NS) for row in first], spans(result)

    assert lengths("balanced", 1.2)[0] == [(0, 1), (1, 2)]
    assert lengths("stride", 1.2)[0] == [(0, 1.2), (1.2, 2)]
    assert lengths("truncate", 1.2)[0] == [(0, 1.2)]
    for mode in ("balanced", "stride"):
        found = lengths(mode, 0.7)[1]
        assert all(a[1] == b[0] for a, b in pairwise(found))
        assert max(end - start for start, end in found) <= 0.7 * NS
    assert len(lengths("balanced", None)[1]) == 4


def test_crop_at_transitions_only(shots, scenes):
    found = spans(split(scenes, {**shots, "crop_s": 0.4, "max_clip_len_s": 0.75}))
    starts, ends = {start for start, _ in found}, {end for _, end in found}
    assert {0, 2_400_000_000, 4_400_000_000, 6_400_000_000} <= starts
    assert {1_600_000_000, 3_600_000_000, 5_600_000_000, 8 * NS} <= ends
    assert sum(end - start for start, end in found) == 5.6 * NS  # 6 crops of 0.4 s, none where a shot is divided


def test_truncated(method, scenes, tmp_path):
    whole = makevideo.make_faststart(tmp_path / "whole.mp4", seconds=6)
    path = makevideo.make_truncated(tmp_path / "cut.mp4", whole=whole)
    kept = split(path, method)
    assert kept.outcome is Outcome.TRUNCATED
    assert "missing" in kept.detail
    assert spans(kept)[-1][1] == index_packets(str(path)).end_ns
    assert split(path, method, on_truncated="refuse").outcome is Outcome.TRUNCATED_REFUSED


def test_bad_videos_end_with_their_outcome_and_the_others_go_on(method, scenes, tmp_path):
    text = makevideo.make_text(tmp_path / "text.mp4")
    empty = makevideo.make_zero_bytes(tmp_path / "empty.mp4")
    gone = tmp_path / "gone.mp4"
    gone.write_bytes(scenes.read_bytes())
    jobs = [job(path, method, video_id=f"{VIDEO_ID[:-1]}{k}") for k, path in enumerate([text, empty, gone, scenes])]
    gone.unlink()
    outcomes = [result.outcome for _, result in sorted(split_all(jobs).items())]
    assert outcomes == [Outcome.NOT_A_VIDEO, Outcome.EMPTY_OBJECT, Outcome.VANISHED, Outcome.OK]


def test_frames_that_cannot_be_decoded_are_counted(shots, tmp_path):
    path = makevideo.make_cuts(tmp_path / "damaged.mp4", seconds=2, scenes=3, size=(160, 96))
    index = index_packets(str(path))
    import av

    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    pos, size = places[60]
    data[pos + size // 2 : pos + size] = np.random.default_rng(0).bytes(size - size // 2)
    path.write_bytes(bytes(data))
    result = split(path, shots)
    assert result.outcome is Outcome.TRUNCATED
    assert f"of {len(index.display_pts)} frames could not be decoded" in result.detail
    assert spans(result)[-1][1] == index.end_ns


def test_no_frame_can_be_decoded(shots, tmp_path):
    path = makevideo.make_cfr(tmp_path / "garbage.mp4", seconds=1)
    import av

    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for pos, size in places:
        data[pos + 5 : pos + size] = b"\xff" * (size - 5)
    path.write_bytes(bytes(data))
    result = split(path, shots)
    assert result.outcome is Outcome.NO_FRAMES
    assert "none of 13 frames" in result.detail  # those of the second GOP count as damaged already in the index


def test_packages_that_are_missing_are_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in SHOT_METHODS:
        with pytest.raises(splitters.SettingsError, match=r"pip install 'curation_assets\[shots\]'"):
            build_splitter(ClipsSettings.model_validate({"splitter": {"method": name}}).splitter, engine=LocalEngine(workers=0))
    assert missing_packages("fixed_stride") == []
