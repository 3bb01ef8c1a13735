"""The definitions: what there is, and how a run goes through it."""

import base64
import re
import sqlite3
from dataclasses import replace

import dagster as dg
import pytest
import yaml
from sqlalchemy.exc import IntegrityError

from curation_assets.configuration import load_config
from curation_assets.curation.warehouse import Warehouse
from curation_assets.definitions import build_defs
from curation_assets.defs.launch import RANGE_END, RANGE_START, launch
from curation_assets.defs.partitions import remove_partition, sync_partitions
from curation_assets.defs.resources import listening

PARTITIONED = ["clip_scores/pixels", "clips", "embeddings/fingerprint", "frame_sets", "previews/240p", "raw_videos", "transcoded_clips"]
CORPUS = ["curated_clips", "curation_status", "duplicates/fingerprint", "search_index/fingerprint"]
ASSETS = sorted(PARTITIONED + CORPUS)


def test_asset_keys(workplace):
    definitions = build_defs()
    dg.Definitions.validate_loadable(definitions)
    graph = definitions.resolve_asset_graph()
    assert sorted("/".join(key.path) for key in graph.get_all_asset_keys()) == ASSETS


def test_every_asset_is_described(workplace):
    graph = build_defs().resolve_asset_graph()
    policies = set()
    for name in PARTITIONED:
        node = graph.get(dg.AssetKey(name.split("/")))
        assert node.description
        assert node.owners
        assert node.kinds
        assert node.group_name != "default"
        assert node.code_version
        columns = node.metadata["dagster/column_schema"].columns
        assert all(column.description for column in columns)
        policies.add(node.backfill_policy)
    assert len(policies) == 1


def test_unselected_models_have_no_asset(workplace):
    keys = {"/".join(key.path) for key in build_defs(overrides={"embeddings": {"models": []}}).resolve_asset_graph().get_all_asset_keys()}
    assert "embeddings/fingerprint" not in keys


def test_clips_without_files(workplace):
    settings = workplace / "curation.yaml"
    settings.write_text(settings.read_text() + "transcoded_clips: {enabled: false}\npreviews: {small: {height_px: 90, from: clip}}\n")
    keys = {"/".join(key.path) for key in build_defs().resolve_asset_graph().get_all_asset_keys()}
    assert "transcoded_clips" not in keys
    assert {key for key in keys if key.startswith("previews")} == {"previews/small"}
    assert build_defs().resolve_job_def("curate_sources")


def curate(instance, **arguments):
    return build_defs().resolve_job_def("curate_source").execute_in_process(instance=instance, raise_on_error=False, **arguments)


def events(result, name):
    return [event for event in result.get_asset_materialization_events() if event.asset_key == dg.AssetKey(name.split("/"))]


def test_a_source_that_leaves_the_model_out_is_materialized_without_work(instance, workplace):
    settings = workplace / "curation.yaml"
    tree = yaml.safe_load(settings.read_text())
    assert curate(instance, partition_key="a").success
    tree["sources"]["a"]["settings"] = {"embeddings": {"models": []}}
    settings.write_text(yaml.safe_dump(tree))
    Warehouse.of(load_config(settings)).registry.sync(load_config(settings))
    result = curate(instance, partition_key="a")
    assert result.success
    metadata = events(result, "embeddings/fingerprint")[0].materialization.metadata
    assert [metadata[name].value for name in ("dagster/row_count", "num_videos_done", "num_videos_pending")] == [0, 0, 0]
    assert metadata["num_videos_removed"].value > 0
    assert all(check.passed for check in result.get_asset_check_evaluations() if check.asset_key.path[0] == "embeddings")


def test_one_partition(instance):
    result = curate(instance, partition_key="a")
    assert result.success
    for name in PARTITIONED:
        (event,) = events(result, name)
        metadata = event.materialization.metadata
        assert metadata["dagster/row_count"].value > 0
        assert metadata["seconds"].value >= 0
        assert "num_failed" in metadata
        assert "outcomes" in metadata
    sheet = events(result, "clips")[0].materialization.metadata["look"].value
    data = re.search(r"data:image/jpeg;base64,([^)]+)", sheet).group(1)
    assert base64.b64decode(data)[:2] == b"\xff\xd8"
    assert len(data) < 100_000
    assert "image/svg+xml" in events(result, "clip_scores/pixels")[0].materialization.metadata["look"].value
    checks = {(check.asset_key.to_user_string(), check.check_name): check.passed for check in result.get_asset_check_evaluations()}
    assert checks.pop(("raw_videos", "failure_rate")) is False  # one of two files is a text file
    assert all(checks.values())
    assert ("embeddings/fingerprint", "unit_norms") in checks
    assert ("frame_sets", "referential_integrity") in checks
    assert ("transcoded_clips", "media_exists") in checks
    assert ("previews/240p", "media_exists") in checks
    assert "| encode | h264 |" in events(result, "transcoded_clips")[0].materialization.metadata["look"].value
    assert "data:image/webp;base64," in events(result, "previews/240p")[0].materialization.metadata["look"].value


def versions(instance, key):
    return {
        name: instance.get_latest_data_version_record(dg.AssetKey(name.split("/")), partition_key=key).event_log_entry.tags[
            "dagster/data_version"
        ]
        for name in PARTITIONED
    }


def test_a_second_run_changes_no_data_version(instance):
    assert curate(instance, partition_key="a").success
    before = versions(instance, "a")
    assert curate(instance, partition_key="a").success
    assert versions(instance, "a") == before


def test_several_partitions_in_one_run(instance):
    result = curate(instance, tags={RANGE_START: "a", RANGE_END: "c"})
    assert result.success
    for name in PARTITIONED:
        materialized = events(result, name)
        assert sorted(event.partition for event in materialized) == ["a", "b", "c"]
        assert all(event.materialization.metadata["dagster/row_count"].value > 0 for event in materialized)


def test_any_set_of_sources_in_one_run(instance, workplace):
    job = build_defs().resolve_job_def("curate_sources")
    config = {"ops": {"curate_sources_op": {"config": {"partition_names": ["c", "a"]}}}}
    result = job.execute_in_process(instance=instance, run_config=config)
    assert result.success
    checks = {(check.asset_key.to_user_string(), check.check_name): check.passed for check in result.get_asset_check_evaluations()}
    assert checks["raw_videos", "failure_rate"] is False
    assert checks["embeddings/fingerprint", "unit_norms"] is True
    for name in PARTITIONED:
        assert instance.get_materialized_partitions(dg.AssetKey(name.split("/"))) == {"a", "c"}
    only = {"ops": {"curate_sources_op": {"config": {"partition_names": ["b"], "asset_names": ["raw_videos"]}}}}
    assert job.execute_in_process(instance=instance, run_config=only).success
    assert instance.get_materialized_partitions(dg.AssetKey("raw_videos")) == {"a", "b", "c"}
    assert instance.get_materialized_partitions(dg.AssetKey("clips")) == {"a", "c"}


def test_one_of_the_two_tables_of_a_decode(instance):
    assert curate(instance, partition_key="a", asset_selection=[dg.AssetKey("raw_videos"), dg.AssetKey("clips")]).success
    result = curate(instance, partition_key="a", asset_selection=[dg.AssetKey(["clip_scores", "pixels"])])
    assert result.success
    assert not events(result, "frame_sets")
    assert events(result, "clip_scores/pixels")[0].materialization.metadata["dagster/row_count"].value > 0


def test_an_unreadable_source_fails_alone(instance, workplace):
    (workplace / "videos" / "b").rename(workplace / "elsewhere")
    alone = curate(instance, partition_key="b")
    assert not alone.success
    together = curate(instance, tags={RANGE_START: "a", RANGE_END: "c"})
    assert together.success
    failed = [check for check in together.get_asset_check_evaluations() if check.check_name == "source_readable" and not check.passed]
    assert failed
    assert "no such folder" in failed[0].description
    embedded = events(together, "embeddings/fingerprint")
    rows = {event.partition: event.materialization.metadata.get("dagster/row_count") for event in embedded}
    assert rows["a"].value > 0
    assert rows["c"].value > 0


def test_a_source_that_is_not_there_fails_alone(instance, workplace):
    sync_partitions(instance, ["a", "b", "c", "unknown"])
    result = curate(instance, tags={RANGE_START: "a", RANGE_END: "unknown"})
    assert result.success
    rows = {event.partition: event.materialization.metadata for event in events(result, "clips")}
    assert rows["a"]["dagster/row_count"].value > 0
    assert "no source named 'unknown'" in rows["unknown"]["error"].value


@pytest.mark.parametrize(
    ("config", "message"),
    [({"partition_names": ["a"], "asset_names": ["clipz"]}, "clipz"), ({"partition_names": []}, "partition_names is empty")],
)
def test_curate_sources_says_what_is_wrong(instance, config, message):
    job = build_defs().resolve_job_def("curate_sources")
    run_config = {"ops": {"curate_sources_op": {"config": config}}}
    result = job.execute_in_process(instance=instance, run_config=run_config, raise_on_error=False)
    assert not result.success
    assert message in result.all_node_events[-1].step_failure_data.user_failure_data.description


def test_a_limit_below_one_is_refused(instance):
    result = curate(instance, partition_key="a", run_config={"resources": {"curation": {"config": {"limit": 0}}}})
    assert not result.success


def test_a_shared_instance_keeps_the_partitions_of_others(instance, monkeypatch, tmp_path):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    sync_partitions(instance, ["a", "new"])
    assert set(instance.get_dynamic_partitions("video_source")) == {"a", "b", "c", "new"}


def test_a_partition_that_a_sensor_has_just_added_stays(instance, registry, monkeypatch):
    """`run` reads the names, starts up for seconds, and looks which partitions are too many."""
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    names = registry.names()
    registry.put(replace(registry.get("a"), name="up-cam"))
    instance.add_dynamic_partitions("video_source", ["up-cam", "removed"])
    sync_partitions(instance, names, registry=registry)
    assert set(instance.get_dynamic_partitions("video_source")) == {"a", "b", "c", "up-cam"}


def test_another_run_adds_a_source_at_the_same_moment(instance, monkeypatch):
    """Dagster looks which partitions there are and then inserts the others; what was inserted in between is an error of its database."""
    storage = type(instance.event_log_storage)
    real = storage.add_dynamic_partitions
    calls = []

    def add(self, name, keys):
        calls.append(list(keys))
        real(self, name, keys)
        if len(calls) == 1:
            raise IntegrityError("INSERT INTO dynamic_partitions", {}, sqlite3.IntegrityError("UNIQUE constraint failed"))

    monkeypatch.setattr(storage, "add_dynamic_partitions", add)
    sync_partitions(instance, ["a", "b", "late"])
    assert calls[0][-1] == "late"
    assert set(instance.get_dynamic_partitions("video_source")) == {"a", "b", "late"}
    monkeypatch.setattr(storage, "add_dynamic_partitions", lambda *_: (_ for _ in ()).throw(IntegrityError("INSERT", {}, ValueError())))
    with pytest.raises(IntegrityError):
        sync_partitions(instance, ["a", "another"])


def test_launchpad_overrides_apply_to_one_run(instance, workplace):
    run_config = {"resources": {"curation": {"config": {"settings": {"clips": {"splitter": {"clip_len_s": 1, "min_clip_len_s": 0.5}}}}}}}
    result = curate(instance, partition_key="a", run_config=run_config)
    assert events(result, "clips")[0].materialization.metadata["num_ok"].value == 4
    result = curate(instance, partition_key="a")
    assert events(result, "clips")[0].materialization.metadata["num_ok"].value == 2


def test_what_decides_the_assets_is_refused_in_the_launchpad(instance):
    run_config = {"resources": {"curation": {"config": {"settings": {"embeddings": {"models": []}}}}}}
    result = curate(instance, partition_key="a", run_config=run_config)
    assert not result.success
    (failure, *_) = [event for event in result.all_events if event.event_type is dg.DagsterEventType.STEP_FAILURE]
    assert "embeddings.models is for the whole project" in str(failure.step_failure_data)


def test_the_tables_over_all_sources(instance):
    assert curate(instance, partition_key="a").success
    assert curate(instance, partition_key="b").success  # the same videos: every clip of one is a copy of the other's
    job = build_defs().resolve_job_def("curate_corpus")
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    assert result.success
    (duplicates,) = events(result, "duplicates/fingerprint")
    metadata = duplicates.materialization.metadata
    assert (metadata["dagster/row_count"].value, metadata["num_clips"].value, metadata["is_unchanged"].value) == (2, 4, False)
    assert metadata["look"].value.count("data:image/") == 2
    (index,) = events(result, "search_index/fingerprint")
    metadata = index.materialization.metadata
    assert (metadata["dagster/row_count"].value, metadata["num_vectors"].value, metadata["is_indexed"].value) == (0, 4, 0)
    assert metadata["look"].value == "4 vectors, searched one by one; an index is made from 100,000 on"
    (curated,) = events(result, "curated_clips")
    assert curated.materialization.metadata["dagster/row_count"].value == 4
    assert "| duplicate | 2 |" in curated.materialization.metadata["look"].value
    checks = {(check.asset_key.to_user_string(), check.check_name): check.passed for check in result.get_asset_check_evaluations()}
    assert checks == {
        ("duplicates/fingerprint", "referential_integrity"): True,
        ("duplicates/fingerprint", "no_chains"): True,
        ("search_index/fingerprint", "referential_integrity"): True,
        ("curated_clips", "referential_integrity"): True,
    }
    again = job.execute_in_process(instance=instance, raise_on_error=False)
    assert events(again, "curated_clips")[0].materialization.metadata["is_unchanged"].value is True
    version = "dagster/data_version"
    assert events(again, "curated_clips")[0].materialization.tags[version] == curated.materialization.tags[version]


def test_curation_status_counts_pending(instance):
    graph_job = build_defs().resolve_implicit_global_asset_job_def()
    assert curate(instance, partition_key="a", asset_selection=[dg.AssetKey("raw_videos")]).success
    result = graph_job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey("curation_status")])
    metadata = events(result, "curation_status")[0].materialization.metadata
    assert metadata["num_pending"].value == 6  # one good video, six later tables
    assert "| a | clips |" in metadata["status"].value


@pytest.mark.parametrize("names", [["b", "d"], ["a"], []])
def test_partitions_follow_the_registry(instance, names):
    sync_partitions(instance, names)
    assert sorted(instance.get_dynamic_partitions("video_source")) == names


def test_a_partition_that_is_deleted_during_its_run(workplace, instance):
    path = workplace / "curation.yaml"
    config = load_config(path)
    registered = Warehouse.of(config).registry.sync(config)
    overrides = {"transcoded_clips": {"enabled": False}}

    def delete(_):
        remove_partition(instance, "a")

    with listening(delete):
        result = launch(path, instance=instance, registered=registered, names=["a"], overrides=overrides)
    assert result.errors == [
        "a source's partition was deleted during its run; what was committed stays, and the next run registers it again"
    ]
    assert not launch(path, instance=instance, registered=registered, names=["a"], overrides=overrides).errors
