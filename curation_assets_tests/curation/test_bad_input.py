"""Bad input: every odd and broken file ends as rows, processed or with a reason, and none costs the others anything."""

import math
import random
import resource
import shutil
import struct
from collections import Counter, defaultdict
from itertools import pairwise

import av
import numpy as np
import pytest

from curation_assets.curation.warehouse import table_specs
from curation_assets.media.packets import index_packets
from curation_assets.schemas.outcomes import OutcomeClass, codes, is_usable
from curation_assets_tests import makevideo
from curation_assets_tests.conftest import RECIPES
from curation_assets_tests.curation.project import Project

TILES = {"clips": {"splitter": {"clip_len_s": 1, "min_clip_len_s": 0}}}
NOT_VIDEOS = {"zero_bytes": "empty_object", "text": "not_a_video", "image": "not_a_video", "audio_only": "no_video_stream"}
OURS = {"internal_error", "crashed", "timeout", "out_of_memory"}


def check_complete(project, settings=None):
    """Whatever the input: every object has a row, every usable one clips or a reason, every clip all that is made of clips."""
    source = project.source(settings)
    raw = {row["video_id"]: row for row in project.rows("raw_videos", ["video_id", "key", "outcome", "detail"], settings)}
    files = [path for path in project.videos.rglob("*") if path.is_file()]
    assert len(raw) == len(files)
    usable = {identity for identity, row in raw.items() if is_usable(row["outcome"])}
    specs = {spec.asset: spec for spec in table_specs(source.settings)}
    clip_headers = source.headers(specs["clips"])
    assert set(clip_headers) == usable
    clips = project.rows("clips", ["clip_id", "video_id", "start_ns", "end_ns", "num_frames"], settings)
    with_clips = {clip["video_id"] for clip in clips}
    for identity in usable - with_clips:
        assert clip_headers[identity].outcome in codes(OutcomeClass.EXCLUDED, OutcomeClass.FAILED), raw[identity]
    ids = {clip["clip_id"] for clip in clips}
    num_sets = len(source.settings.frame_sets.sets)
    for asset in ("frame_sets", "clip_scores/pixels", "embeddings/fingerprint"):
        rows = project.rows(asset, ["clip_id", "video_id", "outcome", "detail"], settings)
        assert Counter(row["clip_id"] for row in rows if row["clip_id"]) == dict.fromkeys(ids, num_sets if asset == "frame_sets" else 1), (
            asset
        )
        assert set(source.headers(specs[asset])) == with_clips
        assert all(row["outcome"] == "ok" or row["detail"] for row in rows), asset
    found = Counter((item["table"], item["outcome"]) for item in project.failures())
    assert not OURS & {outcome for _, outcome in found}, found
    assert all(item["detail"] for item in project.failures())
    return raw, clips


def check_tiles(project, raw, clips):
    """Clips of a stride equal to their length cover every displayed frame exactly once, and frame sets have what their grid asks for."""
    by_video = defaultdict(list)
    for clip in clips:
        by_video[clip["video_id"]].append(clip)
    for identity, row in raw.items():
        if is_usable(row["outcome"]) and identity in by_video:
            index = index_packets(str(project.videos / row["key"]))
            spans = sorted(by_video[identity], key=lambda clip: clip["start_ns"])
            assert sum(clip["num_frames"] for clip in spans) == len(index.display_times_ns), row["key"]
            assert (spans[0]["start_ns"], spans[-1]["end_ns"]) == (0, index.end_ns), row["key"]
            assert all(a["end_ns"] == b["start_ns"] for a, b in pairwise(spans)), row["key"]


def test_every_format_and_recipe(made, shared_formats, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for name, (suffix, _, _) in RECIPES.items():
        shutil.copy(made(name), videos / f"{name}.{'mp4' if suffix == 'm4a' else suffix}")
    for path in shared_formats:
        shutil.copy(path, videos / f"shared {path.name}")
    # frames at their own rate: a grid finer than any of them takes every displayed frame once
    settings = {**TILES, "frame_sets": {"sets": {"all": {"target_fps": 240, "target_res": 32, "max_frames": 65536}, "embeddings": {}}}}
    project = Project(videos, str(tmp_path / "warehouse"), settings)
    project.run()
    raw, clips = check_complete(project)
    check_tiles(project, raw, clips)
    by_key = {row["key"].rpartition(".")[0]: row["outcome"] for row in raw.values()}
    assert {key: outcome for key, outcome in by_key.items() if outcome != "ok"} == {**NOT_VIDEOS, "audio_with_cover": "no_video_stream"}
    frames = {
        row["clip_id"]: row
        for row in project.rows("frame_sets", ["clip_id", "name", "outcome", "num_frames", "fps"])
        if row["name"] == "all"
    }
    sparse = project.rows("frame_sets", ["clip_id", "name", "outcome", "num_frames", "fps"])
    for clip in clips:
        row = frames[clip["clip_id"]]
        assert row["outcome"] == "ok"
        key = raw[clip["video_id"]]["key"]
        if not key.startswith("same_pts"):  # 2500 frames per second
            assert row["num_frames"] == clip["num_frames"], key
    lengths = {clip["clip_id"]: (clip["end_ns"] - clip["start_ns"]) / 1e9 for clip in clips}
    shown = {clip["clip_id"]: clip["num_frames"] for clip in clips}
    for row in sparse:
        if row["name"] == "embeddings":
            assert 1 <= row["num_frames"] <= min(shown[row["clip_id"]], math.ceil(lengths[row["clip_id"]] * row["fps"] + 1e-6))
    waiting = {name: int(name == "raw_videos") for name in ("raw_videos", "clips", "frame_sets", "embeddings")}
    assert project.work() == waiting


@pytest.fixture
def shared_formats(shared_media):
    """The shared files of many formats; none where there are none."""
    try:
        return shared_media("formats")
    except pytest.skip.Exception:
        return []


def test_an_exact_grid_gives_its_number_of_frames(tmp_path):
    (tmp_path / "videos").mkdir()
    makevideo.make_b_frames(tmp_path / "videos/v.mp4", seconds=7)
    project = Project(tmp_path / "videos", str(tmp_path / "warehouse"), {"clips": {"splitter": {"clip_len_s": 3, "min_clip_len_s": 0.5}}})
    project.run({"frame_sets": {"sets": {"embeddings": {"target_fps": 2, "min_frames": 1}}}})
    rows = project.rows("frame_sets", ["num_frames", "time_ns"])
    assert sorted(row["num_frames"] for row in rows) == [2, 6, 6]
    assert sorted(time for row in rows for time in row["time_ns"]) == pytest.approx([k * 500_000_000 for k in range(14)], abs=20_000_001)


def test_cut_and_broken_containers(made, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("faststart", "b_frames", "b_frames_mkv", "avi", "b_frames_ts", "vp9", "mpeg_ps", "b_frames_flv", "fragmented", "gif"):
        for percent in (5, 30, 60, 95):
            whole = made(name)
            makevideo.make_truncated(videos / f"{name}-{percent}{whole.suffix}", whole=whole, share=percent / 100)
    mp4 = bytearray(made("cfr").read_bytes())
    at = mp4.index(b"moov") - 4
    for size in (0, 1, 8, 2**31):
        struct.pack_into(">I", mp4, at, size)
        (videos / f"moov of {size}.mp4").write_bytes(mp4)
    (videos / "head only.mp4").write_bytes(mp4[:24])
    (videos / "one byte.mp4").write_bytes(b"\0")
    (videos / "zeros.mkv").write_bytes(bytes(100_000))
    (videos / "noise.ts").write_bytes(random.Random(1).randbytes(100_000))
    (videos / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")
    project = Project(videos, str(tmp_path / "warehouse"), TILES)
    project.run()
    raw, clips = check_complete(project)
    check_tiles(project, raw, clips)
    cut = {raw[item["video_id"]]["key"] for item in project.failures() if item["table"] == "clips" and item["outcome"] == "truncated"}
    assert {f"{name}-60{made(name).suffix}" for name in ("faststart", "b_frames_mkv", "b_frames_flv", "vp9")} <= cut

    refuse = {"clips": {"on_truncated": "refuse"}}
    project.run(refuse)
    raw, clips = check_complete(project, refuse)
    assert not cut & {raw[clip["video_id"]]["key"] for clip in clips}
    assert {item["outcome"] for item in project.failures() if item["key"] in cut} == {"truncated_refused"}


def test_bits_flipped_anywhere(made, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    good = (
        "b_frames",
        "vfr_mkv",
        "hevc_open_gop",
        "vp9",
        "vp8",
        "avi",
        "mpeg_ps",
        "b_frames_ts",
        "b_frames_flv",
        "fragmented",
        "gif",
        "avi_packed",
    )
    for seed in range(36):
        chance = random.Random(seed)
        path = made(good[seed % len(good)])
        data = bytearray(path.read_bytes())
        if seed // len(good) == 0:
            for _ in range(chance.choice([1, 8, 60])):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif seed // len(good) == 1:
            at = chance.randrange(len(data))
            data[at : at + chance.randrange(4000)] = chance.randbytes(chance.randrange(4000))
        else:
            for _ in range(chance.choice([1, 8, 60])):  # the middle only: the header stays good
                data[chance.randrange(len(data) // 4, len(data) * 3 // 4)] = chance.randrange(256)
        (videos / f"{seed} {path.name}").write_bytes(data)
    shutil.copy(made("cfr"), videos / "good.mp4")
    project = Project(videos, str(tmp_path / "warehouse"), TILES)
    project.run()
    raw, clips = check_complete(project)
    check_tiles(project, raw, clips)
    good_id = next(identity for identity, row in raw.items() if row["key"] == "good.mp4")
    assert {row["outcome"] for row in project.rows("frame_sets", ["video_id", "outcome"]) if row["video_id"] == good_id} == {"ok"}


def test_claimed_sizes_and_times_do_not_cost_memory(made, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for side in (12_000, 30_000, 65_535):
        gif = bytearray(made("gif").read_bytes())
        struct.pack_into("<HH", gif, 6, side, side)
        (videos / f"{side}.gif").write_bytes(gif)
    vp8 = bytearray(made("vp8").read_bytes())
    at = -1
    while (at := vp8.find(b"\x9d\x01\x2a", at + 1)) >= 0:  # the start code of a keyframe, then width and height
        struct.pack_into("<HH", vp8, at + 3, 16_383, 16_383)
    (videos / "16383.webm").write_bytes(vp8)
    with av.open(str(made("cfr"))) as source, av.open(str(videos / "weeks.mkv"), "w") as output:
        stream = source.streams.video[0]
        target = output.add_stream_from_template(stream)
        for number, packet in enumerate(p for p in source.demux(stream) if p.size):
            packet.stream = target
            if number > 70:
                shift = int(40 * 86_400 / packet.time_base)
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
            output.mux(packet)
    project = Project(videos, str(tmp_path / "warehouse"), TILES)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    project.run()
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mb < 1500
    raw, clips = check_complete(project)
    outcomes = {row["key"]: row["outcome"] for row in raw.values()}
    assert outcomes["12000.gif"] == "unsupported"
    frames = project.rows("frame_sets", ["video_id", "outcome", "num_frames"])
    for key in ("30000.gif", "65535.gif", "16383.webm"):  # FFmpeg takes no such size, so the header gives none
        found = [row for row in frames if raw[row["video_id"]]["key"] == key]
        assert found == [] if outcomes[key] == "unsupported" else {row["outcome"] for row in found} == {"no_frames"}, key
    weeks = [clip for clip in clips if raw[clip["video_id"]]["key"] == "weeks.mkv"]
    assert sum(clip["num_frames"] for clip in weeks) == 71
    (told,) = (item for item in project.failures() if item["table"] == "clips" and item["key"] == "weeks.mkv")
    assert told["outcome"] == "truncated"
    assert "more than a day away" in told["detail"]


def test_stored_frames_of_another_size_are_brought_to_the_models(project):
    project.run({"frame_sets": {"sets": {"embeddings": {"target_res": [-1, 64], "codec": "png"}}}})
    rows = project.rows("embeddings/fingerprint", ["outcome", "embedding"])
    assert {row["outcome"] for row in rows} == {"ok"}
    assert all(np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-4) for row in rows)


def test_a_stream_that_comes_up_on_the_way(made, tmp_path):
    """MPEG-TS with one frame on a PID that its tables do not list."""
    data = bytearray(made("b_frames_ts").read_bytes())
    starts = [at for at in range(0, len(data), 188) if data[at + 1] & 0x5F == 0x41 and data[at + 2] == 0]
    data[starts[len(starts) // 2] + 2] = 0x11
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/v.ts").write_bytes(data)
    project = Project(tmp_path / "videos", str(tmp_path / "warehouse"), TILES)
    project.run()
    _, clips = check_complete(project)
    assert sum(clip["num_frames"] for clip in clips) > 60
