"""The two code locations of the Helm values as real servers beside one webserver: every asset is defined once, and its parents are found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._grpc.client import DagsterGrpcClient

from curation_assets_tests.deploy.files import load
from curation_assets_tests.deploy.processes import free_port, wait_for

pytest.importorskip("dagster_webserver")

ASSETS = "{ assetNodes { assetKey { path } isPartitioned dependencyKeys { path } jobNames repository { location { name } } } }"
LOCATIONS = """{ workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError {
    ... on PythonError { message } ... on RepositoryLocation { repositories { sensors { name } jobs { name } } } } } } } }"""
COLLISIONS = "query Twice($keys: [AssetKeyInput!]!) { assetNodeDefinitionCollisions(assetKeys: $keys) { assetKey { path } } }"
MODEL = ["embeddings", "siglip2"]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_two_locations_define_every_asset_once(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(
        str(tmp_path / "home")
    ) as instance:  # two programs that make its files at once get in each other's way
        instance.get_runs_count()
    (tmp_path / "curation.yaml").write_text("warehouse: warehouse\nembeddings: {models: [fingerprint, siglip2]}\n")
    programs = Path(sys.executable).parent
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path / "home"), "CURATION_CONFIG": str(tmp_path / "curation.yaml")}
    environment["DAGSTER_DISABLE_TELEMETRY"] = "1"
    processes, servers = [], []

    def start(words, **variables):
        with open(tmp_path / f"{len(processes)}.log", "w") as log:
            processes.append(subprocess.Popen(words, env={**environment, **variables}, cwd=tmp_path, stdout=log, stderr=log))

    def logs():
        return "\n".join(path.read_text() for path in tmp_path.glob("*.log"))

    try:
        for item in load("kubernetes/values.yaml")["dagster-user-deployments"]["deployments"]:
            part = {variable["name"]: variable["value"] for variable in item["env"]}["CURATION_PART"]
            servers.append({"grpc_server": {"host": "127.0.0.1", "port": free_port(), "location_name": item["name"]}})
            words = [str(programs / "dagster"), "api", "grpc", "-h", "127.0.0.1", "-p", str(servers[-1]["grpc_server"]["port"])]
            start([*words, *item["codeServerArgs"]], CURATION_PART=part)
        (tmp_path / "workspace.yaml").write_text(yaml.safe_dump({"load_from": servers}))
        port = free_port()

        def ask(query, **variables):
            body = json.dumps({"query": query, "variables": variables}).encode()
            request = urllib.request.Request(f"http://127.0.0.1:{port}/graphql", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)["data"]

        def has(port):
            assert all(process.poll() is None for process in processes), logs()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=5):
                    return True
            except OSError:
                return False

        for server in servers:
            client = DagsterGrpcClient(port=server["grpc_server"]["port"], host="127.0.0.1")
            wait_for(lambda client=client: client.health_check_query() == "SERVING", 90, "code server")
        start([str(programs / "dagster-webserver"), "-h", "127.0.0.1", "-p", str(port), "-w", str(tmp_path / "workspace.yaml")])
        wait_for(lambda: has(port), 90, "webserver")
        entries = {entry["name"]: entry["locationOrLoadError"] for entry in ask(LOCATIONS)["workspaceOrError"]["locationEntries"]}
        assert all("repositories" in entry for entry in entries.values()), entries
        (gpu,) = entries["curation-gpu"]["repositories"]
        assert {"frame_sets_stored_sensor", "failed_run_sensor"} == {sensor["name"] for sensor in gpu["sensors"]}

        nodes = {tuple(node["assetKey"]["path"]): node for node in ask(ASSETS)["assetNodes"]}
        where = {path: node["repository"]["location"]["name"] for path, node in nodes.items()}
        assert [path for path, name in where.items() if name == "curation-gpu"] == [tuple(MODEL)]
        assert where["frame_sets",] == where["embeddings", "fingerprint"] == where["curated_clips",] == "curation"
        assert nodes[tuple(MODEL)]["dependencyKeys"] == [{"path": ["frame_sets"]}]
        assert "curate_source_gpu" in nodes[tuple(MODEL)]["jobNames"]
        assert nodes["frame_sets",]["isPartitioned"]
        assert {"path": MODEL} in nodes["duplicates", "siglip2"]["dependencyKeys"]
        assert ask(COLLISIONS, keys=[{"path": list(path)} for path in nodes])["assetNodeDefinitionCollisions"] == []
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)
