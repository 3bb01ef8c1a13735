"""Metadata: what an asset shows in the UI: attributes, schema, counts, checks, and a look at the data."""

from collections.abc import Callable
from typing import Any, TypeVar

import dagster as dg

from curation_assets.curation.checks import CheckOutcome
from curation_assets.curation.incremental import StageReport
from curation_assets.curation.warehouse import SourceRun
from curation_assets.defs.partitions import backfill_policy, video_sources
from curation_assets.schemas.outcomes import OutcomeClass, outcome_class
from curation_assets.schemas.table import TableSpec
from curation_assets.storage.errors import StoreError

R = TypeVar("R")

OWNERS = ["team:video-curation"]
CHECKS = {
    "failure_rate": "At most 5 % of the items failed.",
    "referential_integrity": "Every row's video and clip exist upstream.",
    "unit_norms": "Every vector has length 1 and no NaN.",
    "frames_ready": "No video waits for its frames.",
    "media_exists": "Every row's file is in the warehouse.",
    "no_chains": "No kept clip is itself a duplicate.",
    "source_readable": "The source could be listed.",
}


def asset_spec(
    spec: TableSpec, *, description: str, code_version: str, group: str, kinds: set[str], deps: list[list[str]], skippable: bool = False
) -> dg.AssetSpec:
    """Build the Dagster spec of one table."""
    return dg.AssetSpec(
        key=dg.AssetKey(spec.asset_key),
        deps=[dg.AssetKey(path) for path in deps],
        description=description,
        code_version=code_version,
        group_name=group,
        kinds=kinds,
        owners=OWNERS,
        partitions_def=None if spec.is_corpus else video_sources,
        skippable=skippable,
        metadata={"dagster/column_schema": column_schema(spec), "dagster/table_name": spec.view},
    )


def column_schema(spec: TableSpec) -> dg.TableSchema:
    """Describe a table's columns from its schema."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                field.name,
                type=str(field.type),
                description=(field.metadata or {}).get(b"meaning", b"").decode(),
                constraints=dg.TableColumnConstraints(nullable=field.nullable, unique=field.name == "row_id"),
            )
            for field in spec.schema
        ]
    )


def check_specs(spec: TableSpec, names: list[str]) -> list[dg.AssetCheckSpec]:
    """Declare the checks of one table."""
    return [dg.AssetCheckSpec(name, asset=dg.AssetKey(spec.asset_key), description=CHECKS[name]) for name in names]


def check_result(spec: TableSpec, check: CheckOutcome) -> dg.AssetCheckResult:
    """Translate a check's outcome."""
    return dg.AssetCheckResult(
        check_name=check.name,
        asset_key=dg.AssetKey(spec.asset_key),
        passed=check.passed,
        severity=dg.AssetCheckSeverity.WARN if check.is_warning else dg.AssetCheckSeverity.ERROR,
        description=check.description,
        metadata=check.metadata,
    )


def table_metadata(run: SourceRun, spec: TableSpec, report: StageReport, *, status: dict[str, Any], look: str | None) -> dict[str, Any]:
    """Build the metadata of one table of one source after a run.

    Args:
        run: the source.
        spec: the table.
        report: what the run did.
        status: of the table, from `table_status`.
        look: Markdown with something to look at, or None.
    """
    outcomes: dict[str, int] = status["outcomes"]
    by_class = {kind: sum(n for code, n in outcomes.items() if outcome_class(code) is kind) for kind in OutcomeClass}
    rows = "\n".join(f"| {code} | {number:,} |" for code, number in outcomes.items())
    metadata: dict[str, Any] = {
        "dagster/row_count": sum(outcomes.values()),
        "dagster/uri": run.warehouse.layout.table_uri(spec.asset, run.source),
        "outcomes": dg.MetadataValue.md(f"| outcome | items |\n|---|---|\n{rows}" if rows else "no items"),
        **{f"num_{kind.value}": number for kind, number in by_class.items()},
        "num_videos_done": report.num_work,
        "num_videos_unchanged": report.num_unchanged,
        "num_videos_removed": report.num_removed,
        "num_videos_pending": status["pending"],
        "seconds": round(report.seconds, 3),
        "megabytes_written": round(report.bytes_written / 1e6, 3),
    }
    if look:
        metadata["look"] = dg.MetadataValue.md(look)
    return metadata


__all__ = ["asset_spec", "backfill_policy", "check_result", "check_specs", "table_metadata", "video_sources"]


def looked_at(context: Any, look: Callable[[R], str | None], run: R) -> str | None:
    """Make what there is to look at. A file that somebody damaged must not keep a run from its work: what went wrong is shown instead."""
    try:
        return look(run)
    except StoreError:
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise many kinds for bytes that are no picture
        context.log.warning(f"nothing to look at: {type(error).__name__}: {error}")
        return f"Nothing to look at: {type(error).__name__}: {error}"
