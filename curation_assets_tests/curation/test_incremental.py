"""Incremental: only what changed is worked on, and the end state never depends on the way there."""

import os
import signal

import numpy as np
import pytest

from curation_assets.curation import incremental, loaded_models
from curation_assets.curation.incremental import Plan, StageReport, Writer, on_engine, run_stage
from curation_assets.curation.pieces import Piece, Result
from curation_assets.curation.progress import Progress
from curation_assets.engine.local import Failed, LocalEngine
from curation_assets.models import shared
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.schemas.outcomes import Outcome
from curation_assets_tests import makevideo
from curation_assets_tests.curation.project import Project

NOTHING = {"raw_videos": 0, "clips": 0, "frame_sets": 0, "embeddings": 0}
# empty.mp4 is looked at again every time: an upload may have gone on
AGAIN = {**NOTHING, "raw_videos": 1}


def test_first_run_then_nothing(project):
    assert project.work() == {"raw_videos": 5, "clips": 3, "frame_sets": 3, "embeddings": 3}
    before = project.versions()
    assert project.work() == AGAIN
    assert project.versions() == before
    assert project.status()["raw_videos"]["outcomes"] == {"empty_object": 1, "not_a_video": 1, "ok": 3}
    assert [(item["key"], item["outcome"]) for item in project.failures()] == [("text.mp4", "not_a_video")]


def test_a_new_video_costs_itself(project):
    project.run()
    makevideo.make_cfr(project.videos / "a new one.mp4", seconds=2)
    assert project.work() == {"raw_videos": 2, "clips": 1, "frame_sets": 1, "embeddings": 1}


def test_changed_renamed_deleted(project):
    project.run()
    makevideo.make_cuts(project.videos / "cuts.mp4", seconds=1, scenes=2, seed=9)
    assert project.work() == {"raw_videos": 2, "clips": 1, "frame_sets": 1, "embeddings": 1}
    (project.videos / "vfr.mkv").rename(project.videos / "vfr renamed.mkv")
    reports = project.run()
    assert {name: report.num_removed for name, report in reports.items()} == {"raw_videos": 1, "clips": 1, "frame_sets": 1, "embeddings": 1}
    assert reports["embeddings"].num_work == 1
    (project.videos / "web.webm").unlink()
    assert {name: report.num_removed for name, report in project.run().items()} == {
        "raw_videos": 1,
        "clips": 1,
        "frame_sets": 1,
        "embeddings": 1,
    }
    keys = {row["key"] for row in project.rows("raw_videos", ["key"])}
    assert keys == {"cuts.mp4", "vfr renamed.mkv", "text.mp4", "empty.mp4"}
    videos = {row["video_id"] for row in project.rows("raw_videos", ["video_id"])}
    for asset in ("clips", "frame_sets", "clip_scores/pixels", "embeddings/fingerprint"):
        assert {row["video_id"] for row in project.rows(asset, ["video_id"])} <= videos
    assert project.versions() == _fresh(project).versions()


def test_touching_a_file_recomputes_it_to_the_same(project):
    project.run()
    before = project.versions()
    os.utime(project.videos / "cuts.mp4", (1, 1))
    assert project.work()["frame_sets"] == 1
    after = project.versions()
    assert {name: after[name] for name in after if name != "raw_videos"} == {name: before[name] for name in before if name != "raw_videos"}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ({"clips": {"splitter": {"clip_len_s": 1}}}, {"raw_videos": 1, "clips": 3, "frame_sets": 3, "embeddings": 3}),
        # other settings, same spans: the later stages have nothing to do
        ({"clips": {"splitter": {"min_clip_len_s": 0.4}}}, {"raw_videos": 1, "clips": 3, "frame_sets": 0, "embeddings": 0}),
        ({"clip_scores": {"pixels": {"motion_fps": 5}}}, {"raw_videos": 1, "clips": 0, "frame_sets": 3, "embeddings": 0}),
        ({"frame_sets": {"sets": {"more": {"target_fps": 1}}}}, {"raw_videos": 1, "clips": 0, "frame_sets": 3, "embeddings": 0}),
        ({"frame_sets": {"sets": {"embeddings": {"quality": 80}}}}, {"raw_videos": 1, "clips": 0, "frame_sets": 3, "embeddings": 3}),
        ({"clip_scores": {"thresholds": {"min_motion_mean": 0.5}}}, AGAIN),
        ({"engine": {"timeout_s": 77}}, AGAIN),
        ({"raw_videos": {"limits": {"min_side_px": 2000}}}, {"raw_videos": 5, "clips": 0, "frame_sets": 0, "embeddings": 0}),
    ],
)
def test_settings_recompute_what_they_change(project, override, expected):
    project.run()
    assert project.work(override) == expected
    assert project.work(override) == AGAIN
    assert project.versions(override) == _fresh(project, override).versions(override)


def test_settings_of_one_table_leave_the_other_alone(project):
    project.run()
    before = project.versions()
    project.run({"clip_scores": {"pixels": {"motion_fps": 5}}})
    after = project.versions()
    assert after["frame_sets"] == before["frame_sets"]
    assert after["clip_scores/pixels"] != before["clip_scores/pixels"]


def test_limits_give_outcomes_and_remove_what_was_made(project):
    project.run()
    project.run({"raw_videos": {"limits": {"max_duration_s": 3.5}}})
    outcomes = {row["key"]: (row["outcome"], row["detail"]) for row in project.rows("raw_videos", ["key", "outcome", "detail"])}
    assert outcomes["vfr.mkv"][0] == "too_long"
    assert "limit is at most 3.5" in outcomes["vfr.mkv"][1]
    assert outcomes["web.webm"][0] == "ok"
    kept = {row["video_id"] for row in project.rows("raw_videos", ["video_id", "outcome"]) if row["outcome"] == "ok"}
    assert {row["video_id"] for row in project.rows("clips", ["video_id"])} <= kept


def test_failed_ones_stay_until_asked_or_changed(project):
    project.run()
    assert project.work() == AGAIN
    assert project.work(retry_failed=True)["raw_videos"] == 2
    makevideo.make_cfr(project.videos / "text.mp4", seconds=1)
    assert project.work() == {"raw_videos": 2, "clips": 1, "frame_sets": 1, "embeddings": 1}
    assert project.failures() == []


def test_limit_goes_on_where_it_stopped(project):
    first = project.run(limit=2)
    assert first["raw_videos"].num_work == 2
    while any(report.num_work for name, report in project.run(limit=2).items() if name != "raw_videos"):
        pass
    project.run()
    assert project.versions() == _fresh(project).versions()


def test_a_stale_stage_blocks_the_later_ones_and_removes_nothing(project):
    project.run()
    other = {"clips": {"splitter": {"clip_len_s": 1}}}
    assert project.run(other, stages=("frame_sets",))["frame_sets"].num_work == 0
    assert project.status(other)["frame_sets"]["pending"] == 3
    assert project.status(other)["frame_sets"]["outcomes"] == project.status()["frame_sets"]["outcomes"]


def test_a_long_video_in_pieces_equals_one_piece(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    makevideo.make_b_frames(videos / "long.mp4", seconds=12)
    sets = {
        "embeddings": {"purpose": "embeddings"},
        "whole": {"scope": "video", "target_fps": 1.5, "target_res": [-1, 64], "codec": "png"},
        "few": {"scope": "video", "target_fps": 2, "max_frames": 5},
        "middle": {"policy": "middle", "codec": "raw", "target_res": 32},
    }
    settings = {"clips": {"splitter": {"clip_len_s": 1, "min_clip_len_s": 0.5}}, "frame_sets": {"sets": sets}}
    one = Project(videos, str(tmp_path / "one"), settings)
    one.run({"engine": {"clips_per_chunk": 1000}})
    many = Project(videos, str(tmp_path / "many"), settings)
    many.run({"engine": {"clips_per_chunk": 5}})
    assert many.versions() == one.versions()
    columns = ["clip_id", "name", "time_ns", "fps", "frames", "num_frames"]
    rows = [sorted(item.rows("frame_sets", columns), key=lambda row: (row["name"], row["time_ns"])) for item in (one, many)]
    assert rows[0] == rows[1]
    whole = next(row for row in rows[0] if row["name"] == "whole")
    assert whole["num_frames"] == 18
    few = next(row for row in rows[0] if row["name"] == "few")
    assert (few["fps"], few["num_frames"]) == (0.25, 3)
    assert all(row["num_frames"] == 1 and row["fps"] is None for row in rows[0] if row["name"] == "middle")


def test_a_long_video_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    videos = tmp_path / "videos"
    videos.mkdir()
    makevideo.make_b_frames(videos / "long.mp4", seconds=10)
    settings = {"clips": {"splitter": {"clip_len_s": 1, "min_clip_len_s": 0.5}}, "engine": {"clips_per_chunk": 2}}
    monkeypatch.setattr(incremental, "COMMIT_INTERVAL_S", 0)  # commit after every piece
    project = Project(videos, str(tmp_path / "warehouse"), settings)
    project.run(stages=("raw_videos", "clips"))
    done: list = []

    class StopsAfterThree(LocalEngine):
        def map(self, function, items):
            for result in super().map(function, items):
                if len(done) == 3:
                    raise Interrupt
                done.append(result.item)
                yield result

    project.engine = StopsAfterThree(workers=0)
    with pytest.raises(Interrupt):
        project.run(stages=("frame_sets",))
    assert project.rows("frame_sets", ["row_id"]) == []  # nobody reads half a video
    assert project.status()["frame_sets"]["pending"] == 1
    counted: list = []

    class Counts(LocalEngine):
        def map(self, function, items):
            for result in super().map(function, items):
                counted.append(result.item)
                yield result

    project.engine = Counts(workers=0)
    project.run()
    assert len(counted) == 2  # the pieces that were left
    undisturbed = Project(videos, str(tmp_path / "undisturbed"), settings)
    undisturbed.run()
    assert project.versions() == undisturbed.versions()
    assert project.work() == NOTHING


class Meanwhile(LocalEngine):
    """Another run of other settings does something just before this one draws its work."""

    def __init__(self, action):
        super().__init__(workers=0)
        self.action = action

    def map(self, function, items):
        self.action()
        return super().map(function, items)


def test_clips_that_another_run_changes_meanwhile_are_not_mixed(project):
    project.run(stages=("raw_videos", "clips"))
    other = Project(project.videos, project.warehouse_uri, {"clips": {"splitter": {"clip_len_s": 1, "min_clip_len_s": 0.5}}})
    project.engine = Meanwhile(lambda: other.run(stages=("clips",)))
    assert project.run(stages=("frame_sets",))["frame_sets"].num_work == 0
    project.engine = LocalEngine(workers=0)
    project.run()
    assert project.versions() == _fresh(project).versions()


def test_frames_that_another_run_changes_meanwhile_are_not_embedded(project, monkeypatch):
    project.run(stages=("raw_videos", "clips", "frame_sets"))
    other = Project(project.videos, project.warehouse_uri, {"clips": {"splitter": {"clip_len_s": 1, "min_clip_len_s": 0.5}}})
    build = loaded_models.load

    def load_after_the_other(name, **arguments):
        other.run(stages=("clips", "frame_sets"))
        return build(name, **arguments)

    monkeypatch.setattr(loaded_models, "load", load_after_the_other)
    shared.release()
    assert project.run(stages=("embeddings",))["embeddings"].num_work == 0
    monkeypatch.undo()
    project.run()
    assert project.versions() == _fresh(project).versions()


class TimesOut(LocalEngine):
    def map(self, function, items):
        for item in items:
            yield Failed(item, Outcome.TIMEOUT, "too slow")


def test_embeddings_follow_frames_that_were_retried(project):
    project.run(stages=("raw_videos", "clips"))
    project.engine = TimesOut(workers=0)
    project.run(stages=("frame_sets",))
    project.engine = LocalEngine(workers=0)
    project.run()
    assert set(project.status()["embeddings_fingerprint"]["outcomes"]) == {"timeout"}
    project.run(stages=("frame_sets",), retry_failed=True)
    project.run()
    assert set(project.status()["embeddings_fingerprint"]["outcomes"]) == {"ok"}
    assert project.versions() == _fresh(project).versions()


def test_embeddings_are_of_unit_length_and_the_video_is_the_mean(project):
    project.run()
    rows = project.rows("embeddings/fingerprint", ["video_id", "scope", "outcome", "embedding"])
    by_video: dict = {}
    for row in rows:
        assert row["outcome"] == "ok"
        assert np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-5)
        by_video.setdefault(row["video_id"], {}).setdefault(row["scope"], []).append(np.array(row["embedding"]))
    assert len(by_video) == 3
    for scopes in by_video.values():
        mean = np.mean(scopes["clip"], axis=0)
        assert scopes["video"][0] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)


def crash_or_rows(payload):
    if payload == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    return Result(rows={CLIPS.asset: [{"row_id": f"clip-{payload}", "clip_id": f"clip-{payload}", "start_ns": 0, "end_ns": 1}]})


class Stage:
    def failed(self, piece, outcome, detail):
        return Result(outcome=outcome, detail=detail)

    def finish(self, plan, partials):
        return {}


def test_a_crash_costs_one_video(project):
    source = project.source()
    plans = [Plan(name, "e", {CLIPS.asset: "f"}, [Piece(name, crash_or_rows, name)]) for name in ("a", "crash", "b", "c")]
    with LocalEngine(workers=2) as engine, source.writing(CLIPS) as writer:
        report = run_stage(plans, stage=Stage(), writer=writer, run_pieces=on_engine(engine), progress=Progress("clips", "test", 4))
    assert isinstance(report, StageReport)
    assert report.outcomes[CLIPS.asset] == {"ok": 3, "crashed": 1}
    headers = source.headers(CLIPS)
    assert headers["crash"].outcome == Outcome.CRASHED
    assert {row["row_id"] for row in project.rows("clips", ["row_id"])} == {"clip-a", "clip-b", "clip-c"}


class Interrupt(BaseException):
    pass


def test_an_interrupt_keeps_what_is_done(project):
    source = project.source()

    def run_pieces(pieces):
        for number, result in enumerate(LocalEngine(workers=0).map(lambda piece: piece.function(piece.payload), pieces)):
            if number == 2:
                raise Interrupt
            yield result

    plans = [Plan(name, "e", {CLIPS.asset: "f"}, [Piece(name, crash_or_rows, name)]) for name in ("a", "b", "c", "d")]
    with pytest.raises(Interrupt), source.writing(CLIPS) as writer:
        run_stage(plans, stage=Stage(), writer=writer, run_pieces=run_pieces, progress=Progress("clips", "test", 4))
    assert set(source.headers(CLIPS)) == {"a", "b"}
    with source.writing(CLIPS) as writer:  # the lease is free again
        assert isinstance(writer, Writer)


def test_rows_are_keyed_by_the_documented_ids(project):
    import uuid

    project.run()
    namespace = uuid.uuid5(uuid.NAMESPACE_URL, "curation-assets")
    videos = {row["video_id"]: row["key"] for row in project.rows("raw_videos", ["video_id", "key"])}
    assert all(identity == str(uuid.uuid5(namespace, f"test\0{key}")) for identity, key in videos.items())
    for row in project.rows("clips", ["video_id", "clip_id", "start_ns", "end_ns"]):
        assert row["clip_id"] == str(uuid.uuid5(uuid.UUID(row["video_id"]), f"{row['start_ns']}:{row['end_ns']}"))
    assert FRAME_SETS.view == "frame_sets"


def _fresh(project, override=None):
    other = Project(project.videos, project.warehouse_uri + "-fresh", project.settings)
    other.run(override)
    return other
