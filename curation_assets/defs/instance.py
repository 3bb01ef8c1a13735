"""Instance: the one Dagster instance that the command line and the UI share, and the files that describe it."""

import fcntl
import os
import shutil
from pathlib import Path

import dagster as dg

from curation_assets.defs.partitions import video_sources
from curation_assets.storage.errors import Forbidden

_PACKAGE = Path(__file__).parent.parent


def open_instance() -> dg.DagsterInstance:
    """Open `DAGSTER_HOME`'s instance where that is set, else the one of `./dagster.yaml`, written with our defaults if it is missing.

    State lies in `./.dagster_state` then; `dagster dev` started in the same folder uses the same.

    Raises:
        Forbidden: the folder cannot be written.
    """
    if os.environ.get("DAGSTER_HOME"):
        return dg.DagsterInstance.get()
    state = Path(".dagster_state")
    try:
        ensure_instance_file(Path.cwd())
        state.mkdir(exist_ok=True)
    except OSError as error:
        raise Forbidden(
            f"Dagster keeps its state in {Path.cwd()}: {error}. Work in a folder that can be written, or set DAGSTER_HOME"
        ) from error
    with (state / "opening.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two processes that make the same SQLite files at once: one of them fails (Dagster 1.13)
        instance = dg.DagsterInstance.from_config(str(Path.cwd()))
        instance.get_runs_count()
        instance.get_dynamic_partitions(video_sources.name or "")
    return instance


def ensure_instance_file(folder: Path) -> None:
    """Write `dagster.yaml` into a folder that has none."""
    if not (folder / "dagster.yaml").exists():
        shutil.copyfile(shipped_file("dagster.yaml"), folder / "dagster.yaml")


def shipped_file(name: str) -> Path:
    """Find `dagster.yaml` or `workspace.yaml` as they come with the project: in the wheel, or at the top of a checkout."""
    in_wheel = _PACKAGE / name
    return in_wheel if in_wheel.exists() else _PACKAGE.parent / name
