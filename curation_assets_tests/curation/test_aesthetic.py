"""clip_scores/aesthetic from the settings to the curated clips, with a tiny tower in the published format in a Hugging Face cache."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import lance
import numpy as np
import pytest

pytest.importorskip("transformers")

from curation_assets.configuration import load_config, merge, resolve_settings
from curation_assets.curation import aesthetic as stage
from curation_assets.curation.aesthetic import expected_aesthetic, update_aesthetic
from curation_assets.curation.checks import frames_ready, referential_integrity
from curation_assets.curation.corpus import CorpusRun
from curation_assets.curation.curated_clips import update_curated_clips
from curation_assets.curation.duplicates import duplicates_fingerprint, update_duplicates
from curation_assets.curation.embeddings import update_embeddings
from curation_assets.curation.estimate import estimate_run
from curation_assets.curation.kept import kept_clips, kept_digests
from curation_assets.curation.looks import look_at_aesthetic
from curation_assets.curation.model_files import check_models
from curation_assets.curation.model_frames import frame_set_of, frame_sets
from curation_assets.curation.query import clip_story, connect_config
from curation_assets.curation.warehouse import Warehouse, table_specs
from curation_assets.media.images import decode_image
from curation_assets.models import aesthetic, registry, shared
from curation_assets.models.weights import WeightFile, WeightsError
from curation_assets.schemas.clip_scores import CLIP_SCORES_AESTHETIC, CLIP_SCORES_PIXELS
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.settings import Config, SettingsError
from curation_assets_tests import makevideo
from curation_assets_tests.checkpoints import link_as_cached, write_aesthetic
from curation_assets_tests.curation.project import Project

ASSET, SET = "clip_scores/aesthetic", "aesthetics-crop-224x224"
FRAMES = ("raw_videos", "clips", "frame_sets")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face cache with the two repositories at their pinned commits, the files linked by their hashes."""
    folder, cache = write_aesthetic(tmp_path_factory.mktemp("written")), tmp_path_factory.mktemp("cache")
    for weights in (aesthetic.TOWER, aesthetic.HEAD):
        owner, name = weights.repo.split("/")
        snapshot = cache / f"models--{owner}--{name}" / "snapshots" / weights.revision
        shutil.copytree(folder / name, snapshot)
        link_as_cached(snapshot)
    return cache


@pytest.fixture(autouse=True)
def unpinned(monkeypatch: pytest.MonkeyPatch):
    """The published sizes and hashes do not hold for a tiny tower."""
    weights = tuple(replace(spec, files=tuple(WeightFile(file.name, None, None) for file in spec.files)) for spec in aesthetic.SPEC.weights)
    spec = replace(aesthetic.SPEC, weights=weights)
    monkeypatch.setattr(aesthetic, "SPEC", spec)
    monkeypatch.setitem(registry.SCORERS, "aesthetic", spec)
    yield
    shared.release()


@pytest.fixture
def on(cache: Path):
    """Settings with the scorer on, and more of it."""

    def build(thresholds: dict[str, float] | None = None, **settings: object) -> dict[str, object]:
        scores = {"scorers": ["pixels", "aesthetic"], "aesthetic": {"device": "cpu", **settings}, "thresholds": thresholds or {}}
        return {"clip_scores": scores, "models": {"cache_dir": str(cache)}, "embeddings": {"models": []}}

    return build


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A project whose frames are there: a video of 5 s in clips of 2 s, and one of 4 s that is cut short."""
    folder = tmp_path_factory.mktemp("sampled")
    (folder / "videos").mkdir()
    makevideo.make_cfr(folder / "videos" / "long.mp4", seconds=5, seed=4)
    whole = makevideo.make_faststart(folder / "whole.mp4", seconds=4)
    makevideo.make_truncated(folder / "videos" / "short.mp4", whole=whole)
    settings = {"clip_scores": {"scorers": ["pixels", "aesthetic"]}, "embeddings": {"models": []}}
    project_in(folder).run(settings, stages=FRAMES)
    return folder


def project_in(folder: Path, warehouse: Path | None = None) -> Project:
    settings = {"clips": {"splitter": {"clip_len_s": 2, "min_clip_len_s": 0.5}}}
    return Project(folder / "videos", str(warehouse or folder / "warehouse"), settings)


@pytest.fixture
def project(sampled: Path, tmp_path: Path) -> Project:
    """The same videos, and a copy of the warehouse."""
    return project_in(sampled, Path(shutil.copytree(sampled / "warehouse", tmp_path / "warehouse")))


def scores(project: Project, settings) -> dict[str, dict]:
    return {row["clip_id"]: row for row in project.rows(ASSET, ["clip_id", "outcome", "detail", "num_frames", "aesthetic_score"], settings)}


def stored_frames(project: Project, settings) -> dict[str, np.ndarray]:
    rows = project.rows("frame_sets", ["clip_id", "name", "codec", "height_px", "width_px", "frames"], settings)
    return {
        row["clip_id"]: np.stack([decode_image(frame, row["codec"], row["height_px"], row["width_px"]) for frame in row["frames"]])
        for row in rows
        if row["name"] == SET and row["frames"]
    }


def test_the_scorer_has_a_frame_set_of_its_own(on):
    settings = Config.model_validate({"previews": {}, **on()})
    assert frame_set_of(settings, "aesthetic") == SET
    item = frame_sets(settings)[SET]
    assert (item.purpose, item.fps, item.least_frames, item.fit, item.size, item.scaling) == (
        "aesthetics",
        1,
        1,
        "crop",
        (224, 224),
        "bicubic",
    )
    own = {"mine": {"purpose": "aesthetics", "fit": "crop"}, "other": {"purpose": "embeddings", "fit": "crop"}}
    settings = Config.model_validate({"previews": {}, "frame_sets": {"sets": own}, **on()})
    assert frame_set_of(settings, "aesthetic") == "mine"
    assert set(frame_sets(settings)) == {"mine", "other"}
    off = Config.model_validate({"previews": {}, "embeddings": {"models": ["clip-vit-b32"]}})
    assert SET not in frame_sets(off)
    both = Config.model_validate({"previews": {}, **on(), "embeddings": {"models": ["clip-vit-b32"]}})
    assert {name: entry.fps for name, entry in frame_sets(both).items()} == {"embeddings": 2, "crop-224x224": 2, SET: 1}


def test_a_threshold_needs_its_scorer(on):
    with pytest.raises(ValueError, match=r"min_aesthetic_score, but the scorer aesthetic does not run; name it in clip_scores\.scorers"):
        Config.model_validate({"clip_scores": {"thresholds": {"min_aesthetic_score": 5}}})
    with pytest.raises(ValueError, match="max_black_share, but the scorer pixels does not run"):
        Config.model_validate({"clip_scores": {"scorers": ["aesthetic"], "thresholds": {"max_black_share": 0.5}}})
    assert Config.model_validate({"clip_scores": {"scorers": ["aesthetic"], "thresholds": {"min_aesthetic_score": 5}}})


@pytest.mark.parametrize("reduction", ["min", "mean"])
def test_a_clip_has_the_least_or_the_mean_of_its_frames(project, on, cache, reduction):
    settings = on(reduction=reduction, batch_size=3)  # smaller than what two clips have
    assert update_aesthetic(project.source(settings)).num_work == 2
    found, frames = scores(project, settings), stored_frames(project, settings)
    assert sorted(len(frames[clip]) for clip in frames) == [1, 2, 2, 2]
    scorer = aesthetic.AestheticScorer(cache, device="cpu")
    for clip, pictures in frames.items():
        of_frames = scorer.score_frames(pictures).astype(np.float64)
        assert found[clip]["num_frames"] == len(pictures)
        assert found[clip]["aesthetic_score"] == getattr(np, reduction)(of_frames)
    assert any(np.ptp(scorer.score_frames(pictures)) > 1e-3 for pictures in frames.values()), "else both reductions are the same"


def test_a_damaged_clip_has_a_row_with_the_reason_and_no_score(project, on):
    settings = on()
    table = project.source(settings).table(FRAME_SETS)
    import lance

    data = lance.dataset(table.uri).to_table()
    rows = data.to_pylist()
    whole = [place for place, row in enumerate(rows) if row["name"] == SET and row["num_frames"] == 2 and row["outcome"] == "ok"]
    rows[whole[0]]["frames"] = [b"no picture", *rows[whole[0]]["frames"][1:]]
    rows[whole[1]].update(frames=[], num_frames=0, outcome="no_frames", detail="no frame of the span could be decoded")
    import pyarrow as pa

    lance.write_dataset(pa.Table.from_pylist(rows, schema=data.schema), table.uri, mode="overwrite")
    update_aesthetic(project.source(settings))
    found = scores(project, settings)
    broken, empty = (found[rows[place]["clip_id"]] for place in whole[:2])
    assert (broken["outcome"], broken["aesthetic_score"], broken["num_frames"]) == ("corrupt", None, 0)
    assert broken["detail"].startswith("stored frame: ")
    assert (empty["outcome"], empty["aesthetic_score"], empty["detail"]) == ("no_frames", None, "no frame of the span could be decoded")
    assert all(row["aesthetic_score"] is not None for clip, row in found.items() if row not in (broken, empty))
    assert {failure["outcome"] for failure in _failures(project, settings)} >= {"corrupt", "no_frames"}
    strict = on({"min_aesthetic_score": -100.0})
    with _connected(project, strict) as connection:
        reasons = dict(connection.execute("SELECT clip_id, reject_reason FROM clip_scores").fetchall())
    assert {clip: reason for clip, reason in reasons.items() if reason} == {rows[place]["clip_id"]: "missing_score" for place in whole[:2]}


def _failures(project, settings):
    from curation_assets.curation.status import failures

    return [item for item in failures(project.source(settings)) if item["table"] == "clip_scores_aesthetic"]


def _connected(project, settings):
    """Open the project's tables for SQL as the command line does."""
    record = project.source().record
    tree = {"sources": {"test": {"uri": record.uri, "settings": project.settings}}, "previews": {}, "transcoded_clips": {"enabled": False}}
    config = Config.model_validate({"warehouse": project.warehouse_uri, **tree, **settings})
    Warehouse.of(config).registry.sync(config)
    return connect_config(config)


def test_what_changes_recomputes_itself_only(project, on):
    assert update_aesthetic(project.source(on())).num_work == 2
    version = project.versions(on())[ASSET]
    assert update_aesthetic(project.source(on())).num_work == 0
    for same in (on(batch_size=1), on(device="auto"), on({"min_aesthetic_score": 4.0, "max_black_share": 0.2})):
        assert update_aesthetic(project.source(same)).num_work == 0
    more_sets = merge(on(), {"frame_sets": {"sets": {"more": {"target_fps": 1}}}})
    project.run(more_sets, stages=FRAMES)
    assert update_aesthetic(project.source(more_sets)).num_work == 0
    before = project.versions(more_sets)
    mean = merge(more_sets, on(reduction="mean"))
    assert all(
        report.num_work == (0 if name != "raw_videos" else report.num_work) for name, report in project.run(mean, stages=FRAMES).items()
    )
    assert update_aesthetic(project.source(mean)).num_work == 2
    after = project.versions(mean)
    assert {asset for asset in after if after[asset] != before[asset]} == {ASSET}
    assert before[ASSET] == version
    assert update_aesthetic(project.source(merge(more_sets, on(reduction="mean", dtype="bfloat16")))).num_work == 2


def test_interrupted_in_the_middle_it_goes_on(project, on, monkeypatch):
    settings = on()
    assert update_aesthetic(project.source(settings, limit=1)).num_work == 1
    assert len({row["video_id"] for row in project.rows(ASSET, ["video_id"], settings)}) == 1
    assert project.status(settings)["clip_scores_aesthetic"]["pending"] == 1
    assert update_aesthetic(project.source(settings)).num_work == 1
    whole = project.versions(settings)[ASSET]
    shutil.rmtree(Path(project.warehouse_uri) / "tables" / "clip_scores" / "aesthetic")
    update_aesthetic(project.source(settings))
    assert project.versions(settings)[ASSET] == whole


def test_clips_are_judged_when_every_scorer_with_a_threshold_has_scored_them(project, on):
    pixels = on({"min_motion_mean": 0.0})
    both = on({"min_motion_mean": 0.0, "min_aesthetic_score": -100.0})
    assert not kept_digests(project.source(pixels))[1]
    assert not kept_digests(project.source(on()))[1], "a scorer without a threshold is not waited for"
    digests, waiting = kept_digests(project.source(both))
    assert not digests
    assert len(waiting) == 2
    with _connected(project, both) as connection:
        assert connection.execute("SELECT DISTINCT kept, reject_reason FROM clip_scores").fetchall() == [(None, "not_scored")]
    update_aesthetic(project.source(both))
    assert not kept_digests(project.source(both))[1]
    values = sorted(row["aesthetic_score"] for row in scores(project, both).values())
    middle = (values[1] + values[2]) / 2
    strict = on({"min_motion_mean": 0.0, "min_aesthetic_score": middle})
    ids = list(kept_digests(project.source(strict))[0])
    kept = {clip for clips in kept_clips(project.source(strict), ids).values() for clip in clips}
    assert kept == {clip for clip, row in scores(project, both).items() if row["aesthetic_score"] >= middle}
    assert len(kept) == 2
    with _connected(project, strict) as connection:
        rows = connection.execute("SELECT kept, reject_reason, count(*) FROM clip_scores GROUP BY ALL ORDER BY ALL").fetchall()
        assert rows == [(False, "low_aesthetic", 2), (True, None, 2)]
        joined = connection.execute(
            "SELECT count(*) FROM clip_scores WHERE motion_mean IS NOT NULL AND aesthetic_score IS NOT NULL"
        ).fetchone()
        assert joined == (4,)
    # a new reduction: what is stored is of the old one, and nothing is judged by it
    stale = on({"min_aesthetic_score": middle}, reduction="mean")
    assert len(kept_digests(project.source(stale))[1]) == 2


def test_without_pixels(project, on):
    settings = on({"min_aesthetic_score": -100.0})
    settings["clip_scores"]["scorers"] = ["aesthetic"]
    shutil.rmtree(Path(project.warehouse_uri) / "tables" / "clip_scores")
    update_aesthetic(project.source(settings))
    digests, waiting = kept_digests(project.source(settings))
    assert (len(digests), waiting) == (2, set())
    with _connected(project, settings) as connection:
        rows = connection.execute("SELECT DISTINCT motion_mean, kept, aesthetic_score IS NULL FROM clip_scores").fetchall()
    assert rows == [(None, True, False)]


def test_scores_that_an_earlier_scorer_left_do_not_hide_those_that_run(project, on):
    """Of another version of the videos: the view asks the scorers that run."""
    settings = on({"min_aesthetic_score": -100.0})
    settings["clip_scores"]["scorers"] = ["aesthetic"]
    update_aesthetic(project.source(settings))
    table = Warehouse(project.warehouse_uri).table(CLIP_SCORES_PIXELS, "test")
    dataset = lance.dataset(table.uri)
    assert dataset.update({"video_etag": "'of another upload'"})["num_rows_updated"]
    digests, waiting = kept_digests(project.source(settings))
    assert (len(digests), waiting) == (2, set())
    _, rows = curated(project, settings)
    assert all(is_selected for is_selected, _, _ in rows.values())


def test_clips_without_scores_leave_nothing_out(project, on):
    """A clip that waits for the scores that a threshold needs cannot be selected, so it must not win over its duplicates."""
    settings = merge(on({"min_aesthetic_score": -100.0}), {"embeddings": {"models": ["fingerprint"]}})
    update_embeddings(project.source(settings), "fingerprint")
    tree = {"previews": {}, "transcoded_clips": {"enabled": False}, "warehouse": project.warehouse_uri, "dedup": {"eps": 0.99}}
    config = Config.model_validate({**tree, **settings})
    with _connected(project, settings):
        pass
    assert update_duplicates(CorpusRun(config), "fingerprint").num_rows == 0
    update_aesthetic(project.source(settings))
    assert update_duplicates(CorpusRun(config), "fingerprint").num_rows > 0


def curated(project, settings):
    """Make curated_clips, and give every clip's selection and reasons."""
    with _connected(project, settings):
        pass
    tree = {"previews": {}, "transcoded_clips": {"enabled": False}, "warehouse": project.warehouse_uri}
    run = CorpusRun(Config.model_validate({**tree, **settings}))
    update_curated_clips(run, tables=table_specs(run.config), model=None)
    with run.connect() as connection:
        query = "SELECT clip_id, is_selected, reject_reasons, aesthetic_score FROM curated_clips"
        return run, {row[0]: row[1:] for row in connection.execute(query).fetchall()}


def test_curated_clips_give_the_reasons_of_both(project, on):
    _, rows = curated(project, on())
    assert {reasons[0] for _, reasons, _ in rows.values()} == {"not_scored"}
    update_aesthetic(project.source(on()))
    found = scores(project, on())
    values = sorted(row["aesthetic_score"] for row in found.values())
    strict = on({"min_aesthetic_score": (values[1] + values[2]) / 2, "max_motion_mean": 0.0})
    run, rows = curated(project, strict)
    assert all(rows[clip][2] == row["aesthetic_score"] for clip, row in found.items())
    low = {clip for clip, row in found.items() if row["aesthetic_score"] < (values[1] + values[2]) / 2}
    assert {clip for clip, (_, reasons, _) in rows.items() if "low_aesthetic" in reasons} == low
    assert all("high_motion" in reasons and not is_selected for is_selected, reasons, _ in rows.values())
    story = clip_story(run.config, min(low))
    assert story["aesthetic"]["outcome"] in ("ok", "truncated")
    assert (story["scores"]["kept"], story["scores"]["reject_reason"]) == (False, "high_motion")
    _, rows = curated(project, on())
    assert all(is_selected for is_selected, _, _ in rows.values())


def test_duplicates_depend_on_the_scores_that_judge_or_rank(project, on):
    def made_from(ranks=("source",), thresholds=None):
        with _connected(project, on(thresholds)):
            pass
        tree = {"previews": {}, "transcoded_clips": {"enabled": False}, "warehouse": project.warehouse_uri}
        config = Config.model_validate({**tree, **on(thresholds), "dedup": {"which_to_keep": list(ranks)}})
        return duplicates_fingerprint(CorpusRun(config), "fingerprint")

    cases = {"plain": {}, "ranked": {"ranks": ["-aesthetic_score"]}, "judged": {"thresholds": {"min_aesthetic_score": 1.0}}}
    before = {name: made_from(**case) for name, case in cases.items()}
    update_aesthetic(project.source(on()))
    after = {name: made_from(**case) for name, case in cases.items()}
    assert {name for name in cases if before[name] != after[name]} == {"ranked", "judged"}


def test_status_checks_estimate_and_looks(project, on):
    settings = on()
    source = project.source(settings)
    assert project.status(settings)["clip_scores_aesthetic"] == {"outcomes": {}, "pending": 2}
    assert estimate_run(source).num_stale == 2
    assert look_at_aesthetic(source) is None
    update_aesthetic(source)
    status = project.status(settings)["clip_scores_aesthetic"]
    assert (sum(status["outcomes"].values()), status["pending"]) == (4, 0)
    assert referential_integrity(source, CLIP_SCORES_AESTHETIC).passed
    assert frames_ready(source, CLIP_SCORES_AESTHETIC).passed
    look = look_at_aesthetic(source)
    assert "image/svg+xml" in look
    assert "contact sheet" in look
    shorter = {**settings, "raw_videos": {"limits": {"max_duration_s": 4.5}}}
    project.run(shorter, stages=FRAMES)
    assert update_aesthetic(project.source(shorter)).num_removed == 1
    assert len(scores(project, settings)) == 1


def test_frames_that_another_run_changes_leave_the_video_pending(project, on, monkeypatch):
    settings = on()
    source = project.source(settings)
    lines = []
    real = stage.read_frame_batches
    monkeypatch.setattr(
        stage, "read_frame_batches", lambda *a, fingerprints, **k: real(*a, fingerprints=dict.fromkeys(fingerprints, "x"), **k)
    )
    report = update_aesthetic(replace(source, log=lines.append))
    assert report.num_work == 0
    assert sum("it stays pending" in line for line in lines) == 2
    assert len(expected_aesthetic(source).work(source.headers(CLIP_SCORES_AESTHETIC))) == 2


def test_missing_weights_and_gpus_are_named_before_any_work(project, on, tmp_path, cache):
    selected = {tuple(spec.asset_key) for spec in (CLIP_SCORES_PIXELS, CLIP_SCORES_AESTHETIC)}

    def check(settings, names=selected):
        check_models([resolve_settings(project.config.processing(), settings)], selected=names)

    check(on())
    empty = merge(on(), {"models": {"cache_dir": str(tmp_path / "none")}})
    with pytest.raises(
        SettingsError, match=r"the weights of aesthetic are not ready: config\.json is missing.* curation-assets models download aesthetic"
    ):
        check(empty)
    check(empty, {tuple(CLIP_SCORES_PIXELS.asset_key)})
    with pytest.raises(WeightsError, match="curation-assets models download aesthetic"):
        update_aesthetic(project.source(empty))
    head = cache / "models--ttj--sac-logos-ava1-l14-linearMSE"
    shutil.copytree(cache, tmp_path / "half", ignore=lambda *_: [head.name])
    with pytest.raises(SettingsError, match="of ttj/sac-logos-ava1-l14-linearMSE"):
        check(merge(on(), {"models": {"cache_dir": str(tmp_path / "half")}}))
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match=r"clip_scores\.aesthetic\.device, for aesthetic: device is cuda"):
            check(on(device="cuda"))


def test_the_settings_file_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("curation.yaml").write_text(
        "clip_scores: {scorers: [pixels, aesthetic], aesthetic: {reduction: mean}, thresholds: {min_aesthetic_score: 4.5}}\n"
    )
    assert load_config(Path("curation.yaml")).clip_scores.aesthetic.reduction == "mean"
