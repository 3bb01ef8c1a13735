"""raw_videos: the objects of a source."""

from collections.abc import Iterator

import dagster as dg

from curation_assets.curation.looks import look_at_videos
from curation_assets.curation.raw_videos import CODE_VERSION, update_raw_videos
from curation_assets.defs.metadata import asset_spec, backfill_policy, check_specs
from curation_assets.defs.resources import CurationResource
from curation_assets.defs.stages import CurationStage, Table, materialize
from curation_assets.schemas.raw_videos import RAW_VIDEOS

STAGE = CurationStage(
    tables=(Table(RAW_VIDEOS, CODE_VERSION, look_at_videos),),
    update=lambda run, _: update_raw_videos(run),
)


@dg.multi_asset(
    name="raw_videos",
    specs=[
        asset_spec(
            RAW_VIDEOS,
            description="Every video object of the source, with its listing and what its header says. Changes are seen by etag.",
            code_version=CODE_VERSION,
            group="curate_source",
            kinds={"lance", "ffmpeg"},
            deps=[],
        )
    ],
    check_specs=check_specs(RAW_VIDEOS, ["failure_rate", "source_readable"]),
    backfill_policy=backfill_policy,
)
def raw_videos(context: dg.AssetExecutionContext, curation: CurationResource) -> Iterator[dg.MaterializeResult[None]]:
    """List and probe."""
    yield from materialize(context, curation, STAGE)
