"""The Helm values: keys that the chart has, a run launcher and pods that dagster-k8s builds from them, and names that fit the other files."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from dagster._config import process_config, resolve_to_config_type
from dagster._core.instance.config import dagster_instance_config

from curation_assets.configuration import load_config
from curation_assets.definitions import build_defs
from curation_assets.defs.parts import Part
from curation_assets_tests.deploy.files import DEPLOY, ROOT, dockerfile, load

VALUES = load("kubernetes/values.yaml")
LAUNCHER = VALUES["runLauncher"]["config"]["k8sRunLauncher"]
LOCATIONS = {item["name"]: item for item in VALUES["dagster-user-deployments"]["deployments"]}
# of the chart's values, those that stand in the file; the chart refuses unknown ones in most places and ignores them in the others
POD = {"podSecurityContext", "securityContext", "resources", "envSecrets", "image", "env", "volumes", "volumeMounts"}
KEYS = {
    "global": {"dagsterHome", "postgresqlSecretName"},
    "postgresql": {"enabled", "postgresqlHost", "postgresqlUsername", "postgresqlDatabase", "postgresqlScheme", "service"},
    "telemetry": {"enabled"},
    "additionalInstanceConfig": {"nux"},
    "concurrency": {"enabled", "pools", "runs"},
    "retention": {"enabled", "sensor", "schedule"},
    "computeLogManager": {"type", "config"},
    "dagsterWebserver": POD | {"service", "readinessProbe"},
    "dagsterDaemon": POD | {"runMonitoring", "sensors", "schedules"},
    "runLauncher": {"type", "config"},
    "dagster-user-deployments": {"enabled", "enableSubchart", "deployments"},
}
LAUNCHER_KEYS = {"imagePullPolicy", "envSecrets", "envVars", "volumes", "volumeMounts", "resources", "securityContext", "runK8sConfig"}
LOCATION_KEYS = POD | {"name", "port", "codeServerArgs", "includeConfigInLaunchedRuns"}
CAMEL = re.compile(r"(?<=[a-z])([A-Z])")


def snake(tree: dict) -> dict:
    """The chart writes its camelCase keys into dagster.yaml as snake_case."""
    return {CAMEL.sub(r"_\1", key).lower(): snake(value) if isinstance(value, dict) else value for key, value in tree.items()}


def variable(location: dict, name: str) -> str:
    return {item["name"]: item["value"] for item in location["env"]}[name]


def test_values_have_only_keys_of_the_chart():
    assert set(VALUES) == set(KEYS) | {"generatePostgresqlPasswordSecret"}
    for section, keys in KEYS.items():
        assert set(VALUES[section]) <= keys, section
    assert set(LAUNCHER) <= LAUNCHER_KEYS
    for name, location in LOCATIONS.items():
        assert set(location) <= LOCATION_KEYS, name
        assert set(location["image"]) == {"repository", "tag", "pullPolicy"}
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name), "a name of a Kubernetes service"


def test_instance_that_the_chart_writes_is_one(tmp_path):
    daemon = VALUES["dagsterDaemon"]
    concurrency = snake({key: value for key, value in VALUES["concurrency"].items() if key != "enabled"})
    logs = VALUES["computeLogManager"]
    tree = {
        **VALUES["additionalInstanceConfig"],
        "telemetry": VALUES["telemetry"],
        "concurrency": concurrency,
        "run_coordinator": {
            "module": "dagster.core.run_coordinator",
            "class": "QueuedRunCoordinator",
            "config": {"dequeue_use_threads": True, "dequeue_num_workers": 4},
        },
        "run_monitoring": snake(daemon["runMonitoring"]),
        "sensors": snake(daemon["sensors"]),
        "schedules": snake(daemon["schedules"]),
        "retention": snake({key: value for key, value in VALUES["retention"].items() if key != "enabled"}),
        "compute_logs": {
            "module": "dagster_aws.s3.compute_log_manager",
            "class": logs["type"],
            "config": snake(logs["config"][logs["type"][0].lower() + logs["type"][1:]]),
        },
    }
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(tree))
    checked, _ = dagster_instance_config(str(tmp_path))
    for key in ("telemetry", "nux", "retention", "sensors", "schedules"):
        assert checked[key] == load("dagster.yaml")[key], f"{key}: as with compose"
    database = load("dagster.yaml")["storage"]["postgres"]["postgres_db"]
    assert VALUES["postgresql"]["postgresqlScheme"] == database["scheme"]
    assert concurrency["pools"] == load("dagster.yaml")["concurrency"]["pools"]
    assert checked["run_monitoring"]["free_slots_after_run_end_seconds"] == 60


def launcher_config() -> dict:
    """What the chart writes into dagster.yaml for the run launcher."""
    return {
        "load_incluster_config": True,
        "job_namespace": "curation",
        "service_account_name": "dagster",
        "dagster_home": VALUES["global"]["dagsterHome"],
        "instance_config_map": "dagster-instance",
        "postgres_password_secret": VALUES["global"]["postgresqlSecretName"],
        "image_pull_policy": LAUNCHER["imagePullPolicy"],
        "env_secrets": [item["name"] for item in LAUNCHER["envSecrets"]],
        "env_vars": LAUNCHER["envVars"],
        "volumes": LAUNCHER["volumes"],
        "volume_mounts": LAUNCHER["volumeMounts"],
        "resources": LAUNCHER["resources"],
        "security_context": LAUNCHER["securityContext"],
        "run_k8s_config": {CAMEL.sub(r"_\1", key).lower(): value for key, value in LAUNCHER["runK8sConfig"].items()},
    }


def run_pod(location: str, tags: dict | None = None) -> dict:
    """Build the pod of a run of a location, as the run launcher does."""
    pytest.importorskip("dagster_k8s", reason="pip install '.[kubernetes]'")
    from dagster_k8s.container_context import K8sContainerContext
    from dagster_k8s.job import DagsterK8sJobConfig, UserDefinedDagsterK8sConfig, construct_dagster_k8s_job
    from dagster_k8s.launcher import K8sRunLauncher

    config = launcher_config()
    checked = process_config(resolve_to_config_type(K8sRunLauncher.config_type()), config)
    assert checked.success, checked.errors
    shared = {
        key: config[key]
        for key in ("env_secrets", "env_vars", "volumes", "volume_mounts", "resources", "security_context", "run_k8s_config")
    }
    context = K8sContainerContext.create_from_config({"k8s": {**shared, "image_pull_policy": config["image_pull_policy"]}})
    own = K8sContainerContext.create_from_config(json.loads(variable(LOCATIONS[location], "DAGSTER_CONTAINER_CONTEXT")))
    tagged = K8sContainerContext(run_k8s_config=UserDefinedDagsterK8sConfig.from_dict(tags or {}))
    merged = context.merge(own).merge(tagged)
    image = LOCATIONS[location]["image"]
    job = construct_dagster_k8s_job(
        DagsterK8sJobConfig(
            job_image=f"{image['repository']}:{image['tag']}", dagster_home=config["dagster_home"], instance_config_map="dagster-instance"
        ),
        ["dagster", "api", "execute_run"],
        "dagster-run-0",
        user_defined_k8s_config=merged.run_k8s_config,
    )
    body = job.to_dict()["spec"]
    assert body["ttl_seconds_after_finished"] == 86400
    return body["template"]["spec"]


@pytest.mark.parametrize("location", LOCATIONS)
def test_run_pods_have_settings_weights_secrets_and_no_privileges(location):
    pod = run_pod(location)
    (container,) = pod["containers"]
    variables = {item["name"]: item["value"] for item in container["env"]}
    assert variables["CURATION_PART"] == variable(LOCATIONS[location], "CURATION_PART")
    assert variables["CURATION_CONFIG"] == variable(LOCATIONS[location], "CURATION_CONFIG")
    mounts = {item["mount_path"]: item["name"] for item in container["volume_mounts"]}
    assert len(mounts) == len(container["volume_mounts"]), "a path is mounted once"
    volumes = {item["name"]: item for item in pod["volumes"]}
    assert len(volumes) == len(pod["volumes"])
    assert variables["CURATION_CONFIG"].startswith("/etc/curation/")
    assert volumes[mounts["/etc/curation"]]["config_map"]["name"] == "curation-settings"
    claim = yaml.safe_load((DEPLOY / "kubernetes" / "models.yaml").read_text())
    assert volumes[mounts["/models"]]["persistent_volume_claim"]["claim_name"] == claim["metadata"]["name"]
    assert "HF_HOME=/models" in dict(dockerfile())["ENV"]
    assert [item["secret_ref"]["name"] for item in container["env_from"] if item["secret_ref"]] == ["curation-secrets"]
    assert container["security_context"]["allow_privilege_escalation"] is False
    assert pod["security_context"]["run_as_non_root"] is True
    assert f"--uid {pod['security_context']['run_as_user']} curator" in (ROOT / "Dockerfile").read_text()


def test_runs_of_the_gpu_location_and_nobody_else_get_a_gpu():
    gpu, cpu = run_pod("curation-gpu"), run_pod("curation")
    limits = gpu["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"
    assert limits["memory"] == LAUNCHER["resources"]["limits"]["memory"]
    assert gpu["node_selector"]
    assert gpu["tolerations"][0]["key"] == "nvidia.com/gpu"
    mounted = {item["mount_path"]: item["name"] for item in gpu["containers"][0]["volume_mounts"]}
    shm = {item["name"]: item for item in gpu["volumes"]}[mounted["/dev/shm"]]
    assert shm["empty_dir"] == {"medium": "Memory", "size_limit": "2Gi"}
    assert "nvidia" not in json.dumps(cpu)
    for location in LOCATIONS.values():
        assert "nvidia" not in json.dumps(location["resources"]), "a code server that waits for runs must not hold a GPU"
    assert LOCATIONS["curation-gpu"]["image"]["tag"].endswith("cuda")
    assert LOCATIONS["curation"]["image"] == VALUES["dagsterWebserver"]["image"] == VALUES["dagsterDaemon"]["image"]


def test_a_job_that_asks_for_the_same_gpu_gets_it_once():
    asked = json.loads(variable(LOCATIONS["curation-gpu"], "DAGSTER_CONTAINER_CONTEXT"))["k8s"]["run_k8s_config"]
    assert run_pod("curation-gpu", tags=asked) == run_pod("curation-gpu")


def test_runs_of_the_jobs_get_the_gpu_that_the_settings_ask_for():
    config = load_config(DEPLOY / "kubernetes" / "curation.yaml")
    tags = build_defs(part=Part.GPU, config_path=DEPLOY / "kubernetes" / "curation.yaml").resolve_job_def("curate_source_gpu").tags
    tags = json.loads(tags["dagster-k8s/config"]) if isinstance(tags["dagster-k8s/config"], str) else tags["dagster-k8s/config"]
    assert tags == config.kubernetes.gpu_config()
    assert run_pod("curation-gpu", tags=tags) == run_pod("curation-gpu"), "values.yaml and the settings say the same"
    cpu = build_defs(part=Part.CPU, config_path=DEPLOY / "kubernetes" / "curation.yaml")
    assert not any("dagster-k8s/config" in job.tags for job in cpu.resolve_all_job_defs())


def test_locations_hold_the_two_parts_of_what_the_settings_name():
    assert {variable(item, "CURATION_PART") for item in LOCATIONS.values()} == {Part.CPU, Part.GPU}
    config = load_config(DEPLOY / "kubernetes" / "curation.yaml")
    assert config.embeddings.models == ["fingerprint", "siglip2"]
    for item in LOCATIONS.values():
        assert item["codeServerArgs"] == load("docker-compose.yaml")["services"]["code"]["command"][-4:]
        assert item["includeConfigInLaunchedRuns"] == {"enabled": False}
    port = VALUES["dagsterWebserver"]["service"]["port"]
    assert VALUES["dagsterWebserver"]["readinessProbe"]["httpGet"] == {"path": "/server_info", "port": port}
    assert port >= 1024
    assert VALUES["dagsterWebserver"]["service"]["type"] == "ClusterIP", "no login: never published as it is"


def test_no_secret_stands_in_the_files():
    text = "\n".join(path.read_text() for path in (DEPLOY / "kubernetes").iterdir())
    assert VALUES["generatePostgresqlPasswordSecret"] is False
    assert not re.search(r"(?i)(password|secret_access_key|token)\s*:\s*\S", text)
