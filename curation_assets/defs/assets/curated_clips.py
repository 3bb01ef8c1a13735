"""curated_clips: every clip with all that speaks for and against it."""

from collections.abc import Iterator
from functools import partial

import dagster as dg

from curation_assets.curation.checks import corpus_integrity
from curation_assets.curation.corpus_looks import look_at_curated
from curation_assets.curation.curated_clips import CODE_VERSION, update_curated_clips
from curation_assets.defs.corpus import materialize_corpus
from curation_assets.defs.metadata import asset_spec, check_specs
from curation_assets.defs.resources import CurationResource
from curation_assets.schemas import names
from curation_assets.schemas.curated_clips import CURATED_CLIPS
from curation_assets.schemas.duplicates import duplicates_table
from curation_assets.schemas.table import TableSpec


def build_curated_clips(tables: list[TableSpec], *, model: str | None) -> dg.AssetsDefinition:
    """Build the asset.

    Args:
        tables: the tables per source that there are.
        model: whose duplicates are left out; None leaves none out.
    """
    spec = asset_spec(
        CURATED_CLIPS,
        description="One row per clip of all sources: selected, or every reason why not; scores, encoded clip, what it is a duplicate of.",
        code_version=CODE_VERSION,
        group="corpus",
        kinds={"lance", "duckdb"},
        deps=[
            *(table.asset_key for table in tables if not table.asset.startswith(names.EMBEDDINGS)),
            *([duplicates_table(model).asset_key] if model else []),
        ],
    )

    @dg.multi_asset(name="curated_clips", specs=[spec], check_specs=check_specs(CURATED_CLIPS, ["referential_integrity"]))
    def curated_clips(context: dg.AssetExecutionContext, curation: CurationResource) -> Iterator[dg.MaterializeResult[None]]:
        """Put together."""
        yield materialize_corpus(
            context,
            curation,
            CURATED_CLIPS,
            update=partial(update_curated_clips, tables=tables, model=model),
            look=look_at_curated,
            checks=(corpus_integrity,),
        )

    return curated_clips
