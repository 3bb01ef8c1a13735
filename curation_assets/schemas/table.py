"""TableSpec: what one table holds, where its view gets its columns, and how rows are checked before a write."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from curation_assets.schemas.columns import BOOKKEEPING, Column


@dataclass(frozen=True)
class TableSpec:
    """One asset's table.

    Attributes:
        asset: asset path and folder below `tables/`, for example `clip_scores/pixels`.
        view: SQL view that shows it, for example `clip_scores`.
        columns: the columns beside the bookkeeping ones.
        view_columns: what the view shows, in order.
        blob_columns: columns that only a bounded blob scan may read.
        rows_are_headers: True where each video has one row only, which is its own header (raw_videos), and in corpus tables, which have no headers.
        is_corpus: True for a table over all sources, without the bookkeeping of videos.
    """

    asset: str
    view: str
    columns: tuple[Column, ...]
    view_columns: tuple[str, ...]
    blob_columns: tuple[str, ...] = ()
    rows_are_headers: bool = False
    is_corpus: bool = False

    @cached_property
    def schema(self) -> pa.Schema:
        """Arrow schema: bookkeeping columns, then the table's own."""
        return pa.schema([column.field() for column in (*(() if self.is_corpus else BOOKKEEPING), *self.columns)])

    @property
    def media_keys(self) -> frozenset[str]:
        """Names of the columns that are keys in the warehouse."""
        return frozenset(column.name for column in self.columns if column.is_media_key)

    @property
    def asset_key(self) -> list[str]:
        """Dagster asset key path."""
        return self.asset.split("/")

    def check(self, table: pa.Table) -> pa.Table:
        """Return the table with exactly this schema.

        Missing nullable columns are filled with NULL; order does not matter.

        Raises:
            ValueError: an unknown column, a missing one that must not be NULL, a NULL in such a column, or a type that does not fit.
        """
        unknown = set(table.column_names) - set(self.schema.names)
        if unknown:
            raise ValueError(f"{self.asset}: unknown columns {sorted(unknown)}; the schema has {self.schema.names}")
        arrays = []
        for field in self.schema:
            if field.name not in table.column_names:
                array: pa.ChunkedArray = pa.chunked_array([pa.nulls(table.num_rows, field.type)])
            else:
                try:
                    array = table.column(field.name).cast(field.type)
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                    raise ValueError(f"{self.asset}.{field.name}: {error}") from error
            if not field.nullable and array.null_count:
                raise ValueError(f"{self.asset}.{field.name}: {array.null_count} rows are NULL; the column must have a value in every row")
            arrays.append(array)
        return pa.table(arrays, schema=self.schema)
