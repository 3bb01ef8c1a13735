"""connect(): the warehouse's tables as SQL views in DuckDB, opened when a query names them.

A view is the union of one table's datasets over all sources. DuckDB hands its projections and filters to the scan, which hands them to Lance. The
datasets are opened anew for every query, so each query sees the newest version, and one version only.
"""

from __future__ import annotations

import datetime as dt
import decimal
import math
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from types import TracebackType
from typing import Any, Self

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from pyarrow.fs import LocalFileSystem

from curation_assets.schemas.clip_scores import NOT_SCORED, SCORED_BY, SCORER_TABLES, score_names
from curation_assets.schemas.table import TableSpec
from curation_assets.storage.errors import StoreError
from curation_assets.storage.layout import Layout, plain_name
from curation_assets.storage.snapshots import Snapshot, open_snapshot

OPEN_THREADS = 16
CURATED_VIEW, FILES_VIEW = "curated_clips", "transcoded_clips"
SCORES_VIEW = "clip_scores"
_FETCH_ROWS = 1024


class SqlConnection:
    """A DuckDB connection whose views are made when a query names them. Reads only; COPY ... TO writes results where it says.

    Use as a context manager, or close it. Anything else that a DuckDB connection has is there too.
    """

    def __init__(
        self,
        layout: Layout,
        specs: Sequence[TableSpec],
        sources: Sequence[str],
        *,
        storage_options: Mapping[str, str] | None = None,
        reject_sql: Mapping[str, str] | None = None,
        judged_by: Mapping[str, Sequence[TableSpec]] | None = None,
        scorers: Sequence[TableSpec] | None = None,
        extra_view_sql: Mapping[str, str] | None = None,
    ) -> None:
        self._layout = layout
        self._sources = tuple(sources)
        self._options = dict(storage_options or {})
        self._reject_sql = dict(reject_sql or {})
        self._judged_by = dict(judged_by or {})
        self._scorers = list(SCORER_TABLES.values()) if scorers is None else list(scorers)
        self._extra_view_sql = dict(extra_view_sql or {})
        self._specs = {spec.view: spec for spec in specs}
        self._scan_errors: list[StoreError] = []
        self._connection = duckdb.connect()
        self._connection.execute("SET TimeZone = 'UTC'")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    @property
    def views(self) -> list[str]:
        """The names of all views."""
        return sorted([*self._specs, *self._extra_view_sql])

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def sql(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Any:
        """Run a query and return DuckDB's relation.

        Raises:
            ValueError: the query names a table that does not exist; the message lists the views.
            duckdb.Error: the query is wrong.
        """
        self._make_views(query)
        with self._clear_errors():
            return self._connection.sql(query, params=params)

    def execute(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Any:
        """Run a query and return the connection as a cursor; see `sql`."""
        self._make_views(query)
        with self._clear_errors():
            return self._connection.execute(query, params)

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """Name the views where a table is unknown, and raise what a scan met instead of DuckDB's wrapping of it."""
        self._scan_errors.clear()
        try:
            yield
        except duckdb.CatalogException as error:
            if "Table with name" not in str(error):
                raise
            first_line = str(error).split("\n", 1)[0].removeprefix("Catalog Error: ")
            raise ValueError(f"{first_line} The views are: {', '.join(self.views)}") from error
        except duckdb.Error as error:
            if self._scan_errors:
                raise self._scan_errors[0] from error
            raise

    def _make_views(self, query: str) -> None:
        words = set(re.findall(r"\w+", query.lower()))
        for name, sql in self._extra_view_sql.items():
            if name.lower() in words:
                words |= set(re.findall(r"\w+", sql.lower()))
        for name, spec in self._specs.items():
            if name.lower() in words or f"_{name.lower()}_rows" in words:
                self._make_view(spec)
        for name, sql in self._extra_view_sql.items():
            if name.lower() in words:
                self._connection.execute(f"CREATE OR REPLACE TEMP VIEW {_identifier(name)} AS {sql}")

    def _make_view(self, spec: TableSpec) -> None:
        table = f"_{spec.view}_rows"
        if spec.view == SCORES_VIEW:
            self._connection.execute(f"CREATE OR REPLACE TEMP VIEW {_identifier(table)} AS {self._joined_scores_sql()}")
        else:
            self._register(table, spec)
        root = _literal(self._layout.uri(""))
        columns = (
            f"{root} || {_identifier(name)} AS {_identifier(name)}" if name in spec.media_keys else _identifier(name)
            for name in spec.view_columns
        )
        plain = f"SELECT {', '.join(columns)} FROM {_identifier(table)}"
        if spec.view == SCORES_VIEW:
            select = self._scores_sql(spec, table)
        elif spec.view == CURATED_VIEW and FILES_VIEW in self._specs:
            # where the files are now, also between a run that made others and the next curated set
            self._make_view(self._specs[FILES_VIEW])
            columns = (
                f"CASE WHEN c.uri IS NOT NULL THEN f.uri END AS {_identifier(name)}"
                if name in spec.media_keys
                else f"c.{_identifier(name)}"
                for name in spec.view_columns
            )
            select = f"SELECT {', '.join(columns)} FROM {_identifier(table)} c LEFT JOIN {_identifier(FILES_VIEW)} f USING (source, video_id, clip_id)"
        else:
            select = plain
        self._connection.execute(f"CREATE OR REPLACE TEMP VIEW {_identifier(spec.view)} AS {select}")

    def _register(self, table: str, spec: TableSpec) -> UnionTable:
        """Make a table for DuckDB; its datasets are opened when they are read."""
        sources: Sequence[str | None] = [None] if spec.is_corpus else self._sources

        def open_one(source: str | None) -> Snapshot | None:
            return open_snapshot(self._layout.table_uri(spec.asset, source), spec, storage_options=self._options)

        union = UnionTable(spec, sources, open_one, errors=self._scan_errors)
        self._connection.register(table, union)
        return union

    def _joined_scores_sql(self) -> str:
        """Join the scorers' tables: one row per clip that any of them has scored, with the scores that are of the same version of its video.

        Clips of the first table come with what the others say of them, then those of the second that the first does not have, and so on: an outer join that
        DuckDB can still push a query's filters through.
        """
        scorers = list(SCORER_TABLES.values())
        tables = {spec.asset: f"_{spec.asset.replace('/', '_')}_table" for spec in scorers}
        found = [spec for spec in self._scorers if spec.view in self._specs and self._register(tables[spec.asset], spec).is_there()]
        if not found:  # no rows, of the columns that there would be
            found = scorers[:1]
            self._register(tables[found[0].asset], found[0])
        selects = []
        for first, spec in enumerate(found):
            columns = ["t0.source", "t0.video_id", "t0.clip_id", "t0.video_etag"]
            joined, marks = [], []
            for place, other in enumerate(found[first:]):
                marks.append(f"CASE WHEN t{place}.clip_id IS NOT NULL THEN {_literal(other.asset)} END")
                if place:
                    same = " AND ".join(f"t{place}.{name} = t0.{name}" for name in ("source", "video_id", "clip_id"))
                    # NULL in tables of earlier releases
                    joined.append(
                        f"LEFT JOIN {tables[other.asset]} t{place} ON {same} AND (t{place}.video_etag = t0.video_etag) IS NOT FALSE"
                    )
            for scorer in scorers:
                place = found.index(scorer) - first if scorer in found else -1
                columns += [f"t{place}.{name}" if place >= 0 else f"NULL::DOUBLE AS {name}" for name in score_names(scorer)]
            columns.append(f"list_filter([{', '.join(marks)}], lambda asset: asset IS NOT NULL) AS {SCORED_BY}")
            select = f"SELECT {', '.join(columns)} FROM {tables[spec.asset]} t0 {' '.join(joined)}"
            for earlier in found[:first]:
                select += f" ANTI JOIN {tables[earlier.asset]} USING (source, video_id, clip_id)"
            selects.append(select)
        return " UNION ALL BY NAME ".join(selects)

    def _scores_sql(self, spec: TableSpec, table: str) -> str:
        """Apply each source's thresholds to the joined scores; a clip that a scorer they need has not scored is not judged."""
        alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}  # of thousands of sources most have the same thresholds
        for source, sql in self._reject_sql.items():
            needed = tuple(_literal(scorer.asset) for scorer in self._judged_by.get(source, ()))
            alike.setdefault((sql, needed), []).append(_literal(source))
        cases = []
        for (sql, needed), sources in alike.items():
            waits = f"NOT list_has_all({SCORED_BY}, [{', '.join(needed)}]::VARCHAR[])"
            cases.append(f"WHEN source IN ({', '.join(sources)}) THEN CASE WHEN {waits} THEN {_literal(NOT_SCORED)} ELSE ({sql}) END")
        reason = f"CASE {' '.join(cases)} ELSE NULL END" if cases else "NULL"
        judged = f"SELECT *, ({reason})::VARCHAR AS reject_reason FROM {_identifier(table)}"
        kept = f"CASE WHEN reject_reason = {_literal(NOT_SCORED)} THEN NULL ELSE reject_reason IS NULL END AS kept"
        columns = ", ".join(kept if name == "kept" else _identifier(name) for name in spec.view_columns)
        return f"SELECT {columns} FROM ({judged})"


def connect(
    layout: Layout,
    specs: Sequence[TableSpec],
    sources: Sequence[str],
    *,
    storage_options: Mapping[str, str] | None = None,
    reject_sql: Mapping[str, str] | None = None,
    judged_by: Mapping[str, Sequence[TableSpec]] | None = None,
    scorers: Sequence[TableSpec] | None = None,
    extra_view_sql: Mapping[str, str] | None = None,
) -> SqlConnection:
    """Open the warehouse for SQL; nothing is read until a query names a view.

    Args:
        layout: of the warehouse.
        specs: tables; each view's name is its spec's. `clip_scores` has the scores of those scorers whose tables are among them, and NULL for the others.
        sources: partitions, which may or may not have each table.
        storage_options: as for `open_store`.
        reject_sql: per value of the column `source`, an SQL expression over the score columns that gives a reason code, or NULL for kept.
        judged_by: likewise, the scorers' tables that this expression needs; it is not asked of a clip that one of them does not have.
        scorers: tables of those that run, of which `clip_scores` has the scores; others may hold rows of videos that were replaced since. None: all.
        extra_view_sql: further views by name, a SELECT over the others.
    """
    return SqlConnection(
        layout,
        specs,
        sources,
        storage_options=storage_options,
        reject_sql=reject_sql,
        judged_by=judged_by,
        scorers=scorers,
        extra_view_sql=extra_view_sql,
    )


class UnionTable(pads.Dataset):  # type: ignore[misc]
    """One table over all its sources, as the Arrow dataset that DuckDB scans: it asks for `scanner(columns, filter)`.

    A source's dataset is opened when a scan comes to it, and stays open, so that all scans of a query see one version; sources that the filter rules out
    are not opened.

    Args:
        spec: the table.
        sources: which may or may not have the table; `[None]` for a table over all sources.
        open_one: opens the table of one of them, None where there is none.
        errors: where a scan leaves the error that ends it.
    """

    def __init__(
        self,
        spec: TableSpec,
        sources: Sequence[str | None],
        open_one: Callable[[str | None], Snapshot | None],
        *,
        errors: list[StoreError],
    ) -> None:
        self._spec = spec
        self._sources = sources
        self._open_one = open_one
        self._opened: dict[str | None, Snapshot | None] = {}
        self._errors = errors
        self._names = [name for name in spec.schema.names if name not in spec.blob_columns]

    def __repr__(self) -> str:
        return f"UnionTable({self._spec.view}, {len(self._sources)} sources)"

    @property
    def schema(self) -> pa.Schema:
        """The table's columns without its blobs."""
        return pa.schema([self._spec.schema.field(name).remove_metadata() for name in self._names])

    def scanner(self, columns: Sequence[str] | None = None, filter: Any = None, **_: Any) -> UnionScanner:  # noqa: A002 - the name is Arrow's
        """Begin a scan of some columns and rows."""
        return UnionScanner(self._snapshots(filter), self.schema, list(columns or self._names), filter, errors=self._errors)

    def is_there(self) -> bool:
        """Say whether any source has the table."""
        return next(self._snapshots(None), None) is not None

    def _snapshots(self, where: Any) -> Iterator[Snapshot]:
        """Open what a filter may want, a few ahead of the reader."""
        sources = self._sources if where is None or len(self._sources) <= OPEN_THREADS else self._wanted(where)
        for start in range(0, len(sources), OPEN_THREADS):
            some = sources[start : start + OPEN_THREADS]
            unknown = [source for source in some if source not in self._opened]
            if len(unknown) > 1:
                with ThreadPoolExecutor(OPEN_THREADS) as threads:
                    self._opened.update(zip(unknown, threads.map(self._open_one, unknown), strict=True))
            else:
                self._opened.update((source, self._open_one(source)) for source in unknown)
            for source in some:
                if (snapshot := self._opened[source]) is not None:
                    yield snapshot

    def _wanted(self, where: Any) -> list[str | None]:
        """Leave out the sources whose rows a filter cannot take: Arrow finds that out from what holds of all rows of a fragment."""
        return [str(fragment.path) for fragment in self._named_fragments.get_fragments(filter=where)]

    @cached_property
    def _named_fragments(self) -> pads.Dataset:
        files = pads.IpcFileFormat()  # the fragments are never opened
        filesystem = LocalFileSystem()
        fragments = [
            files.make_fragment(source, filesystem, partition_expression=pc.field("source") == plain_name(source))
            for source in self._sources
            if source
        ]
        return pads.FileSystemDataset(fragments, self.schema, files, filesystem)


class UnionScanner:
    """One scan of a `UnionTable`."""

    def __init__(
        self, snapshots: Iterable[Snapshot], schema: pa.Schema, columns: Sequence[str], where: Any, *, errors: list[StoreError]
    ) -> None:
        self._errors = errors
        self._snapshots = snapshots
        self._columns = columns
        self._where = where
        self.projected_schema = pa.schema([schema.field(name) for name in columns])

    def to_reader(self) -> pa.RecordBatchReader:
        """Read the rows of all datasets, one after the other."""
        return pa.RecordBatchReader.from_batches(self.projected_schema, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            for snapshot in self._snapshots:
                for batch in snapshot.batches(self._columns, where=self._where):
                    yield pa.RecordBatch.from_arrays(batch.columns, schema=self.projected_schema)
        except StoreError as error:
            self._errors.append(error)  # DuckDB hands on the text only
            raise


def json_rows(result: Any) -> list[dict[str, Any]]:
    """Return the rows of a DuckDB result as JSON-ready objects.

    Bytes become {"bytes": n}, NaN and infinities null, times ISO 8601 in UTC, decimals numbers, UUIDs strings.

    Args:
        result: what `sql` or `execute` returned; None (a statement without a result) gives no rows.
    """
    return list(iter_json_rows(result))


def iter_json_rows(result: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of `json_rows` one by one; of what `execute` returned, holding a thousand at a time."""
    if result is None:
        return
    is_cursor = hasattr(result, "fetchmany")  # a relation runs its query anew with every call (DuckDB 2.0)
    columns = [column[0] for column in result.description or ()] if is_cursor else result.columns
    names = _unique(columns)
    while rows := result.fetchmany(_FETCH_ROWS) if is_cursor else result.fetchall():
        for row in rows:
            yield {name: json_value(value) for name, value in zip(names, row, strict=True)}
        if not is_cursor:
            return


def json_value(value: Any) -> Any:
    """Return one value as JSON can hold it; see `json_rows`."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case bytes() | bytearray() | memoryview():
            return {"bytes": len(value)}
        case decimal.Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case dt.datetime():
            return (value.astimezone(dt.UTC) if value.tzinfo else value.replace(tzinfo=dt.UTC)).isoformat().replace("+00:00", "Z")
        case dt.date() | dt.time():
            return value.isoformat()
        case dt.timedelta():
            return value.total_seconds()
        case uuid.UUID():
            return str(value)
        case dict():
            return {str(key): json_value(item) for key, item in value.items()}
        case list() | tuple():
            return [json_value(item) for item in value]
        case _:
            return str(value)


def _unique(names: Iterable[str]) -> list[str]:
    """Number the later ones of equal names, which a JSON object cannot hold twice."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return unique


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
