"""Local engine: supervised worker processes with deadlines, over pebble's pool.

A worker that crashes or hangs costs the piece of work that it held and nothing else: pebble ends the process and starts another. Processes are spawned, never forked
(Lance and PyAV keep threads). Workers end with their parent, also when the parent is killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from enum import Enum
from multiprocessing import current_process, get_context
from typing import Any, Generic, TypeVar

from pebble import ProcessExpired, ProcessPool

from curation_assets.schemas.outcomes import Outcome

Item = TypeVar("Item")
_POLL_S = 0.5  # how soon a Terminate is seen while workers are busy
_MAX_TASKS_PER_WORKER = 500  # a fresh process now and then bounds what leaks in C libraries can cost
_MOST_REBUILDS = 5  # of the pool, without any item done in between
DEADLOCK = "the work list waits for a result, and nothing is under way"
_END: Any = object()
_NO_GUARD = "workers import the script that starts them: put what it does under if __name__ == '__main__':"
START_UP_S = 60.0  # no item runs, none is done: the pool has lost its workers


class NotYet(Enum):
    """What a work list gives in place of an item that depends on a result still to come: `map` asks again after the next one."""

    NOT_YET = "not yet"


NOT_YET = NotYet.NOT_YET


@dataclass(frozen=True, slots=True)
class Done(Generic[Item]):
    """A piece of work that returned."""

    item: Item
    value: Any


@dataclass(frozen=True, slots=True)
class Failed(Generic[Item]):
    """A piece of work that did not return: its deadline passed, its worker died, or it raised."""

    item: Item
    outcome: Outcome
    detail: str


def cpu_count() -> int:
    """Return the CPUs that this process may use: the scheduler's mask, and the container's quota where there is one."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:  # noqa: PTH123
            quota, period = file.read().split()
    except (OSError, ValueError):
        return cpus
    return cpus if quota == "max" else max(1, min(cpus, -(-int(quota) // int(period))))


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for the next large block; no effect beside glibc. For a model on the CPU, whose tensors come and go.

    Else each of its tensors is new memory that the kernel has to clear: TransNet V2 took a fifth longer.
    """
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        ctypes.CDLL(None).mallopt(-1, 2**30)  # M_TRIM_THRESHOLD in bytes
        ctypes.CDLL(None).mallopt(-3, 2**30)  # M_MMAP_THRESHOLD


def trim_memory() -> None:
    """Give freed memory back to the system once, whatever the C library would keep; no effect beside glibc."""
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)


def return_freed_memory() -> None:
    """Have the C library give freed memory back to the system soon; no effect beside glibc.

    By itself glibc raises its thresholds with the largest block that was ever freed, so that the buffers of each commit stay in the process:
    over 2 x 20 min of 720p the frame sets stage peaked at 0.66 GB instead of 0.55.
    """
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        ctypes.CDLL(None).mallopt(-1, 1_000_000)  # M_TRIM_THRESHOLD in bytes; setting it also ends the raising
        ctypes.CDLL(None).mallopt(-3, 131_072)  # M_MMAP_THRESHOLD, the C library's own value
        ctypes.CDLL(None).mallopt(-8, 2)  # M_ARENA_MAX: each of Lance's threads would keep an arena of its own
        trim_memory()


class LocalEngine:
    """Runs a function over items in worker processes, or inline.

    Args:
        workers: processes; None is one per CPU; 0 runs inline: no deadline and no crash isolation, for debugging.
        timeout_s: deadline for one item in seconds.
        most_crashes: times that an item may crash its worker before that is its result.

    Raises:
        RuntimeError: a worker process makes one while it starts: the user's script has no main guard.
    """

    def __init__(self, *, workers: int | None = None, timeout_s: float = 600.0, most_crashes: int = 2) -> None:
        if workers != 0 and getattr(
            current_process(), "_inheriting", False
        ):  # a worker that imports the script which started it, up to here
            raise RuntimeError(_NO_GUARD)
        self.workers = cpu_count() if workers is None else workers
        self.timeout_s = timeout_s
        self._most_crashes = most_crashes
        self._pool: ProcessPool | None = None

    def map(self, function: Callable[[Item], Any], items: Iterable[Item | NotYet]) -> Iterator[Done[Item] | Failed[Item]]:
        """Yield one result per item, in the order of completion.

        Items are drawn as workers become free, at most two per worker ahead, so that a long work list costs no memory. A list that makes items from
        results gives `NOT_YET` while it waits for one.

        Args:
            function: a module-level function of one picklable item.
            items: drawn lazily, in this thread.

        Raises:
            RuntimeError: the items wait for a result when none is under way; or the worker processes keep dying.
        """
        if self.workers == 0:
            yield from _map_inline(function, items)
            return
        source = iter(items)
        crashes: dict[int, int] = {}
        flying: dict[Any, Any] = {}
        again: deque[Any] = deque()
        unharmed: deque[Any] = deque()  # in flight when the pool broke
        num_rebuilds = 0
        last_change_s = time.monotonic()
        exhausted = False
        try:
            while True:
                while (unharmed or not exhausted) and len(flying) + len(again) < 2 * self.workers:
                    item = unharmed.popleft() if unharmed else next(source, _END)
                    exhausted = exhausted or item is _END
                    if item is _END or isinstance(item, NotYet):
                        break
                    flying[self._schedule(function, item)] = item
                    last_change_s = time.monotonic()
                # What crashed a worker runs again alone: memory that ran out because of its neighbours is then free.
                if again and not flying:
                    item = again.popleft()
                    flying[self._schedule(function, item)] = item
                if not flying:
                    if not exhausted:
                        raise RuntimeError(DEADLOCK)
                    return
                done, _ = wait(flying, timeout=_POLL_S, return_when=FIRST_COMPLETED)
                if done or any(future.running() for future in flying):
                    last_change_s = time.monotonic()
                if self._is_broken(done, idle_s=time.monotonic() - last_change_s):
                    num_rebuilds += 1
                    if num_rebuilds > _MOST_REBUILDS:
                        raise RuntimeError(
                            "worker processes keep dying; what they print stands above. Is memory short (curation-assets doctor)? In a script of your own: "
                            + _NO_GUARD
                        )
                    unharmed.extend(flying.values())
                    flying.clear()
                    self.close()
                    continue
                for future in done:
                    num_rebuilds = 0
                    item = flying.pop(future)
                    result = _result(future, item, timeout_s=self.timeout_s)
                    if _is_crash(result) and crashes.get(id(item), 0) + 1 < self._most_crashes:
                        crashes[id(item)] = crashes.get(id(item), 0) + 1
                        again.append(item)
                        continue
                    crashes.pop(id(item), None)
                    yield result
        finally:
            for future in flying:
                future.cancel()

    def close(self) -> None:
        """End the worker processes at once; the next `map` starts new ones."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            pool.stop()  # type: ignore[no-untyped-call]
            pool.join(timeout=10)

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _schedule(self, function: Callable[[Item], Any], item: Item) -> Any:
        if self._pool is None:
            self._pool = ProcessPool(
                max_workers=self.workers,
                max_tasks=_MAX_TASKS_PER_WORKER,
                context=get_context("spawn"),
                initializer=_start_worker,
                initargs=(os.getpid(),),
            )
        try:
            return self._pool.schedule(function, args=(item,), timeout=self.timeout_s)
        except RuntimeError as error:  # the pool broke between two items
            broken: Future[Any] = Future()
            broken.set_exception(BrokenProcessPool(str(error)))
            return broken

    def _is_broken(self, done: Collection[Any], *, idle_s: float) -> bool:
        """Say whether the pool has to be made anew: it says so, it ended without a word for its last items, or it lost its workers as they started and does not know."""
        has_ended = not done and self._pool is not None and not self._pool.active
        return has_ended or idle_s > START_UP_S or any(isinstance(future.exception(), BrokenProcessPool) for future in done)


def _is_crash(result: Done[Item] | Failed[Item]) -> bool:
    return isinstance(result, Failed) and result.outcome is Outcome.CRASHED


def _map_inline(function: Callable[[Item], Any], items: Iterable[Item | NotYet]) -> Iterator[Done[Item] | Failed[Item]]:
    is_waiting = False
    for item in items:
        if isinstance(item, NotYet):
            if is_waiting:
                raise RuntimeError(DEADLOCK)
            is_waiting = True
        else:
            is_waiting = False
            yield _run_inline(function, item)


def _run_inline(function: Callable[[Item], Any], item: Item) -> Done[Item] | Failed[Item]:
    try:
        return Done(item, function(item))
    except MemoryError as error:
        return Failed(item, Outcome.OUT_OF_MEMORY, str(error) or "out of memory")
    except Exception as error:  # noqa: BLE001 - one item's bug must not stop the rest; the row carries it and the failure check counts it
        return Failed(item, Outcome.INTERNAL_ERROR, f"{type(error).__name__}: {error}")


def _result(future: Any, item: Item, *, timeout_s: float) -> Done[Item] | Failed[Item]:
    try:
        return Done(item, future.result())
    except FutureTimeoutError:
        return Failed(item, Outcome.TIMEOUT, f"not done after {timeout_s:g} s; engine.timeout_s sets the deadline")
    except ProcessExpired as error:
        return Failed(item, Outcome.CRASHED, f"the worker process ended with {_ending(error.exitcode)}")
    except MemoryError as error:
        return Failed(item, Outcome.OUT_OF_MEMORY, str(error) or "out of memory")
    except Exception as error:  # noqa: BLE001 - see _run_inline
        return Failed(item, Outcome.INTERNAL_ERROR, f"{type(error).__name__}: {error}")


def _ending(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        try:
            return f"signal {signal.Signals(-exitcode).name}"
        except ValueError:
            return f"signal {-exitcode}"
    return f"exit code {exitcode}"


def _start_worker(parent: int) -> None:
    """Set up a worker: deaf to Ctrl-C (the parent decides), and gone when the parent is."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    else:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it died while we started
        os._exit(1)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        threading.Event().wait(1.0)
    os._exit(1)
