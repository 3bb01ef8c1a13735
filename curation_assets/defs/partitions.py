"""Partitions: one per video source, made and removed as the registry says."""

import os
from collections.abc import Iterable, Sequence

import dagster as dg
from dagster._record import replace  # dg.Definitions has no copy of its own (1.13)
from sqlalchemy.exc import IntegrityError

from curation_assets.curation.sources import SourceRegistry
from curation_assets.settings import AutomationSettings

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"

video_sources = dg.DynamicPartitionsDefinition(name="video_source")

# Every partitioned asset shares one policy: then one run carries the whole chain, and a model loads once for many sources. The settings may give another number.
backfill_policy = dg.BackfillPolicy.multi_run(max_partitions_per_run=AutomationSettings().sources_per_run)

_TRIES = 5
_KEYS_PER_CALL = 1000  # SQLite allows 32,766 variables in a statement


def with_sources_per_run(definitions: dg.Definitions, number: int) -> dg.Definitions:
    """Give all partitioned assets the policy that so many sources share a run of a backfill."""
    policy = dg.BackfillPolicy.multi_run(max_partitions_per_run=number)
    assets = [
        item.with_attributes(backfill_policy=policy) if isinstance(item, dg.AssetsDefinition) and item.backfill_policy else item
        for item in definitions.assets or []
    ]
    return replace(definitions, assets=assets)


def sync_partitions(instance: dg.DagsterInstance, names: Iterable[str], *, registry: SourceRegistry | None = None) -> None:
    """Add the registry's names to the instance's partitions; existing ones keep their order.

    Partitions that the registry does not have go, unless `DAGSTER_HOME` is set: several warehouses may share such an instance then, and only
    `remove_partition` takes one away.

    Args:
        instance: of Dagster.
        names: of the registry, as it was when they were read.
        registry: to look again before a partition goes, because a sensor may have added its source meanwhile; None takes the names for the last word.
    """
    wanted = list(names)
    for tries_left in range(_TRIES - 1, -1, -1):
        present = instance.get_dynamic_partitions(video_sources.name or "")
        try:
            known = set(present)
            _add(instance, [name for name in wanted if name not in known])
            break
        except IntegrityError:  # another run added one of them since they were listed
            if not tries_left:
                raise
    if not os.environ.get("DAGSTER_HOME"):
        gone = set(present) - set(wanted)
        if gone and registry is not None:  # whoever adds a partition has registered its source before
            gone -= set(registry.names())
        for name in gone:
            remove_partition(instance, name)


def _add(instance: dg.DagsterInstance, names: Sequence[str]) -> None:
    for start in range(0, len(names), _KEYS_PER_CALL):
        instance.add_dynamic_partitions(video_sources.name or "", names[start : start + _KEYS_PER_CALL])


def remove_partition(instance: dg.DagsterInstance, name: str) -> None:
    """Take one source's partition away."""
    instance.delete_dynamic_partition(video_sources.name or "", name)
