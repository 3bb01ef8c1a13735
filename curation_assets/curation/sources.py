"""Sources: the registry of what is watched, and the listing of one source's objects, from a prefix or from a manifest."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from curation_assets.configuration import merge
from curation_assets.curation.reading import open_object
from curation_assets.curation.shards import check_shards, has_key, partition_names
from curation_assets.curation.source_object import SourceObject
from curation_assets.curation.watched_names import source_folder, watched_source_name
from curation_assets.schemas.outcomes import Outcome
from curation_assets.settings import Config, SettingsError, SourceSettings, WatchSettings
from curation_assets.storage.errors import Forbidden, NoSpace, NotFound, SourceNotFound, StoreError, Unavailable
from curation_assets.storage.layout import REGISTRY_COPY_KEY, SOURCES_PREFIX, Layout, check_source_name, plain_name, shard_of
from curation_assets.storage.objects import ObjectInfo, ObjectStore, behind_folder, child_uri, open_store

MANIFEST_ENDINGS = (".csv", ".json", ".jsonl", ".ndjson", ".parquet")
_KEY_COLUMNS = ("key", "uri", "url", "path")
_PAGE = 1000
_HEAD_THREADS = 16
_READ_THREADS = 16
_WORTH_COPYING = 256  # entries; fewer are read one by one in no time
_SETTLED = timedelta(seconds=5)
_NAMED = 20

Regions = tuple[tuple[int, int], ...] | None


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """What a source is, as the registry keeps it.

    Attributes:
        name: partition key: the source's name, or that of a shard of it.
        uri: absolute folder, store prefix, or manifest.
        is_manifest: whether `uri` is a list of objects.
        storage_options: options of the object store, no credentials.
        settings: overrides of the processing settings.
        watch: name of the watch that made it, or "".
        watched_root: root of that watch. It has to be there when the source is listed; `uri`, a folder below it, may be gone.
        above_depth: only the objects that no folder so many levels below `uri` holds (`watched_names.source_folder`); None for all.
    """

    name: str
    uri: str
    is_manifest: bool = False
    storage_options: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    watch: str = ""
    watched_root: str = ""
    above_depth: int | None = None

    @property
    def plain_name(self) -> str:
        """Name of the source as the ids and the column `source` have it."""
        return plain_name(self.name)

    @classmethod
    def all_from_settings(cls, name: str, settings: SourceSettings) -> list[SourceRecord]:
        """Build the record of a source, or of each of its shards, from the settings file or the command line.

        Raises:
            SettingsError: the name cannot be a partition key and a folder.
        """
        record = cls.from_settings(name, settings)
        return [replace(record, name=checked_name(shard)) for shard in partition_names(name, settings.shards)]

    @classmethod
    def from_settings(cls, name: str, settings: SourceSettings) -> SourceRecord:
        """Build the record of a source from the settings file or the command line, as if it were not split.

        Raises:
            SettingsError: the name cannot be a partition key and a folder, or is that of a shard.
        """
        if shard_of(checked_name(name)):
            raise SettingsError(
                f"{name} is the name of a shard of the source {plain_name(name)}; give that name, and shards for the number"
            )
        is_manifest = settings.kind == "manifest" or (settings.kind == "auto" and settings.uri.lower().endswith(MANIFEST_ENDINGS))
        return cls(name, settings.uri, is_manifest, dict(settings.storage_options), dict(settings.settings))

    @classmethod
    def from_watch(cls, watch: str, settings: WatchSettings, folder: str | None) -> SourceRecord:
        """Build the record of the source that a watch makes of one folder.

        Args:
            watch: name of the watch.
            settings: of the watch.
            folder: as `watched_names.source_folder` gives it.
        """
        return cls(
            watched_source_name(watch, folder),
            child_uri(settings.uri, folder) if folder else settings.uri,
            storage_options=dict(settings.storage_options),
            # Files that are still being written: a run starts later than the sensor looks, so half of it leaves room for clocks that differ.
            settings=merge({"raw_videos": {"quiet_period_s": settings.quiet_period_s / 2}}, settings.settings),
            watch=watch,
            watched_root=settings.uri,
            above_depth=settings.depth if folder is None else None,
        )


def checked_name(name: str) -> str:
    """Return a source's name if it can be one.

    Raises:
        SettingsError: it cannot be a partition key and a folder.
    """
    try:
        return check_source_name(name)
    except ValueError as error:
        raise SettingsError(str(error)) from error


class SourceRegistry:
    """`<warehouse>/sources/<name>.json`, one object per source: the owner of what a source is.

    Of thousands of sources a copy in one object is kept: a listing says which entries are still as they are there.
    """

    def __init__(self, store: ObjectStore, layout: Layout) -> None:
        self._store = store
        self._layout = layout

    def names(self) -> list[str]:
        """List the names of all sources, sorted."""
        return sorted(self._entries())

    def get(self, name: str) -> SourceRecord:
        """Read one source.

        Raises:
            SettingsError: there is none of that name, or its entry is damaged.
        """
        record = self.find(name)
        if record is None:
            known = some_names(self.names())
            raise SettingsError(f"no source named {name!r}; known: {known}. Add it with: curation-assets sources add {name} URI")
        return record

    def find(self, name: str) -> SourceRecord | None:
        """Read one source, None when there is none of that name.

        Raises:
            SettingsError: its entry is damaged.
        """
        try:
            return self._parse(name, self._store.get(self._layout.source_key(checked_name(name))))
        except NotFound:
            return None

    def records(self) -> dict[str, SourceRecord]:
        """Read all sources, by name, sorted.

        Raises:
            SettingsError: an entry is damaged.
        """
        entries = self._entries()
        copied = self._copied() if len(entries) >= _WORTH_COPYING else {}
        known = {name: copied[name][1] for name, info in entries.items() if name in copied and copied[name][0] == info.etag}
        other = [name for name in entries if name not in known]
        with ThreadPoolExecutor(_READ_THREADS) as threads:
            read = dict(zip(other, threads.map(self._get_if_there, other), strict=True))
        if len(other) >= _WORTH_COPYING:
            # an entry that is written twice within one tick of a file system's clock can have the same etag twice
            before = datetime.now(UTC) - _SETTLED
            settled = {name: data for name, data in read.items() if data is not None and entries[name].last_modified < before}
            copy = {name: [entries[name].etag, data] for name, data in (known | settled).items()}
            with suppress(Forbidden, NoSpace):  # who may only read reads them all every time
                self._store.put(REGISTRY_COPY_KEY, json.dumps(copy, ensure_ascii=False).encode())
        return {name: self._record(name, data) for name, data in sorted((known | read).items()) if data is not None}

    def chosen(self, names: Collection[str]) -> list[SourceRecord]:
        """Read some sources, in the order of their names.

        Raises:
            SettingsError: there is none of a name, or an entry is damaged.
        """
        if len(names) < _WORTH_COPYING:
            return [self.get(name) for name in sorted(names)]
        known = self.records()
        return [known[name] if name in known else self.get(name) for name in sorted(names)]

    def put(self, record: SourceRecord) -> None:
        """Add or replace a source."""
        data = json.dumps(asdict(record), indent=1, ensure_ascii=False).encode()
        self._store.put(self._layout.source_key(record.name), data)

    def remove(self, name: str) -> None:
        """Forget a source; its tables stay until they are removed."""
        self._store.delete(self._layout.source_key(name))

    def sync(self, config: Config) -> list[str]:
        """Upsert the settings file's sources and return all names.

        Raises:
            SettingsError: a source is split otherwise than it was, or its name cannot be used; nothing was written then.
        """
        wanted = [record for name, settings in config.sources.items() for record in SourceRecord.all_from_settings(name, settings)]
        names = {record.name for record in wanted}
        present = set(self.names())
        check_shards({name: settings.shards for name, settings in config.sources.items()}, present)
        known = self.records() if len(wanted) >= _WORTH_COPYING else {record.name: record for record in self.chosen(present & names)}
        changed = [record for record in wanted if known.get(record.name) != record]
        with ThreadPoolExecutor(_READ_THREADS) as threads:
            list(threads.map(self.put, changed))
        return sorted({*self.names(), *names})

    def _entries(self) -> dict[str, ObjectInfo]:
        try:
            found = [info for page in self._store.list_pages(SOURCES_PREFIX) for info in page]
        except NotFound:
            return {}
        return {info.key.removeprefix(SOURCES_PREFIX).removesuffix(".json"): info for info in found if info.key.endswith(".json")}

    def _copied(self) -> dict[str, Any]:
        try:
            found = json.loads(self._store.get(REGISTRY_COPY_KEY))
        except (NotFound, ValueError):  # none yet, or damaged: it is made anew
            return {}
        return found if isinstance(found, dict) else {}

    def _get_if_there(self, name: str) -> Any:
        try:
            return self._json(name, self._store.get(self._layout.source_key(name)))
        except NotFound:  # removed since it was listed
            return None

    def _json(self, name: str, data: bytes) -> Any:
        try:
            return json.loads(data)
        except ValueError as error:
            raise self._damaged(name, error) from error

    def _parse(self, name: str, data: bytes) -> SourceRecord:
        return self._record(name, self._json(name, data))

    def _record(self, name: str, tree: Any) -> SourceRecord:
        try:
            return SourceRecord(**tree)
        except TypeError as error:
            raise self._damaged(name, error) from error

    def _damaged(self, name: str, error: Exception) -> SettingsError:
        where = self._store.uri(self._layout.source_key(name))
        return SettingsError(f"{where} is damaged ({error}); remove it and add the source again")


def some_names(names: Sequence[str]) -> str:
    """Name a few sources, and how many more there are."""
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return (", ".join(names[:_NAMED]) or "none yet") + more


def list_objects(record: SourceRecord) -> Iterator[list[SourceObject]]:
    """List a source's objects in pages; of a shard, those that it holds: a page may be empty.

    Raises:
        StoreError: the root or the manifest cannot be read; the message says why.
        SettingsError: the manifest is malformed.
    """
    if record.is_manifest:
        yield from _list_manifest(record)
        return
    if record.watch:
        yield from _list_watched(record)
        return
    store = open_store(record.uri, options=record.storage_options)
    for page in store.list_pages(page_size=_PAGE):
        yield [_object(info, key=info.key, uri=store.uri(info.key)) for info in page if has_key(record.name, info.key)]


def _list_watched(record: SourceRecord) -> Iterator[list[SourceObject]]:
    """List a source that a watch made: its folder may be gone, the root may not."""
    store = open_store(record.watched_root, options=record.storage_options)
    folder = record.uri[len(record.watched_root.rstrip("/")) :].strip("/")
    start = len(folder) + 1 if folder else 0
    is_empty = True
    for page in store.list_pages(folder, page_size=_PAGE) if record.above_depth is None else pages_above(store, record.above_depth):
        is_empty = is_empty and not page
        yield [_object(info, key=info.key[start:], uri=store.uri(info.key)) for info in page]
    if is_empty:
        check_root_is_there(store)


def pages_above(store: ObjectStore, depth: int) -> Iterator[list[ObjectInfo]]:
    """List the objects of a watched root that lie above the depth, leaping over the folders that fill a page."""
    after: str | None = None
    while True:
        for page in store.list_pages(page_size=_PAGE, start_after=after):
            if found := [info for info in page if source_folder(info.key, depth) is None]:
                yield found
            folder = source_folder(page[-1].key, depth)
            if folder is not None and source_folder(page[0].key, depth) == folder and page[-1].key < behind_folder(folder):
                after = behind_folder(folder)
                break
        else:
            return


def check_root_is_there(store: ObjectStore) -> None:
    """Make sure that a watched root in which something is gone is a root at all.

    Raises:
        SourceNotFound: it does not exist, or it is a folder with nothing in it, as the place is where a disk is not mounted.
    """
    if not any(store.list_pages(page_size=1)) and store.local_path("x") is not None:
        raise SourceNotFound(
            f"{store.root_uri}: nothing is in it, as where a disk is not mounted; nothing was removed from the tables. Mount the disk; "
            "if all videos were deleted on purpose, put any file there, or take the sources away with: curation-assets sources remove NAME"
        )


def _object(info: ObjectInfo, *, key: str, uri: str, regions_ns: Regions = None) -> SourceObject:
    key = unicodedata.normalize("NFC", key)
    if not info.etag:
        modified = info.last_modified
        return SourceObject(key, uri, 0, "", modified, regions_ns, Outcome.VANISHED, "a link to a file that does not exist")
    return SourceObject(key, uri, info.size_bytes, info.etag, info.last_modified, regions_ns)


def _list_manifest(record: SourceRecord) -> Iterator[list[SourceObject]]:
    store, name = open_object(record.uri, record.storage_options)
    items = [item for item in _read_manifest(store.get(name), record.uri).items() if has_key(record.name, item[0])]
    folder = record.uri.rpartition("/")[0]

    def look_up(entry: tuple[str, list[tuple[int, int]]]) -> SourceObject:
        key, regions = entry
        return _look_up(key, folder, tuple(sorted(regions)) or None, record.storage_options)

    with ThreadPoolExecutor(_HEAD_THREADS) as threads:
        for start in range(0, len(items), _PAGE):
            page = list(threads.map(look_up, items[start : start + _PAGE]))
            if all(item.outcome is Outcome.FORBIDDEN for item in page):
                raise Forbidden(f"{record.uri}: none of its objects may be read; the first: {page[0].detail}")
            yield page


def _look_up(key: str, folder: str, regions_ns: Regions, storage_options: dict[str, str]) -> SourceObject:
    """Look one entry of a manifest up; what is wrong with one entry is said of that entry.

    Raises:
        Unavailable: the store cannot be reached, which says nothing about the object.
    """
    outcome = Outcome.VANISHED
    details = []
    # A manifest and the store may spell an accent differently; the store's spelling is the one that reads.
    for spelling in dict.fromkeys([key, unicodedata.normalize("NFC", key), unicodedata.normalize("NFD", key)]):
        uri = _entry_uri(spelling, folder)
        try:
            store, name = open_object(uri, storage_options)
            return _object(store.head(name), key=key, uri=uri, regions_ns=regions_ns)
        except NotFound as error:
            details.append(f"the manifest names it, the store does not have it: {error}")
        except Unavailable:
            raise
        except (StoreError, ValueError) as error:  # ValueError: a scheme that is no store's, a key that no store takes
            outcome = Outcome.FORBIDDEN if isinstance(error, Forbidden) else Outcome.UNSUPPORTED
            details = [str(error)]
            break
    return SourceObject(unicodedata.normalize("NFC", key), _entry_uri(key, folder), 0, "", None, regions_ns, outcome, details[0])


def _entry_uri(key: str, folder: str) -> str:
    return key if "://" in key or key.startswith("/") else child_uri(folder, key)


def _read_manifest(data: bytes, name: str) -> dict[str, list[tuple[int, int]]]:
    """Read the entries of a manifest: key -> regions. The same key may come several times, with one region each; once without one, it is taken whole."""
    entries: dict[str, list[tuple[int, int]]] = {}
    spelled: dict[str, str] = {}
    whole: set[str] = set()
    for number, row in enumerate(_manifest_rows(data, name), start=1):
        if not isinstance(row, dict):
            raise SettingsError(f"{name}: entry {number} is neither a key nor an object with a key: {row!r}")
        key = next((row[column] for column in _KEY_COLUMNS if row.get(column)), None)
        if not isinstance(key, str):
            raise SettingsError(f"{name}: entry {number} has no {', '.join(_KEY_COLUMNS[:-1])} or {_KEY_COLUMNS[-1]}: {row!r}")
        key = spelled.setdefault(unicodedata.normalize("NFC", key), key)
        regions = entries.setdefault(key, [])
        region = _region(row, name, number)
        if region is None:
            whole.add(key)
        elif region not in regions:
            regions.append(region)
    return {key: [] if key in whole else regions for key, regions in entries.items()}


def _manifest_rows(data: bytes, name: str) -> Iterator[Any]:
    if not data:
        raise SettingsError(f"{name}: the manifest has no bytes; an upload may be under way. Nothing of the source was changed")
    try:
        if name.lower().endswith(".parquet"):
            import pyarrow.parquet

            yield from pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
            return
        text = data.decode("utf-8-sig")
        if name.lower().endswith(".json"):
            rows = json.loads(text)
            if not isinstance(rows, list):
                raise SettingsError(f"{name}: expected a JSON array of keys or of objects with a key, found {type(rows).__name__}")
        elif name.lower().endswith((".jsonl", ".ndjson")):
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        yield from ({"key": row} if isinstance(row, str) else row for row in rows)
    except (ValueError, csv.Error) as error:  # UnicodeDecodeError, JSONDecodeError and ArrowInvalid are ValueErrors
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(f"{name}: the manifest cannot be read: {error}") from error


def _region(row: dict[str, Any], name: str, number: int) -> tuple[int, int] | None:
    start, end = row.get("start_s"), row.get("end_s")
    if start in (None, "") and end in (None, ""):
        return None
    try:
        start_ns = round(float(start or 0) * 1e9)
        end_ns = round(float(end) * 1e9) if end not in (None, "") else 2**62
    except (TypeError, ValueError, OverflowError) as error:
        raise SettingsError(f"{name}: entry {number}: start_s and end_s must be seconds, got {start!r} and {end!r}") from error
    if not 0 <= start_ns < end_ns:
        raise SettingsError(f"{name}: entry {number}: the span [{start}, {end}) is empty or starts before zero")
    return start_ns, end_ns
