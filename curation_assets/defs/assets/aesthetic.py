"""clip_scores/aesthetic: the score of a model, from the stored frames."""

from collections.abc import Iterator

import dagster as dg

from curation_assets.curation.aesthetic import CODE_VERSION, update_aesthetic
from curation_assets.curation.checks import frames_ready, referential_integrity
from curation_assets.curation.looks import look_at_aesthetic
from curation_assets.defs.metadata import asset_spec, backfill_policy, check_specs
from curation_assets.defs.pools import gpu_pool, gpu_tags
from curation_assets.defs.resources import CurationResource
from curation_assets.defs.stages import CurationStage, Table, materialize
from curation_assets.models.aesthetic import SPEC
from curation_assets.schemas.clip_scores import CLIP_SCORES_AESTHETIC
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.settings import Config

STAGE = CurationStage(
    tables=(Table(CLIP_SCORES_AESTHETIC, f"{CODE_VERSION}-{SPEC.revision}", look_at_aesthetic, (referential_integrity, frames_ready)),),
    update=lambda run, _: update_aesthetic(run),
    pool=gpu_pool(None),
)


def build_aesthetic(config: Config) -> dg.AssetsDefinition:
    """Build the asset."""
    spec = asset_spec(
        CLIP_SCORES_AESTHETIC,
        description="How much people like each clip's frames, about 1 to 10: CLIP ViT-L/14 and the LAION aesthetic head. Scores only; thresholds apply later.",
        code_version=STAGE.tables[0].code_version,
        group="curate_source",
        kinds={"lance", "pytorch"},
        deps=[FRAME_SETS.asset_key],
    )
    checks = check_specs(CLIP_SCORES_AESTHETIC, ["failure_rate", "referential_integrity", "frames_ready", "source_readable"])

    @dg.multi_asset(
        name="clip_scores_aesthetic",
        specs=[spec],
        check_specs=checks,
        backfill_policy=backfill_policy,
        pool=STAGE.pool,
        op_tags=gpu_tags(config.kubernetes, models=[None]),
    )
    def clip_scores_aesthetic(context: dg.AssetExecutionContext, curation: CurationResource) -> Iterator[dg.MaterializeResult[None]]:
        """Score."""
        yield from materialize(context, curation, STAGE)

    return clip_scores_aesthetic
