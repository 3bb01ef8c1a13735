"""Ten thousand sources: `status`, `connect()` and `sql`, the commands' own cost, the definitions, Dagster's partitions and its asset page.

One small source is curated. The others have clips of their own, and its other tables as links to the same files: enough for all that is measured here,
which reads the rows of clips alone. What is remembered of them is written down from what one of them says; the cost of reading a source is measured apart.

    python benchmarks/many_sources.py --folder FOLDER [--num 10000] [--output benchmarks/results/many_sources.json]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from common import write_report
from memory import run_measured

from curation_assets.configuration import load_config
from curation_assets.curation.corpus import CorpusRun
from curation_assets.curation.corpus_status import corpus_status, source_statuses
from curation_assets.curation.warehouse import Warehouse, table_specs
from curation_assets.media.synthetic import write_video
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.storage import layout

CLAIM = "With 10,000 sources `status`, `connect()` and a query over a few of them take less than 5 s each"
MOST_SECONDS = 5.0
FIRST = "camera-00000"
CONFIG = "warehouse: ./warehouse\nsources:\n  camera-00000: {uri: ./videos}\nclips: {splitter: {clip_len_s: 2, min_clip_len_s: 0.5}}\n"
CONNECT = "import curation_assets; print(curation_assets.connect().views)"
FEW = "SELECT count(*) FROM clips WHERE source IN ('camera-00001', 'camera-00777')"
DEFINITIONS = """
from dagster import Definitions
from curation_assets.definitions import build_defs
build_defs().resolve_asset_graph()
"""
PARTITIONS = """
import time
from pathlib import Path
from curation_assets.configuration import load_config
from curation_assets.curation.warehouse import Warehouse
from curation_assets.defs.instance import open_instance
from curation_assets.defs.partitions import sync_partitions, video_sources
names = Warehouse.of(load_config(Path("curation.yaml"))).registry.names()
with open_instance(Path.cwd()) as instance:
    start = time.perf_counter()
    sync_partitions(instance, names)
    added = time.perf_counter() - start
    start = time.perf_counter()
    sync_partitions(instance, names)
    again = time.perf_counter() - start
    start = time.perf_counter()
    num = len(instance.get_dynamic_partitions(video_sources.name))
    print(num, added, again, time.perf_counter() - start)
"""
HEALTH = """query { assetNodeOrError(assetKey: {path: ["clips"]}) { ... on AssetNode {
    partitionKeys partitionStats { numMaterialized numFailed numPartitions numMaterializing }
    assetPartitionStatuses { ... on DefaultPartitionStatuses { materializedPartitions unmaterializedPartitions } } } } }"""


def make_sources(folder: Path, num: int) -> None:
    """Curate one source and give its tables to the others; what is there already stays."""
    if (folder / f"made-{num}").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "videos").mkdir(parents=True)
    (folder / "curation.yaml").write_text(CONFIG)
    import numpy as np

    frames = (np.full((72, 128, 3), 40 + 2 * number % 120, np.uint8) for number in range(100))
    write_video(folder / "videos" / "a.mp4", frames, fps=25)
    _command(folder, "run")
    names = [f"camera-{number:05d}" for number in range(1, num)]
    config = load_config(folder / "curation.yaml")
    warehouse = Warehouse.of(config)
    record = asdict(warehouse.registry.get(FIRST))
    for name in names:
        path = folder / "warehouse" / warehouse.layout.source_key(name)
        path.write_text(json.dumps({**record, "name": name}))
    groups = [names[start : start + 250] for start in range(0, len(names), 250)]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=__import__("multiprocessing").get_context("spawn")) as pool:
        list(pool.map(partial(_write_tables, folder), groups))
    (folder / f"made-{num}").touch()


def _write_tables(folder: Path, names: Sequence[str]) -> None:
    """Give the first source's tables to others: the clips with the source's name and ids, the other tables as links to the same files."""
    import lance

    config = load_config(folder / "curation.yaml")
    warehouse = Warehouse.of(config)
    (key,) = warehouse.table(RAW_VIDEOS, FIRST).headers(["key"]).column("key").to_pylist()
    snapshot = warehouse.table(CLIPS, FIRST).snapshot()
    if snapshot is None:
        raise SystemExit("the first source has no clips")
    rows = snapshot.dataset.to_table().to_pylist()
    for name in names:
        new_id = layout.video_id(name, key)
        ids = {layout.video_id(FIRST, key): new_id}
        ids |= {row["clip_id"]: layout.clip_id(new_id, row["start_ns"], row["end_ns"]) for row in rows if row["clip_id"]}
        made = [{column: _renamed(value, ids) for column, value in {**row, "source": name}.items()} for row in rows]
        table = pa.Table.from_pylist(made, schema=CLIPS.schema)
        lance.write_dataset(table, warehouse.layout.table_uri(CLIPS.asset, name), mode="create")
    for spec in table_specs(config):
        if spec is not CLIPS:
            for name in names:
                _link(Path(warehouse.layout.table_uri(spec.asset, FIRST)), Path(warehouse.layout.table_uri(spec.asset, name)))


def _link(folder: Path, other: Path) -> None:
    other.mkdir()
    for entry in folder.iterdir():
        if entry.is_dir():
            _link(entry, other / entry.name)
        else:
            (other / entry.name).hardlink_to(entry)


def remember(folder: Path, num_read: int) -> float:
    """Read some sources' tables, and remember for every source what the last of them say: to read ten thousand takes long, and is not what is claimed.

    Returns:
        Processor seconds per source that was read.
    """
    run = CorpusRun(load_config(folder / "curation.yaml"))
    all_sources = run.sources
    names = list(all_sources)[-num_read:]
    run.__dict__["sources"] = {name: all_sources[name] for name in names}
    start_s = time.process_time()
    source_statuses(run)
    corpus_status(run)
    run.summaries.save()
    seconds = time.process_time() - start_s
    path = folder / "warehouse" / layout.SUMMARIES_KEY
    document = json.loads(path.read_text())
    parts = document["sources"][names[-1]]["parts"]
    states = run.summaries.states
    document["sources"] = {name: {"state": states.of(name), "parts": parts} for name in all_sources}
    path.write_text(json.dumps(document, separators=(",", ":")))
    return seconds / num_read


def _renamed(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, str):
        for old, new in ids.items():
            value = value.replace(old, new)
    return value


def _command(folder: Path, *words: str) -> None:
    subprocess.run([sys.executable, "-m", "curation_assets.cli", *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def measured(folder: Path, arguments: Sequence[str], *, repeats: int = 3) -> dict[str, float]:
    """Run a command of its own process, start and imports included: the best of several, and the most memory of any."""
    runs = [run_measured([sys.executable, *arguments], folder=folder) for _ in range(repeats)]
    if any(run.exit_code for run in runs):
        raise SystemExit(f"{' '.join(arguments)[:200]} ended with {runs[0].exit_code}")
    peak = max(run.peak.total_bytes for run in runs)
    return {
        "seconds": round(min(run.wall_s for run in runs), 2),
        "cpu_seconds": round(min(run.cpu_s for run in runs), 2),
        "peak_pss_megabytes": round(peak / 1e6),
    }


def asset_page(folder: Path) -> dict[str, float]:
    """Ask a webserver for what the asset page shows of the partitions."""
    port = 3999
    server = subprocess.Popen(
        [sys.executable, "-m", "curation_assets.cli", "ui", "--port", str(port)],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/graphql", json.dumps({"query": HEALTH}).encode(), {"Content-Type": "application/json"}
        )

        def ask() -> tuple[float, bytes]:
            start_s = time.perf_counter()
            with urllib.request.urlopen(request, timeout=60) as answer:
                return time.perf_counter() - start_s, answer.read()

        first = _eventually(ask)
        times = [ask()[0] for _ in range(3)]
        found = json.loads(first[1])["data"]["assetNodeOrError"]
        return {
            "num_partitions": len(found["partitionKeys"]),
            "first_seconds": round(first[0], 2),
            "seconds": round(min(times), 2),
            "answer_kilobytes": round(len(first[1]) / 1e3),
        }
    finally:
        os.killpg(server.pid, 2)
        server.wait(30)


def _eventually(ask: Callable[[], tuple[float, bytes]]) -> tuple[float, bytes]:
    deadline_s = time.monotonic() + 120
    while True:
        try:
            return ask()
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.5)


def main() -> None:
    """Make the sources, measure, and say whether the claim holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the warehouse is made, and kept for the next time")
    parser.add_argument("--num", type=int, default=10_000)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    start_s = time.perf_counter()
    make_sources(folder, arguments.num)
    print(f"made in {time.perf_counter() - start_s:.0f} s", file=sys.stderr)
    cli = ["-m", "curation_assets.cli"]
    (folder / "warehouse" / layout.SUMMARIES_KEY).unlink(missing_ok=True)
    results: dict[str, Any] = {"num_sources": arguments.num}
    results["cpu_seconds_per_source_that_changed"] = round(remember(folder, min(64, arguments.num)), 4)
    results["status"] = measured(folder, [*cli, "status"])
    results["status_json"] = measured(folder, [*cli, "status", "--json"])
    results["connect"] = measured(folder, ["-c", CONNECT])
    results["sql_few_sources"] = measured(folder, [*cli, "sql", FEW])
    results["sql_all_sources"] = measured(folder, [*cli, "sql", "SELECT count(*) FROM clips"], repeats=1)
    results["sources_list_json"] = measured(folder, [*cli, "sources", "list", "--json"])
    results["definitions"] = measured(folder, ["-c", DEFINITIONS])
    told = run_measured([sys.executable, "-c", PARTITIONS], folder=folder).output.split()
    names = ("num_partitions", "add_seconds", "nothing_to_add_seconds", "list_seconds")
    results["partitions"] = {name: round(float(value), 3) for name, value in zip(names, told, strict=True)}
    results["run_of_one_source"] = measured(folder, [*cli, "run", "--source", "camera-00002", "--select", "raw_videos"], repeats=2)
    results["asset_page"] = asset_page(folder)
    judged = ("status", "status_json", "connect", "sql_few_sources")
    results["holds"] = all(results[name]["seconds"] < MOST_SECONDS for name in judged)
    write_report(CLAIM, results, output=arguments.output)


if __name__ == "__main__":
    main()
