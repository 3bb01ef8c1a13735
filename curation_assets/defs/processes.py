"""Processes: which process works on a run, so that a run whose process was killed is ended and gives its places in the pools back.

A code server does that for the runs that it started, while it lives. Dagster's run monitoring does not (1.13): its launcher of local processes cannot be asked
whether a run lives. So nothing does for runs of the command line, nor for any run when the machine or the code server went down.
"""

import os
import socket

import dagster as dg
import psutil
from dagster import DagsterRunStatus, RunsFilter

from curation_assets.storage.leases import boot_id

PROCESS_TAG = "curation/process"  # the run and its process: of the command line's from the start, else once its steps begin; a re-execution carries its parent's
_MINE = (DagsterRunStatus.STARTED, DagsterRunStatus.STARTING, DagsterRunStatus.NOT_STARTED)


def process_tag(run_id: str) -> str:
    """Name a run and this process, which works on it: host, boot, id, and when it started."""
    return f"{run_id}|{_tag_of(os.getpid())}"


def mark_worker(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Note on a run that this process works on it."""
    if run.tags.get(PROCESS_TAG) != (tag := process_tag(run.run_id)):
        instance.add_run_tags(run.run_id, {PROCESS_TAG: tag})


def end_orphans(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs whose process was killed as failed, and free the places in pools that they held; those of other machines are theirs to judge.

    Returns:
        The ids of these runs.
    """
    ended = []
    for run in instance.get_runs(RunsFilter(statuses=list(_MINE))):
        run_id, _, process = run.tags.get(PROCESS_TAG, "").partition("|")
        if run_id == run.run_id and not _is_alive(process):
            instance.report_run_failed(
                run, "the process that worked on it was killed; what it had committed stays, and the next run goes on"
            )
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            ended.append(run.run_id)
    return ended


@dg.sensor(
    name="process_killed_sensor",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Ends runs whose process on this machine was killed: they would hold their places in pools and in the queue of runs for ever.",
)
def process_killed_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Look at the processes of runs that are under way; requests nothing."""
    ended = end_orphans(context.instance)
    for run_id in ended:
        context.log.warning(f"run {run_id}: its process was killed; marked as failed")
    return dg.SkipReason(f"{len(ended)} runs had lost their process" if ended else "every run has its process")


def _tag_of(pid: int) -> str:
    return f"{socket.gethostname()}|{boot_id()}|{pid}|{psutil.Process(pid).create_time():.2f}"


def _is_alive(tag: str) -> bool:
    """Judge a process of this machine; those of other machines and containers are theirs to judge."""
    host, boot, pid, _ = tag.split("|")
    if host != socket.gethostname():
        return True
    if boot != boot_id():
        return False
    try:
        return _tag_of(int(pid)) == tag
    except psutil.NoSuchProcess:
        return False
