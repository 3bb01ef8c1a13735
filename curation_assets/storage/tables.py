"""VideoTable: the one way to write a table: Lance datasets whose rows belong to videos, replaced video by video in atomic commits.

Each video has one header row, whose `row_id` is the video's id. `row_id` is Lance's key, so two writers of one video never duplicate its rows.
A short video comes in one commit. A long one comes in chunks: the first takes the old header away, the last brings the new one, and readers
(`snapshots.py`) do not see the video in between.
"""

from __future__ import annotations

import functools
import hashlib
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

import lance
import pyarrow as pa
import pyarrow.compute as pc

from curation_assets.schemas.table import TableSpec
from curation_assets.storage.errors import StoreError, WriteConflict
from curation_assets.storage.snapshots import (
    HEADER_COLUMNS,
    RowKind,
    Snapshot,
    in_list,
    lance_errors,
    lance_options,
    lance_uri,
    open_snapshot,
    quoted,
)

MAX_FRAGMENTS = 50
TARGET_FRAGMENT_BYTES = 256 * 1024 * 1024  # re-encoding holds about this much, because Lance writes a column's pages when a file ends
MAX_COMPACTED_BYTES = 4 * 1024 * 1024 * 1024
MOST_DELETED = 0.1  # of a fragment's rows; rewriting it for fewer is not worth it
CONFLICT_ATTEMPTS = 8
CONFLICT_RETRIES = 20
CONFLICT_TIMEOUT = timedelta(seconds=60)
DELETE_CHUNK = 500


@dataclass(frozen=True, slots=True)
class VideoWrite:
    """One video's part in a commit. Both flags true, the default, means that the batch has all of the video.

    Attributes:
        video_id: the video.
        fingerprint: of the rows in the batch.
        is_first: the batch begins the video anew: whatever the table had of it goes. False goes on after chunks with the same fingerprint.
        is_last: the batch has the header row, and the video is complete with it.
    """

    video_id: str
    fingerprint: str
    is_first: bool = True
    is_last: bool = True

    @property
    def is_whole(self) -> bool:
        """Whether the batch has all of the video."""
        return self.is_first and self.is_last


class RowState(NamedTuple):
    """What a stored item row says of itself."""

    outcome: str
    detail: str | None
    content_hash: str | None


class VideoTable:
    """A table, opened when it is used; each call sees the newest version.

    Args:
        uri: from `Layout.table_uri`.
        spec: the schema.
        source: partition, for messages; None for a corpus table.
        storage_options: as for `open_store`.
        before_write: called before anything that changes what the table says.
    """

    def __init__(
        self,
        uri: str,
        spec: TableSpec,
        *,
        source: str | None = None,
        storage_options: Mapping[str, str] | None = None,
        before_write: Callable[[], None] = lambda: None,
    ) -> None:
        self.uri = uri
        self.spec = spec
        self.source = source
        self._options = dict(storage_options or {})
        self._before_write = before_write

    def __repr__(self) -> str:
        return f"VideoTable({self.uri!r})"

    def snapshot(self) -> Snapshot | None:
        """Open the newest version, None when nothing was ever written."""
        return open_snapshot(self.uri, self.spec, storage_options=self._options)

    def headers(self, columns: Sequence[str] = HEADER_COLUMNS, *, video_ids: Collection[str] | None = None) -> pa.Table:
        """Read the header rows, of all videos or of some; empty when there is no table yet."""
        snapshot = self.snapshot()
        if snapshot is None:
            return pa.schema([self.spec.schema.field(name) for name in columns]).empty_table()
        return snapshot.headers(columns, video_ids=video_ids)

    def scan(self, columns: Sequence[str], *, where: str | None = None, rows: RowKind = "items") -> Iterator[pa.RecordBatch]:
        """Read rows of complete videos, without blobs; see `Snapshot.batches`."""
        snapshot = self.snapshot()
        return iter(()) if snapshot is None else snapshot.batches(columns, where=where, rows=rows)

    def scan_blobs(self, columns: Sequence[str], *, where: str | None = None, rows: RowKind = "items") -> Iterator[pa.RecordBatch]:
        """Read rows of complete videos with blobs, in small batches and bounded memory."""
        snapshot = self.snapshot()
        return iter(()) if snapshot is None else snapshot.batches(columns, where=where, rows=rows, is_blob_scan=True)

    def num_rows(self) -> int:
        """Count the rows that views show."""
        snapshot = self.snapshot()
        return 0 if snapshot is None else snapshot.num_items()

    def data_version(self) -> str:
        """Hash what the table says: the sorted (video_id, outcome, content_hash) of its headers.

        The same for any order, fragments, versions and run ids, and for a recomputation with the same result.
        """
        headers = self.headers(("video_id", "outcome", "content_hash")).sort_by("video_id")
        digest = hashlib.sha256()
        for batch in headers.to_batches(max_chunksize=65536):
            lines = pc.binary_join_element_wise(batch["video_id"], batch["outcome"], pc.fill_null(batch["content_hash"], ""), "\x1f")
            digest.update("".join(f"{line}\x1e" for line in lines.to_pylist()).encode())
        return digest.hexdigest()

    def unfinished_rows(self, video_id: str, fingerprint: str) -> dict[str, RowState]:
        """Read what the item rows of one video and fingerprint say, by row_id, whether its header is there or not.

        An interrupted write of a long video leaves some, so that the next run goes on behind them.
        """
        snapshot = self.snapshot()
        if snapshot is None:
            return {}
        where = f"video_id = {quoted(video_id)} AND fingerprint = {quoted(fingerprint)} AND NOT is_header"
        with lance_errors(self.uri):
            found = snapshot.dataset.to_table(columns=["row_id", "outcome", "detail", "content_hash"], filter=where)
        return {row["row_id"]: RowState(row["outcome"], row["detail"], row["content_hash"]) for row in found.to_pylist()}

    def commit(self, rows: pa.Table, *, replace: Collection[VideoWrite]) -> None:
        """Write videos, or chunks of them, in one atomic commit.

        Args:
            rows: item rows and header rows of the videos in `replace`, and of no other.
            replace: what the batch has of each video. A video without item rows needs its header row only.

        Raises:
            ValueError: rows do not fit the schema or `replace`: a mistake of the caller.
            WriteConflict: other writers kept winning, or another writer changed a long video; nothing counts, do the video again.
            NoSpace, Forbidden, Unavailable: the table is as before.
        """
        if not replace:
            return
        rows = self.spec.check(rows)
        writes = {write.video_id: write for write in replace}
        _check_rows(rows, writes, self.spec)
        stale = None if self.spec.rows_are_headers else " OR ".join(_stale_rows(replace))

        def merge(dataset: lance.LanceDataset) -> None:
            builder = dataset.merge_insert("row_id").when_matched_update_all().when_not_matched_insert_all()
            if stale:
                builder = builder.when_not_matched_by_source_delete(stale)
            builder.conflict_retries(CONFLICT_RETRIES).retry_timeout(CONFLICT_TIMEOUT).execute(_with_columns_of(rows, dataset.schema))

        self._write(merge)
        self._check_long_videos(rows, [write for write in replace if write.is_last and not write.is_first])

    def delete_videos(self, video_ids: Collection[str]) -> None:
        """Delete all rows of some videos; ids that the table does not have are fine."""
        ordered = sorted(video_ids)
        for start in range(0, len(ordered), DELETE_CHUNK):
            if self.snapshot() is None:
                return
            chunk = in_list("video_id", ordered[start : start + DELETE_CHUNK])
            self._write(functools.partial(_delete, where=chunk))

    def compact(self, *, max_fragments: int = MAX_FRAGMENTS, max_deleted_share: float = 1.0) -> int:
        """Merge small fragments, and drop deleted rows, once there are more than `max_fragments` small ones.

        A commit costs more with every fragment. Fragments grow to about 256 MB, so that rows are rewritten a few times at most. Bounded in memory and
        in bytes per call; gives way when another writer is in between.

        Args:
            max_fragments: so many small ones may stay.
            max_deleted_share: also when a larger share of a fragment's rows is deleted.

        Returns:
            How many fragments were merged.
        """
        snapshot = self.snapshot()
        if snapshot is None:
            return 0
        with lance_errors(self.uri):
            fragments = snapshot.dataset.get_fragments()
            num_rows = max(1, snapshot.dataset.count_rows())
            data_bytes = sum(file.file_size_bytes or 0 for fragment in fragments for file in fragment.data_files())
            target_rows = max(256, int(num_rows * TARGET_FRAGMENT_BYTES / max(1, data_bytes)))
            target_rows = min(target_rows, 1024 * 1024)
            num_small = sum(fragment.physical_rows < target_rows for fragment in fragments)
            has_deleted = any(fragment.num_deletions > max_deleted_share * fragment.physical_rows for fragment in fragments)
        if num_small <= max_fragments and not has_deleted:
            return 0
        try:
            with lance_errors(self.uri):
                metrics = snapshot.dataset.optimize.compact_files(
                    target_rows_per_fragment=target_rows,
                    materialize_deletions_threshold=min(max_deleted_share, MOST_DELETED),
                    num_threads=1,
                    batch_size=16 if self.spec.blob_columns else None,
                    compaction_mode="try_binary_copy",  # 1.2 GB of frames: 7 s and 0.1 GB against 16 s and 0.7 GB (pylance 14.0)
                    max_source_bytes=MAX_COMPACTED_BYTES,
                )
        except WriteConflict:
            return 0
        return int(metrics.fragments_removed)

    def _write(self, action: Callable[[lance.LanceDataset], object]) -> None:
        """Run a write on the newest version, again with a growing pause while other writers win."""
        self._before_write()
        for attempt in range(CONFLICT_ATTEMPTS):
            try:
                dataset = self._open_for_write()
                with lance_errors(self.uri):
                    action(dataset)
            except WriteConflict:
                if attempt == CONFLICT_ATTEMPTS - 1:
                    raise
                time.sleep(random.uniform(0.05, 0.2) * 2**attempt)
            else:
                return

    def _open_for_write(self) -> lance.LanceDataset:
        """Open the dataset, made if missing, with every column of the schema."""
        snapshot = self.snapshot()
        if snapshot is None:
            with lance_errors(self.uri):
                # mode create of an empty table: append would do, but prints a warning, and this one fails when another writer was first
                options = lance_options(self.uri, self._options)
                return lance.write_dataset(self.spec.schema.empty_table(), lance_uri(self.uri), mode="create", storage_options=options)
        dataset = snapshot.dataset
        missing = [field for field in self.spec.schema if field.name not in dataset.schema.names]
        if not missing:
            return dataset
        if not_null := [field.name for field in missing if not field.nullable]:
            raise StoreError(
                f"{self.uri}: lacks columns {not_null}, which must have a value in every row. Move this table away and run again"
            )
        with lance_errors(self.uri):
            dataset.add_columns(pa.schema(missing))
            return dataset

    def _check_long_videos(self, rows: pa.Table, finished: Collection[VideoWrite]) -> None:
        """Check that all chunks of the long videos which end in this batch are there, and take the header back where they are not."""
        for write in finished:
            is_header = pc.and_(rows["is_header"], pc.equal(rows["video_id"], write.video_id))
            num_promised = rows.filter(is_header)["num_rows"][0].as_py()
            num_found = len(self.unfinished_rows(write.video_id, write.fingerprint))
            if num_found != num_promised:
                self.delete_videos([write.video_id])
                raise WriteConflict(
                    f"{self.uri}: video {write.video_id} has {num_found} rows where its header says {num_promised}: another writer was at it. "
                    "Its rows were removed; run again"
                )


def _delete(dataset: lance.LanceDataset, *, where: str) -> None:
    dataset.delete(where, conflict_retries=CONFLICT_RETRIES, retry_timeout=CONFLICT_TIMEOUT)


def _stale_rows(replace: Collection[VideoWrite]) -> Iterator[str]:
    """Yield conditions of the rows that go, of those which are not in the batch."""
    begun = [write.video_id for write in replace if write.is_first]
    if begun:
        yield in_list("video_id", begun)
    for write in replace:
        if not write.is_first:
            yield f"(video_id = {quoted(write.video_id)} AND (is_header OR fingerprint <> {quoted(write.fingerprint)}))"


def _check_rows(rows: pa.Table, writes: Mapping[str, VideoWrite], spec: TableSpec) -> None:
    """Check that the rows are those of the writes, and that each video that ends has its one header."""
    if pc.count_distinct(rows["row_id"]).as_py() != rows.num_rows:
        raise ValueError(f"{spec.asset}: two rows of one commit have the same row_id")
    counts = rows.group_by(["video_id", "fingerprint", "is_header"]).aggregate([([], "count_all")]).to_pylist()
    num_items: dict[str, int] = {}
    for group in counts:
        write = writes.get(group["video_id"])
        if write is None or write.fingerprint != group["fingerprint"]:
            raise ValueError(
                f"{spec.asset}: rows of video {group['video_id']} with fingerprint {group['fingerprint']} that is not being written"
            )
        if not group["is_header"]:
            num_items[group["video_id"]] = group["count_all"]
    headers = rows.filter(rows["is_header"]).select(["row_id", "video_id", "num_rows"]).to_pylist()
    with_header = {header["video_id"] for header in headers}
    ending = {write.video_id for write in writes.values() if write.is_last}
    if with_header != ending or len(headers) != len(ending):
        raise ValueError(
            f"{spec.asset}: each video that is complete needs one header row, and no other: {sorted(with_header ^ ending)[:5]}"
        )
    for header in headers:
        if header["row_id"] != header["video_id"]:
            raise ValueError(
                f"{spec.asset}: the header of video {header['video_id']} has row_id {header['row_id']}; it must be the video's id"
            )
        has = num_items.get(header["video_id"], 0)
        if not spec.rows_are_headers and (
            header["num_rows"] is None or (writes[header["video_id"]].is_whole and header["num_rows"] != has)
        ):
            raise ValueError(f"{spec.asset}: the header of video {header['video_id']} says {header['num_rows']} rows, the commit has {has}")


def _with_columns_of(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Add the columns that only the dataset has, written by a newer version of the schema, as NULL."""
    for field in schema:
        if field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    return rows
