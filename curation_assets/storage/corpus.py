"""CorpusTable: a table over all sources, replaced as a whole in one atomic commit; it says what it was made from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import lance
import pyarrow as pa

from curation_assets.schemas.table import TableSpec
from curation_assets.storage.snapshots import Snapshot, lance_errors, lance_options, lance_uri, open_snapshot

_FINGERPRINT = b"curation_assets.fingerprint"
_FACTS = b"curation_assets.facts"
_ROWS_PER_FILE = 1_000_000


class CorpusTable:
    """A table, opened when it is used; each call sees the newest version.

    Args:
        uri: from `Layout.table_uri`.
        spec: the schema; `is_corpus`.
        storage_options: as for `open_store`.
    """

    def __init__(self, uri: str, spec: TableSpec, *, storage_options: Mapping[str, str] | None = None) -> None:
        self.uri = uri
        self.spec = spec
        self._options = dict(storage_options or {})

    def snapshot(self) -> Snapshot | None:
        """Open the newest version, None when nothing was ever written."""
        return open_snapshot(self.uri, self.spec, storage_options=self._options)

    def fingerprint(self) -> str | None:
        """Return the fingerprint of what the rows were made from, None when there is no table."""
        snapshot = self.snapshot()
        if snapshot is None:
            return None
        found = (snapshot.dataset.schema.metadata or {}).get(_FINGERPRINT)
        return None if found is None else found.decode()

    def facts(self) -> dict[str, Any]:
        """Return the numbers that were kept with the rows."""
        snapshot = self.snapshot()
        metadata = {} if snapshot is None else snapshot.dataset.schema.metadata or {}
        return json.loads(metadata.get(_FACTS, b"{}"))  # type: ignore[no-any-return]

    def num_rows(self) -> int:
        """Count the rows."""
        snapshot = self.snapshot()
        return 0 if snapshot is None else snapshot.num_items()

    def read(self, columns: list[str], *, where: str | None = None) -> pa.Table:
        """Read some columns; empty when there is no table yet."""
        schema = pa.schema([self.spec.schema.field(name) for name in columns])
        snapshot = self.snapshot()
        return pa.Table.from_batches([] if snapshot is None else snapshot.batches(columns, where=where), schema=schema)

    def replace(self, batches: Iterable[pa.RecordBatch], *, fingerprint: str, facts: Mapping[str, Any] | None = None) -> None:
        """Replace all rows in one commit; until it is made, and if it fails, readers see the rows before.

        Args:
            batches: drawn once, lazily, each with the schema's columns.
            fingerprint: of what the rows were made from; kept with them.
            facts: JSON-like numbers about the rows; kept with them too.

        Raises:
            ValueError: rows do not fit the schema.
            NoSpace, Forbidden, Unavailable, WriteConflict: the table is as before.
        """
        schema = self.spec.schema.with_metadata({_FINGERPRINT: fingerprint.encode(), _FACTS: json.dumps(facts or {}).encode()})
        checked = (batch for found in batches for batch in self.spec.check(pa.Table.from_batches([found])).to_batches())
        reader = pa.RecordBatchReader.from_batches(schema, (batch.replace_schema_metadata(schema.metadata) for batch in checked))
        with lance_errors(self.uri):
            lance.write_dataset(
                reader,
                lance_uri(self.uri),
                schema=schema,
                mode="create" if self.snapshot() is None else "overwrite",
                max_rows_per_file=_ROWS_PER_FILE,
                storage_options=lance_options(self.uri, self._options),
            )
