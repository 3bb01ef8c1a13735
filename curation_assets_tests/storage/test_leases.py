from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from curation_assets.storage.errors import LeaseHeld, LeaseLost
from curation_assets.storage.leases import Lease, LeaseState, boot_id
from curation_assets_tests.storage.conftest import Root

spawn = multiprocessing.get_context("spawn")
PREFIX = "leases/clips/src/"
FAST = {"heartbeat_s": 0.1, "expiry_s": 1.0}
ELSEWHERE = LeaseState(
    holder_id="h", host="other", boot_id="another boot", pid=1, process_start_s=0, run_id="theirs", heartbeat_s=0, is_released=False
)


def generations(root: Root) -> list[str]:
    return [info.key.removeprefix(PREFIX).lstrip("0") for page in root.store().list_pages(PREFIX) for info in page]


def test_one_holder_at_a_time_then_the_next(root: Root):
    with Lease(root.store(), PREFIX, run_id="one", **FAST) as first:
        first.check()
        with pytest.raises(LeaseHeld, match="run one"):
            Lease(root.store(), PREFIX, run_id="two", wait_s=0).acquire()
    with pytest.raises(LeaseLost, match="not held"):
        first.check()
    with Lease(root.store(), PREFIX, run_id="two", wait_s=0, **FAST) as second:
        second.check()
        assert generations(root) == ["2.json"]


def test_waiting_ends_with_the_release(local_root: Root):
    lines: list[str] = []
    first = Lease(local_root.store(), PREFIX, run_id="one", **FAST)
    first.acquire()
    threading.Timer(0.5, first.release).start()
    start_s = time.monotonic()
    with Lease(local_root.store(), PREFIX, run_id="two", on_wait=lines.append, **FAST):
        assert 0.4 < time.monotonic() - start_s < 5
    assert len(lines) == 1
    assert "waiting for run one" in lines[0]
    assert "clips/src" in lines[0]


def test_a_living_holder_is_not_expired(local_root: Root):
    with Lease(local_root.store(), PREFIX, run_id="one", **FAST) as first:
        with pytest.raises(LeaseHeld):
            Lease(local_root.store(), PREFIX, run_id="two", wait_s=2.5, **FAST).acquire()
        first.check()


def hold(root: Root, ready) -> None:
    Lease(root.store(), PREFIX, run_id="child").acquire()
    ready.set()
    time.sleep(60)


def test_a_killed_holder_is_replaced_at_once(root: Root):
    ready = spawn.Event()
    process = spawn.Process(target=hold, args=(root, ready))
    process.start()
    assert ready.wait(30)
    with pytest.raises(LeaseHeld, match="run child"):
        Lease(root.store(), PREFIX, run_id="two", wait_s=0).acquire()
    os.kill(process.pid, signal.SIGKILL)
    start_s = time.monotonic()
    with Lease(root.store(), PREFIX, run_id="two"):
        assert time.monotonic() - start_s < 3
    process.join()


def test_a_stopped_holder_loses_it_and_notices(local_root: Root):
    """The process is there but stuck: after the expiry another takes over, and the first sees that before it commits."""
    first = Lease(local_root.store(), PREFIX, run_id="stuck", heartbeat_s=30, expiry_s=1)
    first.acquire()
    start_s = time.monotonic()
    with Lease(local_root.store(), PREFIX, run_id="two", **FAST) as second:
        assert 0.8 < time.monotonic() - start_s < 5
        with pytest.raises(LeaseLost, match="another run took over"):
            first.check()
        first.release()  # of a lost lease must not touch the new one
        second.check()
        assert generations(local_root) == ["2.json"]


def test_the_clock_of_another_machine_does_not_matter(local_root: Root):
    """A heartbeat minutes in the past or future that still changes is life; one that does not change for the expiry time is not."""
    store = local_root.store()
    key = f"{PREFIX}000000000007.json"
    for offset_s in (-300, 300):
        stop = threading.Event()

        def beat(offset_s: float = offset_s, stop: threading.Event = stop) -> None:
            while not stop.wait(0.1):
                store.put(key, json.dumps(asdict(replace(ELSEWHERE, heartbeat_s=time.time() + offset_s))).encode())

        thread = threading.Thread(target=beat)
        thread.start()
        time.sleep(0.3)
        with pytest.raises(LeaseHeld, match="on other"):
            Lease(store, PREFIX, run_id="me", wait_s=2, **FAST).acquire()
        stop.set()
        thread.join()
    with Lease(store, PREFIX, run_id="me", **FAST):
        assert generations(local_root) == ["8.json"]


def test_what_a_crash_cut_off_is_nobodys(local_root: Root):
    local_root.store().put(f"{PREFIX}000000000001.json", b'{"holder')
    with Lease(local_root.store(), PREFIX, run_id="me", wait_s=0):
        assert generations(local_root) == ["2.json"]


def test_a_process_id_used_again_is_not_the_holder():
    mine = replace(ELSEWHERE, boot_id=boot_id(), pid=os.getpid(), process_start_s=1.0)
    assert mine.is_known_dead()
    assert not replace(mine, boot_id="other").is_known_dead()


def count_in_turns(root: Root, path: Path, barrier) -> None:
    barrier.wait()
    for _ in range(5):
        with Lease(root.store(), PREFIX, run_id=str(os.getpid()), heartbeat_s=0.05):
            value = int(path.read_text())
            time.sleep(0.01)
            path.write_text(str(value + 1))


def test_many_processes_take_turns(local_root: Root, tmp_path: Path):
    path = tmp_path / "counter"
    path.write_text("0")
    barrier = spawn.Barrier(3)
    processes = [spawn.Process(target=count_in_turns, args=(local_root, path, barrier)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert path.read_text() == "15"
