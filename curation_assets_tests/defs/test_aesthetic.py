"""The scorer aesthetic in Dagster: one run through the definitions, from the video to the files of the clips that its threshold keeps."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

pytest.importorskip("transformers")

from curation_assets.configuration import load_config
from curation_assets.curation.corpus import CorpusRun
from curation_assets.curation.corpus_status import corpus_status
from curation_assets.curation.query import connect_config
from curation_assets.curation.warehouse import Warehouse
from curation_assets.definitions import build_defs
from curation_assets.defs.launch import launch
from curation_assets_tests.curation.test_aesthetic import cache, unpinned  # noqa: F401 - fixtures
from curation_assets_tests.defs.test_definitions import curate, events

ASSET = dg.AssetKey(["clip_scores", "aesthetic"])


@pytest.fixture
def scored(workplace: Path, cache: Path) -> Path:  # noqa: F811
    """Settings with the scorer on."""
    settings = workplace / "curation.yaml"
    more = f"models: {{cache_dir: {cache}}}\nclip_scores: {{scorers: [pixels, aesthetic], aesthetic: {{device: cpu}}, thresholds: {{min_aesthetic_score: -100}}}}\n"
    settings.write_text(settings.read_text() + more)
    return settings


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with connect_config(load_config(path)) as connection:
        return connection.execute(query).fetchall()


def test_what_files_are_made_of_waits_for_the_scores(scored):
    graph = build_defs().resolve_asset_graph()
    for name in (["transcoded_clips"], ["previews", "240p"], ["duplicates", "fingerprint"], ["curated_clips"]):
        assert {ASSET, dg.AssetKey(["clip_scores", "pixels"])} <= graph.get(dg.AssetKey(name)).parent_keys
    assert graph.get(ASSET).parent_keys == {dg.AssetKey("frame_sets")}
    off = {"clip_scores": {"thresholds": {"min_aesthetic_score": None}, "scorers": ["pixels"]}}
    assert ASSET not in build_defs(overrides=off).resolve_asset_graph().get_all_asset_keys()


def test_one_run(scored, instance):
    result = curate(instance, partition_key="a")
    assert result.success
    (event,) = events(result, "clip_scores/aesthetic")
    metadata = event.materialization.metadata
    assert metadata["dagster/row_count"].value == 2
    assert "image/svg+xml" in metadata["look"].value
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations() if check.asset_key == ASSET}
    assert checks == dict.fromkeys(("failure_rate", "referential_integrity", "frames_ready", "source_readable"), True)
    found = rows(scored, "SELECT aesthetic_score FROM clip_scores WHERE kept ORDER BY 1")
    assert len(found) == 2
    assert rows(scored, "SELECT count(*) FROM transcoded_clips WHERE uri IS NOT NULL") == [(2,)]
    again = curate(instance, partition_key="a")
    assert events(again, "clip_scores/aesthetic")[0].materialization.metadata["num_videos_done"].value == 0
    # between the two scores: one file goes, nothing is scored anew
    middle = (found[0][0] + found[1][0]) / 2
    scored.write_text(scored.read_text().replace("-100", repr(middle)))
    third = curate(instance, partition_key="a")
    assert events(third, "clip_scores/aesthetic")[0].materialization.metadata["num_videos_done"].value == 0
    assert rows(scored, "SELECT count(*) FROM transcoded_clips WHERE uri IS NOT NULL") == [(1,)]
    assert rows(scored, "SELECT reject_reason, count(*) FROM clip_scores GROUP BY 1 ORDER BY 1") == [("low_aesthetic", 1), (None, 1)]


def test_a_scorer_that_only_this_run_switches_on(workplace, cache, instance):  # noqa: F811
    """Its frame set is added, and status after the run says that nothing waits: the run's own settings of the project reach every step."""
    path = workplace / "curation.yaml"
    aesthetic = {"scorers": ["pixels", "aesthetic"], "aesthetic": {"device": "cpu"}}
    overrides = {"clip_scores": aesthetic, "models": {"cache_dir": str(cache)}, "transcoded_clips": {"enabled": False}}
    config = load_config(path, overrides)
    registered = Warehouse.of(config).registry.sync(config)
    result = launch(path, instance=instance, registered=registered, names=["a"], overrides=overrides)
    assert not result.errors
    assert rows(path, "SELECT count(*) FROM clip_scores_aesthetic WHERE outcome = 'ok'") == [(2,)]
    corpus = corpus_status(CorpusRun(config, overrides=overrides))
    assert {view: table["pending"] for view, table in corpus.items()} == dict.fromkeys(corpus, 0)


def test_any_set_of_sources_in_one_run(scored, instance):
    job = build_defs().resolve_job_def("curate_sources")
    config = {
        "ops": {
            "curate_sources_op": {
                "config": {"partition_names": ["a", "b"], "asset_names": ["raw_videos", "clips", "frame_sets", "clip_scores/aesthetic"]}
            }
        }
    }
    assert job.execute_in_process(instance=instance, run_config=config).success
    assert rows(scored, "SELECT source, count(aesthetic_score), count(motion_mean) FROM clip_scores GROUP BY 1 ORDER BY 1") == [
        ("a", 2, 0),
        ("b", 2, 0),
    ]
