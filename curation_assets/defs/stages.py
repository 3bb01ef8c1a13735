"""Stages: how one step of a run works through its partition keys, the same for every asset."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from curation_assets.curation.checks import CheckOutcome, failure_rate
from curation_assets.curation.fingerprints import combine
from curation_assets.curation.incremental import StageReport
from curation_assets.curation.status import table_status
from curation_assets.curation.warehouse import SourceRun
from curation_assets.defs.metadata import check_result, looked_at, table_metadata
from curation_assets.defs.resources import CurationResource
from curation_assets.defs.run_history import tag_failed
from curation_assets.schemas.table import TableSpec
from curation_assets.settings import SettingsError
from curation_assets.storage.errors import StoreError, Unavailable

Context = dg.AssetExecutionContext | dg.OpExecutionContext


@dataclass(frozen=True)
class Table:
    """One table that a stage makes, and what to show and check of it.

    Attributes:
        spec: its schema.
        code_version: version of the code that makes it.
        look: builds Markdown to look at, from the table.
        checks: more checks than the failure rate.
    """

    spec: TableSpec
    code_version: str
    look: Callable[[SourceRun], str | None]
    checks: Sequence[Callable[[SourceRun, TableSpec], CheckOutcome]] = ()


@dataclass(frozen=True)
class CurationStage:
    """One step: the tables that it makes, the function that brings them up to date for one source, and the pool that it holds meanwhile."""

    tables: tuple[Table, ...]
    update: Callable[[SourceRun, Sequence[TableSpec]], StageReport]
    pool: str | None = None


@dataclass(frozen=True)
class _KeyResult:
    key: str
    metadata: dict[str, dict[str, Any]]
    data_versions: dict[str, str]
    checks: dict[str, list[CheckOutcome]]


def materialize(
    context: dg.AssetExecutionContext, curation: CurationResource, stage: CurationStage
) -> Iterator[dg.MaterializeResult[None]]:
    """Bring the selected tables of a stage up to date for every partition key of the step, and report each to Dagster.

    One key: its table's content hash is the data version. Several keys: each gets its own metadata, and the version is of the batch.

    Raises:
        dg.Failure: no source of the step could be read or written.
        dg.RetryRequested: the store could not be reached.
    """
    selected = [table for table in stage.tables if dg.AssetKey(table.spec.asset_key) in context.selected_asset_keys]
    results, errors = work_on_keys(context, curation, stage, selected, list(context.partition_keys))
    if not results:
        raise dg.Failure("; ".join(f"{key}: {error}" for key, error in errors.items()), allow_retries=False)
    for table in selected:
        asset_key, asset = dg.AssetKey(table.spec.asset_key), table.spec.asset
        if len(results) == 1 and not errors:
            metadata, version = results[0].metadata[asset], results[0].data_versions[asset]
        else:
            for key, error in errors.items():  # Dagster counts the partition as materialized: its event says that it was not
                context.add_asset_metadata({"error": error}, asset_key=asset_key, partition_key=key)
            for result in results:
                context.add_asset_metadata(result.metadata[asset], asset_key=asset_key, partition_key=result.key)
            metadata, version = {}, combine(f"{result.key}:{result.data_versions[asset]}" for result in results)
        yield dg.MaterializeResult(
            asset_key=asset_key,
            metadata=metadata,
            data_version=dg.DataVersion(version),
            check_results=[check_result(table.spec, check) for check in merged_checks(table, results, errors)],
        )


def work_on_keys(
    context: Context, curation: CurationResource, stage: CurationStage, tables: Sequence[Table], keys: Sequence[str]
) -> tuple[list[_KeyResult], dict[str, str]]:
    """Run a stage for several sources; one that cannot be read or written does not stop the others.

    Returns:
        Results in the order of the keys, and the error messages of the sources that could not be worked on.
    """
    results: list[_KeyResult] = []
    errors: dict[str, str] = {}
    for key in keys:
        try:
            run = curation.source_run(key, context)
            report = stage.update(run, [table.spec for table in tables])
            result = _KeyResult(key, {}, {}, {})
            for table in tables:
                spec, status = table.spec, table_status(run, table.spec)
                result.metadata[spec.asset] = table_metadata(run, spec, report, status=status, look=looked_at(context, table.look, run))
                result.data_versions[spec.asset] = run.table(spec).data_version()
                result.checks[spec.asset] = [failure_rate(status), *(check(run, spec) for check in table.checks)]
            results.append(result)
        except Unavailable as error:
            if len(keys) == 1:
                raise dg.RetryRequested(max_retries=2, seconds_to_wait=10) from error
            errors[key] = str(error)
        except (StoreError, SettingsError) as error:  # SettingsError: a manifest that is none
            errors[key] = str(error)
        if key in errors:
            context.log.error(f"{key}: {errors[key]}")
    if errors and len(keys) > 1:
        tag_failed(context.instance, context.run_id, errors)
    return results, errors


def merged_checks(table: Table, results: Sequence[_KeyResult], errors: dict[str, str]) -> list[CheckOutcome]:
    """Give one outcome per check over all keys: the worst, naming its sources.

    Args:
        table: whose checks.
        results: at least one.
        errors: by key, of the sources that could not be worked on.
    """
    merged = []
    for position in range(1 + len(table.checks)):
        outcomes = [(result.key, result.checks[table.spec.asset][position]) for result in results]
        bad = [(key, check) for key, check in outcomes if not check.passed]
        if len(outcomes) == 1:
            merged.append(outcomes[0][1])
        else:
            name, warns = outcomes[0][1].name, all(check.is_warning for _, check in bad) and bool(bad)
            text = "; ".join(f"{key}: {check.description}" for key, check in bad[:10]) or f"{len(outcomes)} sources pass"
            merged.append(CheckOutcome(name, not bad, text, {"num_sources_failing": len(bad)}, is_warning=warns))
    if any(check.name == "source_readable" for check in merged):
        return merged
    text = "; ".join(f"{key}: {error}" for key, error in errors.items()) or "every source could be read"
    return [*merged, CheckOutcome("source_readable", not errors, text, {"num_sources_failing": len(errors)})]
