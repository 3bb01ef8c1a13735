"""Shared: the one model that a process holds, so that steps and sources of a run that need the same one do not load it again."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Model = TypeVar("Model")

_lock = threading.Lock()
_held: dict[Hashable, Any] = {}  # one at most: two large models may not fit


def shared(key: Hashable, build: Callable[[], Model]) -> Model:
    """Return the model that is held under a key, built where it is not; the one that was held before is let go of first.

    Args:
        key: all that the model depends on: its name, device, number format, files, permissions.
        build: makes it; whatever it raises leaves nothing held.
    """
    with _lock:
        if key not in _held:
            _release()
            _held[key] = build()
        found: Model = _held[key]
        return found


def release() -> None:
    """Let go of the model, at the end of a run or when its device is lost; memory comes back once nothing else refers to it."""
    with _lock:
        _release()


def _release() -> None:
    if not _held:
        return
    _held.clear()
    gc.collect()  # models refer to themselves
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        try:
            torch.cuda.empty_cache()
        except torch.AcceleratorError:
            return  # a lost device has nothing to give back
