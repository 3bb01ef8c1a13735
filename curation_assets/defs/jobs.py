"""Jobs: `curate_source` for one partition or a range of them, `curate_sources` for any set of them in one run.

`curate_source_cpu` and `curate_source_gpu` are the two halves of `curate_source`, for machines that have the one or the other.
"""

from dataclasses import dataclass, replace
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition  # not exported at the top level
from pydantic import Field

from curation_assets.curation.checks import CheckOutcome
from curation_assets.defs.assets import aesthetic, clips, embeddings, frame_sets, previews, raw_videos, transcoded_clips
from curation_assets.defs.metadata import check_result
from curation_assets.defs.partitions import backfill_policy, video_sources
from curation_assets.defs.pools import gpu_tags
from curation_assets.defs.resources import CurationResource
from curation_assets.defs.stages import CurationStage, Table, merged_checks, work_on_keys
from curation_assets.schemas import names
from curation_assets.schemas.clip_scores import CLIP_SCORES_AESTHETIC
from curation_assets.schemas.table import TableSpec
from curation_assets.settings import Config

__all__ = ["backfill_policy", "build_curate_corpus", "build_curate_sources", "build_jobs", "build_stages"]


def build_stages(config: Config) -> list[CurationStage]:
    """List the stages that the settings ask for, in the order of the data."""
    frames = frame_sets.STAGE
    if "pixels" not in config.clip_scores.scorers:
        frames = replace(frames, tables=frames.tables[:1])
    return [
        raw_videos.STAGE,
        clips.STAGE,
        frames,
        *([aesthetic.STAGE] if "aesthetic" in config.clip_scores.scorers else []),
        *(embeddings.build_stage(model) for model in config.embeddings.models),
        *([transcoded_clips.STAGE] if config.transcoded_clips.enabled else []),
        *(previews.build_stage(name) for name in config.previews),
    ]


def build_jobs(
    config: Config, *, tables: list[TableSpec], corpus: list[TableSpec], stages: list[CurationStage]
) -> list[dg.JobDefinition | UnresolvedAssetJobDefinition]:
    """Build all jobs. Runs with a model that needs a GPU carry the tags by which Kubernetes gives them one."""
    models = [spec for spec in tables if _is_model_table(spec)]
    tags = gpu_tags(config.kubernetes, models=[_model_of(spec) for spec in models])
    halves = [
        _build_source_job(
            "curate_source_cpu",
            [spec for spec in tables if spec not in models],
            description="The partitioned assets of a video source that use no model: listing, clips, frames, pixel scores, files, previews.",
        )
    ]
    if models:
        listed = ", ".join(spec.asset for spec in models)
        halves.append(
            _build_source_job(
                "curate_source_gpu",
                models,
                tags=tags,
                description=f"The models' assets of a video source, from frames that curate_source_cpu has stored: {listed}.",
            )
        )
    return [
        _build_source_job(
            "curate_source", tables, tags=tags, description="All partitioned assets of a video source, in the order of the data."
        ),
        *halves,
        build_curate_sources(stages, tags=tags),
        build_curate_corpus(corpus),
    ]


def _is_model_table(spec: TableSpec) -> bool:
    return spec.asset == CLIP_SCORES_AESTHETIC.asset or spec.asset.startswith(f"{names.EMBEDDINGS}/")


def _model_of(spec: TableSpec) -> str | None:
    return None if spec.asset == CLIP_SCORES_AESTHETIC.asset else spec.asset.partition("/")[2]


def _build_source_job(
    name: str, tables: list[TableSpec], *, description: str, tags: dict[str, Any] | None = None
) -> UnresolvedAssetJobDefinition:
    """Build a job over one source, or a contiguous range of sources."""
    return dg.define_asset_job(
        name,
        selection=dg.AssetSelection.assets(*(dg.AssetKey(spec.asset_key) for spec in tables)),
        partitions_def=video_sources,
        tags=tags,
        description=description,
    )


def build_curate_corpus(tables: list[TableSpec]) -> UnresolvedAssetJobDefinition:
    """Build the job that brings the tables over all sources up to date."""
    keys = [dg.AssetKey(spec.asset_key) for spec in tables]
    return dg.define_asset_job(
        "curate_corpus",
        selection=dg.AssetSelection.assets(*keys, dg.AssetKey("curation_status")),
        description="The tables over all sources: duplicates, search indexes, curated_clips, and the status.",
    )


class CurateSources(dg.Config):
    """Which sources, and which assets of them."""

    partition_names: list[str] = Field(description="Names of the sources.")
    asset_names: list[str] = Field([], description="Assets to bring up to date, such as clips or embeddings/fingerprint; none means all.")


@dataclass(frozen=True)
class _Work:
    """What the steps of one `curate_sources` run hand on.

    Attributes:
        sources: to work on.
        assets: to make; empty means all.
        errors: what could not be worked on so far, by source.
    """

    sources: list[str]
    assets: list[str]
    errors: dict[str, str]


def build_curate_sources(stages: list[CurationStage], *, tags: dict[str, Any] | None = None) -> dg.JobDefinition:
    """Build the job that takes any set of sources in one run; stale ones are rarely a contiguous range.

    One step per stage, each over all the sources and holding its stage's pool: while one run decodes, another may embed.
    """
    known = [table.spec.asset for stage in stages for table in stage.tables]

    @dg.op(name="curate_sources_op")
    def curate_sources_op(config: CurateSources) -> _Work:
        """Check what is asked for."""
        unknown = [name for name in config.asset_names if name not in known]
        if unknown or not config.partition_names:
            wrong = f"asset_names {unknown}; there are {known}" if unknown else "partition_names is empty; name the sources"
            raise dg.Failure(f"curate_sources: {wrong}", allow_retries=False)
        return _Work(list(config.partition_names), list(config.asset_names), {})

    @dg.op(name="curate_sources_end")
    def curate_sources_end(work: _Work) -> None:
        """Fail when a source could not be worked on, after everything else was done."""
        if work.errors:
            raise dg.Failure("; ".join(f"{key}: {error}" for key, error in work.errors.items()), allow_retries=False)

    steps = [_build_step(stage) for stage in stages]

    @dg.job(
        name="curate_sources",
        executor_def=dg.in_process_executor,
        tags=tags,
        description="All assets of any set of video sources in one run. Give partition_names in the Launchpad; asset_names limits the assets.",
    )
    def curate_sources() -> None:
        work = curate_sources_op()
        for step in steps:
            work = step(work)
        curate_sources_end(work)

    return curate_sources


def _build_step(stage: CurationStage) -> dg.OpDefinition:
    @dg.op(
        name=f"curate_{stage.tables[0].spec.view}",
        pool=stage.pool,
        description=f"Bring {', '.join(table.spec.asset for table in stage.tables)} of every source up to date.",
    )
    def step(context: dg.OpExecutionContext, work: _Work, curation: CurationResource) -> _Work:
        tables = [table for table in stage.tables if not work.assets or table.spec.asset in work.assets]
        if not tables:
            return work
        results, errors = work_on_keys(context, curation, stage, tables, work.sources)
        for table in tables if results else []:
            for result in results:
                context.log_event(_event(table, result))
            for check in merged_checks(table, results, errors):
                context.log_event(_evaluation(table, check))  # type: ignore[arg-type] # taken, though not in the annotation (1.13)
        return _Work(work.sources, work.assets, {**work.errors, **errors})

    return step


def _event(table: Table, result) -> dg.AssetMaterialization:  # type: ignore[no-untyped-def]
    return dg.AssetMaterialization(
        asset_key=dg.AssetKey(table.spec.asset_key),
        partition=result.key,
        metadata=result.metadata[table.spec.asset],
        tags={"dagster/data_version": result.data_versions[table.spec.asset], "dagster/code_version": table.code_version},
    )


def _evaluation(table: Table, check: CheckOutcome) -> dg.AssetCheckEvaluation:
    result = check_result(table.spec, check)
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(table.spec.asset_key),
        check_name=check.name,
        passed=check.passed,
        metadata={name: dg.MetadataValue.text(str(value)) for name, value in check.metadata.items()},
        severity=result.severity,
        description=check.description,
    )
