"""Watching: one tick over the watched roots, which names the sources that have something new, changed or deleted.

A listing is sorted, so a source's keys stand together, and one paged pass sees source after source. A tick is bounded in time and in requests; the next goes
on where it stopped. Nothing here knows Dagster: the sensor (`defs/sensors.py`) turns requests into runs and keeps the cursor.
"""

from __future__ import annotations

import copy
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from operator import attrgetter

from curation_assets.configuration import resolve_settings
from curation_assets.curation.fingerprints import fingerprint
from curation_assets.curation.sources import SourceRecord, SourceRegistry, check_root_is_there
from curation_assets.curation.warehouse import Warehouse
from curation_assets.curation.watch_state import ABOVE, Cursor, Digest, Position, Requested, RootCursor, StateStore, WatchState
from curation_assets.curation.watched_names import source_folder
from curation_assets.settings import Config, SettingsError
from curation_assets.storage.errors import StoreError
from curation_assets.storage.objects import ObjectInfo, ObjectStore, behind_folder, open_store

_PAGE = 1000
_MOST_PROBLEMS = 5
# A tick that fails is done again by the next one, so the store is not asked for long: Dagster gives up on a tick after 60 s.
_SHORT_RETRIES = {"client_max_retries": "1", "client_retry_timeout": "10", "connect_timeout": "5s", "timeout": "10s"}
_key = attrgetter("key")


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A source that is to be curated.

    Attributes:
        source: its name, a partition key.
        run_key: the same when the tick is done again, another when the source changes again.
        reason: for people.
    """

    source: str
    run_key: str
    reason: str


@dataclass
class Tick:
    """What one tick found.

    Attributes:
        requests: at most one per source.
        cursor: for the next tick.
        problems: roots and sources that could not be looked at, and what to do.
        num_objects: listed.
        is_done: whether every root was looked at to its end.
    """

    requests: list[RunRequest] = field(default_factory=list)
    cursor: str = ""
    problems: list[str] = field(default_factory=list)
    num_objects: int = 0
    is_done: bool = True

    def summary(self) -> str:
        """Say in words what was found, for a tick that asks for nothing."""
        seen = f"{self.num_objects:,} objects looked at, nothing to do" + ("" if self.is_done else " so far; the next tick goes on")
        more = [f"and {len(self.problems) - _MOST_PROBLEMS} more problems, see the log"] if len(self.problems) > _MOST_PROBLEMS else []
        return "; ".join([*self.problems[:_MOST_PROBLEMS], *more, seen])


def look(config: Config, warehouse: Warehouse, cursor: str | None, *, now: Callable[[], float] = time.time) -> Tick:
    """Look at the watched roots, as far as one tick goes.

    What a tick asks for is written into the warehouse before it returns; handing its cursor to the next tick commits that.

    Args:
        config: the settings.
        warehouse: holds the registry and the state.
        cursor: of the tick before, None at first.
        now: Unix time in seconds.

    Raises:
        StoreError: the warehouse cannot be read or written; the tick is to be done again with the same cursor.
    """
    tick, known = Tick(), Cursor.parse(cursor)
    deadline_s = time.monotonic() + config.sensors.max_tick_s
    names = sorted(config.watch)
    roots = {name: known.roots.get(name) or RootCursor(number=int(now())) for name in names}
    start = bisect_left(names, known.first or "")
    first = None
    for index, name in enumerate([*names[start:], *names[:start]]):
        root = _RootTick(name, config, warehouse, tick, now_s=now(), deadline_s=deadline_s)
        if index and root.is_late():
            first, tick.is_done = name, False
            break
        is_done = root.run(roots[name])
        roots[name] = root.cursor
        if not is_done:
            # a root of millions of objects must not keep the others waiting
            first, tick.is_done = next((other for other in names if other > name), names[0]), False
            break
    tick.cursor = Cursor(roots, first).text()
    return tick


def upsert_source(registry: SourceRegistry, record: SourceRecord, *, only_known: bool = False) -> bool:
    """Register a source that a watch makes, or bring its entry up to date.

    Args:
        registry: of the warehouse.
        record: from `SourceRecord.from_watch`.
        only_known: leave a source alone that is not registered: somebody took it away.

    Returns:
        Whether it is registered now.

    Raises:
        SettingsError: a source of that name is not this watch's, or its entry is damaged.
    """
    present = registry.find(record.name)
    if present is None and only_known:
        return False
    if present is not None and not _is_own(present, record):
        raise SettingsError(
            f"the folder {record.uri} would be the source {record.name}, but there is another of that name, {present.uri}: "
            f"rename the folder or the watch, or take that source away with: curation-assets sources remove {record.name}"
        )
    if present != record:
        registry.put(record)
    return True


def _is_own(present: SourceRecord, record: SourceRecord) -> bool:
    """Say whether an entry was made by the same watch for the same folder; a watch's root may have moved since."""
    return present.watch == record.watch and (present.watched_root != record.watched_root or present.uri == record.uri)


class _Full(Exception):  # noqa: N818 - no error
    """The tick may ask for no more runs, or its time is over."""


class _RootError(Exception):
    """The root, or a folder in it, cannot be listed.

    Attributes:
        folder: key of that folder; "" for the root.
    """

    def __init__(self, message: str, *, folder: str) -> None:
        super().__init__(message)
        self.folder = folder


class _RootTick:
    """One root in one tick."""

    def __init__(self, name: str, config: Config, warehouse: Warehouse, tick: Tick, *, now_s: float, deadline_s: float) -> None:
        self.name, self.watch, self.tick = name, config.watch[name], tick
        self._registry = warehouse.registry
        self._own = warehouse.layout.media_below(self.watch.uri)
        self._states = StateStore(warehouse.store, warehouse.layout, name)
        self._deadline_s, self._most_requests = deadline_s, config.sensors.max_requests_per_tick
        endings = resolve_settings(config.processing(), self.watch.settings, where=f"watch.{name}.settings").raw_videos.extensions
        self._all_endings = tuple(endings)
        # looking the last part of a name up is several times faster than trying every ending
        self._endings = frozenset(ending[1:] for ending in endings) if all(ending.count(".") == 1 for ending in endings) else None
        self._now_s = now_s
        quiet = timedelta(seconds=self.watch.quiet_period_s)
        moment = datetime.fromtimestamp(now_s, UTC)
        self._quiet_s = self.watch.quiet_period_s
        self._young = (moment - quiet, moment + quiet)  # the other side too: a clock may be a little ahead. One far ahead hides nothing
        self._young_s = (now_s - self._quiet_s, now_s + self._quiet_s)
        self._setup = fingerprint(asdict(SourceRecord.from_watch(name, self.watch, None)))
        self._num_decided = 0
        self._has_gone = False
        self._unreadable: list[str] = []

    def run(self, cursor: RootCursor) -> bool:
        """Look at the root from where the cursor says, as far as the tick goes; `self.cursor` says then where to go on.

        Returns:
            Whether the tick may go on with the next root.
        """
        self.cursor = cursor
        state = self._states.read(cursor.state)
        is_new = state is None or (state.uri, state.depth) != (self.watch.uri, self.watch.depth)
        if state is None or is_new:
            state = WatchState(self.watch.uri, self.watch.depth, cursor.number)
        elif cursor.position is None and 0 <= self._now_s - cursor.listed_s < self.watch.poll_interval_s:
            return True
        self._number = cursor.number + 1
        self._sources = dict(state.sources)
        self._known = sorted(f"{folder}/" for folder in state.sources if folder != ABOVE)
        num_requests = len(self.tick.requests)
        try:
            with _errors_of_the_root():
                store = open_store(self.watch.uri, options={**_SHORT_RETRIES, **self.watch.storage_options})
            position, is_done = self._pass(store, Position() if is_new else copy.deepcopy(cursor.position) or Position())
            if self._has_gone:
                with _errors_of_the_root():
                    check_root_is_there(store)
        except _RootError as error:
            del self.tick.requests[num_requests:]
            self._report(str(error))
            return True
        name = cursor.state
        if self._sources != state.sources or (is_new and position != Position()):
            name = self._states.write(WatchState(self.watch.uri, self.watch.depth, self._number, self._sources))
        else:
            self._number = cursor.number
        listed_s = int(self._now_s) if position is None and self.watch.poll_interval_s else 0
        self.cursor = RootCursor(self._number, name, position, listed_s)
        return is_done

    def _pass(self, store: ObjectStore, position: Position) -> tuple[Position | None, bool]:
        """List on from a position, and decide on every source that the listing leaves behind.

        Returns:
            The new position, None when the root's end was reached, and whether the tick may go on with the next root.
        """
        try:
            for page in self._pages(store, position.after):
                self._take(page, position)
                if time.monotonic() >= self._deadline_s:
                    return position, False
            self._leave(position)
            self._decide_gone(position)
            if self.watch.depth:
                self._check_is_not_full()
                self._decide(None, position.above)
        except _Full:
            return position, False
        except _RootError as error:
            self._report(str(error))
            return position, True
        return None, True

    def _pages(self, store: ObjectStore, after: str | None) -> Iterator[list[ObjectInfo]]:
        """List the root; a folder below it that cannot be read, or went away at this moment, does not stand in the way of the others."""
        while True:
            with _errors_of_the_root():
                pages = store.list_pages(page_size=_PAGE, start_after=after)
            try:
                while True:
                    with _errors_of_the_root():
                        page = next(pages, None)
                    if page is None:
                        return
                    self.tick.num_objects += len(page)
                    yield page
            except _RootError as error:
                if not error.folder or f"{error.folder}/" in self._unreadable:
                    raise
                self._unreadable.append(f"{error.folder}/")
                self._report(str(error))
                after = behind_folder(error.folder)

    def _take(self, page: Sequence[ObjectInfo], position: Position) -> None:
        """Take the next objects of the listing in: they are of one folder after the other, with objects above the depth in between."""
        start = 0
        while start < len(page):
            folder = source_folder(page[start].key, self.watch.depth)
            if folder != position.folder:
                self._leave(position)
            if folder is None:
                end = start + 1
                while end < len(page) and source_folder(page[end].key, self.watch.depth) is None:
                    end += 1
                self._add(position.above, page[start:end])
            else:
                if position.folder is None:
                    self._decide_gone(position, before=f"{folder}/")
                    position.folder = folder
                # "0" comes right behind "/"
                end = bisect_left(page, f"{folder}0", lo=start, key=_key) if folder else len(page)
                self._add(position.inside, page[start:end])
            position.after = page[end - 1].key
            start = end

    def _add(self, digest: Digest, objects: Sequence[ObjectInfo]) -> None:
        # an upload under way (x.mp4.part) is no video yet
        if self._endings is None:
            videos = [info for info in objects if info.key.lower().endswith(self._all_endings)]
        else:
            videos = [info for info in objects if info.key.rpartition(".")[2].lower() in self._endings]
        if self._own:
            videos = [info for info in videos if not info.key.startswith(self._own)]
        if self._quiet_s:
            low, high = self._young
            low_s, high_s = self._young_s
            quiet = [
                info
                for info in videos
                if not (low < info.last_modified < high or (info.changed_s is not None and low_s < info.changed_s < high_s))
            ]
            digest.has_young = digest.has_young or len(quiet) < len(videos)
            videos = quiet
        digest.add([f"{info.key}\0{info.etag}" for info in videos])

    def _leave(self, position: Position) -> None:
        """Decide on the folder that the listing was in, which is seen to its end now."""
        if position.folder is not None:
            self._check_is_not_full()
            self._decide(position.folder, position.inside)
            position.decided, position.folder, position.inside = f"{position.folder}/", None, Digest()

    def _decide_gone(self, position: Position, *, before: str | None = None) -> None:
        """Decide on the known folders that the listing passed without seeing them."""
        for index in range(bisect_right(self._known, position.decided), len(self._known)):
            folder = self._known[index]
            if before is not None and folder >= before:
                return
            self._check_is_not_full()
            if not folder.startswith(tuple(self._unreadable)):
                self._decide(folder[:-1], Digest())
            position.decided = folder

    def is_late(self) -> bool:
        """Say whether the tick may ask for no more runs, or its time is over."""
        return len(self.tick.requests) >= self._most_requests or time.monotonic() >= self._deadline_s

    def _check_is_not_full(self) -> None:
        if self.is_late() and (self._num_decided or self.tick.requests):  # a tick decides on one source at least
            raise _Full

    def _decide(self, folder: str | None, digest: Digest) -> None:
        """Ask for a run of a source if it is not as it was when the last one was asked for."""
        self._num_decided += 1
        entry = ABOVE if folder is None else folder
        known = self._sources.get(entry)
        value = digest.value()
        if not value and (known is None or digest.has_young):
            return
        if value and known == Requested(value, digest.num_videos, self._setup):
            return
        record = SourceRecord.from_watch(self.name, self.watch, folder)
        try:
            is_registered = upsert_source(self._registry, record, only_known=(known is not None and known.digest == value) or not value)
        except SettingsError as error:
            self._report(str(error))
            return
        if not value:
            del self._sources[entry]
            self._has_gone = True
            reason = f"deleted: {known.num_videos} videos" if known else ""
        else:
            self._sources[entry] = Requested(value, digest.num_videos, self._setup)
            reason = (
                f"new: {digest.num_videos} videos" if known is None else f"changed: {digest.num_videos} videos, {known.num_videos} before"
            )
        if is_registered and (known is None or known.digest != value):
            self.tick.requests.append(RunRequest(record.name, f"{record.name}:{value or 'gone'}:{self._number}", reason))

    def _report(self, problem: str) -> None:
        self.tick.problems.append(f"watch {self.name}: {problem}")


@contextmanager
def _errors_of_the_root() -> Iterator[None]:
    """Tell errors of a watched root from those of the warehouse, which end the tick."""
    try:
        yield
    except (ValueError, StoreError) as error:  # ValueError: a scheme that is no store's, an unknown option
        raise _RootError(str(error), folder=getattr(error, "folder", "")) from error
