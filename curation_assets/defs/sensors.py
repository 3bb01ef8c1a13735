"""Sensors: what asks for runs when something happens outside. They only pass on what `curation/watching.py` and `curation/queue_watching.py` find."""

import os
from collections.abc import Callable

import dagster as dg

from curation_assets.configuration import find_config, load_config
from curation_assets.curation.queue_watching import look_at_queues
from curation_assets.curation.warehouse import Warehouse
from curation_assets.curation.watching import Tick, look
from curation_assets.defs.partitions import video_sources
from curation_assets.defs.run_history import is_waited_for
from curation_assets.settings import Config
from curation_assets.storage.errors import StoreError

_JOB = "curate_source"
REASON_TAG = "curation/reason"


def build_bucket_upload_sensor(config: Config, config_path: str | os.PathLike[str] | None = None) -> dg.SensorDefinition:
    """Build the sensor that watches the roots of the settings; it runs from the start when there are any.

    Args:
        config: the settings.
        config_path: settings file that each tick reads again; None looks for it as the command line does.
    """
    return _build_sensor(
        "bucket_upload_sensor",
        config,
        config_path,
        look=lambda current, cursor: look(current, Warehouse.of(current), cursor),
        is_wanted=lambda current: bool(current.watch),
        absent="nothing is watched; name a folder or a bucket under `watch` in the settings file",
        description="Watches the folders and buckets under `watch` in the settings: a new, changed or emptied source gets one run of curate_source.",
    )


def build_sqs_upload_sensor(config: Config, config_path: str | os.PathLike[str] | None = None) -> dg.SensorDefinition:
    """Build the sensor that reads the queues of the settings; it runs from the start when there are any.

    Args:
        config: the settings.
        config_path: settings file that each tick reads again; None looks for it as the command line does.
    """
    return _build_sensor(
        "sqs_upload_sensor",
        config,
        config_path,
        look=lambda current, cursor: look_at_queues(current, Warehouse.of(current), cursor),
        is_wanted=lambda current: bool(current.queues),
        absent="no queue is read; name one under `queues` in the settings file",
        description="Reads the SQS queues under `queues` in the settings: a source below `watch` in which objects came or went gets one run of curate_source.",
    )


def _build_sensor(
    name: str,
    config: Config,
    config_path: str | os.PathLike[str] | None,
    *,
    look: Callable[[Config, str | None], Tick],
    is_wanted: Callable[[Config], bool],
    absent: str,
    description: str,
) -> dg.SensorDefinition:
    @dg.sensor(
        name=name,
        job_name=_JOB,
        minimum_interval_seconds=config.sensors.interval_s,
        default_status=dg.DefaultSensorStatus.RUNNING if is_wanted(config) else dg.DefaultSensorStatus.STOPPED,
        description=description,
    )
    def upload_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        """Look outside, and ask for a run of every source in which something is new, changed or deleted."""
        current = load_config(find_config(str(config_path) if config_path else None))
        if not is_wanted(current):
            return dg.SkipReason(absent)
        try:
            tick = look(current, context.cursor)
        except StoreError as error:  # the cursor stays: the next tick does this one again
            return dg.SkipReason(f"the warehouse {current.warehouse} cannot be used: {error}")
        for problem in tick.problems:
            context.log.warning(problem)
        # where files come all the time, runs would be asked for faster than they end
        requests = [request for request in tick.requests if not is_waited_for(context.instance, _JOB, request.source)]
        if not requests:
            reason = f"{len(tick.requests)} sources changed for which a run waits already" if tick.requests else tick.summary()
            return dg.SensorResult(skip_reason=reason, cursor=tick.cursor)
        return dg.SensorResult(
            # the settings allow no more requests in a tick than SQLite takes keys in a statement
            dynamic_partitions_requests=[video_sources.build_add_request([request.source for request in requests])],
            run_requests=[
                dg.RunRequest(run_key=request.run_key, partition_key=request.source, tags={REASON_TAG: request.reason})
                for request in requests
            ],
            cursor=tick.cursor,
        )

    return upload_sensor
