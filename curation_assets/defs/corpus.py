"""Corpus: how an asset over all sources is brought up to date and reported, the same for every one of them."""

from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg

from curation_assets.curation.checks import CheckOutcome
from curation_assets.curation.corpus import CorpusReport, CorpusRun
from curation_assets.defs.metadata import check_result, looked_at
from curation_assets.defs.resources import CurationResource
from curation_assets.schemas.table import TableSpec
from curation_assets.storage.errors import Unavailable


def materialize_corpus(
    context: dg.AssetExecutionContext,
    curation: CurationResource,
    spec: TableSpec,
    *,
    update: Callable[[CorpusRun], CorpusReport],
    look: Callable[[CorpusRun], str | None],
    checks: Sequence[Callable[[CorpusRun, TableSpec], CheckOutcome]],
) -> dg.MaterializeResult[None]:
    """Bring one table up to date and say what is in it.

    Raises:
        dg.RetryRequested: the store could not be reached.
    """
    run = curation.corpus_run(context)
    try:
        report = update(run)
        run.summaries.save()
        shown = looked_at(context, look, run)
    except Unavailable as error:
        raise dg.RetryRequested(max_retries=2, seconds_to_wait=10) from error
    metadata: dict[str, Any] = {
        "dagster/row_count": report.num_rows,
        "dagster/uri": run.warehouse.layout.table_uri(spec.asset),
        "is_unchanged": report.is_unchanged,
        "seconds": round(report.seconds, 3),
        **{name: value for name, value in report.facts.items() if isinstance(value, int | float)},
    }
    if shown:
        metadata["look"] = dg.MetadataValue.md(shown)
    return dg.MaterializeResult(
        asset_key=dg.AssetKey(spec.asset_key),
        metadata=metadata,
        data_version=dg.DataVersion(run.table(spec).fingerprint() or "none"),
        check_results=[check_result(spec, check(run, spec)) for check in checks],
    )
