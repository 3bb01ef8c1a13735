"""Instance: the one Dagster instance that the command line and the UI share, and the files that describe it."""

import os
import shutil
from pathlib import Path

import dagster as dg

_PACKAGE = Path(__file__).parent.parent


def open_instance() -> dg.DagsterInstance:
    """Open `DAGSTER_HOME`'s instance where that is set, else the one of `./dagster.yaml`, written with our defaults if it is missing.

    State lies in `./.dagster_state` then; `dagster dev` started in the same folder uses the same.
    """
    if os.environ.get("DAGSTER_HOME"):
        return dg.DagsterInstance.get()
    ensure_instance_file(Path.cwd())
    return dg.DagsterInstance.from_config(str(Path.cwd()))


def ensure_instance_file(folder: Path) -> None:
    """Write `dagster.yaml` into a folder that has none."""
    if not (folder / "dagster.yaml").exists():
        shutil.copyfile(shipped_file("dagster.yaml"), folder / "dagster.yaml")


def shipped_file(name: str) -> Path:
    """Find `dagster.yaml` or `workspace.yaml` as they come with the project: in the wheel, or at the top of a checkout."""
    in_wheel = _PACKAGE / name
    return in_wheel if in_wheel.exists() else _PACKAGE.parent / name
