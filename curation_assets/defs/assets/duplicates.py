"""duplicates/<model>: near-duplicates over all sources, one asset per model that the settings name."""

from collections.abc import Iterator
from functools import partial

import dagster as dg

from curation_assets.curation.checks import corpus_integrity, no_chains
from curation_assets.curation.corpus_looks import look_at_duplicates
from curation_assets.curation.duplicates import CODE_VERSION, update_duplicates
from curation_assets.defs.corpus import materialize_corpus
from curation_assets.defs.metadata import asset_spec, check_specs
from curation_assets.defs.resources import CurationResource
from curation_assets.models import registry
from curation_assets.schemas.clip_scores import SCORER_TABLES
from curation_assets.schemas.duplicates import duplicates_table
from curation_assets.schemas.embeddings import embeddings_table
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.schemas.transcoded_clips import TRANSCODED_CLIPS
from curation_assets.settings import Config


def build_duplicates(model: str, config: Config) -> dg.AssetsDefinition:
    """Build the asset of one model."""
    table = duplicates_table(model)
    deps = [embeddings_table(model, registry.spec(model).dim).asset_key, RAW_VIDEOS.asset_key]
    deps += [SCORER_TABLES[name].asset_key for name in config.clip_scores.scorers]
    if config.transcoded_clips.enabled:
        deps.append(TRANSCODED_CLIPS.asset_key)
    spec = asset_spec(
        table,
        description=f"Clips that are near-duplicates of a kept one by {model}: k-means, then cosine with kept clips in every cluster that may hold one.",
        code_version=f"{CODE_VERSION}-{registry.spec(model).revision}",
        group="corpus",
        kinds={"lance", "faiss"},
        deps=deps,
    )

    @dg.multi_asset(name=table.view, specs=[spec], check_specs=check_specs(table, ["referential_integrity", "no_chains"]))
    def duplicates(context: dg.AssetExecutionContext, curation: CurationResource) -> Iterator[dg.MaterializeResult[None]]:
        """Compare."""
        yield materialize_corpus(
            context,
            curation,
            table,
            update=partial(update_duplicates, model=model),
            look=partial(look_at_duplicates, model=model),
            checks=(corpus_integrity, no_chains),
        )

    return duplicates
