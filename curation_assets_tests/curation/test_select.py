"""select: each threshold on real score values, through DuckDB; no score never passes."""

import duckdb
import pytest

from curation_assets.curation.query import connect_config
from curation_assets.curation.select import reject_reason_sql
from curation_assets.settings import Config, SourceSettings, Thresholds

SCORES = {"motion_mean": 0.2, "still_share": 0.3, "black_share": 0.4, "sharpness": 50.0, "letterbox_share": 0.1}


def reason(thresholds, **scores):
    values = ", ".join(f"CAST({'NULL' if v is None else v} AS FLOAT) AS {name}" for name, v in {**SCORES, **scores}.items())
    return duckdb.sql(f"SELECT {reject_reason_sql(Thresholds(**thresholds))} FROM (SELECT {values})").fetchall()[0][0]


@pytest.mark.parametrize(
    ("setting", "passes", "fails", "code"),
    [
        ("max_black_share", 0.41, 0.39, "black"),
        ("max_letterbox_share", 0.11, 0.09, "letterbox"),
        ("max_still_share", 0.31, 0.29, "still"),
        ("min_motion_mean", 0.19, 0.21, "low_motion"),
        ("max_motion_mean", 0.21, 0.19, "high_motion"),
        ("min_sharpness", 49.9, 50.1, "blurred"),
    ],
)
def test_each_threshold(setting, passes, fails, code):
    assert reason({setting: passes}) is None
    assert reason({setting: fails}) == code
    assert reason({}) is None
    column = setting.partition("_")[2]
    assert reason({setting: passes}, **{column: None}) == "missing_score"
    assert reason({}, **{column: None}) is None


def test_a_score_on_the_threshold_passes():
    assert reason({"min_sharpness": 50, "min_motion_mean": 0.25, "max_motion_mean": 0.25}, motion_mean=0.25) is None
    for setting, column in (
        ("max_black_share", "black_share"),
        ("max_still_share", "still_share"),
        ("max_letterbox_share", "letterbox_share"),
    ):
        assert reason({setting: 1.0}, **{column: 1.0}) is None
        assert reason({setting: 0.0}, **{column: 0.0}) is None
        assert reason({setting: 0.1}, **{column: 0.1}) is None  # a float32 is not the double of the setting


def test_the_first_reason_counts_in_a_fixed_order():
    everything = {
        "max_black_share": 0.1, "max_letterbox_share": 0.0, "max_still_share": 0.1, "min_motion_mean": 0.9, "max_motion_mean": 0.1, "min_sharpness": 99,
    }  # fmt: skip
    order = []
    while everything:
        order.append(reason(everything))
        setting = {
            "black": "max_black_share",
            "letterbox": "max_letterbox_share",
            "still": "max_still_share",
            "low_motion": "min_motion_mean",
        }
        everything.pop({**setting, "high_motion": "max_motion_mean", "blurred": "min_sharpness"}[order[-1]])
    assert order == ["black", "letterbox", "still", "low_motion", "high_motion", "blurred"]


def test_new_thresholds_move_the_view_and_recompute_nothing(project):
    project.run()
    sources = {"test": SourceSettings(uri=str(project.videos), storage_options={}, settings=project.settings)}
    scores = sorted(row["motion_mean"] for row in project.rows("clip_scores/pixels", ["motion_mean"]))
    middle = (scores[len(scores) // 2 - 1] + scores[len(scores) // 2]) / 2

    def kept(**thresholds):
        config = Config(warehouse=project.warehouse_uri, storage_options={}, sources=sources, clip_scores={"thresholds": thresholds})
        project.warehouse.registry.sync(config)
        with connect_config(config) as connection:
            return connection.execute("SELECT kept, reject_reason, count(*) AS n FROM clip_scores GROUP BY ALL ORDER BY ALL").fetchall()

    assert kept() == [(True, None, len(scores))]
    below = sum(score < middle for score in scores)
    assert 0 < below < len(scores)
    assert kept(min_motion_mean=middle) == [(False, "low_motion", below), (True, None, len(scores) - below)]
    assert kept(min_motion_mean=1.0) == [(False, "low_motion", len(scores))]
    assert project.work({"clip_scores": {"thresholds": {"min_motion_mean": 0.5}}})["frame_sets"] == 0
