"""Instance: the one Dagster instance that the command line and the UI share, and the files that describe it."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import dagster as dg

from curation_assets.defs.partitions import video_sources
from curation_assets.settings import SettingsError
from curation_assets.storage.errors import Forbidden

_PACKAGE = Path(__file__).parent.parent


@contextmanager
def open_instance(folder: Path) -> Iterator[dg.DagsterInstance]:
    """Open `DAGSTER_HOME`'s instance where that is set, else the one of a project's folder; `curation-assets ui` shows the same.

    The folder's `dagster.yaml` describes it, written with our defaults if it is missing; its paths are relative to the folder, which is the working folder
    meanwhile. State lies in the folder's `.dagster_state` then.

    Args:
        folder: of the settings file.

    Raises:
        Forbidden: the folder cannot be written.
        SettingsError: DAGSTER_HOME is no folder.
    """
    if home := os.environ.get("DAGSTER_HOME"):
        if not Path(home).is_dir() or not Path(home).is_absolute():
            raise SettingsError(f"DAGSTER_HOME is {home!r}: it must be the full path of a folder; make it, or unset DAGSTER_HOME")
        with dg.DagsterInstance.get() as instance:
            yield instance
        return
    try:
        ensure_instance_file(folder)
        (folder / ".dagster_state").mkdir(exist_ok=True)
        lock = (folder / ".dagster_state" / "opening.lock").open("w")
    except OSError as error:
        raise Forbidden(
            f"Dagster keeps its state beside the settings file, in {folder}: {error}. Put the file into a folder that can be written, or set DAGSTER_HOME"
        ) from error
    with chdir(folder):
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two processes that make the same SQLite files at once: one of them fails (Dagster 1.13)
            instance = dg.DagsterInstance.from_config(str(folder))
            instance.get_runs_count()
            instance.get_dynamic_partitions(video_sources.name or "")
        with instance:
            yield instance


def ensure_instance_file(folder: Path) -> None:
    """Write `dagster.yaml` into a folder that has none."""
    if not (folder / "dagster.yaml").exists():
        shutil.copyfile(shipped_file("dagster.yaml"), folder / "dagster.yaml")


def shipped_file(name: str) -> Path:
    """Find `dagster.yaml` or `workspace.yaml` as they come with the project: in the wheel, or at the top of a checkout."""
    in_wheel = _PACKAGE / name
    return in_wheel if in_wheel.exists() else _PACKAGE.parent / name
