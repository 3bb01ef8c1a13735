"""Watch state: what was last requested of each source of a watched root, and where a pass over the root stands.

The state, a digest per source, is an immutable object in the warehouse; the sensor's cursor only names it, so that committing the cursor commits the state, and
a tick that ends in between is done again from the old one. The cursor also holds the position within a pass that takes several ticks.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple, Self

from curation_assets.storage.errors import NotFound
from curation_assets.storage.layout import Layout
from curation_assets.storage.objects import ObjectStore

ABOVE = "/"
"""Stands for the objects above the depth, where others are named by their folder; no folder is called that."""

_BLOCK = 32  # entries per link of the chain; fewer than that are kept as they are between two ticks


@dataclass
class Digest:
    """Digest over the (key, etag) of a source's videos in the listing's order: the same wherever pages and ticks end.

    Attributes:
        chain: hash of all full blocks of entries.
        num_videos: entries, those that are not in the chain yet included.
        rest: those.
        has_young: whether videos were left out that are in their quiet period.
    """

    chain: str = ""
    num_videos: int = 0
    rest: list[str] = field(default_factory=list)
    has_young: bool = False

    def add(self, entries: Sequence[str]) -> None:
        """Take the next entries in; each names one version of one object."""
        self.num_videos += len(entries)
        rest = [*self.rest, *entries]
        whole = len(rest) - len(rest) % _BLOCK
        for start in range(0, whole, _BLOCK):
            self.chain = self._hash(rest[start : start + _BLOCK])
        self.rest = rest[whole:]

    def value(self) -> str:
        """Return the digest, 32 hexadecimal digits; "" for no videos."""
        return self._hash(self.rest) if self.num_videos else ""

    def _hash(self, entries: Sequence[str]) -> str:
        return blake2b("\n".join([self.chain, *entries]).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@dataclass
class Position:
    """Where a pass over a root stands.

    Attributes:
        after: key to list on from, or None at the beginning.
        decided: the last folder that was decided on, with a slash at its end; "" for none.
        folder: the folder that the listing is in, or None.
        inside: digest of that folder so far.
        above: digest of the objects above the depth so far.
    """

    after: str | None = None
    decided: str = ""
    folder: str | None = None
    inside: Digest = field(default_factory=Digest)
    above: Digest = field(default_factory=Digest)

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Self:
        """Build it from what `asdict` gave."""
        return cls(**{**tree, "inside": Digest(**tree["inside"]), "above": Digest(**tree["above"])})


@dataclass
class RootCursor:
    """What the sensor's cursor says of one root.

    Attributes:
        number: of the state.
        state: name of the state's object, "" before the first.
        position: within a pass, or None between two.
    """

    number: int
    state: str = ""
    position: Position | None = None


@dataclass
class Cursor:
    """The sensor's cursor.

    Attributes:
        roots: by the watch's name.
        first: the watch to begin the next tick with; None for the first one.
    """

    roots: dict[str, RootCursor] = field(default_factory=dict)
    first: str | None = None

    @classmethod
    def parse(cls, text: str | None) -> Cursor:
        """Read a cursor; None, or a text that is none (typed in by hand), is a new one."""
        try:
            tree = json.loads(text or "{}")
            roots = {
                name: RootCursor(root["number"], root["state"], Position.from_dict(root["position"]) if root["position"] else None)
                for name, root in tree.get("roots", {}).items()
            }
            return cls(roots, tree.get("first"))
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls()

    def text(self) -> str:
        """Write it as text."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))


class Requested(NamedTuple):
    """What was last requested of one source.

    Attributes:
        digest: of its videos; "" where there are none any more.
        num_videos: how many they were.
        setup: hash of the settings of the watch, as they stand in the registry.
    """

    digest: str
    num_videos: int
    setup: str


@dataclass
class WatchState:
    """What was last requested of the sources of one root.

    Attributes:
        uri: the root.
        depth: of the sources.
        number: counts the states; part of the run keys.
        sources: by folder, `ABOVE` for the objects above the depth.
    """

    uri: str
    depth: int
    number: int
    sources: dict[str, Requested] = field(default_factory=dict)


class StateStore:
    """The state objects of one watch."""

    def __init__(self, store: ObjectStore, layout: Layout, watch: str) -> None:
        self._store = store
        self._prefix = layout.watch_prefix(watch)

    def read(self, name: str) -> WatchState | None:
        """Read a state; None when its object is gone or is none.

        Raises:
            StoreError: the warehouse cannot be read.
        """
        if not name:
            return None
        try:
            tree = json.loads(self._store.get(f"{self._prefix}{name}.json"))
            return WatchState(**{**tree, "sources": {folder: Requested(*entry) for folder, entry in tree["sources"].items()}})
        except (NotFound, ValueError, TypeError, KeyError):
            return None

    def write(self, state: WatchState) -> str:
        """Write a state under a name of its own, and delete those that no cursor names any more.

        The one before stays: until this tick is committed another may begin with it, and one that was given up may still be at work.

        Returns:
            The name.
        """
        name = f"{state.number}-{secrets.token_hex(4)}"
        self._store.put(f"{self._prefix}{name}.json", json.dumps(asdict(state), ensure_ascii=False).encode("utf-8", "surrogatepass"))
        for page in self._store.list_pages(self._prefix):
            for info in page:
                number = info.key.removeprefix(self._prefix).partition("-")[0]
                if number.isdigit() and int(number) < state.number - 1:
                    self._store.delete(info.key)
        return name
