"""The watching sensor: a tick over many unchanged objects against a bare paged listing of the same root, and what a tick finds when one object is new.

Both kinds of root: a local folder, and a server on localhost that speaks ListObjectsV2. Listing and tick take turns; the quotient is of the smallest times.

    python benchmarks/sensor.py [--num-objects 100000] [--output benchmarks/results/sensor.json]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import write_report
from memory import run_measured

from curation_assets.curation import watching
from curation_assets.curation.warehouse import Warehouse
from curation_assets.settings import Config
from curation_assets.storage.objects import open_store
from curation_assets_tests.listserver import ListServer

NUM_SOURCES, REPEATS = 100, 3
MOST_QUOTIENT, MOST_BYTES = 1.25, 300_000_000
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "PYTHONDONTWRITEBYTECODE": ""}


def make_keys(num_objects: int) -> list[str]:
    """Name videos in folders."""
    return [f"camera-{number % NUM_SOURCES:03}/{number:07}.mp4" for number in range(num_objects)]


def compare(config: Config, add_one: Any) -> dict[str, Any]:
    """Time ticks and listings in turn, and look what a tick asks for when one object is new."""
    warehouse, watch = Warehouse.of(config), config.watch["up"]
    first, cursor = look_at_all(config, warehouse, None)
    listings, ticks, listings_cpu, ticks_cpu = [], [], [], []
    for _ in range(REPEATS):
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        num_listed = sum(len(page) for page in open_store(watch.uri, options=watch.storage_options).list_pages())
        listings.append(time.perf_counter() - start_s)
        listings_cpu.append(time.process_time() - start_cpu_s)
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        found, cursor = look_at_all(config, warehouse, cursor)
        ticks.append(time.perf_counter() - start_s)
        ticks_cpu.append(time.process_time() - start_cpu_s)
        if found:
            raise SystemExit(f"a tick over unchanged objects asked for {found}")
    add_one()
    found, cursor = look_at_all(config, warehouse, cursor)
    return {
        "num_objects": num_listed,
        "num_sources": len(first),
        "listing_s": [round(seconds, 3) for seconds in listings],
        "tick_s": [round(seconds, 3) for seconds in ticks],
        "quotient": round(min(ticks) / min(listings), 3),
        "quotient_of_processor_time": round(min(ticks_cpu) / min(listings_cpu), 3),
        "sources_named_after_one_new_object": found,
    }


def look_at_all(config: Config, warehouse: Warehouse, cursor: str | None) -> tuple[list[str], str]:
    """Look at the root to its end: one tick, or several where the machine needs more than one may take. Give the sources asked for, and the cursor."""
    sources: list[str] = []
    while True:
        tick = watching.look(config, warehouse, cursor, now=_later)
        if tick.problems:
            raise SystemExit("; ".join(tick.problems))
        sources += [request.source for request in tick.requests]
        cursor = tick.cursor
        if tick.is_done:
            return sources, cursor


def _later() -> float:
    return time.time() + 3600  # nothing is in its quiet period then


def on_disk(folder: Path, num_objects: int) -> dict[str, Any]:
    """Compare on a local folder; its files are made when there are none."""
    root = folder / "up"
    new = root / "camera-042" / "new.mp4"
    new.unlink(missing_ok=True)
    return compare(_config(folder, "disk", {"uri": str(root)}), new.touch)


def on_s3(folder: Path, port_file: Path) -> dict[str, Any]:
    """Compare on the server whose port a file names."""
    options = {"aws_endpoint": f"http://127.0.0.1:{port_file.read_text()}", "aws_region": "us-east-1"}

    def add_one() -> None:
        (folder / "add").touch()
        while (folder / "add").exists():
            time.sleep(0.05)

    return compare(_config(folder, "s3", {"uri": "s3://bucket", "storage_options": options}), add_one)


def _config(folder: Path, name: str, root: dict[str, Any]) -> Config:
    return Config(storage_options={}, watch={"up": root}, warehouse=str(folder / f"warehouse-{name}"), sensors={"max_tick_s": 45})  # type: ignore[arg-type]


def serve(folder: Path, num_objects: int) -> None:
    """Serve listings until killed, in a process of its own, so that the server's work and memory are not the tick's."""
    with ListServer({key: f"{number:032x}" for number, key in enumerate(make_keys(num_objects))}) as server:
        (folder / "port.new").write_text(str(server.port))
        (folder / "port.new").rename(folder / "port")
        while True:
            time.sleep(0.05)
            if (folder / "add").exists():
                server.put("camera-042/new.mp4", "new")
                (folder / "add").unlink()


def main() -> None:
    """Measure both kinds of root, each in a process whose memory is sampled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-objects", type=int, default=100_000)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--part", choices=["disk", "s3", "serve"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    match arguments.part:
        case "disk":
            print(json.dumps(on_disk(arguments.folder, arguments.num_objects)))
        case "s3":
            print(json.dumps(on_s3(arguments.folder, arguments.folder / "port")))
        case "serve":
            serve(arguments.folder, arguments.num_objects)
        case _:
            measure(arguments.num_objects, arguments.output)


def measure(num_objects: int, output: Path | None) -> None:
    """Make the roots, run the parts, and write the report."""
    import subprocess

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(NUM_SOURCES):
            (folder / "up" / f"camera-{number:03}").mkdir(parents=True)
        for key in make_keys(num_objects):
            (folder / "up" / key).touch()
        command = [sys.executable, __file__, "--folder", name, "--num-objects", str(num_objects), "--part"]
        server = subprocess.Popen([*command, "serve"], env={**os.environ, **ENVIRONMENT})
        try:
            while not (folder / "port").exists():
                time.sleep(0.1)
            measured = {}
            for part in ("disk", "s3"):
                done = run_measured([*command, part], folder=folder, environment=ENVIRONMENT)
                if done.exit_code:
                    raise SystemExit(f"the part {part} ended with {done.exit_code}")
                result = {**json.loads(done.output), "peak_pss_megabytes": round(done.peak.total_bytes / 1e6)}
                result["is_met"] = (
                    result["quotient"] <= MOST_QUOTIENT
                    and done.peak.total_bytes < MOST_BYTES
                    and result["sources_named_after_one_new_object"] == ["up-camera-042"]
                )
                measured[part] = result
        finally:
            server.kill()
            server.wait()
    write_report(
        f"A tick over {num_objects:,} unchanged objects takes at most {MOST_QUOTIENT} times a bare paged listing and under {MOST_BYTES // 10**6} MB; "
        "one new object names exactly its source",
        measured,
        output=output,
    )


if __name__ == "__main__":
    main()
