"""Sensors: what asks for runs when something happens outside. They only pass on what `curation/watching.py` finds."""

import os

import dagster as dg

from curation_assets.configuration import find_config, load_config
from curation_assets.curation import watching
from curation_assets.curation.warehouse import Warehouse
from curation_assets.defs.partitions import video_sources
from curation_assets.settings import Config
from curation_assets.storage.errors import StoreError

REASON_TAG = "curation/reason"


def build_bucket_upload_sensor(config: Config, config_path: str | os.PathLike[str] | None = None) -> dg.SensorDefinition:
    """Build the sensor that watches the roots of the settings; it runs from the start when there are any.

    Args:
        config: the settings.
        config_path: settings file that each tick reads again; None looks for it as the command line does.
    """

    @dg.sensor(
        name="bucket_upload_sensor",
        job_name="curate_source",
        minimum_interval_seconds=config.sensors.interval_s,
        default_status=dg.DefaultSensorStatus.RUNNING if config.watch else dg.DefaultSensorStatus.STOPPED,
        description="Watches the folders and buckets under `watch` in the settings: a new, changed or emptied source gets one run of curate_source.",
    )
    def bucket_upload_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        """Look at the watched roots, and ask for a run of every source in which something is new, changed or deleted."""
        current = load_config(find_config(str(config_path) if config_path else None))
        if not current.watch:
            return dg.SkipReason("nothing is watched; name a folder or a bucket under `watch` in the settings file")
        try:
            tick = watching.look(current, Warehouse.of(current), context.cursor)
        except StoreError as error:  # the cursor stays: the next tick does this one again
            return dg.SkipReason(f"the warehouse {current.warehouse} cannot be used: {error}")
        for problem in tick.problems:
            context.log.warning(problem)
        if not tick.requests:
            return dg.SensorResult(skip_reason=tick.summary(), cursor=tick.cursor)
        return dg.SensorResult(
            # the settings allow no more requests in a tick than SQLite takes keys in a statement
            dynamic_partitions_requests=[video_sources.build_add_request([request.source for request in tick.requests])],
            run_requests=[
                dg.RunRequest(run_key=request.run_key, partition_key=request.source, tags={REASON_TAG: request.reason})
                for request in tick.requests
            ],
            cursor=tick.cursor,
        )

    return bucket_upload_sensor
