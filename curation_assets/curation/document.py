"""Document: writes docs/tables.md from the schemas: `python -m curation_assets.curation.document > docs/tables.md`."""

from __future__ import annotations

import sys

from curation_assets.models import registry
from curation_assets.schemas.clip_scores import CLIP_SCORES_PIXELS, SCORER_TABLES
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.columns import BOOKKEEPING, KEPT, REJECT_REASON, Column
from curation_assets.schemas.curated_clips import CURATED_CLIPS
from curation_assets.schemas.duplicates import duplicates_table
from curation_assets.schemas.embeddings import embeddings_table
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.schemas.outcomes import OutcomeClass, codes
from curation_assets.schemas.previews import previews_table
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.schemas.search_index import search_index_table
from curation_assets.schemas.table import TableSpec
from curation_assets.schemas.transcoded_clips import TRANSCODED_CLIPS

_CLASS_MEANING = {
    OutcomeClass.OK: "done, complete",
    OutcomeClass.PARTIAL: "done with less than the file promised; its rows are used; `failures` lists it",
    OutcomeClass.WAITING: "looked at again at every run",
    OutcomeClass.EXCLUDED: "a limit in the settings says no",
    OutcomeClass.FAILED: "tried again when the object, the settings or the code change, or with `--retry-failed`",
}


def render() -> str:
    """Write the page."""
    specs = [
        RAW_VIDEOS,
        CLIPS,
        FRAME_SETS,
        *SCORER_TABLES.values(),
        *(embeddings_table(name, registry.spec(name).dim) for name in registry.names()),
        TRANSCODED_CLIPS,
        previews_table("240p"),
        *map(duplicates_table, registry.names()),
        *(search_index_table(name, registry.spec(name).dim) for name in registry.names()),
        CURATED_CLIPS,
    ]
    lines = [
        "# Tables",
        "",
        "Written by `python -m curation_assets.curation.document`; do not edit.",
        "",
        "A table is one Lance dataset per source, `<warehouse>/tables/<asset>/<source>.lance`, or one over all sources, `<warehouse>/tables/<asset>.lance`. "
        "SQL sees the views; header rows and bookkeeping columns are "
        "in the Lance tables only (`curation_assets.open_table`). Times are nanoseconds on the video's own timeline, zero at the first displayed frame.",
        "",
        "## Bookkeeping, in every table of a source",
        "",
        *_table(BOOKKEEPING, shown=()),
    ]
    for spec in specs:
        scope = ", over all sources" if spec.is_corpus else ""
        lines += ["", f"## {spec.asset} (view `{spec.view}`{scope})", "", *_table(spec.columns, shown=spec.view_columns)]
        if spec is CLIP_SCORES_PIXELS:
            lines += [
                "",
                "The view adds the scores of the other scorers, NULL where they have not run, and, from the thresholds in the settings at the time of the query:",
                "",
                *_table((KEPT, REJECT_REASON), shown=()),
            ]
        lines += ["", f"The view has: {_names(spec)}."]
    lines += ["", "## Outcomes", "", "| class | codes | means |", "|---|---|---|"]
    lines += [f"| {kind.value} | {', '.join(f'`{code}`' for code in codes(kind))} | {_CLASS_MEANING[kind]} |" for kind in OutcomeClass]
    return "\n".join(lines) + "\n"


def _names(spec: TableSpec) -> str:
    return ", ".join(f"`{name}`" for name in spec.view_columns)


def _table(columns: tuple[Column, ...], *, shown: tuple[str, ...]) -> list[str]:
    def mark(column: Column) -> str:
        return "" if not shown or column.name in shown else " (not in the view)"

    rows = [f"| `{column.name}` | {column.type} | {column.meaning}{mark(column)} |" for column in columns]
    return ["| column | type | meaning |", "|---|---|---|", *rows]


if __name__ == "__main__":
    sys.stdout.write(render())
