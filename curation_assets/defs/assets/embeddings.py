"""embeddings/<model>: one asset per model that the settings name."""

from collections.abc import Iterator
from functools import partial

import dagster as dg

from curation_assets.curation.checks import frames_ready, referential_integrity, unit_norms
from curation_assets.curation.embeddings import CODE_VERSION, update_embeddings
from curation_assets.curation.looks import look_at_embeddings
from curation_assets.defs.metadata import asset_spec, backfill_policy, check_specs
from curation_assets.defs.pools import gpu_pool, gpu_tags
from curation_assets.defs.resources import CurationResource
from curation_assets.defs.stages import CurationStage, Table, materialize
from curation_assets.models import registry
from curation_assets.schemas.embeddings import embeddings_table
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.settings import Config


def build_stage(model: str) -> CurationStage:
    """Build the stage of one model."""
    spec = registry.spec(model)
    table = embeddings_table(model, spec.dim)
    version = f"{CODE_VERSION}-{spec.revision}"
    return CurationStage(
        tables=(Table(table, version, partial(look_at_embeddings, spec=table), (referential_integrity, unit_norms, frames_ready)),),
        update=lambda run, _: update_embeddings(run, model),
        pool=gpu_pool(model),
    )


def build_embeddings(model: str, config: Config) -> dg.AssetsDefinition:
    """Build the asset of one model."""
    stage = build_stage(model)
    table = stage.tables[0]
    spec = asset_spec(
        table.spec,
        description=f"Vectors of {registry.spec(model).name} ({registry.spec(model).dim}-d, unit length) per clip and per video, from the stored frames.",
        code_version=table.code_version,
        group="curate_source",
        kinds={"lance", "numpy"},
        deps=[FRAME_SETS.asset_key],
    )
    checks = check_specs(table.spec, ["failure_rate", "referential_integrity", "unit_norms", "frames_ready", "source_readable"])

    @dg.multi_asset(
        name=table.spec.view,
        specs=[spec],
        check_specs=checks,
        backfill_policy=backfill_policy,
        pool=stage.pool,
        op_tags=gpu_tags(config.kubernetes, models=[model]),
    )
    def embeddings(context: dg.AssetExecutionContext, curation: CurationResource) -> Iterator[dg.MaterializeResult[None]]:
        """Embed."""
        yield from materialize(context, curation, stage)

    return embeddings
