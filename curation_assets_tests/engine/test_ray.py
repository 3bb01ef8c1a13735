"""The Ray engine, on a cluster of three nodes of this machine: results, deadlines, crashes, lost nodes, and the same tables as the local engine's."""

import hashlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from curation_assets.curation.embeddings import update_embeddings
from curation_assets.curation.engines import build_engine
from curation_assets.curation.incremental import Plan, on_engine, run_stage
from curation_assets.curation.pieces import Piece, Result
from curation_assets.curation.progress import Progress
from curation_assets.curation.warehouse import table_specs
from curation_assets.engine import ray as ray_engine
from curation_assets.engine.local import NOT_YET, Done, Failed, LocalEngine
from curation_assets.engine.ray import EngineError, RayEngine
from curation_assets.models import image_text, shared
from curation_assets.models.registry import MODELS, ModelEntry
from curation_assets.models.weights import WeightFile, WeightsError, WeightsSpec, snapshot_folder
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.outcomes import Outcome
from curation_assets_tests import makevideo
from curation_assets_tests.checkpoints import write_clip
from curation_assets_tests.curation.project import MEDIA_STAGES, WITH_MEDIA, Project
from curation_assets_tests.curation.test_incremental import Stage
from curation_assets_tests.engine.test_local import misbehave, square

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")

NODE = {"num_cpus": 1, "object_store_memory": 100_000_000}
# else the loss of a node is noticed after half a minute
SOON = {"health_check_period_ms": 300, "health_check_timeout_ms": 1000, "health_check_failure_threshold": 3}
_TINY, _NICENESS = "CURATION_TEST_TINY_CLIP", "RAY_worker_niceness"


def use_tiny_clip():
    """In each Ray worker: the tiny checkpoint in place of the published one."""
    spec = pickle.loads(Path(os.environ[_TINY]).read_bytes())
    image_text.CLIP_VIT_B32 = spec
    MODELS[spec.name] = ModelEntry(spec, image_text.build_clip_vit_b32)


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    """Cache with a tiny checkpoint of CLIP, which this process and the workers take for the published one."""
    pytest.importorskip("transformers")
    written = write_clip(tmp_path_factory.mktemp("checkpoint"))
    cache = tmp_path_factory.mktemp("cache")
    real = MODELS["clip-vit-b32"].spec
    data = {file.name: (written / file.name).read_bytes() for file in real.weights.files}
    files = tuple(WeightFile(name, len(content), hashlib.sha256(content).hexdigest()) for name, content in data.items())
    spec = replace(real, weights=WeightsSpec(repo="openai/tiny", revision="0123456789" * 4, files=files, licence="MIT"))
    folder = snapshot_folder(spec.weights, cache)
    folder.mkdir(parents=True)
    for name, content in data.items():
        (folder / name).write_bytes(content)
    pickled = cache / "spec.pickle"
    pickled.write_bytes(pickle.dumps(spec))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(_TINY, str(pickled))
        patch.setattr(image_text, "CLIP_VIT_B32", spec)
        patch.setitem(MODELS, spec.name, ModelEntry(spec, image_text.build_clip_vit_b32))
        yield cache
    shared.release()


@pytest.fixture(scope="module")
def cluster(tiny_clip):
    from ray.cluster_utils import Cluster

    os.environ[_NICENESS] = "0"  # what else runs on this machine would go first
    nodes = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False, "_system_config": SOON})
    try:
        for _ in range(2):
            nodes.add_node(**NODE)
        hook = f"{__name__}.use_tiny_clip"
        ray.init(address=nodes.address, runtime_env={"worker_process_setup_hook": hook}, logging_level="WARNING")
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()
        del os.environ[_NICENESS]


@pytest.fixture
def project(tmp_path):
    (tmp_path / "videos").mkdir()
    return Project(tmp_path / "videos", str(tmp_path / "warehouse"))


@pytest.fixture
def engine(cluster):
    with RayEngine(timeout_s=60) as made:
        yield made


def test_every_item_once_and_drawn_lazily(engine):
    drawn = []

    def items():
        for n in range(60):
            drawn.append(n)
            yield n

    assert engine.workers == 3
    results = engine.map(square, items())
    first = next(results)
    assert len(drawn) <= 7
    assert sorted(result.value for result in [first, *results]) == [n * n for n in range(60)]


def test_one_bad_item_costs_itself_and_ends_as_on_the_local_engine(engine):
    items = ["a", "crash", "b", "hang", "c", "raise", "d", "memory", "e"]
    engine.timeout_s = 3
    with LocalEngine(workers=2, timeout_s=3) as local:
        expected = {result.item: result for result in local.map(misbehave, items)}
    found = {result.item: result for result in engine.map(misbehave, items)}
    assert found == expected
    assert found["crash"].outcome is Outcome.CRASHED
    assert "SIGSEGV" in found["crash"].detail
    assert found["hang"].outcome is Outcome.TIMEOUT


def test_results_make_items(engine):
    ready, seen = [3, 5], []

    def items():
        while True:
            if ready:
                yield ready.pop()
            elif len(seen) < 10:
                yield NOT_YET
            else:
                return

    for result in engine.map(square, items()):
        seen.append(result.item)
        if result.item > 0:
            ready.append(result.item - 1)
    assert sorted(seen) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 5]


def test_a_work_list_that_waits_for_nothing_is_an_error(engine):
    with pytest.raises(RuntimeError, match="nothing is under way"):
        list(engine.map(square, iter([NOT_YET])))


def write_pid_and_hang(path):
    if path is not None:
        Path(path).write_text(str(os.getpid()))
        time.sleep(600)
    return 1


def kill_ray_worker(flag):
    """As the kernel does when memory runs out: the Ray worker above the piece goes, once or each time."""
    if flag is not None and (flag == "always" or not Path(flag).exists()):
        if flag != "always":
            Path(flag).touch()
        psutil.Process().parent().kill()
        time.sleep(600)
    return "done"


def test_a_killed_ray_worker_costs_no_other_piece(engine, tmp_path):
    results = {str(result.item): result for result in engine.map(kill_ray_worker, [None, str(tmp_path / "once"), "always"])}
    assert isinstance(results[str(tmp_path / "once")], Done)
    assert isinstance(results["None"], Done)
    assert isinstance(results["always"], Failed)
    assert results["always"].outcome is Outcome.CRASHED


def rows_or_hang(payload):
    if payload.startswith("/"):
        write_pid_and_hang(payload)
    return Result(rows={CLIPS.asset: [{"row_id": f"clip-{payload}", "clip_id": f"clip-{payload}", "start_ns": 0, "end_ns": 1}]})


def test_ctrl_c_commits_what_is_done_and_ends_what_runs(engine, project):
    source, pid_file = project.source(), project.videos / "pid"
    names = ["a", "b", str(pid_file), "c", "d"]
    plans = [Plan(name, "e", {CLIPS.asset: "f"}, [Piece(name, rows_or_hang, name)]) for name in names]

    def interrupt():
        while progress.num_done < 4 or not pid_file.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    progress = Progress("clips", "test", len(names))
    threading.Thread(target=interrupt, daemon=True).start()
    with source.writing(CLIPS) as writer, pytest.raises(KeyboardInterrupt):
        run_stage(plans, stage=Stage(), writer=writer, run_pieces=on_engine(engine), progress=progress)
    assert set(source.headers(CLIPS)) == {"a", "b", "c", "d"}
    started = time.monotonic()
    while psutil.pid_exists(int(pid_file.read_text())):
        assert time.monotonic() - started < 10, "the piece still runs"
        time.sleep(0.1)


def test_a_path_that_a_node_does_not_see_is_named(cluster, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    path = "/proc/self/cwd/mine"  # Ray workers are somewhere else
    with RayEngine(paths=[path]) as engine:
        with pytest.raises(EngineError, match=f"does not see {path}; mount the same folder"):
            list(engine.map(square, [1]))
        with pytest.raises(EngineError, match=f"does not see {path}"):
            list(engine.map_groups(Loaded(), ["a"], may_use_gpu=False))


@pytest.mark.timeout(60)
def test_a_head_that_is_not_there_is_named():
    """In a process of its own: this one may have joined a cluster."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    code = f"from curation_assets.engine.ray import RayEngine\nlist(RayEngine(address={address!r}).map(abs, [1]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert f"EngineError: cannot join the Ray cluster {address}: " in done.stderr
    assert "refused" in done.stderr


def test_code_that_a_node_lacks_is_named(engine, monkeypatch):
    module = types.ModuleType("only_here")
    exec("def double(item):\n    return 2 * item", module.__dict__)
    module.double.__module__ = "only_here"
    monkeypatch.setitem(sys.modules, "only_here", module)
    with pytest.raises(EngineError, match=r"lacks code of this run .*only_here.*; install the same packages"):
        list(engine.map(module.double, [1]))


def test_pieces_and_models_that_fit_nowhere_are_named(cluster, monkeypatch):
    monkeypatch.setattr(ray_engine, "NO_ROOM_S", 1)
    with RayEngine(num_cpus_per_task=64, num_cpus_per_actor=64) as engine:
        with pytest.raises(EngineError, match=r"no node of the Ray cluster has 64 CPU for a piece; .*num_\*_per_task"):
            list(engine.map(square, [1]))
        with pytest.raises(EngineError, match="has 64 CPU for a model"):
            engine.num_actors(may_use_gpu=True)


class Loaded:
    """A model that says in which process it runs, and leaves a file each time it is loaded."""

    def __init__(self, folder=None):
        self.folder = folder

    def __call__(self):
        if self.folder is not None:
            tempfile.mkstemp(dir=self.folder)

        def work(group):
            time.sleep(0.2)
            return group, os.getpid()

        return work


def test_a_model_is_loaded_once_per_actor(cluster, tmp_path):
    with RayEngine(actors=2) as engine:
        found = list(engine.map_groups(Loaded(str(tmp_path)), list(range(12)), may_use_gpu=True))
    assert sorted(group for group, _ in found) == list(range(12))
    processes = {process for _, process in found}
    assert os.getpid() not in processes
    assert len(list(tmp_path.iterdir())) == len(processes) <= 2


class LosesANode(RayEngine):
    """Kills a node when so many results of a stage have come."""

    cluster, after, num_lost = None, {}, 0

    def _losing(self, results, after):
        for number, result in enumerate(results):
            yield result
            if number + 1 == after:
                self.cluster.remove_node(sorted(self.cluster.worker_nodes, key=str)[0], allow_graceful=False)
                LosesANode.num_lost += 1

    def map(self, function, items):
        return self._losing(super().map(function, items), self.after.get("pieces"))

    def map_groups(self, load, groups, *, may_use_gpu):
        return self._losing(super().map_groups(load, groups, may_use_gpu=may_use_gpu), self.after.get("groups"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for number in range(6):
        makevideo.make_cuts(folder / f"cuts{number}.mp4", seconds=2, scenes=3, seed=number)
    makevideo.make_vfr(folder / "vfr.mkv", seconds=4)
    makevideo.make_webm(folder / "web.webm", seconds=3)
    makevideo.make_text(folder / "text.mp4")
    makevideo.make_zero_bytes(folder / "empty.mp4")
    return folder


@pytest.fixture
def make_project(videos, tiny_clip, tmp_path):
    settings = {
        "clips": {"splitter": {"clip_len_s": 2, "min_clip_len_s": 0.5}},
        "embeddings": {"models": ["fingerprint", "clip-vit-b32"], "device": "cpu"},
        "engine": {"clips_per_chunk": 1},
        "models": {"cache_dir": str(tiny_clip)},
    }
    return lambda name, engine: Project(videos, str(tmp_path / name), settings, engine=engine, config=WITH_MEDIA)


def all_hashes(project):
    """Content hash of every row, header rows too, by table."""
    source = project.source()
    hashes = {}
    for spec in table_specs(source.settings):
        rows = [row for batch in source.table(spec).scan(["row_id", "content_hash"]) for row in batch.to_pylist()]
        headers = {identity: header.content_hash for identity, header in source.headers(spec).items()}
        hashes[spec.asset] = {row["row_id"]: row["content_hash"] for row in rows} | headers
    return hashes


def test_the_same_tables_as_the_local_engine_with_nodes_lost_on_the_way(cluster, make_project):
    with LocalEngine(workers=2) as engine:
        local = make_project("local", engine)
        local.run()
        update_embeddings(local.source(), "clip-vit-b32")
    expected = all_hashes(local)
    assert {len(rows) > 9 for rows in expected.values()} == {True}
    with LosesANode(timeout_s=60, actors=3) as engine:
        engine.cluster, LosesANode.num_lost = cluster, 0
        spread = make_project("spread", engine)
        for name, stage in MEDIA_STAGES.items():
            LosesANode.after = {"frame_sets": {"pieces": 3}, "embeddings": {"groups": 2}}.get(name, {})
            assert stage(spread.source()).num_work, name
        for _ in range(2):
            cluster.add_node(**NODE)
        LosesANode.after, lines = {}, []
        update_embeddings(spread.source(log=lines.append), "clip-vit-b32")
    assert LosesANode.num_lost == 2
    assert all_hashes(spread) == expected
    assert any("clip-vit-b32 runs on the CPU" in line and "(Ray node" in line for line in lines)
    assert {name: count for name, count in spread.work().items() if count} == {"raw_videos": 1}  # the empty one may be an upload under way


def test_weights_that_a_node_lacks_are_named(engine, make_project, tmp_path):
    project = make_project("bare", engine)
    project.run(stages=("raw_videos", "clips", "frame_sets"))
    with pytest.raises(WeightsError, match=r"on the Ray node .*curation-assets models download"):
        update_embeddings(project.source({"models": {"cache_dir": str(tmp_path / "nothing")}}), "clip-vit-b32")


OWN_CLUSTER = """
import math, signal
from curation_assets.engine.ray import RayEngine
def handler(*_): raise KeyboardInterrupt
if __name__ == "__main__":
    signal.signal(signal.SIGTERM, handler)
    for _ in range(2):  # a closed engine starts again
        with RayEngine(workers=1) as engine:
            print([result.value for result in engine.map(math.sqrt, [4.0])])
            print(signal.getsignal(signal.SIGTERM) is handler)
            import ray
            print(len(ray.nodes()), ray.cluster_resources()["CPU"])
        print(ray.is_initialized())
"""


@pytest.mark.slow
def test_a_cluster_of_its_own_joins_no_other_and_leaves_terminate_alone(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(OWN_CLUSTER)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = os.pathsep.join([".", *sys.path])
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=100, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split("\n")[:8] == ["[2.0]", "True", "1 1.0", "False"] * 2


def test_settings_choose_the_engine(project):
    source = project.source({"engine": {"kind": "ray", "workers": 3, "ray": {"num_cpus_per_task": 2}}})
    engine = build_engine(source.settings.engine, source.record, source.warehouse)
    assert isinstance(engine, RayEngine)
    assert engine._paths == (str(project.videos), project.warehouse_uri)
