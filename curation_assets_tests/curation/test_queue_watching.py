"""The tick over queues, against an S3 and SQS server on localhost: every upload leads to a run, also when ticks end anywhere."""

import json

import boto3
import pytest

from curation_assets.curation import queue_watching
from curation_assets.curation.queue_events import JunkMessage, ObjectEvent, read_events
from curation_assets.curation.queue_watching import look_at_queues
from curation_assets.curation.warehouse import Warehouse
from curation_assets.settings import Config
from curation_assets.storage.errors import Unavailable
from curation_assets.storage.queues import Queue
from curation_assets_tests.storage.conftest import s3_options  # noqa: F401 - a fixture


def s3_body(key, *, bucket="test-bucket", name="ObjectCreated:Put"):
    return json.dumps(
        {"Records": [{"eventSource": "aws:s3", "eventName": name, "s3": {"bucket": {"name": bucket}, "object": {"key": key}}}]}
    )


def bridge_body(key, *, bucket="test-bucket", kind="Object Created"):
    return json.dumps({"source": "aws.s3", "detail-type": kind, "detail": {"bucket": {"name": bucket}, "object": {"key": key}}})


def sns_body(message):
    return json.dumps({"Type": "Notification", "MessageId": "1", "TopicArn": "arn:aws:sns:x", "Message": message})


@pytest.mark.parametrize(
    ("body", "events"),
    [
        (s3_body("up/a+b/caf%C3%A9%2B.mp4"), [ObjectEvent("test-bucket", "up/a b/café+.mp4", is_removed=False)]),
        (s3_body("k", name="s3:ObjectRemoved:DeleteMarkerCreated"), [ObjectEvent("test-bucket", "k", is_removed=True)]),
        (s3_body("k", name="ObjectTagging:Put"), []),
        (bridge_body("up/a+b%20.mp4"), [ObjectEvent("test-bucket", "up/a+b%20.mp4", is_removed=False)]),
        (bridge_body("k", kind="Object Deleted"), [ObjectEvent("test-bucket", "k", is_removed=True)]),
        (bridge_body("k", kind="Object Tags Added"), []),
        (sns_body(s3_body("k")), [ObjectEvent("test-bucket", "k", is_removed=False)]),
        (sns_body(bridge_body("k")), [ObjectEvent("test-bucket", "k", is_removed=False)]),
        (json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"}), []),
        (json.dumps({"Records": []}), []),
    ],
)
def test_events(body, events):
    assert read_events(body) == events


@pytest.mark.parametrize(
    "body",
    ["", "hello", "[]", "null", "{}", '{"Records": [1]}', '{"Records": [{"eventName": "ObjectCreated:Put"}]}', s3_body(""), s3_body(7), "[" * 100_000,
     bridge_body(None), '{"source": "aws.s3", "detail-type": "Object Created", "detail": 3}', sns_body(sns_body(sns_body(sns_body(sns_body("x"))))), sns_body("x")],
)  # fmt: skip
def test_junk(body):
    with pytest.raises(JunkMessage):
        read_events(body)


class Site:
    """A watched bucket with a queue that is told of it."""

    def __init__(self, options, name, folder):
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        self.sqs = boto3.client("sqs", endpoint_url=options["aws_endpoint"], **keys)
        self.url = self.sqs.create_queue(QueueName=name)["QueueUrl"]
        tree = {
            "warehouse": str(folder / "warehouse"),
            "watch": {"up": {"uri": f"s3://test-bucket/{name}/in", "storage_options": options}},
            "queues": {"main": {"url": self.url, "region": "us-east-1", "endpoint_url": options["aws_endpoint"]}},
        }
        self.base = f"{name}/in"
        self.config = Config.model_validate(tree)
        self.warehouse = Warehouse.of(self.config)
        self.cursor = None

    def send(self, body):
        self.sqs.send_message(QueueUrl=self.url, MessageBody=body)

    def upload(self, key, **more):
        self.send(s3_body(f"{self.base}/{key}", **more))

    def tick(self, *, commits=True):
        found = look_at_queues(self.config, self.warehouse, self.cursor)
        if commits:
            self.cursor = found.cursor
        return found

    def num_left(self):
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        return sum(map(int, self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"].values()))


@pytest.fixture
def site(s3_options, request, tmp_path):  # noqa: F811
    name = "".join(char if char.isalnum() else "-" for char in request.node.name)[:60]
    return Site(s3_options, name, tmp_path)


def sources(tick):
    return sorted(request.source for request in tick.requests)


def test_what_a_run_writes_into_the_watched_root_is_no_upload(site):
    site.warehouse = Warehouse(f"s3://test-bucket/{site.base}/warehouse", site.config.watch["up"].storage_options)
    site.upload("warehouse/media/transcoded_clips/up-a/1.mp4")
    site.upload("a/1.mp4")
    assert sources(site.tick()) == ["up-a"]


def test_uploads_become_one_request_per_source_and_are_deleted_by_the_next_tick(site):
    for number in range(25):
        site.upload(f"day{number % 3}/{number}.mp4")
    site.upload("loose.mp4")
    site.upload("day0/notes.txt")
    site.send(s3_body("elsewhere/x.mp4"))
    found = site.tick()
    assert sources(found) == ["up", "up-day0", "up-day1", "up-day2"]
    assert found.problems == []
    assert site.num_left() == 28
    assert site.warehouse.registry.get("up-day1").uri.endswith("/in/day1")
    again = site.tick()
    assert (sources(again), site.num_left()) == ([], 0)
    cursor = site.cursor
    site.tick()
    assert site.cursor == cursor
    site.upload("day0/0.mp4")
    more = site.tick()
    assert sources(more) == ["up-day0"]
    assert more.requests[0].run_key not in {request.run_key for request in found.requests}


def test_a_tick_that_was_not_committed_is_given_again_word_for_word(site):
    site.upload("a/1.mp4")
    lost = site.tick(commits=False)
    site.upload("b/1.mp4")
    again = site.tick()
    assert again.requests == lost.requests
    assert site.num_left() == 2
    assert sources(site.tick()) == ["up-b"]
    site.tick()
    assert site.num_left() == 0


def test_a_tick_that_ends_before_it_is_written_loses_nothing(site, monkeypatch):
    site.upload("a/1.mp4")
    monkeypatch.setattr(queue_watching, "VISIBILITY_S", 0)

    def broken(*_):
        raise Unavailable("no warehouse")

    with monkeypatch.context() as patch:
        patch.setattr(queue_watching._QueueTick, "_commit", broken)
        with pytest.raises(Unavailable):
            site.tick()
    assert sources(site.tick()) == ["up-a"]


def test_a_cursor_that_was_reset_repeats_no_run_and_loses_none(site):
    site.upload("a/1.mp4")
    first = site.tick()
    site.cursor = None
    assert site.tick().requests == first.requests
    site.upload("a/2.mp4")
    assert sources(site.tick()) == ["up-a"]
    site.cursor = '"typed in"'
    site.tick()
    site.tick()
    assert site.num_left() == 0


def test_messages_that_could_not_be_deleted_are_deleted_later_and_lead_to_no_second_run(site, monkeypatch):
    site.upload("a/1.mp4")
    monkeypatch.setattr(queue_watching, "VISIBILITY_S", 0)
    site.tick()

    def broken(*_):
        raise Unavailable(f"{site.url}: throttles")

    with monkeypatch.context() as patch:
        patch.setattr(Queue, "delete", broken)
        site.upload("b/1.mp4")
        found = site.tick()
        assert sources(found) == ["up-b"]
        assert "throttles" in found.problems[0]
        assert sources(site.tick()) == []
    assert sources(site.tick()) == []
    site.tick()
    assert site.num_left() == 0


def test_removals_concern_known_sources_only(site):
    site.upload("a/1.mp4", name="ObjectRemoved:Delete")
    assert sources(site.tick()) == []
    site.upload("a/1.mp4")
    assert sources(site.tick()) == ["up-a"]
    site.upload("a/1.mp4", name="ObjectRemoved:Delete")
    assert sources(site.tick()) == ["up-a"]


def test_junk_is_noted_deleted_and_stops_nothing(site):
    site.send("junk \N{SNOWMAN}")
    site.upload("a/1.mp4")
    found = site.tick()
    assert sources(found) == ["up-a"]
    assert "not JSON" in found.problems[0]
    notes = [info for page in site.warehouse.store.list_pages("queues/main/dead_letters/") for info in page]
    assert [json.loads(site.warehouse.store.get(note.key))["body"] for note in notes] == ["junk \N{SNOWMAN}"]
    site.tick()
    assert site.num_left() == 0


def test_a_queue_that_does_not_exist_does_not_stop_another(site):
    tree = site.config.model_dump(mode="json")
    tree["queues"]["absent"] = {**tree["queues"]["main"], "url": f"{site.url}-absent"}
    tree["queues"]["away"] = {**tree["queues"]["main"], "endpoint_url": "http://127.0.0.1:9"}
    site.config = Config.model_validate(tree)
    site.upload("a/1.mp4")
    found = site.tick()
    assert sources(found) == ["up-a"]
    assert "no such queue" in found.problems[0]
    assert "cannot be reached" in found.problems[1]
    assert found.summary().startswith("queue absent:")


def test_requests_are_bounded_and_the_rest_waits(site):
    site.config = site.config.model_copy(update={"sensors": site.config.sensors.model_copy(update={"max_requests_per_tick": 5})})
    for number in range(40):
        site.upload(f"{number:02}/1.mp4")
    seen = []
    for _ in range(12):
        found = site.tick()
        assert len(found.requests) < 5 + 10
        seen += sources(found)
    assert sorted(seen) == [f"up-{number:02}" for number in range(40)]
    assert site.num_left() == 0


def test_queues_without_a_watched_bucket_are_refused(tmp_path):
    queues = {"main": {"url": "https://sqs.eu-west-1.amazonaws.com/1/x"}}
    with pytest.raises(ValueError, match="name an s3:// root"):
        Config.model_validate({"queues": queues, "watch": {"up": {"uri": str(tmp_path)}}})
    assert Config.model_validate({"queues": queues, "watch": {"up": {"uri": "s3://uploads"}}}).queues
