"""search_index/<model>: the vectors of all sources with an index over them, one asset per model that the settings name."""

from collections.abc import Iterator
from functools import partial

import dagster as dg

from curation_assets.curation.checks import corpus_integrity
from curation_assets.curation.corpus_looks import look_at_search_index
from curation_assets.curation.search_index import CODE_VERSION, update_search_index
from curation_assets.defs.corpus import materialize_corpus
from curation_assets.defs.metadata import asset_spec, check_specs
from curation_assets.defs.resources import CurationResource
from curation_assets.models import registry
from curation_assets.schemas.embeddings import embeddings_table
from curation_assets.schemas.search_index import search_index_table


def build_search_index(model: str) -> dg.AssetsDefinition:
    """Build the asset of one model."""
    dim = registry.spec(model).dim
    table = search_index_table(model, dim)
    spec = asset_spec(
        table,
        description=f"Index over the {model} vectors of all sources, for `search`; empty below search.index_from vectors, of which every one is compared.",
        code_version=f"{CODE_VERSION}-{registry.spec(model).revision}",
        group="corpus",
        kinds={"lance"},
        deps=[embeddings_table(model, dim).asset_key],
    )

    @dg.multi_asset(name=table.view, specs=[spec], check_specs=check_specs(table, ["referential_integrity"]))
    def search_index(context: dg.AssetExecutionContext, curation: CurationResource) -> Iterator[dg.MaterializeResult[None]]:
        """Index."""
        yield materialize_corpus(
            context,
            curation,
            table,
            update=partial(update_search_index, model=model),
            look=partial(look_at_search_index, model=model),
            checks=(corpus_integrity,),
        )

    return search_index
