"""curated_clips: every clip of every source with all that speaks for and against it, put together by one query over the other tables."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence

import pyarrow as pa

from curation_assets.curation.corpus import CorpusReport, CorpusRun, unchanged
from curation_assets.curation.fingerprints import fingerprint
from curation_assets.curation.model_frames import deciding_frame_set
from curation_assets.curation.select import reject_reasons_sql
from curation_assets.schemas.clip_scores import NOT_SCORED, SCORED_BY, SCORER_TABLES
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.curated_clips import CURATED_CLIPS, SCORES
from curation_assets.schemas.duplicates import duplicates_table
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.schemas.outcomes import OutcomeClass, codes
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.schemas.table import TableSpec
from curation_assets.schemas.transcoded_clips import TRANSCODED_CLIPS
from curation_assets.settings import ProcessingSettings
from curation_assets.storage.snapshots import quoted

CODE_VERSION = "1"
DUPLICATE = "duplicate"
NOT_TRANSCODED = "not_transcoded"  # the file is
_ROWS_PER_BATCH = 65536
_NO_TRANSCODES = "(SELECT NULL::VARCHAR AS source, NULL::VARCHAR AS clip_id, NULL::VARCHAR AS uri, NULL::VARCHAR AS outcome, NULL::VARCHAR AS video_etag WHERE false)"
_READ = [spec.asset for spec in (RAW_VIDEOS, CLIPS, FRAME_SETS, *SCORER_TABLES.values(), TRANSCODED_CLIPS)]


def update_curated_clips(run: CorpusRun, *, tables: Sequence[TableSpec], model: str | None) -> CorpusReport:
    """Bring the table up to date with all others.

    Args:
        run: all sources.
        tables: the tables per source that there are, from `table_specs`.
        model: whose duplicates are left out, from `deciding_model`; None leaves none out.
    """
    started = time.monotonic()
    with run.writing(CURATED_CLIPS) as table:
        expected = curated_fingerprint(run, tables=tables, model=model)
        if report := unchanged(table, expected, started):
            return report
        with run.connect() as connection:
            reader = connection.sql(_sql(run, tables, model)).to_arrow_reader(_ROWS_PER_BATCH)
            table.replace(_typed(reader), fingerprint=expected)
        return CorpusReport(table.num_rows(), False, {}, time.monotonic() - started)


def curated_fingerprint(run: CorpusRun, *, tables: Sequence[TableSpec], model: str | None) -> str:
    """Hash all that the table is made from."""
    versions = {spec.asset: run.data_versions(spec) for spec in tables if spec.asset in _READ}
    duplicates = None if model is None else run.table(duplicates_table(model)).fingerprint()
    rules = {name: _source_rules(own) for name, (_, own) in run.sources.items()}
    return fingerprint("curated_clips", CODE_VERSION, versions, model, duplicates, rules, _frame_sets_by_source(run, model))


def _frame_sets_by_source(run: CorpusRun, model: str | None) -> dict[str, str]:
    """Name, by source, the frame set whose outcome says whether a clip has frames; sources without any are left out."""
    sets = {record.plain_name: deciding_frame_set(own, model) for record, own in run.sources.values()}
    return {name: frame_set for name, frame_set in sets.items() if frame_set is not None}


def _source_rules(own: ProcessingSettings) -> str:
    return reject_reasons_sql(own.clip_scores.thresholds)


def _sql(run: CorpusRun, tables: Sequence[TableSpec], model: str | None) -> str:
    rules = {record.plain_name: _source_rules(own) for record, own in run.sources.values()}
    by_rules: dict[str, list[str]] = defaultdict(list)
    for name, sql in rules.items():
        by_rules[sql].append(quoted(name))
    cases = " ".join(f"WHEN c.source IN ({', '.join(names)}) THEN {sql}" for sql, names in by_rules.items())
    usable = ", ".join(f"'{code}'" for code in codes(OutcomeClass.OK, OutcomeClass.PARTIAL))
    duplicates = (
        "(SELECT NULL::VARCHAR AS clip_id, NULL::VARCHAR AS kept_id WHERE false)" if model is None else duplicates_table(model).view
    )
    scorers = ", ".join(f"'{spec.asset}'" for spec in SCORER_TABLES.values() if spec in tables)
    not_scored = f"CASE WHEN NOT list_has_all(coalesce(s.{SCORED_BY}, []), [{scorers}]) THEN '{NOT_SCORED}' END" if scorers else "NULL"
    sets = ", ".join(f"({quoted(name)}, {quoted(frame_set)})" for name, frame_set in _frame_sets_by_source(run, model).items())
    deciding = f"(source, name) IN ({sets})" if sets else "false"
    transcodes, has_files = _NO_TRANSCODES, TRANSCODED_CLIPS in tables
    if has_files:
        transcodes = f"_{TRANSCODED_CLIPS.view}_rows"
    return f"""
        SELECT source, key, video_id, clip_id, start_ns, end_ns, uri, len(reject_reasons) = 0 AS is_selected, reject_reasons,
            {", ".join(column.name for column in SCORES)}, NULL::VARCHAR AS caption, duplicate_of
        FROM (SELECT * REPLACE (
            CASE WHEN {has_files} AND uri IS NULL AND len(reject_reasons) = 0 THEN ['{NOT_TRANSCODED}'] ELSE reject_reasons END AS reject_reasons
        ) FROM (
            SELECT c.source, v.key, c.video_id, c.clip_id, c.start_ns, c.end_ns, t.uri,
                {", ".join(f"s.{column.name}" for column in SCORES)}, d.kept_id AS duplicate_of,
                list_concat(
                    list_filter([
                        CASE WHEN f.outcome NOT IN ({usable}) THEN f.outcome END,
                        {not_scored},
                        CASE WHEN d.clip_id IS NOT NULL THEN '{DUPLICATE}' END,
                        CASE WHEN t.outcome NOT IN ({usable}) THEN t.outcome END
                    ]::VARCHAR[], lambda reason: reason IS NOT NULL),
                    CASE {cases} WHEN false THEN NULL ELSE []::VARCHAR[] END
                ) AS reject_reasons
            FROM _clips_rows c
            LEFT JOIN raw_videos v ON v.source = c.source AND v.video_id = c.video_id
            LEFT JOIN _clip_scores_rows s
                ON s.source = c.source AND s.clip_id = c.clip_id AND {same_video("s")}
            LEFT JOIN (SELECT source, clip_id, outcome, video_etag FROM _frame_sets_rows WHERE {deciding} AND clip_id IS NOT NULL) f
                ON f.source = c.source AND f.clip_id = c.clip_id AND {same_video("f")}
            LEFT JOIN {duplicates} d ON d.clip_id = c.clip_id
            LEFT JOIN {transcodes} t ON t.source = c.source AND t.clip_id = c.clip_id AND {same_video("t")}
        )) ORDER BY source, key, start_ns, end_ns"""


def same_video(name: str) -> str:
    """Write the SQL condition that a row is made from the same version of the video as the clip `c`: a replaced video's clips have the ids of the old ones."""
    return f"({name}.video_etag = c.video_etag) IS NOT FALSE"  # NULL in tables of earlier releases


def count_reasons(run: CorpusRun) -> dict[str, int]:
    """Count the selected clips, and the others by their first reason; the most frequent first."""
    # the rows: the view joins the files of all sources to them
    query = "SELECT coalesce(reject_reasons[1], 'selected') AS reason, count(*) AS num FROM _curated_clips_rows GROUP BY 1 ORDER BY num DESC, reason"
    with run.connect() as connection:
        return {reason: int(number) for reason, number in connection.execute(query).fetchall()}


def _typed(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    schema = CURATED_CLIPS.schema
    for batch in reader:
        yield from pa.Table.from_batches([batch]).cast(schema).to_batches()
