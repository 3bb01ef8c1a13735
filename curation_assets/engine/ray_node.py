"""Ray node: what the Ray engine runs on the nodes of a cluster. Light to import: every Ray worker does, and none of them decodes.

A piece runs in a process that the local engine supervises, one under each Ray worker: deadlines, crashes and their words are then the same on every engine.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from curation_assets.engine.local import Done, Failed, LocalEngine

_IDLE_S = 30.0  # a process without work gives its memory back, to a model for one


@dataclass(frozen=True, slots=True)
class Unfit:
    """Why a node cannot do any work of this run."""

    reason: str


Answer = bytes | Failed[None] | Unfit
"""What a node gives: the pickled value, or why there is none."""


class _Slot:
    """The supervised process of this Ray worker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engine = LocalEngine(workers=1, most_crashes=1)  # who sent the piece tries it again
        self._timer: threading.Timer | None = None

    def run(self, work: bytes, *, timeout_s: float) -> Answer:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._engine.timeout_s = timeout_s
            (result,) = self._engine.map(_run_pickled, [work])
            self._timer = threading.Timer(_IDLE_S, self._close)
            self._timer.daemon = True
            self._timer.start()
        if isinstance(result, Done):
            answer: Answer = result.value
            return answer
        return Failed(None, result.outcome, result.detail)

    def _close(self) -> None:
        with self._lock:
            if self._timer is threading.current_thread():
                self._engine.close()


_slot: _Slot | None = None


def run_piece_on_node(work: bytes, timeout_s: float, paths: Sequence[str]) -> Answer:
    """Run one piece of work on this node.

    Args:
        work: a pickled pair: a module-level function and its one argument.
        timeout_s: deadline in seconds.
        paths: local ones that the work needs.
    """
    global _slot
    if reason := why_unfit(paths):
        return Unfit(reason)
    if _slot is None:
        # Spawned processes would import Ray's own main script, and Ray with it.
        vars(sys.modules["__main__"]).pop("__file__", None)
        _slot = _Slot()
    return _slot.run(work, timeout_s=timeout_s)


def _run_pickled(work: bytes) -> bytes | Unfit:
    try:
        function, item = pickle.loads(work)
    except (ImportError, AttributeError) as error:
        return Unfit(_without_code(error))
    return pickle.dumps(function(item), pickle.HIGHEST_PROTOCOL)


def why_unfit(paths: Sequence[str]) -> str | None:
    """Say which local path this node does not see; None when it sees them all."""
    for path in paths:
        if not os.path.exists(path):  # noqa: PTH110 - keys are no paths to normalize
            return f"the Ray node {socket.gethostname()} does not see {path}; mount the same folder there, or name an object store (s3:// gs:// az://)"
    return None


def _without_code(error: BaseException) -> str:
    return f"the Ray node {socket.gethostname()} lacks code of this run ({error}); install the same packages and versions on every node"


class ModelActor:
    """Holds a model and runs groups through it; one per place in the pool.

    Args:
        load: pickled; gives the function that takes a group.
        paths: local ones that it needs.
    """

    def __init__(self, load: bytes, paths: Sequence[str]) -> None:
        self._load, self._paths = load, paths
        self._run: Callable[[Any], Any] | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Run the groups of a batch, pickled in and out."""
        return {"group": [pickle.dumps(self._work(group), pickle.HIGHEST_PROTOCOL) for group in batch["group"]]}

    def _work(self, group: bytes) -> Any:
        if reason := why_unfit(self._paths):
            return Unfit(reason)
        try:
            if self._run is None:
                self._run = pickle.loads(self._load)()
            items = pickle.loads(group)
        except (ImportError, AttributeError) as error:
            return Unfit(_without_code(error))
        return self._run(items)
