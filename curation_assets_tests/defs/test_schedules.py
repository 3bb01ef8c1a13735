"""Schedules: what a tick requests, from the tables and from the runs that there are."""

import logging
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
import yaml
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._scheduler.scheduler import launch_scheduled_runs

from curation_assets.configuration import load_config
from curation_assets.curation.warehouse import Warehouse
from curation_assets.definitions import build_defs
from curation_assets.defs.partitions import sync_partitions
from curation_assets.defs.run_history import FAILED_TAG, RANGE_END, RANGE_START
from curation_assets_tests import makevideo

NIGHT = datetime(2026, 11, 21, 1, 0, tzinfo=UTC)
DAY, TEN_MINUTES = timedelta(days=1), timedelta(minutes=10)
NIGHTLY, CORPUS = "nightly_backfill_schedule", "corpus_schedule"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Settings with five sources whose folders are empty, and an instance."""
    names = list("abcde")
    for name in names:
        (tmp_path / "videos" / name).mkdir(parents=True)
    write(tmp_path, sources=names)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.delenv("CURATION_CONFIG", raising=False)
    return tmp_path


@pytest.fixture
def history(place):
    registry = Warehouse.of(load_config(place / "curation.yaml")).registry
    with dg.instance_for_test() as instance:
        sync_partitions(instance, registry.sync(load_config(place / "curation.yaml")))
        yield instance


def write(folder, *, sources, **more):
    """Write settings; of each source its own, where `sources` is a mapping."""
    tree = {
        "warehouse": "warehouse",
        "sources": {
            name: {"uri": f"videos/{name}", "settings": dict(sources)[name] if isinstance(sources, dict) else {}} for name in sources
        },
        "engine": {"workers": 0},
        "transcoded_clips": {"enabled": False},
        "previews": {},
        "clips": {"splitter": {"clip_len_s": 2}},
        **more,
    }
    (folder / "curation.yaml").write_text(yaml.safe_dump(tree))


def tick(instance, when=NIGHT, name=NIGHTLY):
    definitions = build_defs()
    schedule = definitions.resolve_schedule_def(name)
    with dg.build_schedule_context(
        instance=instance, scheduled_execution_time=when, repository_def=definitions.get_repository_def()
    ) as context:
        return schedule.evaluate_tick(context)


def asked(data):
    """List the sources of each run that a tick requests."""
    return [request.run_config["ops"]["curate_sources_op"]["config"]["partition_names"] for request in data.run_requests]


def do(instance, data, job="curate_sources"):
    for request in data.run_requests:
        definition = build_defs().resolve_job_def(job)
        assert definition.execute_in_process(instance=instance, run_config=request.run_config, tags=request.tags).success


def record(instance, request, status=dg.DagsterRunStatus.FAILURE):
    """Record the run of a request as one that ended, or that has not, without doing it."""
    job = build_defs().resolve_job_def("curate_sources")
    return instance.create_run_for_job(job, run_config=request.run_config, tags=request.tags, status=status)


def test_groups_limits_and_the_way_through_all_sources(place, history):
    write(place, sources=list("abcde"), automation={"max_sources_per_tick": 3, "sources_per_run": 2})
    first = tick(history)
    assert asked(first) == [["a", "b"], ["c"]]
    again = tick(history)
    assert [request.run_key for request in again.run_requests] == [request.run_key for request in first.run_requests]
    assert asked(tick(history, NIGHT + TEN_MINUTES)) == [["d", "e"]]
    done = tick(history, NIGHT + 2 * TEN_MINUTES)
    assert not done.run_requests
    assert "all 5 sources were looked at on 2026-11-21" in done.skip_message
    later = tick(history, NIGHT + DAY)
    assert asked(later) == asked(first)
    assert not {request.run_key for request in later.run_requests} & {request.run_key for request in first.run_requests}


def test_a_tick_ends_in_time_and_the_next_one_goes_on(place, history):
    names = [f"s{number:02}" for number in range(20)]
    write(place, sources=names, automation={"tick_time_s": 1e-6})
    names = sorted([*names, *"abcde"])  # the registry has these too
    ticks = [tick(history, NIGHT + number * TEN_MINUTES) for number in range(4)]
    assert [[name for names in asked(data) for name in names] for data in ticks] == [names[:8], names[8:16], names[16:24], names[24:]]
    assert set(history.get_dynamic_partitions("video_source")) == set(names)


def test_one_tick_a_day_comes_to_the_last_source_too(place, history):
    names = [f"s{number:02}" for number in range(11)]
    write(place, sources=names, automation={"tick_time_s": 1e-6, "nightly_cron": "0 3 * * *"})
    names = sorted([*names, *"abcde"])
    assert [asked(tick(history, NIGHT + number * DAY)) for number in range(3)] == [[names[:8]], [names[8:]], [names[:8]]]
    assert asked(tick(history, NIGHT + 2 * DAY + TEN_MINUTES)) == [names[8:]]
    assert not tick(history, NIGHT + 2 * DAY + 2 * TEN_MINUTES).run_requests


def test_tables_over_all_sources_that_cannot_be_made_are_tried_less_and_less(place, history):
    job = build_defs().resolve_job_def("curate_corpus")
    now = datetime.now(UTC)
    times = []
    for number in range(1, 40):
        for request in tick(history, now + number * TEN_MINUTES, CORPUS).run_requests or []:
            times.append(number)
            history.create_run_for_job(job, tags=request.tags, status=dg.DagsterRunStatus.FAILURE)
    assert times == [1, 2, 3, 4, 5, 9, 17, 33]  # a pause counts from when the run was made, which is now
    assert "8 in a row" in tick(history, now + timedelta(hours=6), CORPUS).skip_message
    history.create_run_for_job(job, status=dg.DagsterRunStatus.SUCCESS)
    assert tick(history, now + TEN_MINUTES, CORPUS).run_requests


def test_what_is_under_way_is_left_out_and_what_fails_for_ever_given_up(place, history):
    write(place, sources=list("abcde"), automation={"max_attempts": 2})
    running = record(history, tick(history).run_requests[0], dg.DagsterRunStatus.STARTED)
    skipped = tick(history, NIGHT + DAY)
    assert not skipped.run_requests
    assert "5 being worked on" in skipped.skip_message
    history.report_run_failed(running)
    second = tick(history, NIGHT + 2 * DAY)
    assert asked(second) == [list("abcde")]
    record(history, second.run_requests[0])
    given_up = tick(history, NIGHT + 3 * DAY)
    assert not given_up.run_requests
    assert "5 tried 2 times without effect" in given_up.skip_message
    assert asked(tick(history, datetime.now(UTC) + 30 * DAY)) == [list("abcde")]  # attempts are forgotten after attempts_days


def test_sources_whose_latest_run_failed(place, history):
    job = build_defs().resolve_job_def("curate_source")
    for name in "abcde":
        assert job.execute_in_process(instance=history, partition_key=name, asset_selection=[dg.AssetKey("raw_videos")]).success
    assert not tick(history).run_requests  # empty folders were listed: nothing is missing
    failed = dg.DagsterRunStatus.FAILURE
    history.create_run_for_job(job, tags={"dagster/partition": "b"}, status=failed)
    history.create_run_for_job(job, tags={RANGE_START: "c", RANGE_END: "e"}, status=failed)
    history.create_run_for_job(job, tags={"dagster/partition": "d"}, status=dg.DagsterRunStatus.SUCCESS)
    history.create_run_for_job(job, tags={RANGE_START: "a", RANGE_END: "b", FAILED_TAG: '["a"]'}, status=dg.DagsterRunStatus.SUCCESS)
    assert asked(tick(history, NIGHT + DAY)) == [["a", "c", "e"]]


def test_a_canceled_run_loses_no_upload(place, history):
    """The sensor asked for a run of a source whose tables are complete as far as they know; nobody else would list the new file."""
    job = build_defs().resolve_job_def("curate_source")
    for name in "abcde":
        assert job.execute_in_process(instance=history, partition_key=name, asset_selection=[dg.AssetKey("raw_videos")]).success
    history.create_run_for_job(job, tags={"dagster/partition": "b"}, status=dg.DagsterRunStatus.CANCELED)
    history.create_run_for_job(job, tags={RANGE_START: "d", RANGE_END: "e", FAILED_TAG: '["d"]'}, status=dg.DagsterRunStatus.CANCELED)
    assert asked(tick(history, NIGHT + DAY)) == [["b", "d", "e"]]


def test_an_unreadable_source_of_several_is_named_by_the_run(place, history):
    (place / "videos" / "b").rmdir()
    data = tick(history)
    job = build_defs().resolve_job_def("curate_sources")
    request = data.run_requests[0]
    result = job.execute_in_process(instance=history, run_config=request.run_config, tags=request.tags, raise_on_error=False)
    assert not result.success
    assert history.get_run_by_id(result.run_id).tags[FAILED_TAG] == '["b"]'
    assert asked(tick(history, NIGHT + DAY)) == [["b"]]
    (place / "videos" / "b").mkdir()
    do(history, tick(history, NIGHT + 2 * DAY))
    assert not tick(history, NIGHT + 3 * DAY).run_requests


def test_a_damaged_entry_of_the_registry_stops_no_tick(place, history):
    registry = Warehouse.of(load_config(place / "curation.yaml")).registry
    registry.sync(load_config(place / "curation.yaml"))
    write(place, sources=["a"])
    (place / "warehouse" / "sources" / "b.json").write_text("{")
    data = tick(history)
    assert asked(data) == [["a", "c", "d", "e"]]


def test_what_is_stale_and_what_is_to_be_tried_again(place, history):
    for name in "ab":
        makevideo.make_cuts(place / "videos" / name / "cuts.mp4", seconds=2, scenes=2)
    makevideo.make_text(place / "videos" / "b" / "text.mp4")
    write(place, sources=["a", "b"])
    do(history, tick(history))
    assert not tick(history, NIGHT + DAY).run_requests
    # the settings of one source
    own = {"a": {"frame_sets": {"sets": {"embeddings": {"target_fps": 1}}}}, "b": {}}
    write(place, sources=own)
    stale = tick(history, NIGHT + 2 * DAY)
    assert asked(stale) == [["a"]]
    do(history, stale)
    assert not tick(history, NIGHT + 3 * DAY).run_requests
    # limits, which only the listing's rows know
    limits = {"raw_videos": {"limits": {"min_side_px": 10_000}}}
    write(place, sources={"a": own["a"], "b": limits})
    assert asked(tick(history, NIGHT + 4 * DAY)) == [["b"]]
    # failed items, where the settings ask for it
    write(place, sources=own, automation={"retry_failed": True})
    again = tick(history, NIGHT + 5 * DAY)
    assert asked(again) == [["b"]]
    assert again.run_requests[0].run_config["resources"]["curation"]["config"]["retry_failed"] is True
    do(history, again)
    write(place, sources=own)
    assert not tick(history, NIGHT + 6 * DAY).run_requests
    # an upload that has not begun waits, and is looked at again
    makevideo.make_zero_bytes(place / "videos" / "a" / "empty.mp4")
    job = build_defs().resolve_job_def("curate_source")
    assert job.execute_in_process(instance=history, partition_key="a", asset_selection=[dg.AssetKey("raw_videos")]).success
    assert asked(tick(history, NIGHT + 7 * DAY)) == [["a"]]


def test_the_tables_over_all_sources(place, history):
    makevideo.make_cuts(place / "videos" / "a" / "cuts.mp4", seconds=2, scenes=2)
    write(place, sources=["a"])
    do(history, tick(history))
    data = tick(history, name=CORPUS)
    assert "curated_clips" in data.run_requests[0].tags["curation/reason"]
    assert data.run_requests[0].run_key != tick(history, NIGHT + DAY, CORPUS).run_requests[0].run_key
    do(history, data, "curate_corpus")
    assert "no source has changed" in tick(history, name=CORPUS).skip_message
    write(place, sources=["a"], dedup={"eps": 0.2})
    assert tick(history, name=CORPUS).run_requests
    corpus = build_defs().resolve_job_def("curate_corpus")
    history.create_run_for_job(corpus, status=dg.DagsterRunStatus.STARTED)
    assert "under way" in tick(history, name=CORPUS).skip_message


def test_many_sources_are_judged_by_their_runs(place, history, monkeypatch):
    monkeypatch.setattr("curation_assets.defs.schedules._MOST_SOURCES_COMPARED", 2)
    assert tick(history, name=CORPUS).skip_message
    source, corpus = (build_defs().resolve_job_def(name) for name in ("curate_source", "curate_corpus"))
    run = {"asset_selection": [dg.AssetKey("raw_videos")], "partition_key": "a"}
    assert source.execute_in_process(instance=history, **run).success
    data = tick(history, name=CORPUS)
    assert data.run_requests
    assert corpus.execute_in_process(instance=history).success
    assert "no source has changed" in tick(history, name=CORPUS).skip_message
    assert source.execute_in_process(instance=history, **run).success
    assert tick(history, name=CORPUS).run_requests


def test_a_wrong_time_zone_and_a_wrong_cron_are_named(place):
    for key, value, said in (("time_zone", "Mars/Base", "Mars/Base"), ("nightly_cron", "soon", "automation.nightly_cron")):
        write(place, sources=["a"], automation={key: value})
        with pytest.raises(ValueError, match=said):
            build_defs()


@pytest.fixture
def daemon(place, tmp_path_factory):
    """The daemon's view: a code location in a process of its own, and an instance on disk whose queue nobody empties."""
    overrides = {"run_coordinator": {"module": "dagster._core.run_coordinator", "class": "QueuedRunCoordinator"}}
    with dg.instance_for_test(overrides=overrides) as instance:
        target = ModuleTarget("curation_assets.definitions", "defs", str(place), "curation")
        with WorkspaceProcessContext(instance, target) as workspace:
            yield instance, workspace


def test_the_scheduler_launches_each_request_once(place, daemon, monkeypatch):
    instance, workspace = daemon
    monkeypatch.setenv("CURATION_CONFIG", str(place / "curation.yaml"))
    location = workspace.create_request_context().get_code_location("curation")
    schedule = next(iter(location.get_repositories().values())).get_schedule(NIGHTLY)
    instance.start_schedule(schedule)
    now = datetime.now(UTC)
    for _ in range(2):
        list(launch_scheduled_runs(workspace, logging.getLogger("test"), now + 2 * DAY, {}))
    runs = instance.get_runs(dg.RunsFilter(job_name="curate_sources"))
    assert [run.status for run in runs] == [dg.DagsterRunStatus.QUEUED]
    assert runs[0].run_config["ops"]["curate_sources_op"]["config"]["partition_names"] == list("abcde")


@pytest.mark.slow
def test_a_backfill_of_hundreds_of_sources(place, daemon):
    instance, workspace = daemon
    names = [f"s{number:03}" for number in range(200)]
    for name in names:
        (place / "videos" / name).mkdir()
    write(place, sources=names)
    config = load_config(place / "curation.yaml")
    sync_partitions(instance, Warehouse.of(config).registry.sync(config))
    definitions = build_defs()
    from dagster._core.execution.backfill import PartitionBackfill  # what the UI's mutation makes

    asset = dg.AssetKey("raw_videos")
    backfill = PartitionBackfill.from_asset_partitions(
        backfill_id="hundreds", asset_graph=workspace.create_request_context().asset_graph, partition_names=names, asset_selection=[asset],
        backfill_timestamp=datetime.now(UTC).timestamp(), tags={}, dynamic_partitions_store=instance, all_partitions=False, title=None,
        description=None, run_config=None,
    )  # fmt: skip
    instance.add_backfill(backfill)
    job = definitions.resolve_implicit_global_asset_job_def()
    num_runs = 0
    for _ in range(6):
        errors = [error for error in execute_backfill_iteration(workspace, logging.getLogger("test")) if error]
        assert not errors
        queued = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]))
        for run in queued:
            tags = {key: value for key, value in run.tags.items() if key in (RANGE_START, RANGE_END, "dagster/partition")}
            result = job.execute_in_process(instance=instance, tags={**tags, "dagster/backfill": "hundreds"}, asset_selection=[asset])
            assert result.success
            instance.report_run_canceled(run)
            instance.delete_run(run.run_id)
            num_runs += 1
        if not queued and num_runs:
            break
    assert num_runs == 7  # 32 sources share one
    assert instance.get_materialized_partitions(asset) == set(names)
    assert instance.get_backfill("hundreds").status.value == "COMPLETED_SUCCESS"
