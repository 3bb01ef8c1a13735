"""embeddings: one table per model, one row per clip and one per video (`scope`), vectors of unit length."""

from curation_assets.schemas import columns as c
from curation_assets.schemas import names
from curation_assets.schemas.table import TableSpec


def embeddings_table(model: str, dim: int) -> TableSpec:
    """Build the table of one model.

    Args:
        model: registry name, for example `clip-vit-b32`; the view has `_` for `-`.
        dim: length of its vectors.
    """
    return TableSpec(
        asset=f"{names.EMBEDDINGS}/{model}",
        view=f"embeddings_{model.replace('-', '_')}",
        columns=(c.CLIP_ID, c.SCOPE, c.START_NS, c.END_NS, c.embedding_column(dim), c.TEXT_SCORES),
        view_columns=("source", "video_id", "clip_id", "scope", "start_ns", "end_ns", "outcome", "detail", "embedding", "text_scores"),
    )
