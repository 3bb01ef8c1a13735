"""duplicates: one table per model over all sources, one row per clip that is a near-duplicate of a kept one."""

from curation_assets.schemas import columns as c
from curation_assets.schemas import names
from curation_assets.schemas.table import TableSpec


def duplicates_table(model: str) -> TableSpec:
    """Build the table of one model.

    Args:
        model: registry name; the view has `_` for `-`.
    """
    return TableSpec(
        asset=f"{names.DUPLICATES}/{model}",
        view=f"duplicates_{model.replace('-', '_')}",
        columns=(c.CLIP_ID, c.KEPT_ID, c.SIMILARITY, c.CLUSTER),
        view_columns=("clip_id", "kept_id", "similarity", "cluster"),
        rows_are_headers=True,
        is_corpus=True,
    )
