"""Incremental driver: work list -> engine -> commit, the same for every stage that works video by video.

A stage says which videos need work (their expected fingerprint is not in the table) and gives a pure function for one piece of work. This module runs the pieces,
puts the rows of a video together, commits them in batches, and writes each video's header row last, so that the process may end anywhere.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from curation_assets.curation.fingerprints import combine, content_hash
from curation_assets.curation.pieces import Piece, Result, Row, run_piece
from curation_assets.curation.progress import Progress
from curation_assets.engine.local import Done, Failed, NotYet
from curation_assets.schemas.columns import SECONDS, SET_FINGERPRINTS
from curation_assets.schemas.outcomes import Outcome, OutcomeClass, outcome_class
from curation_assets.storage.tables import RowState, VideoTable, VideoWrite

COMMIT_VIDEOS = 64
COMMIT_BYTES = 8_000_000  # a merge takes several times its bytes in memory: 64 MB peaked at 0.66 GB, 8 MB at 0.28 (pylance 14.0)
COMMIT_INTERVAL_S = 30.0
COMMITS_PER_COMPACTION = 64  # a commit costs more with every fragment

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """One video's work in one stage.

    Attributes:
        video_id: whose.
        etag: version of the object that the rows are made from.
        fingerprints: expected fingerprint by asset, for the tables that need work and no others.
        pieces: at least one.
        carried: by asset, rows that are still as wanted and are committed again as they are, with the first of the others.
        resumed: by asset, the rows that an interrupted run of the same work left: (outcome, detail, content_hash). The pieces are the others then.
    """

    video_id: str
    etag: str
    fingerprints: Mapping[str, str]
    pieces: Sequence[Piece]
    resumed: Mapping[str, Sequence[RowState]] = field(default_factory=dict)
    carried: Mapping[str, Sequence[Row]] = field(default_factory=dict)


class Stage(Protocol):
    """What the driver asks of a stage when a piece did not return, and at a video's end."""

    def failed(self, piece: Piece, outcome: Outcome, detail: str) -> Result:
        """Give the rows for the items of a piece that did not return."""
        ...

    def finish(self, plan: Plan, partials: Sequence[Any]) -> Mapping[str, Sequence[Row]]:
        """Give the rows that span pieces, by asset."""
        ...


PieceResults = Iterator[Done[Piece] | Failed[Piece]]


class Engine(Protocol):
    """Where pieces run: see `curation_assets.engine`."""

    def map(self, function: Callable[[T], Any], items: Iterable[T | NotYet]) -> Iterator[Done[T] | Failed[T]]:
        """Yield one result per item, in the order of completion."""
        ...

    def close(self) -> None:
        """End the worker processes; the next `map` starts new ones."""
        ...


@dataclass(slots=True)
class StageReport:
    """What one run of a stage did.

    Attributes:
        num_work: videos in the work list.
        num_unchanged: videos that needed nothing.
        num_removed: videos whose rows went because their upstream is gone.
        outcomes: by asset, videos worked on by outcome.
        bytes_written: bytes of the committed rows' larger columns.
        seconds: wall time.
    """

    num_work: int = 0
    num_unchanged: int = 0
    num_removed: int = 0
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    bytes_written: int = 0
    seconds: float = 0.0


class _Video:
    """Rows of a video that is being worked on."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.num_left = len(plan.pieces)
        self.is_first_commit = True
        self.work_s = 0.0
        self.outcome = Outcome.OK
        self.detail: str | None = None
        self.header: dict[str, Row] = {asset: {} for asset in plan.fingerprints}
        self.rows: dict[str, list[Row]] = {asset: [] for asset in plan.fingerprints}
        self.hashes: dict[str, list[str]] = {asset: [] for asset in plan.fingerprints}
        self.worst: dict[str, tuple[Outcome, str | None]] = dict.fromkeys(plan.fingerprints, (Outcome.OK, None))
        self.partials: list[Any] = []
        for asset, rows in plan.resumed.items():
            self.is_first_commit = False
            for row in rows:
                self.hashes[asset].append(row.content_hash or "")
                if _badness(Outcome(row.outcome)) > _badness(self.worst[asset][0]):
                    self.worst[asset] = (Outcome(row.outcome), row.detail)
        self.add_rows(plan.carried)

    def add(self, result: Result) -> int:
        """Take a piece's rows; return their bytes."""
        self.num_left -= 1
        self.partials.extend(result.partials)
        self.work_s += result.work_s
        if _badness(result.outcome) > _badness(self.outcome):
            self.outcome, self.detail = result.outcome, result.detail
        for asset, extra in result.header.items():
            if asset in self.header:
                self.header[asset].update(extra)
        return self.add_rows(result.rows)

    def add_rows(self, rows_by_asset: Mapping[str, Sequence[Row]]) -> int:
        num_bytes = 0
        for asset, rows in rows_by_asset.items():
            if asset not in self.rows:
                continue  # this table is up to date already
            for row in rows:
                outcome = Outcome(row.setdefault("outcome", Outcome.OK.value))
                if _badness(outcome) > _badness(self.worst[asset][0]):
                    self.worst[asset] = (outcome, row.get("detail"))
                if "content_hash" not in row:  # a stage may say itself what counts
                    row["content_hash"] = content_hash({name: value for name, value in row.items() if name not in _NOT_CONTENT})
                self.hashes[asset].append(row["content_hash"])
                self.rows[asset].append(row)
                num_bytes += _num_bytes(row)
        return num_bytes

    def header_row(self, asset: str) -> Row:
        outcome, detail = self.outcome, self.detail
        if _badness(self.worst[asset][0]) > _badness(outcome):
            outcome, detail = self.worst[asset]
        extra = self.header[asset]
        said = {name: value for name, value in extra.items() if name not in _NOT_CONTENT}
        return {
            "outcome": outcome.value,
            "detail": detail,
            "num_rows": len(self.hashes[asset]),
            "content_hash": combine([*self.hashes[asset], content_hash({"outcome": outcome.value, **said})]),
            "work_s": self.work_s,
            **extra,
        }


_NOT_CONTENT = {"detail", "content_hash", SECONDS.name, SET_FINGERPRINTS.name}


def _badness(outcome: Outcome) -> int:
    return list(OutcomeClass).index(outcome_class(outcome))


def _num_bytes(row: Row) -> int:
    total = 200
    for value in row.values():
        if isinstance(value, bytes):
            total += len(value)
        elif isinstance(value, list | tuple) and value and isinstance(value[0], bytes):
            total += sum(map(len, value))
        elif hasattr(value, "nbytes"):
            total += value.nbytes
    return total


class Writer:
    """Buffers rows of several videos and tables and commits them together when there is enough of them.

    Args:
        tables: by asset; each table is committed on its own, headers last.
        source: source name for the rows.
        run_id: Dagster run, or None.
        check: called before each commit; raises when another run has taken over.
    """

    def __init__(
        self, tables: Mapping[str, VideoTable], *, source: str, run_id: str | None, check: Callable[[], None] = lambda: None
    ) -> None:
        self._tables = tables
        self._source = source
        self._run_id = run_id
        self._check = check
        self._rows: dict[str, list[Row]] = {asset: [] for asset in tables}
        self._writes: dict[str, dict[str, VideoWrite]] = {asset: {} for asset in tables}
        self._buffered_bytes = 0
        self._since = time.monotonic()
        self._num_commits = 0
        self.bytes_written = 0

    def add(self, asset: str, rows: Sequence[Row], write: VideoWrite, *, etag: str) -> None:
        """Buffer one video's rows for one table, its header row among them when `write.is_last`."""
        now = datetime.now(UTC)
        common = {
            "source": self._source,
            "video_id": write.video_id,
            "fingerprint": write.fingerprint,
            "video_etag": etag,
            "run_id": self._run_id,
            "written_at": now,
        }
        self._rows[asset].extend({**row, **common} for row in rows)
        earlier = self._writes[asset].get(write.video_id)
        if earlier is not None:
            write = VideoWrite(write.video_id, write.fingerprint, is_first=earlier.is_first, is_last=write.is_last)
        self._writes[asset][write.video_id] = write
        self._buffered_bytes += sum(map(_num_bytes, rows))

    @property
    def assets(self) -> list[str]:
        """The tables' assets."""
        return list(self._tables)

    @property
    def is_full(self) -> bool:
        """Whether it is time to commit."""
        return (
            self._buffered_bytes >= COMMIT_BYTES
            or any(len(writes) >= COMMIT_VIDEOS for writes in self._writes.values())
            or (self._buffered_bytes > 0 and time.monotonic() - self._since >= COMMIT_INTERVAL_S)
        )

    def flush(self) -> None:
        """Commit what is buffered."""
        if any(self._writes.values()):
            self._check()
        for asset, table in self._tables.items():
            rows, writes = self._rows[asset], list(self._writes[asset].values())
            if writes:
                names = set(table.spec.schema.names)
                batch = pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows], schema=table.spec.schema)
                table.commit(batch, replace=writes)
            self._rows[asset], self._writes[asset] = [], {}
        self._num_commits += 1
        if self._num_commits % COMMITS_PER_COMPACTION == 0:
            self.compact()
        self.bytes_written += self._buffered_bytes
        self._buffered_bytes = 0
        self._since = time.monotonic()

    def compact(self) -> None:
        """Merge small fragments of the tables, where there are many."""
        for table in self._tables.values():
            table.compact()


def run_stage(
    plans: Iterable[Plan],
    *,
    stage: Stage,
    writer: Writer,
    run_pieces: Callable[[Iterable[Piece]], PieceResults],
    progress: Progress,
) -> StageReport:
    """Do the planned work and commit it.

    Results are independent of the order in which workers end. When the run is interrupted, what is complete is committed first.

    Raises:
        Exception: a result's `error`.

    Args:
        plans: drawn lazily.
        stage: gives the rows of pieces that failed and of rows that span pieces.
        writer: of the stage's tables.
        run_pieces: `on_engine(engine)`, or a function that works on several pieces at once.
        progress: told of each video; its `num_total` may grow while plans are drawn.

    Returns:
        Counts by outcome; `num_unchanged` and `num_removed` are the caller's to fill in.
    """
    started = time.monotonic()
    report = StageReport(outcomes={asset: Counter() for asset in writer.assets})
    videos: dict[str, _Video] = {}

    def pieces() -> Iterator[Piece]:
        for plan in plans:
            videos[plan.video_id] = _Video(plan)
            yield from plan.pieces

    try:
        for outcome in run_pieces(pieces()):
            piece = outcome.item
            video = videos[piece.video_id]
            result = outcome.value if isinstance(outcome, Done) else stage.failed(piece, outcome.outcome, outcome.detail)
            _raise_error(result, writer)
            num_bytes = video.add(result)
            if video.num_left == 0:
                video.add_rows(stage.finish(video.plan, video.partials))
                _write(video, writer, is_last=True)
                del videos[piece.video_id]
                for asset in video.plan.fingerprints:
                    report.outcomes[asset][video.header_row(asset)["outcome"]] += 1
                progress.add_video(failed=_is_failed(video))
            elif num_bytes:
                _write(video, writer, is_last=False)
            progress.add_piece(1 / len(video.plan.pieces))
            if writer.is_full:
                writer.flush()
    except BaseException as error:
        if not isinstance(error, Exception):  # Ctrl-C or Terminate: keep what is done
            writer.flush()
        raise
    writer.flush()
    progress.finish()
    report.num_work = progress.num_done
    report.bytes_written = writer.bytes_written
    report.seconds = time.monotonic() - started
    return report


def _raise_error(result: Result, writer: Writer) -> None:
    """End the run where a piece says so; what is complete is committed first."""
    if result.error is not None:
        writer.flush()
        raise result.error


def on_engine(engine: Engine) -> Callable[[Iterable[Piece]], PieceResults]:
    """Run each piece's own function on an engine."""
    return lambda pieces: engine.map(run_piece, pieces)


def _is_failed(video: _Video) -> bool:
    return any(outcome_class(video.header_row(asset)["outcome"]) is OutcomeClass.FAILED for asset in video.plan.fingerprints)


def _write(video: _Video, writer: Writer, *, is_last: bool) -> None:
    for asset, fingerprint in video.plan.fingerprints.items():
        rows = [{**row, "is_header": False} for row in video.rows[asset]]
        video.rows[asset] = []
        if is_last:
            rows.append({**video.header_row(asset), "row_id": video.plan.video_id, "is_header": True})
        write = VideoWrite(video.plan.video_id, fingerprint, is_first=video.is_first_commit, is_last=is_last)
        writer.add(asset, rows, write, etag=video.plan.etag)
    video.is_first_commit = False


def needs_work(
    expected: Mapping[str, str],
    headers: Mapping[str, tuple[str, str]],
    *,
    retry_failed: bool,
    always: Collection[OutcomeClass] = (OutcomeClass.WAITING,),
) -> list[str]:
    """List the videos whose rows are missing, stale, or to be tried again, in the order of `expected`.

    Args:
        expected: fingerprint by video_id.
        headers: (fingerprint, outcome) by video_id, as the table has them.
        retry_failed: try failed ones again although nothing changed.
        always: outcome classes that are tried again at every run.
    """
    work = []
    for video_id, fingerprint in expected.items():
        known = headers.get(video_id)
        if known is None or known[0] != fingerprint:
            work.append(video_id)
            continue
        kind = outcome_class(known[1])
        if kind in always or (retry_failed and kind is OutcomeClass.FAILED):
            work.append(video_id)
    return work


def batched(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """Yield the items in tuples of `size`, the last one shorter (itertools.batched came with Python 3.12)."""
    source = iter(items)
    while batch := tuple(islice(source, size)):
        yield batch
