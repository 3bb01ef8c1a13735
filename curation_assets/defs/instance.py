"""Instance: the one Dagster instance that the command line and the UI share."""

import os
import shutil
from pathlib import Path

import dagster as dg

_PACKAGED = Path(__file__).parent.parent / "dagster.yaml"  # put there by the wheel
_CHECKED_OUT = Path(__file__).parent.parent.parent / "dagster.yaml"


def open_instance() -> dg.DagsterInstance:
    """Open `DAGSTER_HOME`'s instance where that is set, else the one of `./dagster.yaml`, written with our defaults if it is missing.

    State lies in `./.dagster_state` then; `dagster dev` started in the same folder uses the same.
    """
    if os.environ.get("DAGSTER_HOME"):
        return dg.DagsterInstance.get()
    ensure_instance_file(Path.cwd())
    return dg.DagsterInstance.from_config(str(Path.cwd()))


def ensure_instance_file(folder: Path) -> bool:
    """Write `dagster.yaml` into a folder that has none; returns whether it was written."""
    target = folder / "dagster.yaml"
    if target.exists():
        return False
    shutil.copyfile(_PACKAGED if _PACKAGED.exists() else _CHECKED_OUT, target)
    return True
