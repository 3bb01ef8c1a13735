"""Schedules: repair by night, the tables over all sources when something changed, the status once a day. They run from the start when the settings watch
something; else they are off until they are switched on in the UI.

What is missing or stale is read from the tables' fingerprints, because Dagster knows nothing of settings; what runs, or failed, from Dagster's runs.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg

from curation_assets.configuration import load_config, project_settings, resolve_settings, without_project_settings
from curation_assets.curation.corpus import CorpusRun
from curation_assets.curation.corpus_status import corpus_status
from curation_assets.curation.due import Due, source_due
from curation_assets.curation.warehouse import SourceRun, Warehouse
from curation_assets.defs.partitions import sync_partitions, video_sources
from curation_assets.defs.parts import Part
from curation_assets.defs.run_history import IN_FLIGHT, STATES_TAG, RunHistory, read_history, sources_of
from curation_assets.engine.local import LocalEngine
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.schemas.table import TableSpec
from curation_assets.settings import Config, SettingsError
from curation_assets.storage.errors import StoreError

_THREADS = 8  # tables of several sources are read at once: over a network most of a look is waiting
_FIRST_PAUSE = timedelta(minutes=5)
_MOST_FAILURES = 10  # in a row, that are looked for: the pause is a day by then
_MOST_SOURCES_COMPARED = 500  # corpus_schedule reads every table of every source, some 50 ms each


def build_schedules(
    config: Config, *, path: Path | None, overrides: Mapping[str, Any] | None, part: Part, tables: Sequence[TableSpec]
) -> list[dg.ScheduleDefinition]:
    """Build the schedules of a part.

    Args:
        config: settings, for times; the rest is read at each tick.
        path: settings file, None for defaults.
        overrides: that the definitions were built with.
        part: `gpu` repairs its own tables, and has no other schedule.
        tables: of the part.
    """
    zone = config.automation.time_zone
    # who watches for uploads wants them curated without a hand
    default_status = dg.DefaultScheduleStatus.RUNNING if config.watch or part is Part.GPU else dg.DefaultScheduleStatus.STOPPED

    @dg.schedule(
        name="nightly_backfill_schedule",
        cron_schedule=config.automation.nightly_cron,
        default_status=default_status,
        execution_timezone=zone,
        job_name="curate_sources",
        description="Requests the sources whose tables are missing or stale, hold items to try again, or whose latest run failed; in runs of several.",
    )
    def nightly_backfill_schedule(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        own = None if part is Part.ALL else frozenset(spec.asset for spec in tables)
        return NightlyTick(context, load_config(path, overrides), path, overrides or {}, tables=own).requests()

    if part is Part.GPU:
        return [nightly_backfill_schedule] if tables else []

    @dg.schedule(
        name="corpus_schedule",
        cron_schedule=config.automation.corpus_cron,
        default_status=default_status,
        execution_timezone=zone,
        job_name="curate_corpus",
        description="Requests the tables over all sources when what they are made from has changed.",
    )
    def corpus_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        return corpus_request(context, load_config(path, overrides), overrides or {})

    status = dg.ScheduleDefinition(
        name="curation_status_schedule",
        cron_schedule=config.automation.status_cron,
        default_status=default_status,
        execution_timezone=zone,
        target=dg.AssetSelection.assets("curation_status"),
        description="Counts what is done, pending and failed in every source, for the page of the asset curation_status.",
    )
    return [nightly_backfill_schedule, corpus_schedule, status]


@dataclass(frozen=True)
class _Found:
    """A source that is to be worked on, why, and the state that it is in."""

    name: str
    reason: str
    state: str


class NightlyTick:
    """One tick of `nightly_backfill_schedule`.

    Ticks share one way through the sources, sorted by name: each goes on where the last one stopped, on the next day too, and a new way begins at most once a
    day. The place is kept in the instance's database. A tick that is evaluated again starts where it started, so that what it had not requested before a crash
    is not lost; looking at a tick in the UI ("Preview tick result") moves the place on like a tick.

    Args:
        context: of the tick.
        config: settings now.
        path: settings file.
        overrides: of the definitions.
        tables: assets of the tables that this code location makes; None for all.
    """

    def __init__(
        self,
        context: dg.ScheduleEvaluationContext,
        config: Config,
        path: Path | None,
        overrides: Mapping[str, Any],
        *,
        tables: frozenset[str] | None = None,
    ) -> None:
        self._tables = tables
        self._context = context
        self._instance = context.instance
        self._config = config
        self._settings = config.automation
        self._path = path
        self._overrides = overrides
        self._warehouse = Warehouse.of(config)
        self._time = context.scheduled_execution_time.astimezone(ZoneInfo(self._settings.time_zone))
        self._num_unread = self._num_given_up = 0

    def requests(self) -> list[dg.RunRequest] | dg.SkipReason:
        """Look at sources until the time is up or enough were found, and request them in groups."""
        deadline = time.monotonic() + self._settings.tick_time_s
        names = self._warehouse.registry.sync(self._config)
        sync_partitions(self._instance, names, registry=self._warehouse.registry)
        place = _Place.read(self._instance, " ".join([self._warehouse.uri, *sorted(self._tables or ())]))
        start = place.start_of(self._time)
        if start is None:
            return dg.SkipReason(f"all {len(names)} sources were looked at on {self._time:%Y-%m-%d}; the next look is tomorrow")
        order = list(video_sources.get_partition_keys(dynamic_partitions_store=self._instance))
        history = read_history(self._instance, order=order, since=self._time.astimezone(UTC) - timedelta(days=self._settings.attempts_days))
        left = [name for name in names if name > start]
        found: list[_Found] = []
        num_seen = 0
        for name, due in self._looks([name for name in left if name not in history.in_flight], deadline):
            num_seen = left.index(name, num_seen) + 1
            if (source := self._judge(name, due, history)) is not None:
                found.append(source)
                if len(found) == self._settings.max_sources_per_tick:
                    break
        else:
            num_seen = num_seen if time.monotonic() > deadline else len(left)
        is_done = num_seen == len(left)
        place.write(self._instance, tick=self._time, start=start, end=None if is_done else left[num_seen - 1] if num_seen else start)
        summary = (
            f"looked at {num_seen} of {len(left)} sources; {len(found)} to work on, {len(history.in_flight)} being worked on, "
            f"{self._num_given_up} tried {self._settings.max_attempts} times without effect, {self._num_unread} could not be read"
        )
        self._context.log.info(summary)
        size = self._settings.sources_per_run
        return [self._request(found[first : first + size]) for first in range(0, len(found), size)] or dg.SkipReason(summary)

    def _looks(self, names: Sequence[str], deadline: float) -> Iterator[tuple[str, Due | None]]:
        """Yield what is due, in the order of the names, until the time is up; None for a source that cannot be read."""
        with LocalEngine(workers=0) as engine, ThreadPoolExecutor(_THREADS) as threads:
            for first in range(0, len(names), _THREADS):
                if first and time.monotonic() > deadline:
                    return
                group = names[first : first + _THREADS]
                yield from zip(group, threads.map(lambda name: self._look(name, engine), group), strict=True)

    def _look(self, name: str, engine: LocalEngine) -> Due | None:
        try:
            record = self._warehouse.registry.get(name)
            settings = resolve_settings(self._config.processing(), record.settings, self._overrides, where=f"source {name!r}")
            run = SourceRun(record, settings, self._warehouse, engine, retry_failed=self._settings.retry_failed)
            return source_due(run, tables=self._tables)
        except (StoreError, SettingsError) as error:
            self._context.log.warning(f"{name}: {error}")
            return None

    def _judge(self, name: str, due: Due | None, history: RunHistory) -> _Found | None:
        """Say whether a source is requested."""
        if due is None:
            self._num_unread += 1
            return None
        is_due = due.num_items > 0 and (due.has_tables or not self._was_found_empty(name))
        if not is_due and name not in history.failed:
            return None
        reason = f"{due.num_items} items due" if is_due else "its latest run failed or was canceled"
        state = due.state[:12]
        if history.attempts[name, state] >= self._settings.max_attempts:
            self._num_given_up += 1
            return None
        return _Found(name, reason, state)

    def _was_found_empty(self, name: str) -> bool:
        """Say whether a source without tables was listed, and had no objects: only Dagster's record of that run tells."""
        asset = dg.AssetRecordsFilter(asset_key=dg.AssetKey(RAW_VIDEOS.asset_key), asset_partitions=[name])
        last = self._instance.fetch_materializations(asset, limit=1).records
        if not last or last[0].asset_materialization is None:
            return False
        num_rows = last[0].asset_materialization.metadata.get("dagster/row_count")
        return num_rows is not None and num_rows.value == 0

    def _request(self, group: Sequence[_Found]) -> dg.RunRequest:
        names = [source.name for source in group]
        digest = hashlib.blake2b("\n".join(names).encode(), digest_size=8).hexdigest()
        run_config: dict[str, Any] = {"ops": {"curate_sources_op": {"config": {"partition_names": names}}}}
        if self._settings.retry_failed:  # a run's resource config replaces the definitions' own, so it is given whole
            own = {
                "settings": without_project_settings(self._overrides),
                "project": project_settings(self._overrides),
                "retry_failed": True,
                **({"config_path": str(self._path)} if self._path else {}),
            }
            run_config["resources"] = {"curation": {"config": own}}
        return dg.RunRequest(
            run_key=f"{self._time:%Y%m%dT%H%M%z}:{digest}",
            run_config=run_config,
            tags={
                "curation/reason": "; ".join(dict.fromkeys(source.reason for source in group))[:200],
                STATES_TAG: json.dumps({source.name: source.state for source in group}),
            },
        )


@dataclass(frozen=True)
class _Place:
    """How far the ticks have come. `tick` is the last one; it went from `start` on, and the next goes on from `end` (None: all was seen).

    The way through all sources began in the tick `begun`.
    """

    key: str
    tick: str = ""
    start: str = ""
    end: str | None = None
    begun: str = ""

    @classmethod
    def read(cls, instance: dg.DagsterInstance, what: str) -> "_Place":
        """Read it from the instance's key-value table; Dagster's schedules have no cursor of their own (1.13).

        Args:
            instance: of Dagster.
            what: the warehouse, and which of its tables.
        """
        key = f"curation/nightly/{hashlib.blake2b(what.encode(), digest_size=8).hexdigest()}"
        kept = instance.daemon_cursor_storage.get_cursor_values({key}).get(key)
        return cls(key, **json.loads(kept)) if kept else cls(key)

    def start_of(self, tick: datetime) -> str | None:
        """Return the name after which a tick begins, None when a way that began on its day has seen everything."""
        if self.tick == tick.isoformat():
            return self.start
        if self.end is None:
            return None if self.begun[:10] == f"{tick:%Y-%m-%d}" else ""
        return self.end

    def write(self, instance: dg.DagsterInstance, *, tick: datetime, start: str, end: str | None) -> None:
        """Keep it for the next tick."""
        now = tick.isoformat()
        kept = {"tick": now, "start": start, "end": end, "begun": self.begun if start else now}
        instance.daemon_cursor_storage.set_cursor_values({self.key: json.dumps(kept)})


def corpus_request(context: dg.ScheduleEvaluationContext, config: Config, overrides: Mapping[str, Any]) -> dg.RunRequest | dg.SkipReason:
    """Request the tables over all sources when one of them would be made anew.

    With many sources the fingerprints take too long for a tick; then a run is requested when a source's run has ended since the last one began. A run that finds
    nothing changed leaves the tables as they are. After a failed run the next one waits, twice as long each time, a day at most.
    """
    filters = dg.RunsFilter(job_name="curate_corpus", statuses=list(IN_FLIGHT))
    if context.instance.get_runs_count(filters):
        return dg.SkipReason("a curate_corpus run is under way")
    if reason := _pause_after_failures(context):
        return dg.SkipReason(reason)
    names = Warehouse.of(config).registry.sync(config)
    if not names:
        return dg.SkipReason("there is no source yet")
    if len(names) <= _MOST_SOURCES_COMPARED:
        stale = [view for view, table in corpus_status(CorpusRun(config, overrides)).items() if table["pending"]]
        reason = ", ".join(stale)
    else:
        reason = _newer_source_runs(context.instance)
    if not reason:
        return dg.SkipReason("no source has changed since the tables over all sources were made")
    return dg.RunRequest(run_key=f"{context.scheduled_execution_time.isoformat()}", tags={"curation/reason": reason[:200]})


def _pause_after_failures(context: dg.ScheduleEvaluationContext) -> str:
    """Say that curate_corpus failed too lately to be tried again; empty when it did not."""
    last = context.instance.get_run_records(dg.RunsFilter(job_name="curate_corpus"), limit=_MOST_FAILURES)
    num_failed = len(list(takewhile(lambda record: record.dagster_run.status is dg.DagsterRunStatus.FAILURE, last)))
    if not num_failed:
        return ""
    next_try = last[0].create_timestamp.astimezone(UTC) + min(_FIRST_PAUSE * 2 ** (num_failed - 1), timedelta(days=1))
    if context.scheduled_execution_time >= next_try:
        return ""
    return f"the last curate_corpus run failed, {num_failed} in a row; the next is requested after {next_try:%Y-%m-%d %H:%M} UTC, or start one by hand"


def _newer_source_runs(instance: dg.DagsterInstance) -> str:
    """Say that source runs have ended since the last good curate_corpus began; empty when none has."""
    last = instance.get_run_records(dg.RunsFilter(job_name="curate_corpus", statuses=[dg.DagsterRunStatus.SUCCESS]), limit=1)
    since = datetime.fromtimestamp(last[0].start_time, UTC) if last and last[0].start_time else None
    ended = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    for record in instance.get_run_records(dg.RunsFilter(statuses=ended, updated_after=since), limit=100):
        if sources_of(record.dagster_run, [], {}):
            return "source runs have ended since the last curate_corpus"
    return ""
