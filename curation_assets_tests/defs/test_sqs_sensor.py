"""The queue's sensor with a real daemon that is killed, against a server on localhost that speaks S3 and SQS and sends a bucket's notifications itself."""

import json
import time
from contextlib import ExitStack
from pathlib import Path

import boto3
import dagster as dg
import pytest
import yaml

from curation_assets.configuration import load_config
from curation_assets.curation.warehouse import Warehouse
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets_tests import makevideo
from curation_assets_tests.defs.test_sensors import Daemon, rows, wait_for
from curation_assets_tests.storage.conftest import s3_options  # noqa: F401 - a fixture

BUCKET = "queued-uploads"


@pytest.fixture
def site(tmp_path, monkeypatch, s3_options):  # noqa: F811
    """A folder with settings that watch a bucket, which tells a queue of its objects."""
    keys = {"endpoint_url": s3_options["aws_endpoint"], "region_name": "us-east-1"}
    s3, sqs = boto3.client("s3", **keys), boto3.client("sqs", **keys)
    s3.create_bucket(Bucket=BUCKET)
    url = sqs.create_queue(QueueName="uploads")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
    s3.put_bucket_notification_configuration(
        Bucket=BUCKET, NotificationConfiguration={"QueueConfigurations": [{"QueueArn": arn, "Events": events}]}
    )
    settings = {
        "warehouse": "warehouse",
        "watch": {"up": {"uri": f"s3://{BUCKET}", "storage_options": s3_options, "poll_interval_s": 1e6}},
        "queues": {"main": {"url": url, "region": "us-east-1", "endpoint_url": s3_options["aws_endpoint"]}},
        "sensors": {"interval_s": 5},
        "engine": {"workers": 0},
        "clips": {"splitter": {"clip_len_s": 1, "min_clip_len_s": 0.2}},
        "transcoded_clips": {"enabled": False},
        "previews": {},
        "embeddings": {"models": []},
    }
    (tmp_path / "curation.yaml").write_text(yaml.safe_dump(settings))
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\nconcurrency: {runs: {max_concurrent_runs: 3}}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.delenv("CURATION_CONFIG", raising=False)
    return tmp_path, s3, sqs, url


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_upload_that_a_queue_tells_of_is_curated_once_though_the_daemon_is_killed(site):
    folder, s3, sqs, url = site
    video = Path(makevideo.make_cfr(folder / "v.mp4", seconds=1, size=(64, 48))).read_bytes()
    expected = []

    def upload(key):
        s3.put_object(Bucket=BUCKET, Key=key, Body=video)
        expected.append(key)

    with dg.DagsterInstance.get() as instance, ExitStack() as daemons:
        daemon = daemons.enter_context(Daemon(folder))
        wait_for(lambda: "listed_s" in cursors(instance).get("bucket_upload_sensor", ""), 90)  # the only listing finds nothing
        for key in ("a/été 1+1.mp4", "a/2.mp4", "b/1.mp4"):
            upload(key)
        sqs.send_message(QueueUrl=url, MessageBody="junk")
        wait_for(lambda: instance.get_runs(), 90)
        daemon.kill()
        upload("c/1.mp4")
        s3.put_object(Bucket=BUCKET, Key="d/1.mp4", Body=video)
        s3.delete_object(Bucket=BUCKET, Key="d/1.mp4")
        daemons.enter_context(Daemon(folder))
        wait_for(lambda: clips_of(folder) == sorted(expected), 120)
        wait_for(lambda: num_waiting(sqs, url) == 0, 60)
        runs = instance.get_runs()
    assert {run.tags["dagster/sensor_name"] for run in runs} == {"sqs_upload_sensor"}
    assert len({run.tags["dagster/run_key"] for run in runs}) == len(runs)
    assert len(list((folder / "warehouse" / "queues" / "main" / "dead_letters").iterdir())) == 1


def cursors(instance):
    return {
        state.instigator_name: json.dumps(getattr(state.instigator_data, "cursor", ""))  # a schedule has none
        for state in instance.all_instigator_state()
    }


def num_waiting(sqs, url):
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    return sum(map(int, sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"].values()))


def clips_of(folder):
    """List the keys of the videos that have their clips, each as often as it has rows."""
    warehouse = Warehouse.of(load_config(folder / "curation.yaml"))
    found = []
    for source in warehouse.registry.names():
        videos = {row["video_id"]: row["key"] for row in rows(warehouse, RAW_VIDEOS, source, ["video_id", "key"])}
        prefix = source.removeprefix("up-")
        found += [f"{prefix}/{videos[row['video_id']]}" for row in rows(warehouse, CLIPS, source, ["video_id"])]
    time.sleep(0.5)
    return sorted(found)
