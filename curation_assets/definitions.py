"""Definitions: the table of contents, in the order of the data.

The settings file is read when Dagster asks for the definitions, not when this module is imported: a model that the settings do not name has no asset.
"""

import os
from collections.abc import Mapping
from typing import Any

import dagster as dg

from curation_assets.configuration import find_config, load_config, project_settings, without_project_settings
from curation_assets.curation.splitters import check_all_packages
from curation_assets.curation.warehouse import corpus_specs, deciding_model, table_specs
from curation_assets.defs.assets.aesthetic import build_aesthetic
from curation_assets.defs.assets.clips import clips
from curation_assets.defs.assets.curated_clips import build_curated_clips
from curation_assets.defs.assets.curation_status import curation_status
from curation_assets.defs.assets.duplicates import build_duplicates
from curation_assets.defs.assets.embeddings import build_embeddings
from curation_assets.defs.assets.frame_sets import build_frame_sets
from curation_assets.defs.assets.previews import build_previews
from curation_assets.defs.assets.raw_videos import raw_videos
from curation_assets.defs.assets.search_index import build_search_index
from curation_assets.defs.assets.transcoded_clips import build_transcoded_clips
from curation_assets.defs.frames_sensor import build_frames_sensor
from curation_assets.defs.jobs import build_jobs
from curation_assets.defs.maintain import maintain_warehouse, weekly_maintenance_schedule
from curation_assets.defs.notify import build_failed_run_sensor
from curation_assets.defs.partitions import with_sources_per_run
from curation_assets.defs.parts import Part, part_of_environment
from curation_assets.defs.processes import process_killed_sensor
from curation_assets.defs.resources import CurationResource
from curation_assets.defs.schedules import build_schedules
from curation_assets.defs.sensors import build_bucket_upload_sensor, build_sqs_upload_sensor


def build_defs(
    *, overrides: Mapping[str, Any] | None = None, config_path: str | os.PathLike[str] | None = None, part: Part = Part.ALL
) -> dg.Definitions:
    """Build the definitions from the settings.

    Args:
        overrides: a settings tree that wins over the file, also in the runs.
        config_path: settings file; None looks for it as the command line does.
        part: what this code location holds.
    """
    path = find_config(str(config_path) if config_path else None)
    config = load_config(path, overrides)
    tables, corpus = table_specs(config), corpus_specs(config)
    own = part.tables(tables)
    check_all_packages(config, overrides)
    assets = [
        raw_videos,
        clips,
        build_frame_sets(list(config.clip_scores.scorers)),
        *([build_aesthetic(config)] if "aesthetic" in config.clip_scores.scorers else []),
        *(build_embeddings(model, config) for model in config.embeddings.models),
        *([build_transcoded_clips(config)] if config.transcoded_clips.enabled else []),
        *(build_previews(name, config) for name in config.previews),
        *(build_duplicates(model, config) for model in config.embeddings.models),
        *(build_search_index(model) for model in config.embeddings.models),
        build_curated_clips(tables, model=deciding_model(config)),
        curation_status,
    ]
    jobs = build_jobs(config, tables=own, corpus=corpus, part=part)
    schedules = build_schedules(config, path=path, overrides=overrides, part=part, tables=own)
    sensors: list[dg.SensorDefinition] = [build_failed_run_sensor(config.automation.notify)]
    if part is Part.GPU:
        sensors += [build_frames_sensor("curate_source_gpu", own, path=path, overrides=overrides)] if own else []
    else:
        jobs.append(maintain_warehouse)
        schedules.append(weekly_maintenance_schedule)
        sensors += [process_killed_sensor, build_bucket_upload_sensor(config, path), build_sqs_upload_sensor(config, path)]
    definitions = dg.Definitions(
        assets=part.assets(assets, tables),
        jobs=jobs,
        schedules=schedules,
        sensors=sensors,
        resources={
            "curation": CurationResource(
                config_path=str(path) if path else None,
                settings=without_project_settings(overrides or {}),
                project=project_settings(overrides or {}),
            )
        },
        executor=dg.in_process_executor,
    )
    return with_sources_per_run(definitions, config.automation.sources_per_run)


@dg.definitions
def defs() -> dg.Definitions:
    """What `dagster dev`, `dg` and code servers load."""
    return build_defs(part=part_of_environment())
