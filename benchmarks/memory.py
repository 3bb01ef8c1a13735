"""Memory and processor time of a command with all its processes, sampled from outside while it runs.

Memory is the proportional set size (PSS), summed over the process tree: a page that several processes share counts once. Linux only.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLES_PER_S = 10
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Sample:
    """The process tree at one moment.

    Attributes:
        unix_s: when, Unix seconds.
        cpu_s: processor seconds that the tree has used so far, ended processes that were waited for included.
        pss_bytes: by process, the first started first.
    """

    unix_s: float
    cpu_s: float
    pss_bytes: tuple[int, ...]

    @property
    def total_bytes(self) -> int:
        """Memory of the tree."""
        return sum(self.pss_bytes)


@dataclass(frozen=True, slots=True)
class Measured:
    """A command that ended.

    Attributes:
        exit_code: its exit code.
        output: what it wrote to stdout.
        wall_s: wall time in seconds.
        cpu_s: processor seconds of the command and its children.
        samples: the tree, ten times a second.
        num_left: processes of the tree that outlived the command.
    """

    exit_code: int
    output: str
    wall_s: float
    cpu_s: float
    samples: Sequence[Sample]
    num_left: int

    @property
    def peak(self) -> Sample:
        """The sample with the most memory."""
        return max(self.samples, key=lambda sample: sample.total_bytes)

    def cpu_between(self, start_unix_s: float, end_unix_s: float) -> float:
        """Processor seconds of the tree from one moment to another, to a tenth of a second of wall time."""
        return self._cpu_at(end_unix_s) - self._cpu_at(start_unix_s)

    def peak_between(self, start_unix_s: float, end_unix_s: float) -> int:
        """Most memory of the tree in a span of time, in bytes."""
        inside = [sample.total_bytes for sample in self.samples if start_unix_s <= sample.unix_s <= end_unix_s]
        return max(inside, default=0)

    def series_megabytes(self, num_points: int = 60) -> list[int]:
        """The maximum in each of `num_points` equal spans of time: what grows is seen."""
        span = max(1, -(-len(self.samples) // num_points))
        groups = (self.samples[start : start + span] for start in range(0, len(self.samples), span))
        return [round(max(sample.total_bytes for sample in group) / 1e6) for group in groups]

    def _cpu_at(self, unix_s: float) -> float:
        place = bisect_right(self.samples, unix_s, key=lambda sample: sample.unix_s)
        return self.samples[max(0, place - 1)].cpu_s


def run_measured(command: Sequence[str], *, folder: Path, environment: Mapping[str, str] | None = None) -> Measured:
    """Run a command to its end and measure its process tree.

    Args:
        command: program and arguments.
        folder: where it runs.
        environment: variables beside this process's own.
    """
    started_s = time.monotonic()
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, text=True)
    samples: list[Sample] = []
    seen: dict[int, psutil.Process] = {}
    has_ended = threading.Event()
    sampler = threading.Thread(target=_sample_until, args=(process.pid, has_ended, samples, seen))
    sampler.start()
    output = process.stdout.read() if process.stdout else ""
    # wait4 gives the children's time too; psutil and Popen would reap the process without it
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall_s = time.monotonic() - started_s
    has_ended.set()
    sampler.join()
    return Measured(
        exit_code=process.returncode,
        output=output,
        wall_s=wall_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        samples=samples,
        num_left=sum(child.is_running() for child in seen.values()),
    )


def _sample_until(pid: int, has_ended: threading.Event, samples: list[Sample], seen: dict[int, psutil.Process]) -> None:
    root = psutil.Process(pid)
    while not has_ended.wait(1 / SAMPLES_PER_S):
        try:
            children = root.children(recursive=True)
        except psutil.NoSuchProcess:
            return
        seen.update((child.pid, child) for child in children)
        pids = [pid, *(child.pid for child in children)]
        readings = [(pss, _cpu_s(each)) for each in pids if (pss := _pss_bytes(each)) is not None]
        if readings:
            samples.append(Sample(time.time(), sum(cpu for _, cpu in readings), tuple(pss for pss, _ in readings)))


def _pss_bytes(pid: int) -> int | None:
    """PSS of a process; None when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), None)


def _cpu_s(pid: int) -> float:
    """Processor seconds of a process and of the children that it waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS_PER_S
