"""The failed-run sensor: a real run that failed, a real server that is told of it, and what happens when nobody can be."""

import json
import threading
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dagster as dg
import pytest
from dagster._core.definitions.run_status_sensor_definition import _get_run_status_sensor_process_limit

from curation_assets.definitions import build_defs
from curation_assets.defs.notify import _TRIES, FailedRun, WebhookNotifier, build_failed_run_sensor, build_notifier
from curation_assets.settings import NotifySettings, SettingsError

FAILED = FailedRun("0123", "curate_source", ["a"], "no such folder", "Run 0123 of curate_source failed (a): no such folder")


class Webhook(ThreadingHTTPServer):
    """Keeps what is posted; answers with the statuses that it is given, then with 200."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.posted, self.statuses = [], []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/services/s3cr3t"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted.append((self.path, self.headers["Content-Type"], json.loads(body)))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def webhook():
    with Webhook() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Collector:
    """A notifier of a user's own."""

    told: list[FailedRun] = []  # noqa: RUF012 - shared on purpose: each failed run gets a new one

    def notify(self, failure):
        self.told.append(failure)


class Broken:
    def notify(self, failure):
        raise ZeroDivisionError("of the user's own")


@pytest.fixture
def failed(workplace, instance):
    """A run of the source a whose folder is gone."""
    (workplace / "videos" / "a").rename(workplace / "elsewhere")
    job = build_defs().resolve_job_def("curate_source")
    result = job.execute_in_process(instance=instance, partition_key="a", raise_on_error=False)
    assert not result.success
    return result


def tell(settings, failed, instance):
    """Do what the daemon does for a failed run; return the log."""
    sensor = build_failed_run_sensor(settings)
    event = next(event for event in failed.all_events if event.event_type is dg.DagsterEventType.RUN_FAILURE)
    run = instance.get_run_by_id(failed.run_id)
    context = dg.build_run_status_sensor_context("failed_run_sensor", dagster_instance=instance, dagster_run=run, dagster_event=event)
    sensor(context.for_run_failure())


def test_the_log_by_default(failed, instance, capfd):
    tell(NotifySettings(), failed, instance)
    said = capfd.readouterr().err
    assert f"Run {failed.run_id} of curate_source failed (a): " in said
    assert "no such folder" in said


def test_a_webhook(failed, instance, webhook, monkeypatch):
    webhook.statuses = [503]
    monkeypatch.setenv("OUR_WEBHOOK", webhook.url)
    tell(NotifySettings(webhook_env="OUR_WEBHOOK"), failed, instance)
    assert len(webhook.posted) == 2  # once more after the 503
    path, kind, body = webhook.posted[-1]
    assert (path, kind) == ("/services/s3cr3t", "application/json")
    assert {key: body[key] for key in ("event", "run_id", "job", "sources")} == {
        "event": "run_failed",
        "run_id": failed.run_id,
        "job": "curate_source",
        "sources": ["a"],
    }
    assert "no such folder" in body["error"]
    assert body["text"].startswith("Run ")


@pytest.mark.parametrize("status", [None, 404, 500])
def test_a_webhook_that_does_not_take_it_is_told_without_its_address(failed, instance, webhook, capfd, status):
    url = webhook.url
    if status is None:
        webhook.shutdown()
        webhook.socket.close()
    else:
        webhook.statuses = [status] * 2
    tell(NotifySettings(webhook_url=url), failed, instance)
    said = capfd.readouterr().err
    assert "nobody was told: the webhook on 127.0.0.1" in said
    assert "s3cr3t" not in said
    assert len(webhook.posted) == {None: 0, 404: 1, 500: 2}[status]


def test_a_class_of_the_users_own(failed, instance, capfd):
    Collector.told.clear()
    tell(NotifySettings(notifier=f"{__name__}:Collector"), failed, instance)
    assert [failure.run_id for failure in Collector.told] == [failed.run_id]
    tell(NotifySettings(notifier=f"{__name__}:Broken"), failed, instance)
    assert "ZeroDivisionError: of the user's own" in capfd.readouterr().err


def test_what_cannot_be_had_is_named(monkeypatch, failed, instance, capfd):
    import logging

    log = logging.getLogger("test")
    monkeypatch.delenv("NOT_SET", raising=False)
    for settings, said in (
        ({"webhook_env": "NOT_SET"}, "NOT_SET"),
        ({"notifier": "no.such.module:Thing"}, "no.such.module"),
        ({"notifier": f"{__name__}:Nothing"}, "Nothing"),
        ({"notifier": f"{__name__}:NotifySettings"}, "no method notify"),
    ):
        with pytest.raises(SettingsError, match=said):
            build_notifier(NotifySettings(**settings), log=log)
    tell(NotifySettings(webhook_env="NOT_SET"), failed, instance)
    assert "nobody was told: automation.notify.webhook_env names NOT_SET" in capfd.readouterr().err
    with pytest.raises(ValueError, match="give one of them"):
        NotifySettings(webhook_env="A", webhook_url="http://b/")


def test_it_is_on_where_the_settings_say_whom_to_tell():
    assert build_failed_run_sensor(NotifySettings()).default_status is dg.DefaultSensorStatus.STOPPED
    assert build_failed_run_sensor(NotifySettings(webhook_url="https://example.org/x")).default_status is dg.DefaultSensorStatus.RUNNING


def test_a_webhook_shows_no_secret_of_its_address():
    assert "s3cr3t" not in repr(WebhookNotifier("https://example.org/s3cr3t", timeout_s=1))
    assert asdict(FAILED)["sources"] == ["a"]


def test_a_tick_of_webhooks_that_do_not_answer_ends_in_time():
    """Dagster gives up on a tick after 60 s and begins again with the same runs: it would tell of them for ever."""
    bound = min(item.le for item in NotifySettings.model_fields["timeout_s"].metadata if hasattr(item, "le"))
    assert _get_run_status_sensor_process_limit() * _TRIES * bound < 60


def test_a_webhook_address_with_a_password_is_refused():
    with pytest.raises(ValueError, match="credentials come from the environment") as caught:
        NotifySettings(webhook_url="https://user:s3cr3t@example.org/x")
    assert "s3cr3t" not in str(caught.value)
