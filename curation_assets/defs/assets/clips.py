"""clips: the spans of each video."""

from collections.abc import Iterator

import dagster as dg

from curation_assets.curation.checks import referential_integrity
from curation_assets.curation.clips import CODE_VERSION, update_clips
from curation_assets.curation.looks import look_at_clips
from curation_assets.defs.metadata import asset_spec, backfill_policy, check_specs
from curation_assets.defs.pools import DECODE
from curation_assets.defs.resources import CurationResource
from curation_assets.defs.stages import CurationStage, Table, materialize
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.raw_videos import RAW_VIDEOS

STAGE = CurationStage(
    tables=(Table(CLIPS, CODE_VERSION, look_at_clips, (referential_integrity,)),),
    update=lambda run, _: update_clips(run),
    pool=DECODE,
)


@dg.multi_asset(
    name="clips",
    specs=[
        asset_spec(
            CLIPS,
            description="Spans of each video on its own timeline, from one demux; the packet index is kept for the later stages.",
            code_version=CODE_VERSION,
            group="curate_source",
            kinds={"lance", "ffmpeg"},
            deps=[RAW_VIDEOS.asset_key],
        )
    ],
    check_specs=check_specs(CLIPS, ["failure_rate", "referential_integrity", "source_readable"]),
    backfill_policy=backfill_policy,
    pool=STAGE.pool,
)
def clips(context: dg.AssetExecutionContext, curation: CurationResource) -> Iterator[dg.MaterializeResult[None]]:
    """Index and split."""
    yield from materialize(context, curation, STAGE)
