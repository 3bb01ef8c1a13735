"""transcoded_clips: the kept clips as files."""

from collections.abc import Iterator

import dagster as dg

from curation_assets.curation.checks import media_exists, referential_integrity
from curation_assets.curation.media_looks import look_at_transcoded_clips
from curation_assets.curation.transcoded_clips import CODE_VERSION, update_transcoded_clips
from curation_assets.defs.metadata import asset_spec, backfill_policy, check_specs
from curation_assets.defs.pools import DECODE
from curation_assets.defs.resources import CurationResource
from curation_assets.defs.stages import CurationStage, Table, materialize
from curation_assets.schemas.clip_scores import SCORER_TABLES
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.schemas.transcoded_clips import TRANSCODED_CLIPS
from curation_assets.settings import Config

STAGE = CurationStage(
    tables=(Table(TRANSCODED_CLIPS, CODE_VERSION, look_at_transcoded_clips, (referential_integrity, media_exists)),),
    update=lambda run, _: update_transcoded_clips(run),
    pool=DECODE,
)


def build_transcoded_clips(config: Config) -> dg.AssetsDefinition:
    """Build the asset; the scores decide which clips are kept."""
    scores = [SCORER_TABLES[name].asset_key for name in config.clip_scores.scorers]
    spec = asset_spec(
        TRANSCODED_CLIPS,
        description="One MP4 per kept clip, exact to the frame: packets copied where a clip begins at a keyframe, encoded elsewhere; each file opened again "
        "and checked.",
        code_version=CODE_VERSION,
        group="curate_source",
        kinds={"lance", "ffmpeg"},
        deps=[RAW_VIDEOS.asset_key, CLIPS.asset_key, FRAME_SETS.asset_key, *scores],
    )
    checks = check_specs(TRANSCODED_CLIPS, ["failure_rate", "referential_integrity", "media_exists", "source_readable"])

    @dg.multi_asset(name="transcoded_clips", specs=[spec], check_specs=checks, backfill_policy=backfill_policy, pool=STAGE.pool)
    def transcoded_clips(context: dg.AssetExecutionContext, curation: CurationResource) -> Iterator[dg.MaterializeResult[None]]:
        """Copy or encode."""
        yield from materialize(context, curation, STAGE)

    return transcoded_clips
