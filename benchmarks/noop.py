"""A source with nothing new: what a second run of many tiny videos costs, and what one added video adds.

Real runs of `curation-assets run`: the first, the second with nothing to do, and a third after one more video. The cost of `--help`, `status` and `sql` stands beside.

    python benchmarks/noop.py [--num-videos 2000] [--output benchmarks/results/noop.json]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import write_report
from memory import Measured, run_measured

from curation_assets.media.synthetic import Scene, paint_scene, write_video

PROGRAM = str(Path(sys.executable).parent / "curation-assets")
NUM_DISTINCT, NUM_FRAMES, FPS, SIDE_PX = 5, 15, 30, 64
MOST_WALL_S = 10.0
ENVIRONMENT = {"DAGSTER_HOME": "", "CURATION_CONFIG": "", "PYTHONDONTWRITEBYTECODE": ""}  # as in a user's shell, whatever this one has
_CONFIG = "warehouse: ./warehouse\nsources:\n  tiny: {uri: ./videos}\nclips:\n  splitter: {clip_len_s: 0.25, min_clip_len_s: 0.1}\n"


def make_tiny_videos(folder: Path, num_videos: int) -> Path:
    """Write half-second videos: a few that differ, and copies of them as objects of their own; return the one to add later."""
    folder.mkdir(parents=True)
    distinct = [
        write_video(folder.parent / f"{seed}.mp4", paint_scene(Scene(seed, NUM_FRAMES), width_px=SIDE_PX, height_px=SIDE_PX), fps=FPS)
        for seed in range(NUM_DISTINCT)
    ]
    for number in range(num_videos):
        shutil.copyfile(distinct[number % (NUM_DISTINCT - 1)], folder / f"{number:06}.mp4")
    return distinct[-1]


def curate(folder: Path) -> dict[str, Any]:
    """Run once and say what it cost, and what the tables say then."""
    measured = _run(["run", "--json"], folder)
    tables = json.loads(measured.output)["sources"][0]["tables"]
    return {
        **_cost(measured),
        "peak_pss_megabytes": round(measured.peak.total_bytes / 1e6),
        "processes_left": measured.num_left,
        "items": {name: table["outcomes"] for name, table in tables.items()},
    }


def _run(arguments: list[str], folder: Path) -> Measured:
    measured = run_measured([PROGRAM, *arguments], folder=folder, environment=ENVIRONMENT)
    if measured.exit_code:
        raise SystemExit(f"curation-assets {' '.join(arguments)} ended with {measured.exit_code}")
    return measured


def _cost(measured: Measured) -> dict[str, float]:
    return {"wall_s": round(measured.wall_s, 2), "cpu_s": round(measured.cpu_s, 2)}


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-videos", type=int, default=2000)
    parser.add_argument("--output", type=Path, help="file to write the JSON to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="noop_") as name:
        folder = Path(name)
        added = make_tiny_videos(folder / "videos", arguments.num_videos)
        (folder / "curation.yaml").write_text(_CONFIG)
        runs = {"first": curate(folder), "nothing_new": curate(folder)}
        shutil.copyfile(added, folder / "videos" / "added.mp4")
        runs["one_added"] = curate(folder)
        commands = {"help": ["--help"], "status": ["status"], "sql": ["sql", "select count(*) from clips"]}
        starts = {command: _cost(_run(words, folder)) for command, words in commands.items()}
    measured = {
        "num_videos": arguments.num_videos,
        "runs": runs,
        "cpu_s_added_by_one_video": round(runs["one_added"]["cpu_s"] - runs["nothing_new"]["cpu_s"], 2),
        "commands": starts,
        "is_claim_met": runs["nothing_new"]["wall_s"] < MOST_WALL_S,
    }
    claim = f"a run with nothing new over {arguments.num_videos:,} tiny videos takes less than {MOST_WALL_S:g} s; one added video costs its own work plus that"
    write_report(claim, measured, output=arguments.output)


if __name__ == "__main__":
    main()
