"""What the benchmarks share: inputs, processor time, medians, and one JSON document with the machine it was measured on."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from curation_assets.media.synthetic import write_video

PACKAGES = ("av", "numpy", "pillow", "pylance", "duckdb", "dagster")


def cpu_seconds() -> float:
    """Processor seconds, user and system, of this process and its finished children."""
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def median_cpu_seconds(variants: Mapping[str, Callable[[], object]], *, repeats: int) -> dict[str, float]:
    """Measure variants in turn, so that a change of the machine's speed meets all of them, and take the median of each.

    Args:
        variants: what to measure, by name; each is run once more beforehand to warm up.
        repeats: how often.
    """
    for run in variants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, run in variants.items():
            start_s = cpu_seconds()
            run()
            seconds[name].append(cpu_seconds() - start_s)
    return {name: statistics.median(values) for name, values in seconds.items()}


def write_report(claim: str, measured: Mapping[str, Any], *, output: Path | None) -> None:
    """Print what was measured as one JSON document, and write it to a file where one is given.

    Args:
        claim: what the benchmark is to show.
        measured: numbers by name, units in the names.
        output: file to write.
    """
    document = {
        "claim": claim,
        "command": _command(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": _cpu_name(), "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
            "libavcodec": _dotted(av.library_versions["libavcodec"]),
        },
        **measured,
    }
    text = json.dumps(document, indent=2)
    print(text)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text + "\n")


def make_inputs(
    folder: Path, *, seconds: int = 60, num_videos: int = 1, width_px: int = 1280, height_px: int = 720, fps: int = 30
) -> list[Path]:
    """Make videos as a camera might give them: H.264, x264 medium with B-frames, hard cuts every 3 to 7 seconds. What is there already is used again.

    Args:
        folder: where to keep them.
        seconds: length of each.
        num_videos: how many, all different.
        width_px: width.
        height_px: height.
        fps: frames per second.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for seed in range(num_videos):
        path = folder / f"camera_{seed}_{seconds}s_{height_px}p{fps}.mp4"
        if not path.exists():
            partial = path.with_suffix(".part.mp4")
            frames = _film(seed, num_frames=seconds * fps, width_px=width_px, height_px=height_px, fps=fps)
            write_video(partial, frames, fps=fps, codec_options={"preset": "medium"})
            partial.rename(path)
        paths.append(path)
    return paths


def _film(seed: int, *, num_frames: int, width_px: int, height_px: int, fps: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Shots of textured ground under a moving camera, one thing crossing it, and the noise of a sensor."""
    random = np.random.default_rng(seed)
    grain = [random.normal(0, 1.5, (height_px, width_px, 1)).astype(np.int16) for _ in range(8)]
    number = 0
    while number < num_frames:
        ground = _texture(random, height_px * 3 // 2, width_px * 3 // 2)
        thing = _texture(random, height_px // 3, height_px // 3)
        pan, drift = random.uniform(-1.5, 1.5, 2), random.uniform(-0.012, 0.012, 2)
        shot_frames = min(int(random.integers(3 * fps, 7 * fps)), num_frames - number)
        for k in range(shot_frames):
            top, left = (int(side / 4 * (1 + np.sin(speed * k / side * 4))) for side, speed in zip((height_px, width_px), pan, strict=True))
            picture = ground[top : top + height_px, left : left + width_px].astype(np.int16)
            y, x = (
                int((side - height_px // 3) * (0.5 + 0.5 * np.sin(1 + speed * k)))
                for side, speed in zip((height_px, width_px), drift, strict=True)
            )
            picture[y : y + height_px // 3, x : x + height_px // 3] = thing
            yield np.clip(picture + grain[int(random.integers(8))], 0, 255).astype(np.uint8)
        number += shot_frames


def _texture(random: np.random.Generator, height_px: int, width_px: int) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 3) whose detail falls off with its fineness, as in photographs."""
    total = np.full((height_px, width_px, 3), 128, np.float32)
    for cell_px, amplitude in ((240, 90), (80, 50), (27, 25), (9, 12), (3, 5)):
        coarse = random.integers(0, 256, (height_px // cell_px + 2, width_px // cell_px + 2, 3)).astype(np.uint8)
        fine = av.VideoFrame.from_ndarray(coarse).reformat(width_px, height_px, interpolation="BICUBIC").to_ndarray()
        total += (fine.astype(np.float32) - 128) * (amplitude / 128)
    return np.clip(total, 0, 255).astype(np.uint8)


def _command() -> str:
    """The command line, without the folders of this machine."""
    script, *arguments = sys.argv
    shown = [Path(argument).name if argument.startswith("/") else argument for argument in arguments]
    return " ".join(["python", f"benchmarks/{Path(script).name}", *shown])


def _cpu_name() -> str:
    """Name of the processor, from the kernel where it tells."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(str(n) for n in numbers)
