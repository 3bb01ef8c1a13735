"""Run history: what Dagster's runs say of each source: worked on now, failed the last time, asked for how often without effect."""

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import dagster as dg
from dagster import DagsterRun, DagsterRunStatus, RunsFilter

from curation_assets.defs.partitions import RANGE_END, RANGE_START

STATES_TAG = "curation/states"  # on a nightly run: the state of each source that it was requested for
FAILED_TAG = "curation/failed_sources"  # on a run of several sources: those that could not be worked on
IN_FLIGHT = (
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
)
_PAGE = 500
_MOST_RUNS = 20_000


@dataclass
class RunHistory:
    """What is known of the sources.

    Attributes:
        in_flight: sources that a run works on, or that one waits in the queue for.
        failed: sources whose latest run failed, or was canceled: what it was to list may be in no table yet.
        attempts: how often nightly runs were requested for a source in a state, by (source, state).
    """

    in_flight: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    attempts: Counter[tuple[str, str]] = field(default_factory=Counter)


def read_history(instance: dg.DagsterInstance, *, order: list[str], since: datetime) -> RunHistory:
    """Read the runs since a time, and those that have not ended whatever their age.

    Args:
        instance: where they are recorded.
        order: partition keys as Dagster orders them, for ranges.
        since: older runs that have ended are forgotten.
    """
    history = RunHistory()
    places = {name: place for place, name in enumerate(order)}
    for run in _runs(instance, RunsFilter(statuses=list(IN_FLIGHT))):
        history.in_flight |= sources_of(run, order, places)
    judged: set[str] = set()
    for run in _runs(instance, RunsFilter(created_after=since)):
        for name, state in json.loads(run.tags.get(STATES_TAG, "{}")).items():
            history.attempts[name, state] += 1
        if run.status in (DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED):
            names = sources_of(run, order, places)
            history.failed |= _failed(run, names) - judged  # the newest run comes first
            judged |= names
    return history


def _runs(instance: dg.DagsterInstance, filters: RunsFilter) -> Iterator[DagsterRun]:
    """Yield runs, the newest first."""
    cursor, num_seen = None, 0
    while num_seen < _MOST_RUNS:
        page = instance.get_runs(filters, cursor=cursor, limit=_PAGE)
        yield from page
        if len(page) < _PAGE:
            return
        cursor, num_seen = page[-1].run_id, num_seen + len(page)


def is_waited_for(instance: dg.DagsterInstance, job_name: str, name: str) -> bool:
    """Say whether a whole run of a source's is in the queue: it will see what there is now. One that has begun may have passed it.

    One that is not in the queue yet (NOT_STARTED) does not count: if its tick died, it begins only when the tick asks for it again.
    """
    filters = RunsFilter(job_name=job_name, tags={"dagster/partition": name}, statuses=[DagsterRunStatus.QUEUED])
    return any(run.asset_selection is None for run in instance.get_runs(filters))


def sources_of(run: DagsterRun, order: list[str], places: Mapping[str, int]) -> set[str]:
    """Name the sources of a run: its partition, its range, or what `curate_sources` was given."""
    if name := run.tags.get("dagster/partition"):
        return {name}
    first, last = run.tags.get(RANGE_START), run.tags.get(RANGE_END)
    if first is not None and last is not None:
        return set(order[places[first] : places[last] + 1]) if first in places and last in places else {first, last}
    config: Any = run.run_config
    ops = config.get("ops", {})
    return set(ops.get("curate_sources_op", {}).get("config", {}).get("partition_names", ()))


def _failed(run: DagsterRun, names: Collection[str]) -> set[str]:
    """Name those of a run's sources that failed: those that it named, else all or none as it ended; all of one that was canceled."""
    if FAILED_TAG in run.tags and run.status is not DagsterRunStatus.CANCELED:
        return set(json.loads(run.tags[FAILED_TAG])) & set(names)
    return set() if run.status is DagsterRunStatus.SUCCESS else set(names)


def tag_failed(instance: dg.DagsterInstance, run_id: str, names: Collection[str]) -> None:
    """Note on a run of several sources which of them could not be worked on."""
    run = instance.get_run_by_id(run_id)
    known = json.loads(run.tags.get(FAILED_TAG, "[]")) if run else []
    if not set(names) <= set(known):
        instance.add_run_tags(run_id, {FAILED_TAG: json.dumps(sorted({*known, *names}))})
