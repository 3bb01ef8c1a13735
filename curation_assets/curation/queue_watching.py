"""Queue watching: one tick over the queues that tell of uploads into watched buckets, which names the sources that something happened in.

A tick writes what it received and what it asks for into the warehouse before it returns; handing its cursor to the next tick commits that, and only the next one
deletes the messages. A tick that ends in between is given again word for word, with the same run keys. What a run then does is to list the source, so events may
come late, twice, or in any order. Nothing here knows Dagster.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from curation_assets.configuration import resolve_settings
from curation_assets.curation.queue_events import JunkMessage, ObjectEvent, read_events
from curation_assets.curation.raw_videos import is_video_name
from curation_assets.curation.sources import SourceRecord
from curation_assets.curation.warehouse import Warehouse
from curation_assets.curation.watched_names import source_folder
from curation_assets.curation.watching import RunRequest, Tick, upsert_source
from curation_assets.settings import Config, SettingsError
from curation_assets.storage.errors import AlreadyExists, NotFound, StoreError
from curation_assets.storage.objects import split_uri
from curation_assets.storage.queues import Message, Queue

VISIBILITY_S = 300
"""A received message stays hidden so long: several ticks, so that the one that deletes it comes first."""

_MOST_BODY = 20_000  # characters of a message in its note


@dataclass
class _Batch:
    """What one tick made of one queue's messages; an immutable object in the warehouse.

    Attributes:
        number: counts the batches; part of the run keys.
        messages: (id, receipt) of the messages to delete.
        requests: runs that the tick asked for.
        problems: what was wrong with messages.
    """

    number: int
    messages: dict[str, str] = field(default_factory=dict)
    requests: list[RunRequest] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def look_at_queues(config: Config, warehouse: Warehouse, cursor: str | None, *, now: Callable[[], float] = time.time) -> Tick:
    """Receive what waits in the queues of the settings, as far as one tick goes.

    Args:
        config: the settings.
        warehouse: holds the registry, the batches, and a note on every message that is none of ours (`queues/<name>/dead_letters/`).
        cursor: of the tick before, None at first.
        now: Unix time in seconds.

    Raises:
        StoreError: the warehouse cannot be read or written; the tick is to be done again with the same cursor.
    """
    tick, known = Tick(), _parse(cursor)
    deadline_s = time.monotonic() + config.sensors.max_tick_s
    for name in sorted(config.queues):
        if len(tick.requests) >= config.sensors.max_requests_per_tick or time.monotonic() >= deadline_s:
            tick.is_done = False
            break
        one = _QueueTick(
            name, config, warehouse, deadline_s=deadline_s, most_requests=config.sensors.max_requests_per_tick - len(tick.requests)
        )
        known[name] = one.run(known.get(name), now=now)
        tick.requests += one.batch.requests
        tick.problems += [f"queue {name}: {problem}" for problem in one.batch.problems]
        tick.num_objects += one.num_received
    tick.cursor = json.dumps(known, separators=(",", ":"), sort_keys=True)
    return tick


def _parse(cursor: str | None) -> dict[str, list[int]]:
    """Read a cursor: by queue, the number of the last batch and whether its messages are still to be deleted."""
    try:
        return {str(name): [int(number), int(is_open)] for name, (number, is_open) in json.loads(cursor or "{}").items()}
    except (ValueError, TypeError, AttributeError):
        return {}  # typed in by hand


class _QueueTick:
    """One queue in one tick."""

    def __init__(self, name: str, config: Config, warehouse: Warehouse, *, deadline_s: float, most_requests: int) -> None:
        self._name, self._config, self._warehouse = name, config, warehouse
        self._settings = config.queues[name]
        self._prefix = warehouse.layout.queue_prefix(name)
        self._deadline_s, self._most_requests = deadline_s, most_requests
        self._roots = _watched_buckets(config)
        self.batch = _Batch(0)
        self.num_received = 0

    def run(self, cursor: list[int] | None, *, now: Callable[[], float]) -> list[int]:
        """Delete what the last tick asked runs for, and receive what has come since; return the cursor's entry."""
        if cursor is None:  # the first tick, or the cursor was reset: the last batch is given again, which repeats no run
            last = self._last_number()
            cursor = [int(now()), 0] if last is None else [last - 1, 0]
        number, is_open = cursor
        again = self._read(number + 1)
        if again is not None:  # that tick was not committed
            self.batch = again
            return [again.number, 1]
        self.batch = _Batch(number + 1)
        queue = None
        with self._problems():
            queue = Queue(self._settings.url, region=self._settings.region, endpoint_url=self._settings.endpoint_url)
        if queue is None:
            return cursor
        if is_open:
            before = self._read(number)
            left = {} if before is None else dict(before.messages)
            with self._problems():
                queue.delete(list(left.items()))
                left, is_open = {}, 0
            self.batch.messages = left  # those that are still to be deleted
        num_left = len(self.batch.messages)
        self._receive(queue)
        if len(self.batch.messages) == num_left:
            return [number, is_open]
        return self._commit()

    def _receive(self, queue: Queue) -> None:
        sources: dict[str, RunRequest] = {}
        while self.num_received < self._settings.max_messages_per_tick and len(sources) < self._most_requests:
            messages: list[Message] = []
            with self._problems():
                messages = queue.receive(visibility_s=VISIBILITY_S)
            self.num_received += len(messages)
            for message in messages:
                if message.message_id not in self.batch.messages:
                    self._take(message, sources)
                self.batch.messages[message.message_id] = message.receipt
            if not messages or time.monotonic() >= self._deadline_s:
                break
        self.batch.requests = list(sources.values())

    def _take(self, message: Message, sources: dict[str, RunRequest]) -> None:
        try:
            events = read_events(message.body)
        except JunkMessage as error:
            self._note(message, str(error))
            return
        for event in events:
            for record in self._records(event):
                if record.name in sources:
                    continue
                try:
                    is_registered = upsert_source(self._warehouse.registry, record, only_known=event.is_removed)
                except SettingsError as error:
                    self._note(message, str(error))
                    continue
                if is_registered:
                    reason = f"queue {self._name}: {'removed' if event.is_removed else 'uploaded'} {event.key}"[:200]
                    sources[record.name] = RunRequest(record.name, f"{record.name}:{self._name}:{self.batch.number}", reason)

    def _records(self, event: ObjectEvent) -> Iterator[SourceRecord]:
        """Find the sources that an object lies in; none for what is no video, or lies outside the watched roots."""
        for name, bucket, prefix, endings in self._roots:
            if event.bucket == bucket and event.key.startswith(prefix):
                key = event.key[len(prefix) :]
                watch = self._config.watch[name]
                own = self._warehouse.layout.media_below(watch.uri)
                if is_video_name(key, endings) and not (own and key.startswith(own)):
                    yield SourceRecord.from_watch(name, watch, source_folder(key, watch.depth))

    def _note(self, message: Message, problem: str) -> None:
        """Keep a message that can lead to no run; it is deleted from the queue as others are."""
        key = f"{self._prefix}dead_letters/{''.join(char for char in message.message_id if char.isalnum() or char == '-')[:80]}.json"
        note = {"problem": problem, "message_id": message.message_id, "queue": self._settings.url, "body": message.body[:_MOST_BODY]}
        self._warehouse.store.put(key, json.dumps(note, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        self.batch.problems.append(f"message {message.message_id}: {problem}; it is kept in {self._warehouse.layout.uri(key)}")

    def _commit(self) -> list[int]:
        """Write the batch, unless a tick that was given up has written one meanwhile; then that one counts, and ours come again."""
        try:
            self._warehouse.store.put(self._key(self.batch.number), json.dumps(asdict(self.batch)).encode(), create_only=True)
        except AlreadyExists:
            self.batch = self._read(self.batch.number) or self.batch
        for page in self._warehouse.store.list_pages(self._prefix):
            for info in page:
                number = self._number(info.key)
                if number is not None and number < self.batch.number - 1:
                    self._warehouse.store.delete(info.key)
        return [self.batch.number, 1]

    def _key(self, number: int) -> str:
        return f"{self._prefix}{number}.json"

    def _number(self, key: str) -> int | None:
        text = key.removeprefix(self._prefix).removesuffix(".json")
        return int(text) if text.isdigit() else None

    def _read(self, number: int) -> _Batch | None:
        try:
            tree: dict[str, Any] = json.loads(self._warehouse.store.get(self._key(number)))
        except NotFound:
            return None
        return _Batch(**{**tree, "requests": [RunRequest(**request) for request in tree["requests"]]})

    def _last_number(self) -> int | None:
        try:
            keys = [info.key for page in self._warehouse.store.list_pages(self._prefix) for info in page]
        except NotFound:
            return None
        return max((number for number in map(self._number, keys) if number is not None), default=None)

    @contextmanager
    def _problems(self) -> Iterator[None]:
        """Say what is wrong with the queue, and go on: what was received counts, and the other queues too."""
        try:
            yield
        except StoreError as error:
            self.batch.problems.append(str(error))


def _watched_buckets(config: Config) -> list[tuple[str, str, str, tuple[str, ...]]]:
    """List the watched roots in S3: (watch, bucket, prefix of their keys, endings of videos)."""
    found = []
    for name, watch in sorted(config.watch.items()):
        scheme, bucket, key = split_uri(watch.uri)
        if scheme == "s3":
            settings = resolve_settings(config.processing(), watch.settings, where=f"watch.{name}.settings")
            found.append((name, bucket, f"{key.rstrip('/')}/" if key.strip("/") else "", tuple(settings.raw_videos.extensions)))
    return found
