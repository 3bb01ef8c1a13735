"""Dagster's own cost: runs of `curate_source` with the in-process executor against the same stage functions called directly, over tables that are up to date.

Both do the same work, which is to see that there is none; the difference is Dagster's events, checks and metadata, and what we show in its UI. A run of one source
and one of a range of sources are measured in turn with the direct calls; the best of each counts. Storage is SQLite, as on one machine.

    python benchmarks/dagster_overhead.py [--num-sources 8] [--repeats 5] [--output benchmarks/results/dagster_overhead.json]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import write_report

from curation_assets.configuration import load_config
from curation_assets.curation.corpus import CorpusRun
from curation_assets.curation.warehouse import Warehouse
from curation_assets.definitions import build_defs
from curation_assets.defs.instance import open_instance
from curation_assets.defs.jobs import build_stages
from curation_assets.defs.partitions import RANGE_END, RANGE_START, sync_partitions
from curation_assets.media.synthetic import Scene, paint_scene, write_video

MOST_SECONDS = 0.5
_SIDE_PX, _FPS, _NUM_FRAMES = 64, 30, 30


def make_project(folder: Path, num_sources: int) -> list[str]:
    """Write sources of one tiny video each, and settings for them."""
    names = [f"s{number:03}" for number in range(num_sources)]
    lines = ["warehouse: ./warehouse", "engine: {workers: 0}", "clips: {splitter: {clip_len_s: 0.5, min_clip_len_s: 0.1}}", "sources:"]
    for seed, name in enumerate(names):
        (folder / "videos" / name).mkdir(parents=True)
        scene = paint_scene(Scene(seed, _NUM_FRAMES), width_px=_SIDE_PX, height_px=_SIDE_PX)
        write_video(folder / "videos" / name / "0.mp4", scene, fps=_FPS)
        lines.append(f"  {name}: {{uri: ./videos/{name}}}")
    (folder / "curation.yaml").write_text("\n".join(lines) + "\n")
    return names


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-sources", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="file to write the JSON to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="overhead_") as temporary:
        folder = Path(temporary)
        names = make_project(folder, arguments.num_sources)
        path = folder / "curation.yaml"
        config = load_config(path)
        stages = build_stages(config)
        job = build_defs(config_path=path).resolve_job_def("curate_source")
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}

        def direct(sources: list[str]) -> None:
            corpus = CorpusRun(config)
            for stage in stages:
                for name in sources:
                    stage.update(corpus.source_run(name), [table.spec for table in stage.tables])

        with open_instance(folder) as instance:
            sync_partitions(instance, Warehouse.of(config).registry.sync(config))

            def through_dagster(sources: list[str]) -> None:
                tags = {RANGE_START: sources[0], RANGE_END: sources[-1]} if len(sources) > 1 else {}
                partition = {} if tags else {"partition_key": sources[0]}
                if not job.execute_in_process(instance=instance, run_config=quiet, tags=tags, **partition).success:
                    raise SystemExit("the run failed")

            variants: dict[str, Callable[[], None]] = {
                "direct_one_source": lambda: direct(names[:1]),
                "run_of_one_source": lambda: through_dagster(names[:1]),
                "direct_all_sources": lambda: direct(names),
                "run_of_all_sources": lambda: through_dagster(names),
            }
            through_dagster(names)  # the work itself, which no variant does again
            seconds, cpu = best_seconds(variants, repeats=arguments.repeats)
    num_steps = len(stages)
    one = (seconds["run_of_one_source"] - seconds["direct_one_source"]) / num_steps
    many = (seconds["run_of_all_sources"] - seconds["direct_all_sources"]) / (num_steps * len(names))
    measured = {
        "num_sources": len(names),
        "num_steps": num_steps,
        "best_wall_s": {name: round(value, 3) for name, value in seconds.items()},
        "best_cpu_s": {name: round(value, 3) for name, value in cpu.items()},
        "overhead_s_per_step_and_partition": {"run_of_one_source": round(one, 3), "run_of_all_sources": round(many, 3)},
        "is_claim_met": max(one, many) < MOST_SECONDS,
    }
    claim = f"Dagster costs less than {MOST_SECONDS:g} s per asset step and partition with the in-process executor"
    write_report(claim, measured, output=arguments.output)


def best_seconds(variants: dict[str, Callable[[], None]], *, repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Run the variants in turn and take the best wall and processor time of each, in seconds; the first turn warms up."""
    best = dict.fromkeys(variants, float("inf"))
    best_cpu = dict(best)
    for turn in range(repeats + 1):
        for name, run in variants.items():
            started, started_cpu = time.perf_counter(), time.process_time()
            run()
            if turn:
                best[name] = min(best[name], time.perf_counter() - started)
                best_cpu[name] = min(best_cpu[name], time.process_time() - started_cpu)
    return best, best_cpu


if __name__ == "__main__":
    main()
