"""Kept sets: frame sets that stay are neither decoded nor encoded again when others come, go or change, and the end state is that of a run from the beginning."""

import lance
import pytest

from curation_assets.curation import incremental
from curation_assets.engine.local import LocalEngine
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.storage.snapshots import lance_uri
from curation_assets_tests import makevideo
from curation_assets_tests.curation.project import Project

ONE = {"frame_sets": {"sets": {"embeddings": {"purpose": "embeddings"}}}}
TWO = {"frame_sets": {"sets": {**ONE["frame_sets"]["sets"], "middle": {"policy": "middle", "target_res": 64}}}}
THREE = {"frame_sets": {"sets": {**TWO["frame_sets"]["sets"], "whole": {"scope": "video", "target_fps": 1, "target_res": 64}}}}
OTHER = {"frame_sets": {"sets": {"embeddings": {"purpose": "embeddings"}, "middle": {"policy": "middle", "target_res": 32}}}}
FRAMES = ("frame_sets",)


class Seen(LocalEngine):
    """Notes what is asked of the decoder: per piece, the names of the sets and whether there are scores."""

    def __init__(self):
        super().__init__(workers=0)
        self.asked = []
        self.stops_after = None

    def map(self, function, items):
        for done in super().map(function, items):
            if hasattr(done.item.payload, "frame_sets"):
                if self.stops_after == len(self.asked):
                    raise KilledError
                self.asked.append((tuple(spec.name for spec in done.item.payload.frame_sets), done.item.payload.motion is not None))
            yield done


class KilledError(Exception):
    """Nothing is committed after it, as after kill -9."""


def asked(project, settings, stages=FRAMES):
    """Run, and say what was decoded, each kind of piece once."""
    project.engine = Seen()
    project.run(settings, stages=stages)
    return set(project.engine.asked)


@pytest.fixture
def made(project):
    project.run(TWO)
    return project


def fresh(project, settings, folder):
    other = Project(project.videos, str(folder), project.settings)
    other.run(settings)
    return other


def frames(project, settings):
    rows = project.rows("frame_sets", ["video_id", "clip_id", "name", "time_ns", "frames", "outcome", "detail", "content_hash"], settings)
    return sorted(rows, key=lambda row: (row["video_id"], row["name"], row["clip_id"] or ""))


def headers(project, settings):
    columns = ["video_id", "outcome", "detail", "num_rows", "fingerprint", "content_hash", "set_fingerprints"]
    return project.source(settings).table(FRAME_SETS).headers(columns).sort_by("video_id").to_pylist()


@pytest.mark.parametrize(
    ("before", "after", "decoded"),
    [
        (TWO, ONE, {((), False)}),
        (ONE, TWO, {(("middle",), False)}),
        (TWO, THREE, {(("whole",), False)}),
        (THREE, TWO, {((), False)}),
        (THREE, OTHER, {(("middle",), False)}),  # one goes, one changes, one stays
    ],
)
def test_only_what_is_new_is_decoded(project, tmp_path, before, after, decoded):
    project.run(before)
    vectors = project.versions(before)["embeddings/fingerprint"]
    assert asked(project, after) == decoded
    assert project.work(after) == {"raw_videos": 1, "clips": 0, "frame_sets": 0, "embeddings": 0}
    undisturbed = fresh(project, after, tmp_path / "undisturbed")
    assert project.versions(after) == undisturbed.versions(after)
    assert project.versions(after)["embeddings/fingerprint"] == vectors
    assert frames(project, after) == frames(undisturbed, after)
    assert headers(project, after) == headers(undisturbed, after)


def test_a_set_goes_without_the_videos(made, tmp_path):
    work_s = made.source(TWO).table(FRAME_SETS).headers(["video_id", "work_s"]).sort_by("video_id").to_pylist()
    made.videos.rename(tmp_path / "elsewhere")
    report = made.run(ONE, stages=FRAMES)["frame_sets"]
    assert dict(report.outcomes["frame_sets"]) == {"ok": 3}
    assert {row["name"] for row in frames(made, ONE)} == {"embeddings"}
    assert made.status(ONE)["frame_sets"]["pending"] == 0
    # what a decode costs is still known
    assert made.source(ONE).table(FRAME_SETS).headers(["video_id", "work_s"]).sort_by("video_id").to_pylist() == work_s
    # and one that cannot be made is said, beside the one that is there
    report = made.run(TWO, stages=FRAMES)["frame_sets"]
    assert dict(report.outcomes["frame_sets"]) == {"vanished": 3}
    assert {(row["name"], row["outcome"]) for row in frames(made, TWO)} == {("embeddings", "ok"), ("middle", "vanished")}
    (tmp_path / "elsewhere").rename(made.videos)
    assert asked(made, TWO) == {(("embeddings", "middle"), False)}
    assert headers(made, TWO) == headers(fresh(made, TWO, tmp_path / "undisturbed"), TWO)


def test_scores_that_are_stale_too_are_made_with_what_is_new(made, tmp_path):
    settings = {**ONE, "clip_scores": {"pixels": {"motion_fps": 5}}}
    assert asked(made, settings) == {((), True)}
    assert (
        made.versions(settings)["clip_scores/pixels"]
        == fresh(made, settings, tmp_path / "undisturbed").versions(settings)["clip_scores/pixels"]
    )
    assert {row["name"] for row in frames(made, settings)} == {"embeddings"}


def test_other_clips_or_another_upload_keep_nothing(made):
    both = {(("embeddings", "middle"), True)}
    assert asked(made, {**TWO, "clips": {"splitter": {"clip_len_s": 1}}}, stages=("raw_videos", "clips", "frame_sets")) == both
    makevideo.make_cuts(made.videos / "cuts.mp4", seconds=1, scenes=2, seed=9)
    found = asked(made, {**ONE, "clips": {"splitter": {"clip_len_s": 1}}}, stages=("raw_videos", "clips", "frame_sets"))
    assert found == {(("embeddings",), True), ((), False)}


def test_what_an_earlier_release_made_is_made_again_once(made, tmp_path):
    lance.dataset(lance_uri(made.source(TWO).table(FRAME_SETS).uri)).drop_columns(["set_fingerprints"])
    assert made.work(TWO)["frame_sets"] == 0
    assert asked(made, ONE) == {(("embeddings",), False)}
    assert asked(made, TWO) == {(("middle",), False)}
    assert headers(made, TWO) == headers(fresh(made, TWO, tmp_path / "undisturbed"), TWO)


def test_what_had_faults_is_made_again_whole(made, tmp_path):
    data = bytearray((made.videos / "cuts.mp4").read_bytes())
    data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)  # packets of the second scene
    (made.videos / "cuts.mp4").write_bytes(data)
    made.run(TWO)
    assert [header["outcome"] for header in headers(made, TWO)].count("ok") == 2
    assert asked(made, ONE) == {(("embeddings",), False), ((), False)}
    assert headers(made, ONE) == headers(fresh(made, ONE, tmp_path / "undisturbed"), ONE)


def test_a_video_that_lacks_rows_keeps_nothing(made, tmp_path):
    lost = frames(made, TWO)[0]
    lance.dataset(lance_uri(made.source(TWO).table(FRAME_SETS).uri)).delete(f"name = 'embeddings' AND clip_id = '{lost['clip_id']}'")
    assert asked(made, ONE) == {(("embeddings",), False), ((), False)}
    assert frames(made, ONE) == frames(fresh(made, ONE, tmp_path / "undisturbed"), ONE)


@pytest.mark.parametrize("stops_after", [0, 1, 3])
@pytest.mark.parametrize("other", [TWO, ONE])
def test_a_long_video_that_was_killed_in_the_middle(tmp_path, monkeypatch, stops_after, other):
    (tmp_path / "videos").mkdir()
    makevideo.make_b_frames(tmp_path / "videos" / "long.mp4", seconds=8)
    settings = {"clips": {"splitter": {"clip_len_s": 1, "min_clip_len_s": 0.5}}, "engine": {"clips_per_chunk": 2}}
    monkeypatch.setattr(incremental, "COMMIT_INTERVAL_S", 0)  # commit after every piece
    project = Project(tmp_path / "videos", str(tmp_path / "warehouse"), settings)
    project.run(ONE if other is TWO else TWO)
    project.engine = Seen()
    project.engine.stops_after = stops_after
    with pytest.raises(KilledError):
        project.run(other, stages=FRAMES)
    project.engine = LocalEngine(workers=0)
    project.run(other)
    undisturbed = fresh(project, other, tmp_path / "undisturbed")
    assert project.versions(other) == undisturbed.versions(other)
    assert frames(project, other) == frames(undisturbed, other)
    assert headers(project, other) == headers(undisturbed, other)


def test_a_kept_set_is_read_piece_by_piece(tmp_path, monkeypatch):
    """So that the memory which it takes does not grow with the video."""
    (tmp_path / "videos").mkdir()
    makevideo.make_b_frames(tmp_path / "videos" / "long.mp4", seconds=8)
    settings = {"clips": {"splitter": {"clip_len_s": 1, "min_clip_len_s": 0.5}}, "engine": {"clips_per_chunk": 2}}
    project = Project(tmp_path / "videos", str(tmp_path / "warehouse"), settings)
    project.run(TWO)
    sizes = []
    real = incremental.Writer.add
    monkeypatch.setattr(
        incremental.Writer, "add", lambda self, asset, rows, *a, **k: (sizes.append(len(rows)), real(self, asset, rows, *a, **k))[1]
    )
    project.run(ONE, stages=FRAMES)
    assert sizes == [2, 2, 2, 3]  # clips of a piece, the last with the header
