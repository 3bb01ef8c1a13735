"""The local engine: results, deadlines, crashes, and what is left behind."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from pebble.pool.base_pool import PoolStatus

from curation_assets.engine import local
from curation_assets.engine.local import NOT_YET, Done, Failed, LocalEngine, cpu_count
from curation_assets.schemas.outcomes import Outcome


def square(item):
    return item * item


def misbehave(item):
    if item == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "hang":
        time.sleep(600)
    if item == "raise":
        raise KeyError("gone")
    if item == "memory":
        raise MemoryError
    return item


@pytest.mark.parametrize("workers", [0, 2])
def test_every_item_once(workers):
    with LocalEngine(workers=workers) as engine:
        results = list(engine.map(square, range(50)))
    assert sorted(result.value for result in results) == [n * n for n in range(50)]


def test_items_are_drawn_lazily():
    drawn = []

    def items():
        for n in range(1000):
            drawn.append(n)
            yield n

    with LocalEngine(workers=1) as engine:
        next(engine.map(square, items()))
        assert len(drawn) <= 4


def test_one_bad_item_costs_itself():
    items = ["a", "crash", "b", "hang", "c", "raise", "d", "memory", "e"]
    started = time.monotonic()
    with LocalEngine(workers=2, timeout_s=3) as engine:
        results = {result.item: result for result in engine.map(misbehave, items)}
    assert time.monotonic() - started < 30
    assert {item for item, result in results.items() if isinstance(result, Done)} == {"a", "b", "c", "d", "e"}
    outcomes = {item: result.outcome for item, result in results.items() if isinstance(result, Failed)}
    assert outcomes == {
        "crash": Outcome.CRASHED,
        "hang": Outcome.TIMEOUT,
        "raise": Outcome.INTERNAL_ERROR,
        "memory": Outcome.OUT_OF_MEMORY,
    }
    assert "SIGSEGV" in results["crash"].detail
    assert "gone" in results["raise"].detail


def test_close_ends_busy_workers_at_once():
    engine = LocalEngine(workers=2, timeout_s=600)
    results = engine.map(misbehave, ["a", "hang", "hang", "hang"])
    assert next(results).item == "a"
    children = psutil.Process().children(recursive=True)
    started = time.monotonic()
    results.close()
    engine.close()
    assert time.monotonic() - started < 5
    _, alive = psutil.wait_procs([child for child in children if "spawn_main" in " ".join(_cmdline(child))], timeout=5)
    assert not alive


PARENT = """
import sys
from curation_assets.engine import local
from curation_assets.engine.local import LocalEngine
from curation_assets_tests.engine.test_local import misbehave
if __name__ == "__main__":
    engine = LocalEngine(workers=2)
    for result in engine.map(misbehave, ["a", "hang", "hang"]):
        print("ready", flush=True)
"""


def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", *sys.path])}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout.readline().strip() == "ready"
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) >= 2
        parent.kill()
        parent.stdout.close()
        _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def spawned():
    return [child for child in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(_cmdline(child))]


def slow_square(item):
    time.sleep(0.3)
    return item * item


@pytest.mark.parametrize("pause_s", [0.02, 0.3])
def test_workers_killed_as_they_start_or_idle_cost_nothing(pause_s, monkeypatch):
    monkeypatch.setattr(local, "START_UP_S", 5)
    with LocalEngine(workers=2, timeout_s=30) as engine:

        def items():
            yield 1
            time.sleep(pause_s)
            for child in spawned():
                child.kill()
            yield from range(2, 8)

        results = list(engine.map(slow_square, items()))
    assert sorted(result.value for result in results if isinstance(result, Done)) == [n * n for n in range(1, 8)]


def test_a_pool_that_ends_without_a_word_for_its_last_items(monkeypatch):
    """The pool notes that it broke before it takes the items that were just given to it, and forgets them."""
    monkeypatch.setattr(local, "START_UP_S", 10_000)
    with LocalEngine(workers=2, timeout_s=30) as engine:

        def items():
            yield from range(4)
            engine._pool._context.status = PoolStatus.ERROR

        results = list(engine.map(slow_square, items()))
    assert sorted(result.value for result in results if isinstance(result, Done)) == [0, 1, 4, 9]


def test_idle_workers_killed_between_two_maps():
    with LocalEngine(workers=2, timeout_s=30) as engine:
        assert len(list(engine.map(square, range(4)))) == 4
        for child in spawned():
            child.kill()
        time.sleep(0.5)
        results = list(engine.map(square, range(6)))
    assert sorted(result.value for result in results if isinstance(result, Done)) == [n * n for n in range(6)]


def test_cpu_count_is_positive():
    assert 1 <= cpu_count() <= os.cpu_count()


def _cmdline(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.slow
def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import math\nfrom curation_assets.engine.local import LocalEngine\nprint(list(LocalEngine(workers=2).map(math.sqrt, [1.0])))\n"
    )
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stderr.strip().splitlines()[-1].endswith("if __name__ == '__main__':")


@pytest.mark.parametrize("workers", [0, 2])
def test_results_make_items(workers):
    ready = [3, 5]

    def items():
        while True:
            if ready:
                yield ready.pop()
            elif len(seen) < 10:
                yield NOT_YET
            else:
                return

    seen = []
    with LocalEngine(workers=workers) as engine:
        for result in engine.map(square, items()):
            seen.append(result.item)
            if result.item > 0:
                ready.append(result.item - 1)
    assert sorted(seen) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 5]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_work_list_that_waits_for_nothing_is_an_error(workers):
    def items():
        while True:
            yield NOT_YET

    with LocalEngine(workers=workers) as engine, pytest.raises(RuntimeError, match="nothing is under way"):
        list(engine.map(square, items()))
