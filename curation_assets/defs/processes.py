"""Processes: which process works on a run, so that a run whose process was killed is ended and gives its places in the pools back.

Dagster's daemon does that for the runs that it watches. Nothing does for runs of the command line, nor for any run when the machine went down with the daemon.
"""

import os
import socket

import dagster as dg
import psutil
from dagster import DagsterRunStatus, RunsFilter

from curation_assets.storage.leases import boot_id

PROCESS_TAG = "curation/process"  # on a run of the command line: its process, from the start
_WORKER_TAG = "curation/worker"  # on any run, once its steps begin: the run and its process; a re-execution may carry its parent's
_MINE = (DagsterRunStatus.STARTED, DagsterRunStatus.STARTING, DagsterRunStatus.NOT_STARTED)


def process_tag() -> str:
    """Name this process: host, boot, id, and when it started."""
    return _tag_of(os.getpid())


def mark_worker(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Note on a run that this process works on it."""
    if PROCESS_TAG not in run.tags:
        instance.add_run_tags(run.run_id, {_WORKER_TAG: f"{run.run_id}|{process_tag()}"})


def end_orphans(instance: dg.DagsterInstance) -> None:
    """Mark runs whose process was killed as failed, and free the places in pools that they held; those of other machines are theirs to judge."""
    for run in instance.get_runs(RunsFilter(statuses=list(_MINE))):
        run_id, _, worker = run.tags.get(_WORKER_TAG, "").partition("|")
        tag = run.tags.get(PROCESS_TAG) or (worker if run_id == run.run_id else "")
        if tag and not _is_alive(tag):
            instance.report_run_failed(
                run, "the process that worked on it was killed; what it had committed stays, and the next run goes on"
            )
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


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
