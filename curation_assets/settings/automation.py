"""Automation: when Dagster works by itself, how much at a time, whom it tells of failures, and what a GPU run asks Kubernetes for."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, field_validator, model_validator

from curation_assets.settings.base import Model, Seconds, Uri

_CRON_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of the month", 1, 31), ("month", 1, 12), ("day of the week", 0, 7))
_CRON_PART = re.compile(r"(\*|\d+(?:-\d+)?)(?:/[1-9]\d*)?")


def _cron(text: str) -> str:
    """Check a cron expression as far as Dagster does: a wrong one would keep the definitions from loading."""
    for field, (name, low, high) in zip(text.split(" "), _CRON_FIELDS, strict=True):
        if name.startswith(("month", "day of the week")) and re.search("[a-z]", field, re.IGNORECASE):
            continue  # JAN, mon-fri
        for part in field.split(","):
            found = _CRON_PART.fullmatch(part)
            numbers = [int(number) for number in re.findall(r"\d+", found[1])] if found else [-1]
            if not all(low <= number <= high for number in numbers):
                raise ValueError(f"the {name} {part!r} is none; cron takes *, */10, {low}-{high}, and several with commas")
    return text


Cron = Annotated[str, Field(pattern=r"^\S+( \S+){4}$"), AfterValidator(_cron)]
Pool = Literal["gpu", "decode"]


class NotifySettings(Model):
    """Whom `failed_run_sensor` tells. With none of these it writes a line into the sensor's log."""

    webhook_url: Uri | None = Field(
        None,
        pattern=r"^https?://[^/]",
        description="JSON about each failed run is posted here. An address that is a secret goes into webhook_env.",
    )
    webhook_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="Environment variable that holds the address.")
    notifier: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="module:Class of your own, called without arguments, with a method notify(failure: curation_assets.defs.notify.FailedRun).",
    )
    timeout_s: Seconds = Field(
        5.0,
        gt=0,
        le=5,
        description="Longest wait for the webhook, twice per failed run. A tick tells of up to five runs, and Dagster ends it after 60 s.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> NotifySettings:
        given = [name for name in ("webhook_url", "webhook_env", "notifier") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"automation.notify has {' and '.join(given)}: give one of them")
        return self

    @property
    def is_set(self) -> bool:
        """Whether anybody is to be told beyond the log."""
        return any((self.webhook_url, self.webhook_env, self.notifier))


class AutomationSettings(Model):
    """Schedules, backfills and pools."""

    nightly_cron: Cron = Field(
        "*/10 1-5 * * *",
        description="Ticks of nightly_backfill_schedule. Each looks at sources for tick_time_s and goes on where the last one stopped; once a day through all.",
    )
    corpus_cron: Cron = Field("*/10 * * * *", description="Ticks of corpus_schedule; one that finds nothing changed asks for nothing.")
    status_cron: Cron = Field("30 6 * * *", description="Ticks of curation_status_schedule.")
    time_zone: str = Field("UTC", description="Of the three, for example Europe/Berlin.")
    tick_time_s: Seconds = Field(40.0, gt=0, le=50, description="Longest look of a tick; Dagster ends ticks after 60 s.")
    max_sources_per_tick: int = Field(256, ge=1, le=10_000, description="Most sources that one nightly tick requests.")
    sources_per_run: int = Field(
        32, ge=1, le=1000, description="Sources that share a run, so that a model loads once: nightly runs and backfills."
    )
    max_attempts: int = Field(
        3,
        ge=1,
        le=100,
        description="Nightly requests of a source whose state they do not change, within attempts_days; then it is left alone.",
    )
    attempts_days: int = Field(7, ge=1, le=90, description="Older attempts, and older failed runs, are forgotten.")
    retry_failed: bool = Field(False, description="Nightly runs try failed items again although nothing changed, max_attempts times.")
    pool_limits: dict[Pool, Annotated[int, Field(ge=1, le=1000)]] = Field(
        default_factory=dict, description="Steps that may hold a pool at once. Pools that are not named keep dagster.yaml's default_limit."
    )
    notify: NotifySettings = NotifySettings()

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"no time zone is named {value!r}; use a name such as UTC or Europe/Berlin") from error
        return value


class Toleration(Model):
    """A taint that GPU pods tolerate, as Kubernetes spells it, less its camel case."""

    key: str = Field(min_length=1)
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None

    @model_validator(mode="after")
    def _value_for_equal(self) -> Toleration:
        if (self.operator == "Equal") != (self.value is not None):
            raise ValueError(f"toleration {self.key!r}: a value goes with operator Equal, and only with that")
        return self


class KubernetesSettings(Model):
    """What runs and steps with a GPU model ask Kubernetes for, as `dagster-k8s/config`; elsewhere the tag says nothing."""

    gpu_limit: int = Field(1, ge=0, le=64, description="GPUs of a pod; 0 leaves the tag out.")
    gpu_resource: str = Field("nvidia.com/gpu", min_length=1, description="Name of the resource.")
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels of the GPU nodes.")
    tolerations: list[Toleration] = Field(
        default_factory=lambda: [Toleration(key="nvidia.com/gpu", effect="NoSchedule")], description="Taints of the GPU nodes."
    )
    shm_size: str | None = Field(
        "2Gi", pattern=r"^[0-9]+(Ki|Mi|Gi)$", description="Shared memory of the pod, which torch's workers use; null for the node's 64 MB."
    )

    def gpu_config(self) -> dict[str, Any] | None:
        """Write the value of `dagster-k8s/config`, None where no GPU is asked for."""
        if not self.gpu_limit:
            return None
        container: dict[str, Any] = {"resources": {"limits": {self.gpu_resource: str(self.gpu_limit)}}}
        pod: dict[str, Any] = {}
        if self.node_selector:
            pod["node_selector"] = dict(self.node_selector)
        if self.tolerations:
            pod["tolerations"] = [item.model_dump(exclude_none=True) for item in self.tolerations]
        if self.shm_size:
            container["volume_mounts"] = [{"name": "shm", "mount_path": "/dev/shm"}]
            pod["volumes"] = [{"name": "shm", "empty_dir": {"medium": "Memory", "size_limit": self.shm_size}}]
        return {"container_config": container, **({"pod_spec_config": pod} if pod else {})}
