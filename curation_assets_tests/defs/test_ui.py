"""The UI's way: dagster dev, a run launched and terminated through its GraphQL, on the same instance and tables as the command line."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import psutil
import pytest

import curation_assets
from curation_assets_tests import makevideo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
pytest.importorskip("dagster_webserver")

COMMAND = [sys.executable, "-c", "from curation_assets.cli import main; main()"]
LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } } }
}"""
TERMINATE = "mutation End($id: String!) { terminateRun(runId: $id) { __typename } }"
STATUS = "query Status($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"


class Site:
    """A running dagster dev."""

    def __init__(self, place, port):
        self.place, self.port = place, port

    def ask(self, query, **variables):
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            document = json.load(answer)
        assert "errors" not in document, document
        return document["data"]

    def launch(self, partition):
        selector = {"repositoryLocationName": "curation", "repositoryName": "__repository__", "jobName": "curate_source"}
        params = {"selector": selector, "mode": "default", "runConfigData": "{}"}
        params["executionMetadata"] = {"tags": [{"key": "dagster/partition", "value": partition}]}
        launched = self.ask(LAUNCH, params=params)["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return launched["run"]["runId"]

    def status(self, run_id):
        return self.ask(STATUS, id=run_id)["runOrError"]["status"]

    def wait(self, run_id, *statuses, seconds=120):
        return wait_for(lambda: (found := self.status(run_id)) in statuses and found, seconds)


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.3)
    raise AssertionError(f"not within {seconds} s")


def workers(place):
    """Worker processes of this site, orphans included; others on the machine work elsewhere."""
    found = psutil.process_iter(["cmdline", "cwd"])
    return {
        process.pid for process in found if "spawn_main" in " ".join(process.info["cmdline"] or []) and process.info["cwd"] == str(place)
    }


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").mkdir()
    makevideo.make_cfr(tmp_path / "videos" / "0.mp4", seconds=40, size=(640, 360))
    for number in range(1, 16):
        shutil.copyfile(tmp_path / "videos" / "0.mp4", tmp_path / "videos" / f"{number}.mp4")
    (tmp_path / "curation.yaml").write_text("warehouse: ./warehouse\nsources: {mine: {uri: ./videos}}\n")
    environment = {key: value for key, value in os.environ.items() if key not in ("DAGSTER_HOME", "CURATION_CONFIG")}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with open(tmp_path / "ui.log", "w") as log:
        (tmp_path / "elsewhere").mkdir()
        words = ["--config", "../curation.yaml", "ui", "--port", str(port)]
        process = subprocess.Popen([*COMMAND, *words], env=environment, stdout=log, stderr=log, cwd=tmp_path / "elsewhere")
        try:
            found = Site(tmp_path, port)

            def is_ready():
                try:
                    found.ask("{ version }")
                except OSError:
                    assert process.poll() is None, (tmp_path / "ui.log").read_text()
                    return False
                return True

            wait_for(is_ready, 90)
            yield found
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def test_a_run_from_the_ui_terminated_and_run_again(site):
    run_id = site.launch("mine")
    site.wait(run_id, "STARTED")
    wait_for(lambda: workers(site.place), 60)
    time.sleep(4)
    assert site.status(run_id) == "STARTED"
    started = time.monotonic()
    assert site.ask(TERMINATE, id=run_id)["terminateRun"]["__typename"] == "TerminateRunSuccess"
    assert site.wait(run_id, "CANCELED", "FAILURE", seconds=20) == "CANCELED"
    assert time.monotonic() - started < 15
    wait_for(lambda: not workers(site.place), 10)

    again = site.launch("mine")
    assert site.wait(again, "SUCCESS", "FAILURE", seconds=240) == "SUCCESS"
    with curation_assets.connect() as connection:
        assert connection.sql("select count(*), count(distinct clip_id) from clips").fetchall() == [(64, 64)]
        assert connection.sql("select count(*) from embeddings_fingerprint where outcome = 'ok'").fetchall() == [(80,)]
    assert not list((site.place / "elsewhere").iterdir())
    # the command line sees the UI's runs: one instance
    done = subprocess.run([*COMMAND, "status", "--json"], cwd=site.place, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["sources"][0]["tables"]["clips"] == {"outcomes": {"ok": 64}, "pending": 0}
