"""Changes: marks that tell, without opening a table, which sources' tables may have changed: one listing for thousands of sources, in a bucket too.

Whoever is about to change a table puts a mark of his own (`changes/writing/<source>/<asset>/<id>`); when he is done he first replaces the source's one mark
(`changes/done/<source>`), which gives it another etag, and then takes his own away. What was read of a source still holds if nobody has a mark there now, and
the etag is the one that was there before the reading. The mark of a process that was killed stays until the next run of that table, and nothing that is
remembered of that source counts meanwhile. Beside it, the folders of the tables are listed, so that those which people take away by hand are noticed;
in a local warehouse also those into which people put something.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from curation_assets.storage.errors import LeaseLost, NotFound, StoreError
from curation_assets.storage.layout import CHANGES_PREFIX, WRITERS_PREFIX, Layout
from curation_assets.storage.objects import ObjectInfo, ObjectStore

_VERSIONS = "_versions"  # where Lance puts a file with every commit
_LIST_THREADS = 16


class ChangeMarks:
    """The marks of one warehouse, and which of them this object has put.

    Args:
        store: gives the warehouse's store; called when it is needed.
        layout: of the warehouse.
    """

    def __init__(self, store: Callable[[], ObjectStore], layout: Layout) -> None:
        self._open, self._layout = store, layout
        self._begun: dict[tuple[str, str], str] = {}

    def begin(self, asset: str, source: str) -> None:
        """Say that a table is about to change; once is enough until `end`."""
        if (asset, source) not in self._begun:
            key = self._layout.writers_prefix(asset, source) + uuid.uuid4().hex
            self._open().put(key, b"")
            self._begun[asset, source] = key

    def end(self, asset: str, source: str, *, is_holder: bool = True) -> None:
        """Say that a table's changes are done.

        Args:
            asset: of the table.
            source: of the table.
            is_holder: the caller holds the table's lease, so that the marks of others are those of processes that were killed, and go too.
        """
        store, own = self._open(), self._begun.get((asset, source))
        left = [info.key for info in _listed(store, self._layout.writers_prefix(asset, source))] if is_holder else []
        left = list({*left, *([own] if own else [])})
        if left:
            store.put(self._layout.change_key(source), uuid.uuid4().hex.encode())
        for key in left:
            store.delete(key)
        self._begun.pop((asset, source), None)

    @contextmanager
    def ending(self, asset: str, source: str, *, check: Callable[[], None]) -> Iterator[None]:
        """Call `end` when the block ends. Where that fails after another error the mark stays, and with it the doubt.

        Args:
            asset: of the table.
            source: of the table.
            check: raises LeaseLost when another run has taken the table over.
        """
        try:
            yield
        except BaseException:
            with suppress(StoreError):
                self.end(asset, source, is_holder=False)
            raise
        try:
            check()
        except LeaseLost:
            self.end(asset, source, is_holder=False)
        else:
            self.end(asset, source)

    def states(self, assets: Sequence[str]) -> TableStates:
        """List what there is to know of all sources without opening a table.

        Args:
            assets: of the tables that count.
        """
        store = self._open()
        # the writers first: one who is done before the second listing has left the new mark there
        writing = {info.key.removeprefix(WRITERS_PREFIX).partition("/")[0] for info in _listed(store, WRITERS_PREFIX)}
        done = {info.key.removeprefix(CHANGES_PREFIX): info.etag for info in _listed(store, CHANGES_PREFIX)}
        with ThreadPoolExecutor(_LIST_THREADS) as threads:
            folders = threads.map(lambda asset: store.folder_stamps(f"tables/{asset}/", inner=_VERSIONS), assets)
            return TableStates(writing, done, dict(zip(assets, folders, strict=True)))


class TableStates:
    """In which state the tables of sources were at one moment.

    Args:
        writing: sources whose tables somebody is changing, or was changing when he was killed.
        done: by source, the etag of its mark.
        folders: by asset, the tables' folders with their stamps.
    """

    def __init__(self, writing: Set[str], done: Mapping[str, str], folders: Mapping[str, Mapping[str, str]]) -> None:
        self._writing, self._done, self._folders = writing, done, folders
        self._hashes: dict[str, str] = {}

    def of(self, source: str) -> str | None:
        """Return a hash of one source's state, equal as long as its tables are; None while somebody is changing them."""
        if source in self._writing:
            return None
        if source not in self._hashes:
            stamps = (f"{asset}={found.get(f'{source}.lance')}" for asset, found in self._folders.items())
            text = " ".join([str(self._done.get(source)), *stamps])
            self._hashes[source] = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        return self._hashes[source]


def _listed(store: ObjectStore, prefix: str) -> list[ObjectInfo]:
    try:
        return [info for page in store.list_pages(prefix) for info in page]
    except NotFound:
        return []
