"""curation_status: what is done, pending and failed in every source, on one page of the UI."""

from datetime import timedelta

import dagster as dg

from curation_assets.curation.corpus_status import corpus_status, source_statuses
from curation_assets.curation.warehouse import Warehouse
from curation_assets.defs.metadata import OWNERS
from curation_assets.defs.partitions import sync_partitions
from curation_assets.defs.resources import CurationResource

_MOST_ROWS = 200  # the UI shows the table in one event


@dg.asset(
    group_name="corpus",
    owners=OWNERS,
    kinds={"lance"},
    code_version="1",
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=48), warn_window=timedelta(hours=26)),
    description="Outcomes and pending videos per source and table, from the tables themselves; Dagster shows no staleness for settings.",
)
def curation_status(context: dg.AssetExecutionContext, curation: CurationResource) -> dg.MaterializeResult[None]:
    """Read every source's tables."""
    warehouse = Warehouse.of(curation.config())
    names = warehouse.registry.sync(curation.config())
    sync_partitions(context.instance, names, registry=warehouse.registry)
    lines, num_pending, num_items = [], 0, 0
    run = curation.corpus_run(context)
    for name, tables in source_statuses(run).items():
        for view, table in tables.items():
            outcomes = ", ".join(f"{number:,} {code}" for code, number in table["outcomes"].items()) or "nothing yet"
            lines.append(f"| {name} | {view} | {outcomes} | {table['pending']:,} |")
            num_pending += table["pending"]
            num_items += sum(table["outcomes"].values())
    corpus = corpus_status(run)
    run.summaries.save()
    for view, table in corpus.items():
        said = ", ".join(f"{number:,} {reason}" for reason, number in table["outcomes"].items()) or "nothing yet"
        lines.append(f"| all | {view} | {said} | {'behind' if table['pending'] else 0} |")
    if len(lines) > _MOST_ROWS:
        lines = [*lines[:_MOST_ROWS], f"| and {len(lines) - _MOST_ROWS} more | | | |"]
    table_md = "\n".join(["| source | table | outcomes | pending videos |", "|---|---|---|---|", *lines])
    return dg.MaterializeResult(
        metadata={"status": dg.MetadataValue.md(table_md), "num_sources": len(names), "num_pending": num_pending, "num_items": num_items}
    )
