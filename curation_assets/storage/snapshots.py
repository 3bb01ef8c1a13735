"""Snapshot: one version of one Lance table, read so that memory stays bounded and no half-written video is seen.

A video's rows count only if its header row is there, has their fingerprint, and promises as many rows as there are.
"""

from __future__ import annotations

import functools
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast
from urllib.parse import quote

import lance
import pyarrow as pa
import pyarrow.compute as pc

from curation_assets.schemas.table import TableSpec
from curation_assets.storage.errors import Forbidden, NoSpace, NotFound, SourceNotFound, StoreError, Unavailable, WriteConflict
from curation_assets.storage.objects import clean_options, split_uri

HEADER_COLUMNS = ("video_id", "outcome", "num_rows", "fingerprint", "content_hash")
PLAIN_SCAN: dict[str, Any] = {"batch_size": 8192}
VECTOR_SCAN: dict[str, Any] = {"batch_size": 1024, "batch_readahead": 4, "fragment_readahead": 1}
# Of 900 MB in rows of 1 MB, a plain scan grew the process by 1.4 GB, this one by 0.2 to 0.43 GB by how rows lie in fragments (pylance 14.0).
BLOB_SCAN: dict[str, Any] = {
    "batch_size": 16,
    "batch_size_bytes": 8 * 1024 * 1024,
    "batch_readahead": 1,
    "fragment_readahead": 1,
    "io_buffer_size": 16 * 1024 * 1024,
}
_ROWS_PER_FILTER = 1024
CACHE_BYTES = 16 * 1024 * 1024  # of Lance's metadata; its own default is a gigabyte

HEADER_CACHE_BYTES = 32 * 1024 * 1024

RowKind = Literal["items", "headers"]


class _HeaderCache:
    """The header rows of tables as they were last read, the least used ones forgotten: one run asks for the same ones at every step."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._tables: OrderedDict[Any, pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> pa.Table | None:
        with self._lock:
            if key in self._tables:
                self._tables.move_to_end(key)
            return self._tables.get(key)

    def put(self, key: Any, table: pa.Table) -> None:
        with self._lock:
            if key in self._tables or table.nbytes > self._max_bytes // 4:
                return
            self._tables[key] = table
            self._num_bytes += table.nbytes
            while self._num_bytes > self._max_bytes:
                _, oldest = self._tables.popitem(last=False)
                self._num_bytes -= oldest.nbytes


_HEADERS = _HeaderCache(HEADER_CACHE_BYTES)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of a table.

    Attributes:
        dataset: the Lance dataset at that version, blobs included.
        spec: what the table holds; columns that an older dataset lacks read as NULL.
    """

    dataset: lance.LanceDataset
    spec: TableSpec

    def headers(self, columns: Sequence[str] = HEADER_COLUMNS, *, video_ids: Collection[str] | None = None) -> pa.Table:
        """Read header rows.

        Args:
            columns: columns of the schema; no blobs.
            video_ids: only these videos; None for all.
        """
        keep = "is_header" if video_ids is None else f"is_header AND {in_list('video_id', video_ids)}"
        if video_ids is not None and not video_ids:
            return self._empty(columns)
        key = (self._identity(), tuple(columns)) if video_ids is None else None
        found = _HEADERS.get(key)
        if found is None:
            found = pa.Table.from_batches(self._scan(columns, keep, PLAIN_SCAN), schema=self._schema(columns))
            if key is not None:
                _HEADERS.put(key, found)
        return found

    def batches(
        self, columns: Sequence[str], *, where: str | pc.Expression | None = None, rows: RowKind = "items", is_blob_scan: bool = False
    ) -> Iterator[pa.RecordBatch]:
        """Read rows of complete videos in batches.

        Args:
            columns: columns of the schema.
            where: SQL filter, or an Arrow expression, on any column.
            rows: items, or the header rows. In a table whose rows are headers both are all rows.
            is_blob_scan: must be set to read blob columns; small batches and little read-ahead bound the memory.

        Raises:
            ValueError: a blob column without `is_blob_scan`.
        """
        blobs = set(columns) & set(self.spec.blob_columns)
        if blobs and not is_blob_scan:
            raise ValueError(f"{self.spec.asset}: {sorted(blobs)} hold blobs; read them with scan_blobs")
        settings = BLOB_SCAN if is_blob_scan else PLAIN_SCAN
        if self.spec.rows_are_headers:
            yield from self._scan(columns, where, settings)
        elif rows == "headers":
            yield from self._scan(columns, _both("is_header", where), settings)
        elif (trusted := self._trusted_versions()) is None:
            yield from self._scan(columns, _both("NOT is_header", where), settings)
        else:
            extra = [name for name in ("video_id", "fingerprint") if name not in columns]
            for batch in self._scan([*columns, *extra], _both("NOT is_header", where), settings):
                yield batch.filter(pc.is_in(_version_keys(batch), value_set=trusted)).select(list(columns))

    def all_items(self, columns: Sequence[str], *, where: str | None = None) -> Iterator[pa.RecordBatch]:
        """Read item rows without blobs, those of incomplete videos too: what an interrupted run has left, and what any row names."""
        yield from self._scan(columns, _both("NOT is_header", where), PLAIN_SCAN)

    def row_numbers(self, where: str) -> dict[str, int]:
        """Find item rows of complete videos: by row_id the number that `numbered_rows` takes, which is good for this version alone."""
        columns = ["row_id", "video_id", "fingerprint"]
        with lance_errors(self.dataset.uri):
            scanner = self.dataset.scanner(columns=columns, filter=f"NOT is_header AND ({where})", with_row_id=True, **PLAIN_SCAN)
            found = scanner.to_table()
        if (trusted := self._trusted_versions()) is not None:
            found = found.filter(pc.is_in(_version_keys(found), value_set=trusted))
        return dict(zip(found.column("row_id").to_pylist(), found.column("_rowid").to_pylist(), strict=True))

    def numbered_rows(self, columns: Sequence[str], numbers: Collection[int]) -> Iterator[pa.RecordBatch]:
        """Read rows by number, blobs too, without a look at the others, in small batches and bounded memory."""
        if numbers:
            yield from self._lance_batches(columns, f"_rowid IN ({', '.join(map(str, sorted(numbers)))})", BLOB_SCAN)

    def num_items(self) -> int:
        """Count item rows of complete videos; of a table whose rows are headers, its rows."""
        if self.spec.rows_are_headers:
            return int(self.dataset.count_rows())
        trusted = self._trusted_versions()
        headers = self.headers(("video_id", "fingerprint", "num_rows"))
        if trusted is not None:
            headers = headers.filter(pc.is_in(_version_keys(headers), value_set=trusted))
        return pc.sum(headers["num_rows"]).as_py() or 0

    def _trusted_versions(self) -> pa.Array | None:
        """Return the (video_id, fingerprint) keys that readers may trust, None when every row may be."""
        headers = self.headers(("video_id", "fingerprint", "num_rows"))
        # A complete video has num_rows rows and one header, so equal sums mean that nothing is half written.
        if headers.num_rows + (pc.sum(headers["num_rows"]).as_py() or 0) == self.dataset.count_rows():
            return None
        items = self._scan(("video_id", "fingerprint"), "NOT is_header", PLAIN_SCAN)
        found = pa.Table.from_batches(items, schema=self._schema(("video_id", "fingerprint")))
        counts = pa.table({"key": _version_keys(found)}).group_by("key").aggregate([([], "count_all")])
        promised = pa.table({"key": _version_keys(headers), "num_rows": headers["num_rows"]})
        joined = promised.join(counts, "key", join_type="inner")
        return joined.filter(pc.equal(joined["num_rows"], joined["count_all"]))["key"].combine_chunks()

    def _identity(self) -> tuple[Any, ...]:
        """Name what this version holds. Its number alone would not do: a table that was deleted and made anew counts from one again."""
        with lance_errors(self.dataset.uri):
            files = [
                (fragment.fragment_id, str(fragment.deletion_file()), *(file.path for file in fragment.data_files()))
                for fragment in self.dataset.get_fragments()
            ]
        return (self.dataset.uri, self.dataset.version, *files)

    def _schema(self, columns: Sequence[str]) -> pa.Schema:
        return pa.schema([self.spec.schema.field(name) for name in columns])

    def _empty(self, columns: Sequence[str]) -> pa.Table:
        return self._schema(columns).empty_table()

    def _scan(self, columns: Sequence[str], where: str | pc.Expression | None, settings: dict[str, Any]) -> Iterator[pa.RecordBatch]:
        """Scan, and give every batch exactly the schema's types; columns that the dataset lacks become NULL.

        An Arrow expression that Lance does not take (on vectors, or on a column that the dataset lacks) is applied here instead.
        """
        if where is None or isinstance(where, str):
            yield from self._lance_batches(columns, where, settings)
            return
        pushed = self._lance_batches(columns, where, settings)
        try:
            first = next(pushed, None)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError):
            words = set(re.findall(r"\w+", str(where)))
            extra = [name for name in self.spec.schema.names if name in words and name not in columns]
            for batch in self._lance_batches([*columns, *extra], None, settings):
                yield batch.filter(where).select(list(columns))
            return
        if first is not None:
            yield first
            yield from pushed

    def _lance_batches(
        self, columns: Sequence[str], where: str | pc.Expression | None, settings: dict[str, Any]
    ) -> Iterator[pa.RecordBatch]:
        schema = self._schema(columns)
        if settings is PLAIN_SCAN and any(pa.types.is_fixed_size_list(field.type) for field in schema):
            settings = VECTOR_SCAN
        present = [name for name in columns if name in self.dataset.schema.names]
        with lance_errors(self.dataset.uri):
            filters = [where] if settings is not BLOB_SCAN or where is None else self._row_filters(where)
            for condition in filters:
                scanner = self.dataset.scanner(columns=present, filter=condition, with_row_id=not present, **settings)
                for batch in scanner.to_batches():
                    arrays = [
                        batch.column(field.name) if field.name in present else pa.nulls(batch.num_rows, field.type) for field in schema
                    ]
                    yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _row_filters(self, where: str | pc.Expression) -> Iterator[str]:
        """Find the rows first, and name them by number: a filter that runs over a large table in the small batches of a blob scan takes thirty times longer."""
        found = self.dataset.scanner(columns=[], filter=where, with_row_id=True, **PLAIN_SCAN).to_table().column("_rowid")
        for start in range(0, len(found), _ROWS_PER_FILTER):
            yield f"_rowid IN ({', '.join(map(str, found.slice(start, _ROWS_PER_FILTER).to_pylist()))})"


def open_snapshot(uri: str, spec: TableSpec, *, storage_options: dict[str, str] | None = None) -> Snapshot | None:
    """Open the newest version of a table, None when nothing was ever written to it.

    Raises:
        StoreError: it cannot be read, or a column has another type than the schema says.
    """
    with lance_errors(uri):
        try:
            dataset = lance.dataset(lance_uri(uri), storage_options=lance_options(uri, storage_options or {}), session=_session())
        except ValueError as error:
            if "was not found" in str(error):
                return None
            raise
    check_types(dataset.schema, spec, uri)
    return Snapshot(dataset=dataset, spec=spec)


def check_types(found: pa.Schema, spec: TableSpec, uri: str) -> None:
    """Check that the columns which dataset and schema share have the same types.

    Raises:
        StoreError: a type differs.
    """
    for field in spec.schema:
        index = found.get_field_index(field.name)
        if index >= 0 and found.field(index).type != field.type:
            raise StoreError(
                f"{uri}: column {field.name} is {found.field(index).type}, this version of curation_assets needs {field.type}. "
                "Use another warehouse, or move this table away and run again"
            )


def lance_uri(uri: str) -> str:
    """Return a URI as Lance takes it: remote URIs are percent-decoded there, local paths are not."""
    scheme, bucket, key = split_uri(uri)
    return key if scheme == "file" else f"{scheme}://{bucket}/{quote(key, safe='/ ')}"


def lance_options(uri: str, options: dict[str, str]) -> dict[str, str] | None:
    """Return storage options as Lance takes them; None for a local path."""
    return None if split_uri(uri)[0] == "file" else clean_options(uri, options)


def quoted(text: str) -> str:
    """Return an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def in_list(column: str, values: Collection[str]) -> str:
    """Return an SQL condition that a column has one of some values."""
    return f"{column} IN ({', '.join(quoted(value) for value in sorted(values))})"


@contextmanager
def lance_errors(uri: str) -> Iterator[None]:
    """Turn Lance's errors, which are known by their text only, into StoreErrors.

    Args:
        uri: the table, for messages.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        found = _classify(str(error))
        if found is not None:
            raise found(uri, str(error).split(", /home/", 1)[0].split("\n", 1)[0][:400]) from error
        if "fill whole buffer" in str(error) or "LanceError(IO)" in str(error) or "file size is too small" in str(error).lower():
            seen = str(error).split("\n", 1)[0][:200]
            raise StoreError(f"{uri} is damaged ({seen}); remove this folder and run again: it is made anew from the videos") from error
        if isinstance(error, OSError):
            raise StoreError(f"{uri}: {error}") from error
        raise


def _classify(text: str) -> Callable[[str, str], StoreError] | None:
    low = text.lower()
    if any(mark in low for mark in ("no space left", "os error 28)", "file too large", "os error 27)", "quota exceeded", "os error 122)")):
        return lambda uri, seen: NoSpace(
            f"{uri}: no space left ({seen}). Make room, or choose another warehouse; the table is as it was before this write"
        )
    if any(
        mark in low
        for mark in ("permission denied", "read-only file system", "os error 30)", "accessdenied", "403 forbidden", "invalidaccesskeyid")
    ):
        return lambda uri, seen: Forbidden(f"{uri}: access denied ({seen}). Give this user, or these credentials, access to the warehouse")
    if "nosuchbucket" in low:
        return lambda uri, seen: SourceNotFound(f"{uri}: the bucket does not exist ({seen}). Check the warehouse setting and the endpoint")
    if "conflict" in low or "too many concurrent writers" in low or "already exists" in low:
        return lambda uri, seen: WriteConflict(f"{uri}: other writers kept changing the table ({seen}). Run again")
    if "not found" in low and "lance" in low and "dataset at path" not in low:
        return lambda uri, seen: NotFound(f"{uri}: a file of the table is gone ({seen}). If it was cleaned up while being read, run again")
    if any(mark in low for mark in ("error sending request", "timed out", "retries", "non-2xx", "connection")):
        return lambda uri, seen: Unavailable(
            f"{uri}: the store cannot be reached or fails ({seen}). Check the endpoint and the network and run again"
        )
    return None


@functools.cache
def _session() -> Any:
    """Return the process's one Lance session, whose caches all tables share."""
    return cast("Any", lance).Session(index_cache_size_bytes=CACHE_BYTES, metadata_cache_size_bytes=CACHE_BYTES)


def _both(condition: str, where: str | pc.Expression | None) -> str | pc.Expression:
    if where is None:
        return condition
    if isinstance(where, str):
        return f"{condition} AND ({where})"
    is_header = pc.field("is_header")
    return (~is_header if condition.startswith("NOT") else is_header) & where


def _version_keys(table: pa.Table | pa.RecordBatch) -> Any:
    return pc.binary_join_element_wise(table["video_id"], table["fingerprint"], " ")
