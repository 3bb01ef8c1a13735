"""Launch: start a run from the command line, in this process, on the instance that the UI shows."""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import DagsterEventType, DagsterRunStatus, RunsFilter
from dagster._core.errors import DagsterExecutionInterruptedError  # not exported at the top level in 1.13

from curation_assets.configuration import (
    check_overrides_are_taken,
    load_config,
    project_settings,
    resolve_settings,
    without_project_settings,
)
from curation_assets.curation.corpus import CorpusRun
from curation_assets.curation.model_files import check_models
from curation_assets.curation.splitters import check_splitter
from curation_assets.curation.status import num_pending
from curation_assets.curation.transcoded_clips import check_encoders
from curation_assets.curation.warehouse import Warehouse
from curation_assets.definitions import build_defs
from curation_assets.defs.partitions import RANGE_END, RANGE_START, sync_partitions, video_sources
from curation_assets.defs.processes import PROCESS_TAG, end_orphans, process_tag
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.transcoded_clips import TRANSCODED_CLIPS
from curation_assets.settings import SettingsError
from curation_assets.storage import errors

_OWN_ERRORS = {
    "SettingsError",
    "DeviceError",
    *(name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)),
}
_TOLD_ELSEWHERE = ("source_readable", "failure_rate")  # an error; the table of outcomes


@dataclass(frozen=True, slots=True)
class LaunchResult:
    """How a run ended.

    Attributes:
        run_ids: Dagster runs.
        errors: messages of what failed; empty when the run succeeded and every source could be read.
        warnings: checks of what is in the warehouse that do not hold.
        is_interrupted: Ctrl-C or a signal ended it.
    """

    run_ids: list[str]
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    is_interrupted: bool = False


def launch(
    config_path: Path | None,
    *,
    instance: dg.DagsterInstance,
    registered: Sequence[str],
    names: Sequence[str],
    select: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    limit: int | None = None,
    retry_failed: bool = False,
) -> LaunchResult:
    """Curate sources in one Dagster run, and then the tables over all sources in another.

    One source runs as a partition of `curate_source`, neighbouring ones as a range of it, any other set through `curate_sources`; then comes `curate_corpus`.

    Args:
        config_path: settings file, None for defaults.
        instance: where the run is recorded.
        registered: all sources of the registry, which become the partitions.
        names: the sources to curate.
        select: asset selection strings, for example `clips` or `frame_sets*`; empty for all.
        overrides: settings of this run.
        limit: most videos per source and stage.
        retry_failed: try failed items again.

    Raises:
        SettingsError: the selection matches nothing, no source takes an override, or a splitter or an encoder of the run demands what this machine
            does not have, or a selected model's weights are not there.
    """
    end_orphans(instance)
    sync_partitions(instance, registered, registry=Warehouse.of(load_config(config_path)).registry)
    definitions = build_defs(overrides=overrides, config_path=config_path)
    asset_keys, corpus_keys = _select(definitions, select)
    _check_sources(config_path, names, overrides or {}, asset_keys)
    # A run's resource config replaces the definitions' own, so it is given whole.
    resource = {
        "config_path": str(config_path) if config_path else None,
        "settings": without_project_settings(overrides or {}),
        "project": project_settings(overrides or {}),
        "limit": limit,
        "retry_failed": retry_failed,
    }
    run_config: dict[str, Any] = {
        "resources": {"curation": {"config": {key: value for key, value in resource.items() if value is not None}}},
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
    }
    order = list(video_sources.get_partition_keys(dynamic_partitions_store=instance))
    place_of = {name: place for place, name in enumerate(order)}
    places = sorted(place_of[name] for name in names)
    results = []

    def curate_sources(asset_keys: list[dg.AssetKey]) -> LaunchResult:
        arguments: dict[str, Any] = {"run_config": run_config}
        if len(places) == 1:
            job = definitions.resolve_job_def("curate_source")
            arguments |= {"partition_key": order[places[0]], "asset_selection": asset_keys}
        elif places == list(range(places[0], places[-1] + 1)):
            job = definitions.resolve_job_def("curate_source")
            arguments |= {"asset_selection": asset_keys, "tags": {RANGE_START: order[places[0]], RANGE_END: order[places[-1]]}}
        else:
            job = definitions.resolve_job_def("curate_sources")
            config = {"partition_names": list(names), "asset_names": ["/".join(key.path) for key in asset_keys]}
            arguments["run_config"] = {**run_config, "ops": {"curate_sources_op": {"config": config}}}
        return _execute(job, instance, arguments)

    def curate_corpus() -> LaunchResult:
        job = definitions.resolve_job_def("curate_corpus")
        return _execute(job, instance, {"run_config": run_config, "asset_selection": corpus_keys})

    if asset_keys:
        results.append(curate_sources(asset_keys))
    if corpus_keys and not any(result.is_interrupted for result in results):
        results.append(curate_corpus())
        files = [key for key in asset_keys if key == dg.AssetKey(TRANSCODED_CLIPS.asset_key)]
        # duplicates that are left out of the files may be others now: their files come, and then the verdict once more
        if (
            files
            and limit is None
            and not any(result.is_interrupted or result.errors for result in results)
            and _waits_for_files(config_path, names, overrides or {})
        ):
            results += [curate_sources(files), curate_corpus()]
    return LaunchResult(
        [run_id for result in results for run_id in result.run_ids],
        [error for result in results for error in result.errors],
        list(dict.fromkeys(warning for result in results for warning in result.warnings)),
        is_interrupted=any(result.is_interrupted for result in results),
    )


def _execute(job: dg.JobDefinition, instance: dg.DagsterInstance, arguments: Mapping[str, Any]) -> LaunchResult:
    """Run one job in this process."""
    run_id = str(uuid.uuid4())
    tags = {PROCESS_TAG: process_tag(run_id), **arguments.get("tags", {})}
    try:
        result = job.execute_in_process(**{**arguments, "tags": tags}, run_id=run_id, instance=instance, raise_on_error=False)
    except (KeyboardInterrupt, DagsterExecutionInterruptedError):
        runs = instance.get_runs(RunsFilter(run_ids=[run_id], statuses=[DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]))
        for started in runs:
            instance.report_run_canceled(started)
        return LaunchResult([started.run_id for started in runs], is_interrupted=True)
    if _is_interrupted(result):  # execute_in_process records it as a failure
        run = instance.get_run_by_id(result.run_id)
        if run is not None:
            instance.report_run_canceled(run)
        return LaunchResult([result.run_id], is_interrupted=True)
    checks = [check for check in result.get_asset_check_evaluations() if not check.passed and check.check_name not in _TOLD_ELSEWHERE]
    warnings = [f"{check.asset_key.to_user_string()}: {check.description}" for check in checks]
    return LaunchResult([result.run_id], _errors(result), warnings)


def _waits_for_files(config_path: Path | None, names: Sequence[str], overrides: Mapping[str, Any]) -> bool:
    """Say whether a source that makes no files of duplicates has some to make after the duplicates were found."""
    run = CorpusRun(load_config(config_path, overrides), overrides)
    return any(
        run.sources[name][1].transcoded_clips.skip_duplicates and num_pending(run.source_run(name), TRANSCODED_CLIPS) > 0 for name in names
    )


def _check_sources(config_path: Path | None, names: Sequence[str], overrides: Mapping[str, Any], assets: Sequence[dg.AssetKey]) -> None:
    """Name what no source takes, and what splitters and encoders demand that is not there, before the first video is read."""
    config = load_config(config_path, overrides)
    registry = Warehouse.of(config).registry
    own = {json.dumps(record.settings, sort_keys=True): record.settings for record in registry.chosen(names)}
    settings = [resolve_settings(config.processing(), tree, overrides, where="settings") for tree in own.values()]
    check_overrides_are_taken(overrides, [item.clips.splitter for item in settings])
    if dg.AssetKey(CLIPS.asset_key) in assets:
        for item in settings:
            check_splitter(item.clips.splitter)
    if dg.AssetKey(TRANSCODED_CLIPS.asset_key) in assets:
        check_encoders([item.transcoded_clips for item in settings])
    check_models(settings, selected={tuple(key.path) for key in assets})


def _select(definitions: dg.Definitions, select: Sequence[str]) -> tuple[list[dg.AssetKey], list[dg.AssetKey]]:
    """Return the selected assets that are partitioned by source, and those over all sources."""
    graph = definitions.resolve_asset_graph()
    known = graph.materializable_asset_keys - {dg.AssetKey("curation_status")}
    chosen: set[dg.AssetKey] = set() if select else set(known)
    for text in select:
        try:
            keys = dg.AssetSelection.from_string(text).resolve(graph) & known
        except dg.DagsterError:  # unknown assets, or no selection at all
            keys = set()
        if not keys:
            names = ", ".join("/".join(key.path) for key in sorted(known))
            raise SettingsError(
                f"--select {text!r} matches no asset; there are {names}, and selections such as 'clips*' or '+frame_sets'; several are given by --select each"
            )
        chosen |= keys
    partitioned = {key for key in chosen if graph.get(key).is_partitioned}
    return sorted(partitioned), sorted(chosen - partitioned)


def _errors(result: dg.ExecuteInProcessResult) -> list[str]:
    messages = []
    for event in result.all_events:
        if event.event_type is DagsterEventType.STEP_FAILURE:
            data = event.step_failure_data
            failure = data.user_failure_data.description if data.user_failure_data else None
            error = _root_cause(event)
            message = error.message.strip() if error else "a step failed"
            if "Nonexistent partition keys" in message:  # Dagster 1.13's words
                message = "a source's partition was deleted during its run; what was committed stays, and the next run registers it again"
            messages.append(failure or message)
    unread = [check for check in result.get_asset_check_evaluations() if check.check_name == "source_readable" and not check.passed]
    messages += [check.description or "a source could not be read" for check in unread]
    if not result.success and not messages:
        messages.append(f"run {result.run_id} failed; the UI shows its log")
    return list(dict.fromkeys(messages))


def _root_cause(event: dg.DagsterEvent) -> Any:
    """Find the error that says what to do: the first of ours in the chain, else the innermost."""
    error = event.step_failure_data.error
    while error is not None and error.cause is not None and error.cls_name not in _OWN_ERRORS:
        error = error.cause
    return error


def _is_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    failures = (event for event in result.all_events if event.event_type is DagsterEventType.STEP_FAILURE)
    return any((error := _root_cause(event)) and error.cls_name == DagsterExecutionInterruptedError.__name__ for event in failures)
