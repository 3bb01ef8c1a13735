"""Notify: `failed_run_sensor` tells of every failed run: in its own log, at a webhook, or through a class of the user's own. Dagster's run failure sensor."""

import importlib
import json
import logging
import os
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from http.client import HTTPException
from typing import Protocol
from urllib.parse import urlsplit

import dagster as dg

from curation_assets.defs.run_history import sources_of
from curation_assets.settings import NotifySettings, SettingsError

_MOST_SOURCES = 100
_MOST_CHARS = 2000
_TRIES = 2


@dataclass(frozen=True, slots=True)
class FailedRun:
    """What is told of a failed run.

    Attributes:
        run_id: of Dagster; the UI shows it under /runs/<run_id>.
        job: its name.
        sources: that it worked on, sorted, at most 100 of them.
        error: first lines of what went wrong.
        text: all of this in one sentence, which chat webhooks show.
    """

    run_id: str
    job: str
    sources: list[str]
    error: str
    text: str


class Notifier(Protocol):
    """Tells somebody. A class named in `automation.notify.notifier` is made without arguments, anew for each failed run."""

    def notify(self, failure: FailedRun) -> None:
        """Tell of one failed run. What it raises is logged and keeps nobody from hearing of the next."""
        ...


class NotifyError(RuntimeError):
    """Nobody could be told; the message names no secret."""


class LogNotifier:
    """Writes a line into the sensor's log.

    Args:
        log: of the tick.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log

    def notify(self, failure: FailedRun) -> None:
        """Write it."""
        self._log.error(failure.text)


class WebhookNotifier:
    """Posts a failed run as JSON. The address may hold a secret: only its host is ever told.

    Args:
        url: http or https.
        timeout_s: longest wait for an answer.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"WebhookNotifier({urlsplit(self._url).hostname})"

    def notify(self, failure: FailedRun) -> None:
        """Post it, a second time where the first one fails.

        Raises:
            NotifyError: the webhook does not answer, or refuses.
        """
        body = json.dumps({"event": "run_failed", **asdict(failure)}).encode()
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"}, method="POST")
        for tries_left in range(_TRIES - 1, -1, -1):
            try:
                with urllib.request.urlopen(request, timeout=self._timeout_s):
                    return
            except urllib.error.HTTPError as error:
                error.close()
                if error.code < 500 or not tries_left:
                    raise NotifyError(f"the webhook on {self._host} refused with HTTP {error.code}") from None
            except (OSError, HTTPException) as error:
                if not tries_left:
                    reason = getattr(error, "reason", error)
                    raise NotifyError(f"the webhook on {self._host} cannot be reached: {type(reason).__name__}") from None

    @property
    def _host(self) -> str | None:
        return urlsplit(self._url).hostname


def build_notifier(settings: NotifySettings, *, log: logging.Logger) -> Notifier:
    """Make the notifier that the settings name.

    Raises:
        SettingsError: an environment variable that is not set or holds no http address, or a class that cannot be had.
    """
    if settings.notifier is not None:
        return _own_notifier(settings.notifier)
    url = settings.webhook_url
    if settings.webhook_env is not None:
        url = os.environ.get(settings.webhook_env, "")
        if not url.startswith(("http://", "https://")):
            raise SettingsError(
                f"automation.notify.webhook_env names {settings.webhook_env}, which holds no http(s) address; set it where the code location runs"
            )
    return WebhookNotifier(url, timeout_s=settings.timeout_s) if url else LogNotifier(log)


def _own_notifier(path: str) -> Notifier:
    module, _, name = path.partition(":")
    try:
        made = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError, TypeError) as error:
        raise SettingsError(f"automation.notify.notifier {path!r} cannot be had: {error}") from error
    if not callable(getattr(made, "notify", None)):
        raise SettingsError(f"automation.notify.notifier {path!r} has no method notify(failure)")
    return made  # type: ignore[no-any-return]


def build_failed_run_sensor(settings: NotifySettings) -> dg.SensorDefinition:
    """Build the sensor. It is on from the start where the settings name whom to tell, else it waits to be switched on in the UI."""
    status = dg.DefaultSensorStatus.RUNNING if settings.is_set else dg.DefaultSensorStatus.STOPPED

    @dg.run_failure_sensor(
        name="failed_run_sensor",
        default_status=status,
        description="Tells of every failed run of this code location: automation.notify says whom.",
    )
    def failed_run_sensor(context: dg.RunFailureSensorContext) -> None:
        failure = _describe(context)
        try:
            build_notifier(settings, log=context.log).notify(failure)
        except (NotifyError, SettingsError) as error:
            context.log.error(f"nobody was told: {error}. {failure.text}")  # noqa: TRY400 - the message says all, and a traceback might say more
        except Exception:
            context.log.exception(f"nobody was told: the notifier failed. {failure.text}")

    return failed_run_sensor


def _describe(context: dg.RunFailureSensorContext) -> FailedRun:
    run = context.dagster_run
    order = list(context.instance.get_dynamic_partitions("video_source"))
    sources = sorted(sources_of(run, order, {name: place for place, name in enumerate(order)}))
    error = (context.failure_event.message or "the run failed")[:_MOST_CHARS]
    causes = [cause for event in context.get_step_failure_events() if (cause := _cause(event))]
    if causes:
        error = "; ".join(dict.fromkeys(causes))[:_MOST_CHARS]
    named = ", ".join(sources[:5]) + (f" and {len(sources) - 5} more" if len(sources) > 5 else "")
    text = f"Run {run.run_id} of {run.job_name} failed" + (f" ({named})" if named else "") + f": {error}"
    return FailedRun(run.run_id, run.job_name, sources[:_MOST_SOURCES], error, text)


def _cause(event: dg.DagsterEvent) -> str | None:
    """Say what failed a step: what it said itself, else the first line of the innermost error."""
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return error.message.strip() if error else None
