"""Selection: which clips are kept. One pure function of scores and thresholds, written once as SQL so that it runs where the scores lie."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from curation_assets.schemas.clip_scores import SCORER_TABLES
from curation_assets.schemas.table import TableSpec
from curation_assets.settings import Thresholds

# setting -> score column, the comparison that rejects, reason code; the order decides which reason is given first
_RULES: tuple[tuple[str, str, str, str], ...] = (
    ("max_black_share", "black_share", ">", "black"),
    ("max_letterbox_share", "letterbox_share", ">", "letterbox"),
    ("max_still_share", "still_share", ">", "still"),
    ("min_motion_mean", "motion_mean", "<", "low_motion"),
    ("max_motion_mean", "motion_mean", ">", "high_motion"),
    ("min_sharpness", "sharpness", "<", "blurred"),
    ("min_aesthetic_score", "aesthetic_score", "<", "low_aesthetic"),
)
_MISSING = "missing_score"


def judging_tables(thresholds: Thresholds) -> list[TableSpec]:
    """List the tables of the scorers that a threshold is set for: a clip is judged when all of them have scored it; with none, every clip is kept."""
    return [SCORER_TABLES[scorer] for scorer in sorted(thresholds.by_scorer())]


def reject_reasons_sql(thresholds: Thresholds) -> str:
    """Write the SQL expression that gives every reason why a clip is rejected, as a list that is empty when it is kept; see `reject_reason_sql`."""
    return f"list_filter([{', '.join(_reasons(thresholds))}]::VARCHAR[], lambda reason: reason IS NOT NULL)"


def reject_reason_sql(thresholds: Thresholds) -> str:
    """Write the SQL expression over the score columns that gives a clip's reject reason, or NULL when it is kept.

    A clip whose score is NULL cannot pass a threshold on it: its reason is `missing_score`.

    Args:
        thresholds: None leaves a score unjudged.
    """
    return f"coalesce({', '.join(_reasons(thresholds))}, NULL)::VARCHAR"


def _reasons(thresholds: Thresholds) -> Iterator[str]:
    """Yield one expression per threshold: its reason code, or NULL."""
    yield "NULL"
    for setting, column, operator, reason in _RULES:
        limit: Any = getattr(thresholds, setting)
        if limit is not None:
            yield f"CASE WHEN {column} IS NULL THEN '{_MISSING}' WHEN {column} {operator} {limit!r} THEN '{reason}' END"
