"""Partitions: one per video source, made and removed as the registry says."""

import os
from collections.abc import Iterable, Sequence

import dagster as dg
from sqlalchemy.exc import IntegrityError

video_sources = dg.DynamicPartitionsDefinition(name="video_source")

# Every partitioned asset shares one policy: then one run carries the whole chain, and a model loads once for many sources.
SOURCES_PER_RUN = 32
backfill_policy = dg.BackfillPolicy.multi_run(max_partitions_per_run=SOURCES_PER_RUN)

_TRIES = 5
_KEYS_PER_CALL = 1000  # SQLite allows 32,766 variables in a statement


def sync_partitions(instance: dg.DagsterInstance, names: Iterable[str]) -> None:
    """Add the registry's names to the instance's partitions; existing ones keep their order.

    Partitions that the registry does not have go, unless `DAGSTER_HOME` is set: several warehouses may share such an instance then, and only
    `remove_partition` takes one away.
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
        for name in set(present) - set(wanted):
            remove_partition(instance, name)


def _add(instance: dg.DagsterInstance, names: Sequence[str]) -> None:
    for start in range(0, len(names), _KEYS_PER_CALL):
        instance.add_dynamic_partitions(video_sources.name or "", names[start : start + _KEYS_PER_CALL])


def remove_partition(instance: dg.DagsterInstance, name: str) -> None:
    """Take one source's partition away."""
    instance.delete_dynamic_partition(video_sources.name or "", name)
