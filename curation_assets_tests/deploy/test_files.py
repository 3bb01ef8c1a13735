"""The deployment files fit each other: names, ports, variables and paths; no secret and no public port stands in them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import PurePosixPath

import click
import pytest
import yaml
from dagster._cli import cli as dagster_cli
from dagster._core.instance.config import dagster_instance_config
from dagster._core.workspace.load import location_origins_from_yaml_paths
from dagster._daemon.cli import cli as daemon_cli

from curation_assets.cli import cli as curation_cli
from curation_assets.configuration import load_config
from curation_assets_tests.deploy.files import DEPLOY, ROOT, dockerfile, flag, load, variables

COMPOSE_FILES = ["docker-compose.yaml", "docker-compose.gpu.yaml"]
COMPOSE = load("docker-compose.yaml")
SERVICES = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("curation-assets")}
# of the Compose Specification, what these files use and of which kind it is
SERVICE_KEYS = {
    "build": dict, "command": list, "depends_on": dict, "deploy": dict, "environment": dict, "healthcheck": dict, "image": str, "init": bool,
    "ports": list, "restart": str, "shm_size": str, "stop_grace_period": str, "volumes": list,
}  # fmt: skip
HEALTH_KEYS = {"test", "interval", "timeout", "retries", "start_period", "disable"}
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}
HOME = "/opt/dagster"


def parsed(command: list[str]) -> click.Context:
    """Read a command line as its program does, without running it; paths of the image are looked for among the files that it copies."""
    command = [word.replace(HOME, str(DEPLOY)) for word in command]
    from dagster_webserver.cli import dagster_webserver

    programs = {
        "dagster": dagster_cli,
        "dagster-daemon": daemon_cli,
        "dagster-webserver": dagster_webserver,
        "curation-assets": curation_cli,
    }
    program, words = programs[command[0]], command[1:]
    context = None
    while isinstance(program, click.Group):
        context = program.make_context(words[0], [], parent=context, resilient_parsing=True)
        program, words = program.get_command(context, words[0]), words[1:]
        assert program is not None, command
    return program.make_context(command[0], list(words), parent=context)


@pytest.mark.parametrize("name", COMPOSE_FILES)
def test_compose_has_only_known_keys(name):
    tree = load(name)
    assert {key for key in tree if not key.startswith("x-")} <= {"name", "services", "volumes"}
    for service, body in tree["services"].items():
        for key, value in body.items():
            assert isinstance(value, SERVICE_KEYS[key]), f"{service}.{key}"
        assert set(body.get("healthcheck", {})) <= HEALTH_KEYS
        for other, how in body.get("depends_on", {}).items():
            assert other in tree["services"]
            assert how["condition"] in CONDITIONS
            if how["condition"] == "service_healthy":
                assert "test" in tree["services"][other]["healthcheck"]


@pytest.mark.skipif(not shutil.which("docker"), reason="no docker here")
def test_compose_reads_its_own_file():
    words = ["docker", "compose", *(word for name in COMPOSE_FILES for word in ("-f", str(DEPLOY / name))), "config", "--quiet"]
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("docker without compose here")
    secrets = dict.fromkeys(variables((DEPLOY / COMPOSE_FILES[0]).read_text()), "x")
    done = subprocess.run(words, env={**os.environ, **secrets}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_ports_are_bound_to_this_machine():
    assert {name for name, service in SERVICES.items() if service.get("ports")} == {"s3", "webserver"}
    for service in SERVICES.values():
        for port in service.get("ports", []):
            assert re.fullmatch(r"127\.0\.0\.1:\$\{\w+:-\d+\}:\d+", port)


def test_secrets_come_from_the_environment_and_the_example_has_none():
    text = (DEPLOY / "docker-compose.yaml").read_text()
    example = dict(line.split("=") for line in (DEPLOY / ".env.example").read_text().splitlines() if line and not line.startswith("#"))
    assert variables(text) == set(example)
    for name in ("POSTGRES_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert example[name] == ""
        assert re.findall(rf"\$\{{{name}([^}}]*)", text) == [f":?set {name} in deploy/.env"] * text.count(f"${{{name}"), (
            "an empty secret must not start"
        )
    for service in SERVICES.values():
        for name, value in service["environment"].items():
            if re.search("PASSWORD|SECRET|ACCESS_KEY", name):
                assert value.startswith("${"), name
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
    assert "**/.env" in (ROOT / ".dockerignore").read_text().splitlines()


def test_instance_reads_the_variables_that_compose_sets(monkeypatch):
    def wanted(tree):
        if isinstance(tree, dict):
            return ({tree["env"]} if set(tree) == {"env"} else set()).union(*map(wanted, tree.values()))
        return set()

    instance = load("dagster.yaml")
    for name, service in OURS.items():
        assert wanted(instance) <= set(service["environment"]), name
    environment = OURS["code"]["environment"]
    database = SERVICES["postgres"]["environment"]
    assert environment["DAGSTER_POSTGRES_HOST"] == "postgres"
    for ours, theirs in (("USER", "USER"), ("PASSWORD", "PASSWORD"), ("DB", "DB")):
        assert environment[f"DAGSTER_POSTGRES_{ours}"] == database[f"POSTGRES_{theirs}"]
    for name in wanted(instance):
        monkeypatch.setenv(name, "5432" if name.endswith("PORT") else "x")
    checked, _ = dagster_instance_config(str(DEPLOY))
    assert set(checked) >= {"storage", "retention", "run_monitoring", "sensors"}
    assert "postgres" in checked["storage"]


def test_both_instances_say_the_same_of_pools_monitoring_and_telemetry():
    alone, postgres = yaml.safe_load((ROOT / "dagster.yaml").read_text()), load("dagster.yaml")
    for key in ("telemetry", "nux"):
        assert alone[key] == postgres[key]
    assert alone["run_monitoring"].items() <= postgres["run_monitoring"].items()
    assert postgres["concurrency"]["pools"] == {"default_limit": 1, "granularity": "op"}
    if "pools" in alone["concurrency"]:
        assert alone["concurrency"]["pools"] == postgres["concurrency"]["pools"]


def test_workspace_points_at_the_code_service():
    (origin,) = location_origins_from_yaml_paths([str(DEPLOY / "workspace.yaml")])
    command = parsed(SERVICES["code"]["command"]).params
    assert (origin.host, origin.port) == ("code", command["port"])
    alone = yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"][0]["python_module"]
    assert origin.location_name == alone["location_name"], "sensors keep their state by this name"
    assert (command["module_name"], command["attribute"]) == (alone["module_name"], alone["attribute"])
    assert flag(SERVICES["code"]["healthcheck"]["test"], "--port") == str(origin.port)


def test_commands_are_ones_that_their_programs_take():
    image = dict(dockerfile())
    assert parsed(json.loads(image["CMD"])).params["host"] == "0.0.0.0"
    web = parsed(SERVICES["webserver"]["command"]).params
    daemon = parsed(SERVICES["daemon"]["command"]).params
    assert web["workspace"] == daemon["workspace"] == (str(DEPLOY / "workspace.yaml"),)
    for name in ("code", "daemon"):
        test = SERVICES[name]["healthcheck"]["test"]
        assert test[0] == "CMD"
        parsed(test[1:])
    assert SERVICES["webserver"]["ports"][0].endswith(f":{web['port']}")
    assert f"127.0.0.1:{web['port']}/server_info" in image["HEALTHCHECK"], "the webserver has the image's health check"
    assert "healthcheck" not in SERVICES["webserver"]


def test_files_that_the_commands_name_are_in_the_image():
    (copied,) = [rest for word, rest in dockerfile() if word == "COPY" and rest.endswith(f" {HOME}/")]
    sources = [word for word in copied.split()[:-1] if not word.startswith("--")]
    for source in sources:
        assert (ROOT / source).is_file(), source
    inside = {f"{HOME}/{PurePosixPath(source).name}" for source in sources}
    named = {word for service in OURS.values() for word in service["command"] if word.startswith(HOME)}
    assert named <= inside
    assert f"{HOME}/dagster.yaml" in inside
    assert OURS["code"]["environment"]["DAGSTER_HOME"] == HOME


def test_volumes_are_folders_that_the_image_gives_to_its_user():
    (made,) = [rest for word, rest in dockerfile() if word == "RUN" and "install -d -o curator" in rest]
    owned = set(re.findall(r"/[\w/]+", made.split("install -d")[1]))
    for name, service in OURS.items():
        for volume in service["volumes"]:
            source, target, *_ = volume.split(":")
            if source.startswith("./"):
                assert (DEPLOY / source).is_file(), f"{name}: {source}"
            else:
                assert source in COMPOSE["volumes"]
                assert target in owned, f"{name}: {target}"
    environment = OURS["code"]["environment"]
    assert f"./curation.yaml:{environment['CURATION_CONFIG']}:ro" in OURS["code"]["volumes"]
    assert dict(COMPOSE["volumes"]).keys() == {
        volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", []) if volume[0] != "."
    }


def test_settings_of_the_stack_use_its_s3_server_and_buckets():
    config = load_config(DEPLOY / "curation.yaml")
    environment = OURS["code"]["environment"]
    buckets = SERVICES["buckets"]["command"][2:]
    (port,) = [word.partition("=")[2] for word in SERVICES["s3"]["command"] if word.startswith("-s3.port=")]
    assert config.storage_options["aws_endpoint"] == environment["AWS_ENDPOINT_URL"] == f"http://s3:{port}"
    assert SERVICES["s3"]["ports"][0].endswith(f":{port}")
    roots = [config.warehouse, *(watched.uri for watched in config.watch.values())]
    assert {uri.split("/")[2] for uri in roots} == set(buckets)


def test_image_is_small_unprivileged_and_has_no_weights():
    instructions = dockerfile()
    words = [word for word, _ in instructions]
    last = len(words) - words[::-1].index("FROM")
    final = dict(instructions[last:])
    assert final["USER"] == "curator"
    assert words.count("FROM") == 2
    assert all(re.fullmatch(r"python:\$\{PYTHON\}-slim-\w+( AS build)?", rest) for word, rest in instructions if word == "FROM")
    assert not any(word in rest for word, rest in instructions[last:] if word == "RUN" for word in ("pip", "apt")), (
        "tools stay in the build stage"
    )
    assert "HF_HOME=/models" in final["ENV"]
    assert json.loads(final["VOLUME"]) == ["/data", "/models"]
    for word in ("CMD", "HEALTHCHECK"):
        json.loads(final[word][final[word].index("[") :])
    text = (ROOT / "Dockerfile").read_text()
    assert "models download" not in "\n".join(rest for word, rest in instructions if word == "RUN")
    for path in [
        part for word, rest in instructions if word == "COPY" and "--from" not in rest for part in rest.split()[:-1] if part[0] != "-"
    ]:
        assert (ROOT / path).exists(), path
    assert "--no-cache-dir" in text or "PIP_NO_CACHE_DIR=1" in text


def test_image_has_both_variants_and_extras_that_exist(tmp_path):
    import tomllib

    instructions = dockerfile()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (wanted,) = [rest.partition("=")[2].split(",") for word, rest in instructions if word == "ARG" and rest.startswith("EXTRAS=")]
    assert set(wanted) <= set(extras)
    assert {"models", "shots", "postgres", "kubernetes", "ui"} <= set(wanted)
    (script,) = [rest for word, rest in instructions if word == "RUN" and "VARIANT" in rest]
    (tmp_path / "python").write_text("#!/bin/sh\n")
    (tmp_path / "python").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    script = script.replace("/venv/bin/pip", "echo pip")
    seen = {}
    for variant in ("cpu", "cuda", "rocm"):
        done = subprocess.run(["sh", "-c", script], env={"PATH": path, "VARIANT": variant}, capture_output=True, text=True)
        seen[variant] = done.stdout
        assert (done.returncode == 0) == (variant != "rocm")
    assert "whl/cpu" in seen["cpu"]
    assert "pypi.org" in seen["cuda"]
    assert load("docker-compose.gpu.yaml")["services"]["code"]["build"]["args"] == {"VARIANT": "cuda"}
    assert SERVICES["code"]["build"]["args"] == {"VARIANT": "cpu"}
