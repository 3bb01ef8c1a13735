"""Parts: two code locations share no asset, and the one with the models follows the frames of the other."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from curation_assets.curation.sources import SourceRegistry
from curation_assets.definitions import build_defs
from curation_assets.defs import frames_sensor
from curation_assets.defs.partitions import sync_partitions
from curation_assets.defs.parts import PART_VARIABLE, Part, part_of_environment
from curation_assets.settings import SettingsError
from curation_assets_tests.curation.test_aesthetic import cache, unpinned  # noqa: F401 - fixtures
from curation_assets_tests.defs.conftest import put_in_queue

MODELS = {"embeddings": {"models": ["fingerprint", "siglip2"]}, "clip_scores": {"scorers": ["pixels", "aesthetic"]}}
OF_GPU = {"clip_scores/aesthetic", "embeddings/siglip2"}


def keys(part, **arguments):
    return {key.to_user_string() for key in build_defs(part=part, **arguments).resolve_asset_graph().materializable_asset_keys}


def test_parts_share_nothing_and_leave_nothing_out(workplace):
    whole, cpu, gpu = (keys(part, overrides=MODELS) for part in Part)
    assert gpu == OF_GPU
    assert cpu | gpu == whole
    assert not cpu & gpu
    assert keys(Part.GPU) == set(), "fingerprint needs no GPU"
    for part in Part:
        dg.Definitions.validate_loadable(build_defs(part=part, overrides=MODELS))


def test_each_part_has_the_jobs_of_its_assets(workplace):
    cpu, gpu = (build_defs(part=part, overrides=MODELS) for part in (Part.CPU, Part.GPU))
    made = {key.to_user_string() for key in cpu.resolve_job_def("curate_source").asset_layer.executable_asset_keys}
    assert made == {
        "raw_videos",
        "clips",
        "frame_sets",
        "clip_scores/pixels",
        "embeddings/fingerprint",
        "transcoded_clips",
        "previews/240p",
    }
    assert {key.to_user_string() for key in gpu.resolve_job_def("curate_source_gpu").asset_layer.executable_asset_keys} == OF_GPU
    names = {job.name for job in gpu.resolve_all_job_defs() if not job.name.startswith("__")}
    assert names == {"curate_source_gpu", "curate_sources"}
    assert [schedule.name for schedule in gpu.schedules] == ["nightly_backfill_schedule"]
    assert "curate_source_gpu" not in {job.name for job in cpu.resolve_all_job_defs()}
    assert {schedule.name for schedule in cpu.schedules} > {"nightly_backfill_schedule", "corpus_schedule"}
    # Dagster tells a location of its own runs
    assert {sensor.name for sensor in gpu.sensors} == {"frame_sets_stored_sensor", "failed_run_sensor"}
    assert {sensor.name for sensor in cpu.sensors} == {
        "bucket_upload_sensor",
        "process_killed_sensor",
        "sqs_upload_sensor",
        "failed_run_sensor",
    }


def test_any_set_of_sources_leaves_out_what_another_part_makes(workplace, instance):
    job = build_defs(part=Part.CPU, overrides=MODELS).resolve_job_def("curate_sources")
    config = {"ops": {"curate_sources_op": {"config": {"partition_names": ["a"], "asset_names": ["embeddings/siglip2"]}}}}
    result = job.execute_in_process(instance=instance, run_config=config, raise_on_error=False)
    assert not result.success
    result = job.execute_in_process(instance=instance, run_config={"ops": {"curate_sources_op": {"config": {"partition_names": ["a"]}}}})
    seen = {event.asset_key.to_user_string() for event in result.all_events if event.is_step_materialization}
    assert "embeddings/fingerprint" in seen
    assert not seen & OF_GPU


def test_part_of_the_environment(workplace, monkeypatch):
    monkeypatch.delenv(PART_VARIABLE, raising=False)
    assert part_of_environment() is Part.ALL
    monkeypatch.setenv(PART_VARIABLE, "gpu")
    assert part_of_environment() is Part.GPU
    monkeypatch.setenv(PART_VARIABLE, "tpu")
    with pytest.raises(SettingsError, match="CURATION_PART is 'tpu': it must be all, cpu, gpu, or unset"):
        part_of_environment()


@pytest.fixture
def scored(workplace: Path, cache: Path) -> Path:  # noqa: F811
    """Settings with a model of the part gpu, on the CPU."""
    settings = workplace / "curation.yaml"
    settings.write_text(
        settings.read_text()
        + f"models: {{cache_dir: {cache}}}\nclip_scores: {{scorers: [pixels, aesthetic], aesthetic: {{device: cpu}}}}\n"
        "embeddings: {models: []}\ntranscoded_clips: {enabled: false}\npreviews: {}\n"
    )
    return settings


def run(part, name, instance, partition):
    result = build_defs(part=part).resolve_job_def(name).execute_in_process(instance=instance, partition_key=partition)
    assert result.success
    return {event.asset_key.to_user_string() for event in result.all_events if event.is_step_materialization}


def tick(instance, cursor=None):
    sensor = build_defs(part=Part.GPU).resolve_sensor_def("frame_sets_stored_sensor")
    with dg.build_sensor_context(instance=instance, cursor=cursor) as context:
        return sensor(context)


def test_models_follow_new_frames(scored, registry, instance):
    pytest.importorskip("transformers")
    first = tick(instance)
    assert not first.run_requests
    assert "clip_scores/aesthetic" not in run(Part.CPU, "curate_source", instance, "a")
    run(Part.CPU, "curate_source", instance, "b")
    second = tick(instance, first.cursor)
    assert [request.partition_key for request in second.run_requests] == ["a", "b"]
    again = tick(instance, first.cursor)  # the daemon died before it had kept the cursor
    assert [request.run_key for request in again.run_requests] == [request.run_key for request in second.run_requests]
    assert tick(instance, second.cursor).run_requests in (None, [])

    assert run(Part.GPU, "curate_source_gpu", instance, "a") == {"clip_scores/aesthetic"}
    late = tick(instance, first.cursor)
    assert [request.partition_key for request in late.run_requests] == ["b"], "a is no longer behind"
    run(Part.GPU, "curate_source_gpu", instance, "b")
    run(Part.CPU, "curate_source", instance, "a")
    third = tick(instance, second.cursor)
    assert not third.run_requests, "nothing new came with the frames"
    assert "1 sources have new frames, none is behind" in third.skip_reason.skip_message
    assert int(third.cursor) > int(second.cursor)
    assert tick(instance, third.cursor).cursor == third.cursor

    (scored.parent / "videos" / "a" / "more.mp4").write_bytes((scored.parent / "videos" / "a" / "cuts.mp4").read_bytes() + b"\0")
    run(Part.CPU, "curate_source", instance, "a")
    fourth = tick(instance, third.cursor)
    assert [request.partition_key for request in fourth.run_requests] == ["a"]
    assert fourth.run_requests[0].run_key not in {request.run_key for request in second.run_requests}
    create_run_for_test(instance, job_name="curate_source_gpu", tags={"dagster/partition": "a"}, status=dg.DagsterRunStatus.STARTED)
    assert tick(instance, third.cursor).run_requests, "a run that has begun may have passed the new frames"
    put_in_queue(instance, "curate_source_gpu", "a")
    assert not tick(instance, third.cursor).run_requests, "one that waits will see them"


def test_a_tick_that_has_no_time_goes_on_in_the_next(scored, instance, monkeypatch):
    pytest.importorskip("transformers")
    for name in ("a", "b", "c"):
        run(Part.CPU, "curate_source", instance, name)
    monkeypatch.setattr(frames_sensor, "TICK_TIME_S", 0.0)
    seen, cursor = [], None
    for _ in range(3):
        result = tick(instance, cursor)
        seen += [request.partition_key for request in result.run_requests]
        cursor = result.cursor
    assert seen == ["a", "b", "c"]
    assert not tick(instance, cursor).run_requests


def test_sources_that_went_and_warehouses_that_cannot_be_read(scored, registry: SourceRegistry, instance):
    pytest.importorskip("transformers")
    run(Part.CPU, "curate_source", instance, "a")
    run(Part.CPU, "curate_source", instance, "b")
    registry.remove("a")
    assert [request.partition_key for request in tick(instance).run_requests] == ["b"]
    text = scored.read_text()
    options = "{aws_endpoint: 'http://127.0.0.1:9', aws_region: us-east-1, client_retry_timeout: '1', client_max_retries: '0'}"
    scored.write_text(text.replace("warehouse: warehouse", f"warehouse: s3://nowhere/x\nstorage_options: {options}"))
    result = tick(instance, "0")
    assert not result.run_requests
    assert result.cursor == "0", "the events are looked at again"
    assert "the warehouse could not be read" in result.skip_reason.skip_message
    scored.write_text(text)
    assert [request.partition_key for request in tick(instance, result.cursor).run_requests] == ["b"]


def nightly(part, instance):
    definitions = build_defs(part=part)
    schedule = definitions.resolve_schedule_def("nightly_backfill_schedule")
    with dg.build_schedule_context(
        instance=instance, scheduled_execution_time=datetime(2026, 11, 3, 2, tzinfo=UTC), repository_def=definitions.get_repository_def()
    ) as context:
        requests = schedule.evaluate_tick(context).run_requests
    return [request.run_config["ops"]["curate_sources_op"]["config"]["partition_names"] for request in requests]


@pytest.fixture
def kept_instance(registry, tmp_path):
    """An instance that a schedule can be pointed to."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as found:
        sync_partitions(found, registry.names())
        yield found


def test_each_part_repairs_its_own(scored, kept_instance):
    pytest.importorskip("transformers")
    instance = kept_instance
    run(Part.CPU, "curate_source", instance, "a")
    assert nightly(Part.CPU, instance) == [["b", "c"]], "what a lacks is not made here"
    assert nightly(Part.GPU, instance) == [["a"]], "b and c have no frames yet"
    definitions = build_defs(part=Part.GPU)
    config = {"ops": {"curate_sources_op": {"config": {"partition_names": ["a"]}}}}
    result = definitions.resolve_job_def("curate_sources").execute_in_process(instance=instance, run_config=config)
    assert {event.asset_key.to_user_string() for event in result.all_events if event.is_step_materialization} == {"clip_scores/aesthetic"}
    assert nightly(Part.GPU, instance) == []
