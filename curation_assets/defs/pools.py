"""Pools: what must not run beside itself too often, and the tags by which a GPU is asked for. Dagster's concurrency pools.

`gpu` holds back models that need a GPU, `decode` the stages that decode or encode video on every CPU that they may use. The limits lie in the instance's
database: `dagster.yaml` can only give one default for all, so `curation-assets ui` and the start scripts set those that the settings name.
"""

import time
from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext  # not exported

from curation_assets.models import registry
from curation_assets.models.aesthetic import SPEC as AESTHETIC
from curation_assets.settings import KubernetesSettings

GPU, DECODE = "gpu", "decode"
K8S_CONFIG = "dagster-k8s/config"


def needs_gpu(model: str | None) -> bool:
    """Say whether a model of `embeddings.models`, or None for the scorer aesthetic, is made for a GPU; `fingerprint` is not."""
    return (AESTHETIC if model is None else registry.spec(model)).gpu_memory_gb > 0


def gpu_pool(model: str | None) -> str | None:
    """Name the pool of a model's step; None for one that needs no GPU."""
    return GPU if needs_gpu(model) else None


def gpu_tags(kubernetes: KubernetesSettings) -> dict[str, Any]:
    """Write the tags of a step or a run that needs a GPU."""
    config = kubernetes.gpu_config()
    return {K8S_CONFIG: config} if config else {}


def set_pool_limits(instance: dg.DagsterInstance, limits: Mapping[Any, int]) -> dict[str, int]:
    """Give pools their limits, where they have others; return what was changed.

    Pools that are not named keep what they have: what somebody set in the UI, or the default.
    """
    known = {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits() if not pool.from_default}
    changed = {name: limit for name, limit in limits.items() if known.get(name) != limit}
    for name, limit in changed.items():
        instance.event_log_storage.set_concurrency_slots(name, limit)
    return changed


def what_holds(instance: dg.DagsterInstance) -> list[str]:
    """Say which pools are full, and which runs hold them: a run of ours waits for those."""
    lines = []
    for pool in (DECODE, GPU):
        info = instance.event_log_storage.get_concurrency_info(pool)
        if info.claimed_slots and info.limit is not None and len(info.claimed_slots) >= info.limit:
            lines.append(f"pool {pool} is held by run {', '.join(sorted(info.active_run_ids))}; this run waits where it needs it")
    return lines


def _seconds_to_next_claim(context: InstanceConcurrencyContext) -> float:
    now = time.time()
    return max(0.0, min((ready_at - now for ready_at in context._pending_timeouts.values()), default=0.0))


def sleep_while_pools_are_full() -> None:
    """Let a run that waits for a place in a pool sleep until its next look, 1 to 15 s.

    Dagster (1.13.27, `interval_to_next_pending_claim_check`) takes the smallest of those waits and 0, so that its in-process executor never sleeps and keeps a core busy.
    """
    InstanceConcurrencyContext.interval_to_next_pending_claim_check = _seconds_to_next_claim  # type: ignore[method-assign,assignment]


def main() -> None:
    """Set the limits of the settings file on `DAGSTER_HOME`'s instance, for start scripts: `python -m curation_assets.defs.pools`."""
    from curation_assets.configuration import find_config, load_config

    with dg.DagsterInstance.get() as instance:
        changed = set_pool_limits(instance, load_config(find_config()).automation.pool_limits)
    print(", ".join(f"pool {name}: {limit}" for name, limit in changed.items()) or "pools: nothing to change")


if __name__ == "__main__":
    main()
