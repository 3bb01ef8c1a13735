"""Ray engine: the same work as the local engine's, spread over the nodes of a Ray cluster.

Pieces are Ray tasks, one per piece, because Ray Data carries neither a deadline nor an outcome per item, nor a work list that grows from its own results. Models
are Ray Data: a pool of actors, each of which loads the model once. What runs on the nodes is in `ray_node`. Ray is imported where it is used.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from curation_assets.engine.local import DEADLOCK, Done, Failed, NotYet, cpu_count
from curation_assets.engine.ray_node import ModelActor, Unfit, run_piece_on_node
from curation_assets.schemas.outcomes import Outcome

Item = TypeVar("Item")
_POLL_S = 0.5
_LOOK_AGAIN_S = 5.0  # nodes come and go
_KNOCK_S = 10.0
_MOST_CRASHES = 2  # of one piece, as in the local engine
_MOST_LOSSES = 3  # of the node under one piece: by then it is the piece that takes nodes down
NO_ROOM_S = 300.0  # a cluster that grows by itself has a node by then
_END: Any = object()


class EngineError(RuntimeError):
    """The cluster cannot do the work: the message says which node lacks what, and what to do."""


class RayEngine:
    """Runs pieces as tasks and models as actors of a Ray cluster. The cluster is joined, or started on this machine, at the first piece.

    Args:
        workers: most pieces at once; None is as many as the cluster has room for.
        timeout_s: deadline for one piece in seconds, from when it starts.
        paths: local paths that every node must see.
        address: of the cluster; None is RAY_ADDRESS, or a cluster that is started on this machine and ends with the engine.
        num_cpus_per_task: CPUs that a piece takes.
        num_gpus_per_task: GPUs that a piece takes.
        actors: that hold a model; None is one per GPU, or on a cluster without any, one per node.
        num_cpus_per_actor: CPUs that one takes.
        num_gpus_per_actor: GPUs that one takes, where the model may use one; None is 1 where the cluster has any.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        timeout_s: float = 600.0,
        paths: Sequence[str] = (),
        address: str | None = None,
        num_cpus_per_task: float = 1.0,
        num_gpus_per_task: float = 0.0,
        actors: int | None = None,
        num_cpus_per_actor: float = 1.0,
        num_gpus_per_actor: float | None = None,
    ) -> None:
        self.timeout_s = timeout_s
        self._most_at_once = workers
        self._paths = tuple(paths)
        self._address = address
        self._per_task = num_cpus_per_task, num_gpus_per_task
        self._actors = actors
        self._per_actor = num_cpus_per_actor, num_gpus_per_actor
        self._is_ours = False
        self._session = 0  # pieces of one that was left are gone
        self._num_slots = 0
        self._looked_s = 0.0

    @property
    def workers(self) -> int:
        """Pieces that run at once."""
        self._connect()
        room = max(1, self._slots())
        return room if self._most_at_once is None else min(self._most_at_once, room)

    def map(self, function: Callable[[Item], Any], items: Iterable[Item | NotYet]) -> Iterator[Done[Item] | Failed[Item]]:
        """Yield one result per item, in the order of completion, as `LocalEngine.map` does.

        A piece whose node is lost runs again elsewhere. One that crashed its process runs again alone, when no other is under way. Pieces that run are
        ended when the iterator is closed.

        Raises:
            EngineError: a node lacks a package or does not see a path, or no node has room for a piece.
            RuntimeError: the items wait for a result when none is under way.
        """
        ray = self._connect()
        session = self._session
        cpus, gpus = self._per_task
        task = ray.remote(run_piece_on_node).options(num_cpus=cpus, num_gpus=gpus, max_retries=0, name="piece")
        source = iter(items)
        tries = _Tries()
        flying: dict[Any, Any] = {}
        unharmed: deque[Any] = deque()  # whose node was lost
        exhausted = False
        last_room_s = time.monotonic()

        def start(item: Any) -> None:
            work = pickle.dumps((function, item), pickle.HIGHEST_PROTOCOL)
            flying[task.remote(work, self.timeout_s, self._seen_paths())] = item

        try:
            while True:
                while (unharmed or not exhausted) and len(flying) + len(tries.again) < self._most_flying():
                    item = unharmed.popleft() if unharmed else next(source, _END)
                    exhausted = exhausted or item is _END
                    if item is _END or isinstance(item, NotYet):
                        break
                    start(item)
                if tries.again and not flying:
                    start(tries.again.popleft())
                if not flying:
                    if not exhausted:
                        raise RuntimeError(DEADLOCK)
                    return
                ready, _ = ray.wait(list(flying), num_returns=1, timeout=_POLL_S)
                last_room_s = time.monotonic() if ready else self._check_room(last_room_s)
                for reference in ready:
                    item = flying.pop(reference)
                    result = self._result(reference, item)
                    if result is None:
                        result = tries.lost(item, unharmed)
                    if result is not None and not tries.is_tried_again(result):
                        yield result
        finally:
            if ray.is_initialized() and session == self._session:
                for reference in flying:
                    ray.cancel(reference, force=True)

    def num_actors(self, *, may_use_gpu: bool) -> int:
        """Count the actors that hold a model.

        Raises:
            EngineError: no node has room for one, and their number is not given.
        """
        self._connect()
        if self._actors is not None:
            return self._actors
        cpus, gpus = self._of_actor(may_use_gpu=may_use_gpu)
        room = self._room(cpus, gpus)
        if not room:
            raise EngineError(
                f"no node of the Ray cluster has {_amount(cpus, gpus)} for a model; add one, or lower engine.ray.num_*_per_actor, "
                "or name engine.ray.actors where the cluster grows by itself"
            )
        return room if gpus else sum(node.get("CPU", 0.0) >= cpus for node in self._nodes())

    def map_groups(self, load: Callable[[], Callable[[Any], Any]], groups: Sequence[Any], *, may_use_gpu: bool) -> Iterator[Any]:
        """Run groups of items through a model that each actor of a pool loads once; yields what it gives, in the order of completion.

        A group whose node is lost runs again elsewhere, so it has to give the same then.

        Args:
            load: picklable; called once per actor, gives the function of one group.
            groups: picklable.
            may_use_gpu: whether the model may run on one.

        Raises:
            EngineError: a node lacks a package or does not see a path, or none has room for an actor.
        """
        num_actors = self.num_actors(may_use_gpu=may_use_gpu)
        import ray.data

        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        cpus, gpus = self._of_actor(may_use_gpu=may_use_gpu)
        rows = [{"group": pickle.dumps(group, pickle.HIGHEST_PROTOCOL)} for group in groups]
        found = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            ModelActor,
            fn_constructor_args=(pickle.dumps(load, pickle.HIGHEST_PROTOCOL), self._seen_paths()),
            batch_size=1,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=min(num_actors, len(rows))),
            num_cpus=cpus,
            num_gpus=gpus,
            max_task_retries=_MOST_LOSSES,  # what ends its actor each time ends the run at last
        )
        for row in found.iter_rows():
            result = pickle.loads(row["group"])
            if isinstance(result, Unfit):
                raise EngineError(result.reason)
            yield result

    def close(self) -> None:
        """Leave the cluster, or end the one that was started here; the next work joins again."""
        if self._is_ours:
            import ray

            self._is_ours = False
            self._session += 1
            ray.shutdown()

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self) -> Any:
        import ray

        if not ray.is_initialized():
            address = (
                self._address or os.environ.get("RAY_ADDRESS") or "local"
            )  # None would join whatever cluster this machine started last
            own: dict[str, Any] = {"num_cpus": self._most_at_once or cpu_count(), "include_dashboard": False} if address == "local" else {}
            handler = signal.getsignal(signal.SIGTERM)
            try:
                _knock(address)
                ray.init(address=address, **own, logging_level=logging.WARNING)
            except (OSError, ray.exceptions.RayError) as error:  # ConnectionError is Ray's
                raise EngineError(f"cannot join the Ray cluster {address}: {error}") from error
            self._is_ours = True
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # Ray's own ends the process; Terminate has to commit first
        return ray

    def _of_actor(self, *, may_use_gpu: bool) -> tuple[float, float]:
        """Give the CPUs and GPUs of an actor."""
        cpus, gpus = self._per_actor
        if not may_use_gpu:
            return cpus, 0.0
        return cpus, float(any(node.get("GPU") for node in self._nodes())) if gpus is None else gpus

    def _seen_paths(self) -> list[str]:
        """Return the paths that this machine sees: one that is gone everywhere is no fault of a node."""
        return [path for path in self._paths if os.path.exists(path)]  # noqa: PTH110

    def _nodes(self) -> list[dict[str, float]]:
        import ray

        return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]

    def _room(self, cpus: float, gpus: float) -> int:
        """Count how often the nodes hold so many CPUs and GPUs together."""
        needs = {name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount}
        return sum(min(int(node.get(name, 0.0) / amount + 1e-6) for name, amount in needs.items()) for node in self._nodes())

    def _slots(self) -> int:
        now_s = time.monotonic()
        if now_s - self._looked_s > _LOOK_AGAIN_S or not self._num_slots:
            self._looked_s, self._num_slots = now_s, self._room(*self._per_task)
        return self._num_slots

    def _check_room(self, last_room_s: float) -> float:
        """Return when a node last had room for a piece.

        Raises:
            EngineError: that is too long ago.
        """
        if self._slots():
            return time.monotonic()
        if time.monotonic() - last_room_s > NO_ROOM_S:
            raise EngineError(
                f"no node of the Ray cluster has {_amount(*self._per_task)} for a piece; add one, or lower engine.ray.num_*_per_task"
            )
        return last_room_s

    def _most_flying(self) -> int:
        """Say how many pieces may be with the cluster: one waits behind each that runs, where `workers` does not forbid it."""
        room = max(1, self._slots())
        return self._most_at_once if self._most_at_once is not None and self._most_at_once < room else 2 * room

    def _result(self, reference: Any, item: Item) -> Done[Item] | Failed[Item] | None:
        """Take what a node gave; None when the node was lost."""
        import ray
        from ray import exceptions

        try:
            answer = ray.get(reference)
        except (exceptions.NodeDiedError, exceptions.LocalRayletDiedError, exceptions.ObjectLostError):
            return None
        except (
            exceptions.WorkerCrashedError,
            exceptions.OutOfMemoryError,
        ) as error:  # killed, by Ray itself when the node's memory ran short
            return Failed(item, Outcome.CRASHED, f"the Ray worker ended: {_first_line(error)}")
        except exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            remedy = (
                "install the same packages and versions on every node: "
                if isinstance(cause, ImportError | exceptions.RaySystemError)
                else ""
            )
            raise EngineError(f"a Ray worker cannot run pieces: {remedy}{cause}") from error
        if isinstance(answer, Failed):
            return Failed(item, answer.outcome, answer.detail)
        value = answer if isinstance(answer, Unfit) else pickle.loads(answer)
        if isinstance(value, Unfit):
            raise EngineError(value.reason)
        return Done(item, value)


class _Tries:
    """Pieces that are tried again. Items are told apart by identity: they need not be hashable."""

    def __init__(self) -> None:
        self.again: deque[Any] = deque()
        self._crashes: dict[int, int] = {}
        self._losses: dict[int, int] = {}

    def lost(self, item: Any, unharmed: deque[Any]) -> Failed[Any] | None:
        """Have a piece whose node was lost run again, unless it is one under which nodes are lost each time."""
        self._losses[id(item)] = self._losses.get(id(item), 0) + 1
        if self._losses[id(item)] >= _MOST_LOSSES:
            self._crashes[id(item)] = _MOST_CRASHES
            return Failed(item, Outcome.CRASHED, f"{_MOST_LOSSES} Ray nodes were lost while they worked on it")
        unharmed.append(item)
        return None

    def is_tried_again(self, result: Done[Any] | Failed[Any]) -> bool:
        """Keep a piece that crashed for another try, alone: memory that ran out because of its neighbours is then free."""
        key = id(result.item)
        is_crash = isinstance(result, Failed) and result.outcome is Outcome.CRASHED
        if is_crash and self._crashes.get(key, 0) + 1 < _MOST_CRASHES:
            self._crashes[key] = self._crashes.get(key, 0) + 1
            self.again.append(result.item)
            return True
        self._crashes.pop(key, None)
        self._losses.pop(key, None)
        return False


def _amount(cpus: float, gpus: float) -> str:
    return " and ".join(f"{amount:g} {name}" for amount, name in ((cpus, "CPU"), (gpus, "GPU")) if amount)


def _knock(address: str) -> None:
    """Raise OSError where no program listens at HOST:PORT: Ray 2.60 itself tries for more than ten minutes and says nothing meanwhile."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_S).close()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
