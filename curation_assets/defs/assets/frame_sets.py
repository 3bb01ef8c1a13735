"""frame_sets and clip_scores/pixels: one decode, one step, either of them selectable alone."""

from collections.abc import Iterator

import dagster as dg

from curation_assets.curation.checks import referential_integrity
from curation_assets.curation.frame_sets import CODE_VERSIONS, update_frame_sets
from curation_assets.curation.looks import look_at_frames, look_at_scores
from curation_assets.defs.metadata import asset_spec, backfill_policy, check_specs
from curation_assets.defs.pools import DECODE
from curation_assets.defs.resources import CurationResource
from curation_assets.defs.stages import CurationStage, Table, materialize
from curation_assets.schemas.clip_scores import CLIP_SCORES_PIXELS
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.schemas.raw_videos import RAW_VIDEOS

STAGE = CurationStage(
    tables=(
        Table(FRAME_SETS, CODE_VERSIONS[FRAME_SETS.asset], look_at_frames, (referential_integrity,)),
        Table(CLIP_SCORES_PIXELS, CODE_VERSIONS[CLIP_SCORES_PIXELS.asset], look_at_scores, (referential_integrity,)),
    ),
    update=update_frame_sets,
    pool=DECODE,
)
_CHECKS = ["failure_rate", "referential_integrity", "source_readable"]


def build_frame_sets(scorers: list[str]) -> dg.AssetsDefinition:
    """Build the step; without the `pixels` scorer it makes the frame sets alone."""
    with_scores = "pixels" in scorers
    specs = [
        asset_spec(
            FRAME_SETS,
            description="Frames of each clip, or of the whole video, as the settings' frame sets say; stored as JPEG with their times.",
            code_version=CODE_VERSIONS[FRAME_SETS.asset],
            group="curate_source",
            kinds={"lance", "ffmpeg"},
            deps=[CLIPS.asset_key, RAW_VIDEOS.asset_key],
            skippable=with_scores,
        )
    ]
    checks = check_specs(FRAME_SETS, _CHECKS)
    if with_scores:
        specs.append(
            asset_spec(
                CLIP_SCORES_PIXELS,
                description="Motion, stillness, black, blur and letterbox per clip, from the same decode. Scores only; thresholds apply later.",
                code_version=CODE_VERSIONS[CLIP_SCORES_PIXELS.asset],
                group="curate_source",
                kinds={"lance", "ffmpeg"},
                deps=[CLIPS.asset_key, RAW_VIDEOS.asset_key],
                skippable=True,
            )
        )
        checks += check_specs(CLIP_SCORES_PIXELS, _CHECKS)

    @dg.multi_asset(
        name="frame_sets", specs=specs, check_specs=checks, can_subset=with_scores, backfill_policy=backfill_policy, pool=STAGE.pool
    )
    def frame_sets(context: dg.AssetExecutionContext, curation: CurationResource) -> Iterator[dg.MaterializeResult[None]]:
        """Decode once."""
        yield from materialize(context, curation, STAGE)

    return frame_sets
