"""search_index: one table per model over all sources, the vectors that a search may find, with an index over them; empty below `search.index_from`."""

from curation_assets.schemas import columns as c
from curation_assets.schemas import names
from curation_assets.schemas.table import TableSpec


def search_index_table(model: str, dim: int) -> TableSpec:
    """Build the table of one model.

    Args:
        model: registry name; the view has `_` for `-`.
        dim: length of its vectors.
    """
    return TableSpec(
        asset=f"{names.SEARCH_INDEX}/{model}",
        view=f"search_index_{model.replace('-', '_')}",
        columns=(c.CLIP_ID, c.SOURCE, c.VIDEO_ID, c.START_NS, c.END_NS, c.embedding_column(dim)),
        view_columns=("clip_id", "source", "video_id", "start_ns", "end_ns"),
        rows_are_headers=True,
        is_corpus=True,
    )
