"""Lease: keeps two runs from doing the same work on one table at once.

A lease is a row of objects `<generation>.json`, each made by a create-only put; whoever made the highest one holds the lease. The holder writes its
heartbeat into its own object. A run takes over, with the next generation, when the holder has released, has not been heard of for a minute, or
ran on this machine and its process is gone. This saves work; that the table stays whole does not depend on it (see `tables.py`).
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from curation_assets.storage.errors import AlreadyExists, LeaseHeld, LeaseLost, NotFound, SourceNotFound, StoreError
from curation_assets.storage.objects import ObjectStore

HEARTBEAT_S = 5.0
EXPIRY_S = 60.0
POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class LeaseState:
    """What a holder writes about itself.

    Attributes:
        holder_id: made anew for each acquisition.
        host: name of the machine, for people.
        boot_id: of the machine's present boot and process table; process ids mean something only within one.
        pid: process id of the holder.
        process_start_s: start time of that process, which tells a later process with the same id from it.
        run_id: run of the holder.
        heartbeat_s: time of the last heartbeat by the holder's clock, Unix seconds.
        is_released: whether the holder is done.
    """

    holder_id: str
    host: str
    boot_id: str
    pid: int
    process_start_s: float
    run_id: str
    heartbeat_s: float
    is_released: bool = False

    def is_known_dead(self) -> bool:
        """Say whether the holder ran in this boot of this machine and its process is gone."""
        if self.boot_id != boot_id():
            return False
        try:
            return (
                abs(psutil.Process(self.pid).create_time() - self.process_start_s) > 1.0
                or psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE
            )
        except psutil.NoSuchProcess:
            return True

    def __str__(self) -> str:
        return f"run {self.run_id} (process {self.pid} on {self.host})"


class Lease:
    """One (asset, source) for one run: `with Lease(...): ...` waits for it, keeps it alive, and gives it back.

    Args:
        store: the warehouse.
        prefix: from `Layout.lease_prefix`.
        run_id: for the message to others who wait.
        heartbeat_s: seconds between heartbeats.
        expiry_s: seconds without a heartbeat after which others may take over; several heartbeats long.
        wait_s: how long to wait for another holder; 0 raises LeaseHeld at once, None waits for ever.
        on_wait: called with a line of text when the waiting begins and once a minute.
    """

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        *,
        run_id: str,
        heartbeat_s: float = HEARTBEAT_S,
        expiry_s: float = EXPIRY_S,
        wait_s: float | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        self._store = store
        self._prefix = prefix.rstrip("/") + "/"
        self._run_id = run_id
        self._heartbeat_s, self._expiry_s, self._wait_s = heartbeat_s, expiry_s, wait_s
        self._on_wait = on_wait
        self._generation = 0
        self._state: LeaseState | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._last_beat_s = 0.0
        self._is_lost = False

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lease, waiting for a live holder.

        Raises:
            LeaseHeld: a live holder did not let go within `wait_s`.
            StoreError: the store fails.
        """
        start_s = time.monotonic()
        next_line_s = start_s
        seen: tuple[int, float] | None = None
        seen_since_s = start_s
        while True:
            generation, state = self._highest()
            now_s = time.monotonic()
            beat = (generation, state.heartbeat_s) if state else None
            if beat != seen:
                seen, seen_since_s = beat, now_s
            # Clocks of two machines may differ: a heartbeat that changes is life, whatever its time says.
            is_silent = state is not None and (now_s - seen_since_s > self._expiry_s or self._is_long_ago(state))
            if state is None or state.is_released or is_silent or state.is_known_dead():
                if self._try_take(generation + 1):
                    return
                continue
            if self._wait_s is not None and now_s - start_s >= self._wait_s:
                raise LeaseHeld(f"{self._store.uri(self._prefix)}: {state} is working on this. Wait for it, or stop it and run again")
            if self._on_wait and now_s >= next_line_s:
                self._on_wait(f"waiting for {state}, which is working on {self._prefix.removeprefix('leases/').rstrip('/')}")
                next_line_s = now_s + 60
            time.sleep(min(POLL_S, self._heartbeat_s) * random.uniform(0.7, 1.3))

    def check(self) -> None:
        """Check, before a commit, that the lease is still this run's.

        Raises:
            LeaseLost: another run took over, or no heartbeat could be written for so long that one may have.
        """
        if self._state is None:
            raise LeaseLost(f"{self._prefix}: the lease is not held")
        if self._is_lost or self._generations()[-1:] != [self._generation]:
            self._is_lost = True
            raise LeaseLost(
                f"{self._store.uri(self._prefix)}: another run took over, because this one was silent for {self._expiry_s:g} s. It goes on; this one stops"
            )

    def release(self) -> None:
        """Give the lease back; others see it at once."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._state is not None and not self._is_lost:
            with contextlib.suppress(StoreError):  # it expires by itself, and an error here would hide one of the work
                self._store.put(self._key(self._generation), _to_json(replace(self._state, is_released=True)))
        self._state = None

    def _is_long_ago(self, state: LeaseState) -> bool:
        """Say whether a heartbeat is so old that no difference of clocks explains it, so that nobody need wait for a second one."""
        return abs(time.time() - state.heartbeat_s) > self._expiry_s + 600 or (
            state.boot_id == boot_id() and time.time() - state.heartbeat_s > self._expiry_s
        )

    def _try_take(self, generation: int) -> bool:
        process = psutil.Process()
        state = LeaseState(
            holder_id=str(uuid.uuid4()),
            host=socket.gethostname(),
            boot_id=boot_id(),
            pid=process.pid,
            process_start_s=process.create_time(),
            run_id=self._run_id,
            heartbeat_s=time.time(),
        )
        try:
            self._store.put(self._key(generation), _to_json(state), create_only=True)
        except AlreadyExists:
            return False
        self._generation, self._state, self._is_lost = generation, state, False
        for older in self._generations():
            if older < generation:
                self._store.delete(self._key(older))
        self._stop.clear()
        self._thread = threading.Thread(target=self._beat, name="lease-heartbeat", daemon=True)
        self._thread.start()
        return True

    def _beat(self) -> None:
        """Write heartbeats until released or lost."""
        last_s = time.monotonic()
        while not self._stop.wait(self._heartbeat_s):
            try:
                if self._generations()[-1:] != [self._generation]:
                    self._is_lost = True
                    return
                assert self._state is not None
                self._store.put(self._key(self._generation), _to_json(replace(self._state, heartbeat_s=time.time())))
                last_s = time.monotonic()
            except StoreError:
                # The store may come back in time; check() asks it again before each commit.
                if time.monotonic() - last_s > self._expiry_s:
                    self._is_lost = True
                    return

    def _key(self, generation: int) -> str:
        return f"{self._prefix}{generation:012d}.json"

    def _generations(self) -> list[int]:
        try:
            names = [info.key.rsplit("/", 1)[-1].removesuffix(".json") for page in self._store.list_pages(self._prefix) for info in page]
        except SourceNotFound:  # a new warehouse: the first write makes the folder
            return []
        return sorted(int(name) for name in names if name.isdigit())

    def _highest(self) -> tuple[int, LeaseState | None]:
        """Read the highest generation: (0, None) where there is none."""
        while generations := self._generations():
            try:
                return generations[-1], LeaseState(**json.loads(self._store.get(self._key(generations[-1]))))
            except NotFound:
                continue  # removed by a newer holder between the two requests
            except (ValueError, TypeError):
                return generations[-1], None  # cut off by a crash: nobody's
        return 0, None


def boot_id() -> str:
    """Return an id of this boot of this machine and of the process table: containers on one machine have their own."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{socket.gethostname()} {int(psutil.boot_time())}"


def _to_json(state: LeaseState) -> bytes:
    return json.dumps(asdict(state)).encode()
