"""The compose stack run for real, without Docker: its commands, variables and files against PostgreSQL and an S3 server on localhost."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import boto3
import psycopg2
import pytest

from curation_assets_tests import makevideo
from curation_assets_tests.deploy.processes import wait_for

pytest.importorskip("dagster_webserver")
pytest.importorskip("dagster_postgres")

CURATION_ASSETS = [sys.executable, "-c", "from curation_assets.cli import main; main()"]
LOCATIONS = """{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus locationOrLoadError {
    __typename ... on PythonError { message } ... on RepositoryLocation { repositories { name } } } } } } }"""
RUNS = "{ runsOrError { ... on Runs { results { runId jobName status tags { key value } } } } }"
HEALTH = "{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }"
MATERIALIZED = """query Latest($key: AssetKeyInput!) { assetOrError(assetKey: $key) {
    ... on Asset { assetMaterializations(limit: 1) { partition runId } } } }"""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_upload_becomes_tables(stack, s3_endpoint, tmp_path):
    for _ in range(2):  # again when the stack is started again
        assert stack.run("buckets") == "ready: curation, uploads\n"
    environment = stack.environment("code")
    client = boto3.client(
        "s3",
        endpoint_url=s3_endpoint,
        region_name=environment["AWS_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )
    video = makevideo.make_cuts(tmp_path / "cuts.mp4")
    client.upload_file(str(video), "uploads", "holidays/cuts.mp4")
    # a minute of quiet is for slow uploads; this one is whole
    settings = stack.home / "curation.yaml"
    settings.write_text(
        settings.read_text().replace("    uri: s3://uploads\n", "    uri: s3://uploads\n    quiet_period_s: 1\n")
        + "sensors: {interval_s: 5}\nautomation: {corpus_cron: '* * * * *'}\n"
    )

    stack.start("code")
    wait_for(lambda: stack.is_healthy("code"), 60, "code location")
    stack.start("daemon")
    stack.start("webserver")
    wait_for(stack.answers, 60, "webserver")
    (entry,) = stack.ask(LOCATIONS)["workspaceOrError"]["locationEntries"]
    assert (entry["name"], entry["locationOrLoadError"]["__typename"]) == ("curation", "RepositoryLocation"), entry

    def ended():
        runs = {run["jobName"]: run for run in stack.ask(RUNS)["runsOrError"]["results"]}
        assert all(run["status"] != "FAILURE" for run in runs.values()), runs
        return runs if {name for name, run in runs.items() if run["status"] == "SUCCESS"} >= {"curate_source", "curate_corpus"} else None

    # nobody asks for anything: the daemon's sensor sees the upload, and the schedule that something has changed
    runs = wait_for(ended, 260, "runs")
    run = runs["curate_source"]
    assert {"key": "dagster/sensor_name", "value": "bucket_upload_sensor"} in run["tags"]
    assert {"key": "dagster/schedule_name", "value": "corpus_schedule"} in runs["curate_corpus"]["tags"]
    selected = json.loads(
        stack.run("webserver", [*CURATION_ASSETS, "sql", "--json", "select source, key, is_selected, uri is null from curated_clips"])
    )
    assert selected
    assert {(row["source"], row["key"]) for row in selected} == {("uploads-holidays", "cuts.mp4")}
    rows = json.loads(stack.run("webserver", [*CURATION_ASSETS, "sql", "--json", "select source, key, outcome from raw_videos"]))
    assert rows == [{"source": "uploads-holidays", "key": "cuts.mp4", "outcome": "ok"}]
    (latest,) = stack.ask(MATERIALIZED, key={"path": ["embeddings", "fingerprint"]})["assetOrError"]["assetMaterializations"]
    assert latest == {"partition": "uploads-holidays", "runId": run["runId"]}

    with (
        psycopg2.connect(
            host="127.0.0.1",
            port=stack.database.port,
            user=stack.database.user,
            password=stack.database.password,
            dbname=stack.database.name,
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("select run_id from runs where status = 'SUCCESS'")
        assert (run["runId"],) in cursor.fetchall()
    assert not list(stack.home.rglob("*.db")), "no SQLite beside Postgres"
    assert list((stack.home / "storage" / run["runId"]).rglob("*.err")), "logs lie where the webserver reads them"

    wait_for(lambda: stack.is_healthy("daemon"), 60, "daemon")
    daemons = stack.ask(HEALTH)["instance"]["daemonHealth"]["allDaemonStatuses"]
    assert {item["daemonType"] for item in daemons if item["healthy"]} >= {
        "SENSOR",
        "SCHEDULER",
        "BACKFILL",
        "QUEUED_RUN_COORDINATOR",
        "MONITORING",
    }
    for name in ("code", "webserver", "daemon"):
        assert stack.database.password not in stack.log(name)
        assert not re.search(r"\b(ERROR|CRITICAL)\b", stack.log(name)), stack.log(name)
    listed = {path.name for path in Path(tmp_path).iterdir()}
    assert listed == {"home", "cuts.mp4", "code.log", "webserver.log", "daemon.log"}
