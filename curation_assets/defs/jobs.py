"""Jobs: `curate_source` for one partition or a range of them, `curate_sources` for any set of them in one run."""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition  # not exported at the top level

from curation_assets.curation.checks import CheckOutcome
from curation_assets.defs.assets import aesthetic, clips, embeddings, frame_sets, previews, raw_videos, transcoded_clips
from curation_assets.defs.metadata import check_result
from curation_assets.defs.partitions import backfill_policy, video_sources
from curation_assets.defs.resources import CurationResource
from curation_assets.defs.stages import CurationStage, Table, merged_checks, work_on_keys
from curation_assets.schemas.table import TableSpec
from curation_assets.settings import Config

__all__ = ["backfill_policy", "build_curate_corpus", "build_curate_source", "build_curate_sources", "build_stages"]


def build_stages(config: Config) -> list[CurationStage]:
    """List the stages that the settings ask for, in the order of the data."""
    frames = frame_sets.STAGE
    if "pixels" not in config.clip_scores.scorers:
        frames = CurationStage(frames.tables[:1], frames.update)
    return [
        raw_videos.STAGE,
        clips.STAGE,
        frames,
        *([aesthetic.STAGE] if "aesthetic" in config.clip_scores.scorers else []),
        *(embeddings.build_stage(model) for model in config.embeddings.models),
        *([transcoded_clips.STAGE] if config.transcoded_clips.enabled else []),
        *(previews.build_stage(name) for name in config.previews),
    ]


def build_curate_source(tables: list[TableSpec], name: str = "curate_source") -> UnresolvedAssetJobDefinition:
    """Build the job that brings one source, or a contiguous range of sources, through all partitioned assets."""
    return dg.define_asset_job(
        name,
        selection=dg.AssetSelection.assets(*(dg.AssetKey(spec.asset_key) for spec in tables)),
        partitions_def=video_sources,
        description="All partitioned assets of a video source, in the order of the data.",
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

    partition_names: list[str]
    asset_names: list[str] = []  # noqa: RUF012 - empty means all


def build_curate_sources(stages: list[CurationStage]) -> dg.JobDefinition:
    """Build the job that takes any set of sources in one run; stale ones are rarely a contiguous range."""

    @dg.op(name="curate_sources_op")
    def curate_sources_op(context: dg.OpExecutionContext, config: CurateSources, curation: CurationResource) -> None:
        """Work through the stages, each over all the sources, and record every partition's materialization."""
        known = [table.spec.asset for stage in stages for table in stage.tables]
        unknown = [name for name in config.asset_names if name not in known]
        if unknown or not config.partition_names:
            wrong = f"asset_names {unknown}; there are {known}" if unknown else "partition_names is empty; name the sources"
            raise dg.Failure(f"curate_sources: {wrong}", allow_retries=False)
        all_errors: dict[str, str] = {}
        for stage in stages:
            tables = [table for table in stage.tables if not config.asset_names or table.spec.asset in config.asset_names]
            if tables:
                results, errors = work_on_keys(context, curation, stage, tables, config.partition_names)
                for table in tables if results else []:
                    for result in results:
                        context.log_event(_event(table, result))
                    for check in merged_checks(table, results, errors):
                        context.log_event(_evaluation(table, check))  # type: ignore[arg-type] # taken, though not in the annotation (1.13)
                all_errors.update(errors)
        if all_errors:
            raise dg.Failure("; ".join(f"{key}: {error}" for key, error in all_errors.items()), allow_retries=False)

    @dg.job(
        name="curate_sources",
        executor_def=dg.in_process_executor,
        description="All assets of any set of video sources in one run. Give partition_names in the Launchpad; asset_names limits the assets.",
    )
    def curate_sources() -> None:
        curate_sources_op()

    return curate_sources


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
