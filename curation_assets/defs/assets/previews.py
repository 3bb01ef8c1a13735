"""previews/<name>: one asset per preview that the settings name."""

from collections.abc import Iterator
from functools import partial

import dagster as dg

from curation_assets.curation.checks import media_exists, referential_integrity
from curation_assets.curation.media_looks import look_at_previews
from curation_assets.curation.previews import CODE_VERSION, update_previews
from curation_assets.defs.metadata import asset_spec, backfill_policy, check_specs
from curation_assets.defs.pools import DECODE
from curation_assets.defs.resources import CurationResource
from curation_assets.defs.stages import CurationStage, Table, materialize
from curation_assets.schemas.clip_scores import SCORER_TABLES
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.schemas.previews import previews_table
from curation_assets.settings import Config


def build_stage(name: str) -> CurationStage:
    """Build the stage of one preview."""
    return CurationStage(
        tables=(Table(previews_table(name), CODE_VERSION, partial(look_at_previews, name=name), (referential_integrity, media_exists)),),
        update=lambda run, _: update_previews(run, name),
        pool=DECODE,
    )


def build_previews(name: str, config: Config) -> dg.AssetsDefinition:
    """Build the asset of one preview; the scores decide which clips are kept."""
    stage = build_stage(name)
    table = stage.tables[0]
    scores = [SCORER_TABLES[name].asset_key for name in config.clip_scores.scorers]
    preview = config.previews[name]
    origin = FRAME_SETS.asset_key if preview.origin == "frames" else CLIPS.asset_key
    spec = asset_spec(
        table.spec,
        description=f"An animated WebP per kept clip, {preview.height_px} pixels high, {preview.fps:g} pictures per second, from the "
        f"{'stored frames' if preview.origin == 'frames' else 'video'}.",
        code_version=table.code_version,
        group="curate_source",
        kinds={"lance"},
        deps=[origin, *scores],
    )
    checks = check_specs(table.spec, ["failure_rate", "referential_integrity", "media_exists", "source_readable"])

    @dg.multi_asset(name=table.spec.view, specs=[spec], check_specs=checks, backfill_policy=backfill_policy, pool=stage.pool)
    def previews(context: dg.AssetExecutionContext, curation: CurationResource) -> Iterator[dg.MaterializeResult[None]]:
        """Draw."""
        yield from materialize(context, curation, stage)

    return previews
