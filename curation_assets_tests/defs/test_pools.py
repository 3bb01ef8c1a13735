"""Pools: which steps hold them, what a GPU run asks for, and two processes on one instance that must not hold one pool at once."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
import uuid

import dagster as dg
import psutil
import pytest
import yaml
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration

from curation_assets.definitions import build_defs
from curation_assets.defs.instance import open_instance
from curation_assets.defs.pools import K8S_CONFIG, set_pool_limits, what_holds
from curation_assets.defs.processes import PROCESS_TAG, end_orphans, mark_worker
from curation_assets.settings import KubernetesSettings

GPU_MODELS = {"embeddings": {"models": ["fingerprint", "clip-vit-b32"]}, "clip_scores": {"scorers": ["pixels", "aesthetic"]}}

# Two of the real runs that hold a pool: the job and its steps are ours, the work is to wait.
HOLDER = """
import sys, time
from pathlib import Path
import dagster as dg
from curation_assets.curation.incremental import StageReport
from curation_assets.defs.assets import raw_videos
from curation_assets.defs.instance import open_instance
from curation_assets.defs.jobs import build_curate_sources
from curation_assets.defs.resources import CurationResource
from curation_assets.defs.stages import CurationStage

def wait(run, specs):
    print("in", time.time(), flush=True)
    time.sleep(float(sys.argv[2]))
    print("out", time.time(), flush=True)
    return StageReport()

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    job = build_curate_sources([CurationStage(raw_videos.STAGE.tables, wait, pool="gpu")])
    config = {"ops": {"curate_sources_op": {"config": {"partition_names": ["a"]}}}}
    with open_instance(folder) as instance:
        resources = {"curation": CurationResource(config_path=str(folder / "curation.yaml"))}
        assert job.execute_in_process(instance=instance, run_config=config, resources=resources).success
"""


def pools(definitions):
    return {"/".join(key.path): item.op.pools for item in definitions.assets for key in item.keys}


def tags(definitions, job):
    found = definitions.resolve_job_def(job).tags.get(K8S_CONFIG)
    return found and json.loads(found)


def selected(definitions, job):
    return {"/".join(key.path) for key in definitions.resolve_job_def(job).asset_layer.selected_asset_keys}


def test_which_assets_and_steps_hold_which_pool(workplace):
    definitions = build_defs(overrides=GPU_MODELS)
    found = pools(definitions)
    gpu = {"embeddings/clip-vit-b32", "clip_scores/aesthetic"}
    decode = {"clips", "frame_sets", "clip_scores/pixels", "transcoded_clips", "previews/240p"}
    assert {name for name, held in found.items() if held == {"gpu"}} == gpu
    assert {name for name, held in found.items() if held == {"decode"}} == decode
    assert all(found[name] == set() for name in ("raw_videos", "embeddings/fingerprint", "curated_clips"))
    steps = {node.name: node.definition.pools for node in definitions.resolve_job_def("curate_sources").nodes}
    assert {name for name, held in steps.items() if held == {"gpu"}} == {"curate_embeddings_clip_vit_b32", "curate_clip_scores_aesthetic"}
    assert {name for name, held in steps.items() if held == {"decode"}} == {
        "curate_clips",
        "curate_frame_sets",
        "curate_transcoded_clips",
        "curate_previews_240p",
    }


def test_the_halves_of_a_source(workplace):
    definitions = build_defs(overrides=GPU_MODELS)
    gpu = {"embeddings/fingerprint", "embeddings/clip-vit-b32", "clip_scores/aesthetic"}
    assert selected(definitions, "curate_source_gpu") == gpu
    assert selected(definitions, "curate_source_cpu") == selected(definitions, "curate_source") - gpu
    for name in ("curate_source", "curate_source_cpu", "curate_source_gpu", "curate_sources", "curate_corpus"):
        assert definitions.resolve_job_def(name).description
    bare = build_defs(overrides={"embeddings": {"models": []}, "dedup": {"model": "none"}})
    assert "curate_source_gpu" not in {job.name for job in bare.jobs}


def test_what_a_gpu_run_asks_kubernetes_for(workplace):
    settings = workplace / "curation.yaml"
    tree = yaml.safe_load(settings.read_text())
    tree["kubernetes"] = {"gpu_limit": 2, "gpu_resource": "amd.com/gpu", "node_selector": {"pool": "gpu"}, "shm_size": "8Gi"}
    settings.write_text(yaml.safe_dump({**tree, **GPU_MODELS}))
    definitions = build_defs()
    wanted = tags(definitions, "curate_source_gpu")
    assert wanted == {
        "container_config": {"resources": {"limits": {"amd.com/gpu": "2"}}, "volume_mounts": [{"name": "shm", "mount_path": "/dev/shm"}]},
        "pod_spec_config": {
            "node_selector": {"pool": "gpu"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "volumes": [{"name": "shm", "empty_dir": {"medium": "Memory", "size_limit": "8Gi"}}],
        },
    }
    assert tags(definitions, "curate_source") == tags(definitions, "curate_sources") == wanted
    assert tags(definitions, "curate_source_cpu") is None
    assert tags(definitions, "curate_corpus") is None
    for item in definitions.assets:
        has_gpu = bool(item.op.pools & {"gpu"})
        assert (json.loads(item.op.tags[K8S_CONFIG]) == wanted) if has_gpu else (K8S_CONFIG not in item.op.tags)
    # a model that needs no GPU asks for none, and nobody does where the settings say 0
    assert (
        tags(build_defs(overrides={"embeddings": {"models": ["fingerprint"]}, "clip_scores": {"scorers": ["pixels"]}}), "curate_source")
        is None
    )
    settings.write_text(yaml.safe_dump({**tree, **GPU_MODELS, "kubernetes": {"gpu_limit": 0}}))
    assert tags(build_defs(), "curate_source_gpu") is None


def test_the_tag_is_what_dagster_k8s_takes():
    job = pytest.importorskip("dagster_k8s.job")
    settings = KubernetesSettings(tolerations=[{"key": "gpu", "operator": "Equal", "value": "yes"}], node_selector={"pool": "gpu"})
    taken = job.get_user_defined_k8s_config({K8S_CONFIG: json.dumps(settings.gpu_config())})
    assert taken.container_config["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert taken.pod_spec_config["node_selector"] == {"pool": "gpu"}


def test_limits_are_set_once_and_others_left_alone(workplace):
    with open_instance(workplace) as instance:
        assert set_pool_limits(instance, {"gpu": 2}) == {"gpu": 2}
        assert set_pool_limits(instance, {"gpu": 2}) == {}
        instance.event_log_storage.set_concurrency_slots("decode", 7)  # by hand
        assert set_pool_limits(instance, {"gpu": 3}) == {"gpu": 3}
        limits = {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()}
        assert limits == {"gpu": 3, "decode": 7}
        assert instance.global_op_concurrency_default_limit == 1


def environment(**more):
    kept = {key: value for key, value in os.environ.items() if key not in ("DAGSTER_HOME", "CURATION_CONFIG")}
    return {**kept, **more}


def test_a_start_script_sets_the_limits(workplace):
    (workplace / "curation.yaml").write_text((workplace / "curation.yaml").read_text() + "automation: {pool_limits: {gpu: 4}}\n")
    home = workplace / "home"
    home.mkdir()
    command = [sys.executable, "-m", "curation_assets.defs.pools"]
    for said in ("pool gpu: 4", "pools: nothing to change"):
        done = subprocess.run(command, env=environment(DAGSTER_HOME=str(home)), cwd=workplace, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == said


@pytest.fixture
def hold(workplace, registry):
    """Start processes that hold the pool gpu for a while."""
    (workplace / "hold.py").write_text(HOLDER)
    started = []

    def start(seconds):
        command = [sys.executable, "hold.py", str(workplace), str(seconds)]
        started.append(
            subprocess.Popen(command, cwd=workplace, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def spans(processes):
    """Read when each process was in the pool: [(in, out)], in order."""
    texts = [process.communicate(timeout=120)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes)
    return sorted(tuple(float(line.split()[1]) for line in text.splitlines() if line.startswith(("in ", "out "))) for text in texts)


@pytest.mark.slow
def test_two_runs_hold_the_gpu_one_after_the_other(workplace, hold):
    with open_instance(workplace) as instance:
        assert instance.get_runs_count() == 0
    (_, first_out), (second_in, _) = spans([hold(2), hold(2)])
    assert second_in > first_out


@pytest.mark.slow
def test_a_run_that_waits_for_a_pool_sleeps(workplace, hold):
    first = hold(20)
    assert first.stdout.readline()
    second = psutil.Process(hold(0).pid)
    time.sleep(8)  # it has started and waits
    before = sum(second.cpu_times()[:2])
    time.sleep(5)
    assert sum(second.cpu_times()[:2]) - before < 1.5


@pytest.mark.slow
def test_two_runs_hold_two_places_at_once(workplace, hold):
    with open_instance(workplace) as instance:
        set_pool_limits(instance, {"gpu": 2})
    (_, first_out), (second_in, _) = spans([hold(20), hold(20)])
    assert second_in < first_out


@pytest.mark.slow
def test_a_killed_run_gives_its_place_back(workplace, hold):
    process = hold(300)
    assert process.stdout.readline().startswith("in")
    with open_instance(workplace) as instance:
        assert "pool gpu is held by run" in what_holds(instance)[0]
        end_orphans(instance)
        assert what_holds(instance)  # it is alive
        process.send_signal(signal.SIGKILL)
        process.wait()
        end_orphans(instance)
        assert what_holds(instance) == []
        (run,) = instance.get_runs()
        assert run.status is dg.DagsterRunStatus.FAILURE
    started = time.monotonic()
    assert spans([hold(0)])
    assert time.monotonic() - started < 100


def test_a_killed_run_is_ended_while_the_daemon_runs(workplace):
    """Dagster's own monitoring leaves it STARTED for ever, with its place in the queue of runs and in a pool."""
    script = "import sys; from curation_assets.defs.processes import process_tag; print(process_tag(sys.argv[1]))"
    with open_instance(workplace) as instance:
        run_id = str(uuid.uuid4())
        tags = {PROCESS_TAG: subprocess.check_output([sys.executable, "-c", script, run_id], text=True, timeout=60).strip()}
        definitions = build_defs()
        instance.create_run_for_job(
            definitions.resolve_job_def("curate_source"), run_id=run_id, tags=tags, status=dg.DagsterRunStatus.STARTED
        )
        with WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as workspace:
            list(execute_run_monitoring_iteration(workspace, logging.getLogger()))
        assert instance.get_run_by_id(run_id).status is dg.DagsterRunStatus.STARTED
        sensor = definitions.resolve_sensor_def("process_killed_sensor")
        assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
        with dg.build_sensor_context(instance=instance) as context:
            assert "1 runs had lost their process" in sensor(context).skip_message
        assert instance.get_run_by_id(run_id).status is dg.DagsterRunStatus.FAILURE


def test_a_run_again_is_not_judged_by_the_process_of_the_first(workplace):
    """Dagster copies the tags of a run that is executed again from the UI, also that of a process that is gone."""
    with open_instance(workplace) as instance:
        run_id = str(uuid.uuid4())
        script = "from curation_assets.defs.processes import process_tag; import sys; print(process_tag(sys.argv[1]))"
        tags = {PROCESS_TAG: subprocess.check_output([sys.executable, "-c", script, run_id], text=True, timeout=60).strip()}
        job = build_defs().resolve_job_def("curate_source")
        first = instance.create_run_for_job(job, run_id=run_id, tags=tags, status=dg.DagsterRunStatus.STARTED)
        again = instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED)
        end_orphans(instance)
        assert instance.get_run_by_id(first.run_id).status is dg.DagsterRunStatus.FAILURE
        assert instance.get_run_by_id(again.run_id).status is dg.DagsterRunStatus.STARTED
        mark_worker(instance, again)
        assert instance.get_run_by_id(again.run_id).tags[PROCESS_TAG].startswith(again.run_id)
