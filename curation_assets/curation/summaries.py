"""Summaries: what was read of each source's tables, remembered in one object, so that ten thousand sources that did not change need no table opened.

A value is remembered together with the state of its source's tables (`storage/changes.py`), and with a key of whatever else it depends on: settings, code.
What does not match is computed anew. Nothing here is ever the only place of anything: the object may be deleted at any time.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from curation_assets.curation.warehouse import Warehouse
from curation_assets.storage.changes import TableStates
from curation_assets.storage.errors import Forbidden, NoSpace, NotFound
from curation_assets.storage.layout import SUMMARIES_KEY

WORTH_SAVING = 64  # values; fewer are computed again in no time, and a small warehouse needs no such object
_THREADS = 8
_SAVE_INTERVAL_S = 60.0
_FORM = 1  # of the object; another one is not read


class Summaries:
    """Values that were computed from sources' tables, as these are when the first value is asked for.

    Args:
        warehouse: where tables lie.
        assets: of all tables that a value may depend on.
        log: told when many sources have to be read.
    """

    def __init__(self, warehouse: Warehouse, assets: Sequence[str], *, log: Callable[[str], None] = lambda _: None) -> None:
        self._warehouse, self._assets, self._log = warehouse, sorted(assets), log
        self._computed: dict[str, dict[str, list[Any]]] = {}

    def values(
        self, part: str, sources: Sequence[str], compute: Callable[[str], Any], *, keys: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Give one value per source, remembered or computed.

        Args:
            part: which value; one is remembered per source and part.
            sources: names.
            compute: makes a source's value, JSON-like; called in threads.
            keys: by source, a hash of what else the value depends on beside the source's tables.
        """
        _ = self.states  # taken before any table is read
        found: dict[str, Any] = {}
        missing = []
        for name in sources:
            key = keys[name] if keys else ""
            known = self._computed.get(name, {}).get(part) or self._remembered(name).get(part)
            if known is not None and known[0] == key:
                found[name] = known[1]
            else:
                missing.append(name)
        if len(missing) >= WORTH_SAVING:
            self._log(f"{part}: reading the tables of {len(missing):,} of {len(sources):,} sources, which changed or were never read")
        saved_s = time.monotonic()
        with ThreadPoolExecutor(_THREADS) as threads:
            for name, value in zip(missing, threads.map(compute, missing) if len(missing) > 1 else map(compute, missing), strict=True):
                found[name] = value
                self._computed.setdefault(name, {})[part] = [keys[name] if keys else "", value]
                if time.monotonic() - saved_s > _SAVE_INTERVAL_S:  # thousands that are read for the first time take minutes
                    self.save()
                    saved_s = time.monotonic()
        return {name: found[name] for name in sources}

    def save(self) -> None:
        """Remember what was computed, of the sources whose tables nobody changed meanwhile; no error when the warehouse may only be read."""
        if sum(map(len, self._computed.values())) < WORTH_SAVING:
            return
        now = self._warehouse.changes.states(self._assets)
        stored = self._load()  # another process may have saved too
        for name, parts in self._computed.items():
            state = now.of(name)
            if state is None or state != self.states.of(name):
                continue
            entry = stored.get(name)
            kept = entry["parts"] if entry is not None and entry["state"] == state else {}
            stored[name] = {"state": state, "parts": {**kept, **parts}}
        self._stored, self._computed = stored, {}
        data = json.dumps({"form": _FORM, "sources": stored}, separators=(",", ":"), ensure_ascii=False).encode()
        with suppress(Forbidden, NoSpace):
            self._warehouse.store.put(SUMMARIES_KEY, data)

    def _remembered(self, name: str) -> Mapping[str, list[Any]]:
        entry = self._stored.get(name)
        state = self.states.of(name)
        return entry["parts"] if entry is not None and state is not None and entry["state"] == state else {}

    @cached_property
    def states(self) -> TableStates:
        """In which state all sources' tables were when the first value was asked for."""
        return self._warehouse.changes.states(self._assets)

    @cached_property
    def _stored(self) -> dict[str, Any]:
        return self._load()

    def _load(self) -> dict[str, Any]:
        try:
            found = json.loads(self._warehouse.store.get(SUMMARIES_KEY))
        except (NotFound, ValueError):  # none yet, or damaged
            return {}
        return found["sources"] if isinstance(found, dict) and found.get("form") == _FORM else {}


@functools.cache
def code_hash() -> str:
    """Hash this package's code: other code may expect other rows of the same tables under the same settings."""
    root = Path(__file__).parent.parent
    digest = hashlib.blake2b(digest_size=12)
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
