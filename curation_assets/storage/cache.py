"""ObjectCache: a bounded local folder for objects that a stage reads from end to end, fetched once per run.

Several processes may share the folder. A file is in use while someone holds a shared lock on it; only files that nobody uses are removed, those
longest unused first.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from curation_assets.storage.errors import NoSpace
from curation_assets.storage.objects import ObjectStore
from curation_assets.storage.objects_local import TEMP_PREFIX, store_error

STALE_TEMP_S = 3600  # a download that goes on touches its file all the time


class ObjectCache:
    """Local copies of remote objects.

    Args:
        folder: where the copies lie; made when needed. Nothing else may be kept there.
        max_bytes: size of all copies that nobody uses. Those in use may exceed it: an object larger than the cache is fetched, used, and removed.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes is {max_bytes}; it must not be negative")
        self._folder = folder
        self._max_bytes = max_bytes

    @contextmanager
    def fetch(self, store: ObjectStore, key: str, *, etag: str, size_bytes: int = 0) -> Iterator[Path]:
        """Give a local file with the object's bytes for the time of the `with` block; a local store's own file, not a copy.

        Args:
            store: where the object lies.
            key: its key.
            etag: the version that is wanted.
            size_bytes: from the listing; room for it is made before the download.

        Raises:
            ObjectChanged: the object is another version now.
            NoSpace: the disk of the cache is full.
            StoreError: the object cannot be read.
        """
        local = store.local_path(key)
        if local is not None:
            store.head(key)
            yield local
            return
        name = hashlib.sha256(f"{store.root_uri}\0{key}\0{etag}".encode()).hexdigest() + Path(key).suffix[:10]
        path = self._folder / name
        descriptor = self._open_shared(path)
        try:
            if descriptor is None:
                descriptor = self._download(store, key, etag, path, size_bytes)
            else:
                os.utime(path)
            yield path
        finally:
            if descriptor is not None:
                os.close(descriptor)
            self._evict(0)

    def _open_shared(self, path: Path) -> int | None:
        """Open a copy under a shared lock, None when it is not there."""
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # removed between open and lock
        return None

    def _download(self, store: ObjectStore, key: str, etag: str, path: Path, size_bytes: int) -> int:
        """Fetch a copy and return its descriptor, locked before anybody else can see it."""
        temp = self._folder / f"{TEMP_PREFIX}{secrets.token_hex(8)}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._evict(size_bytes)
            try:
                store.download(key, temp, etag=etag)
                descriptor = os.open(temp, os.O_RDONLY)
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                temp.replace(path)
            finally:
                temp.unlink(missing_ok=True)
        except OSError as error:
            raise store_error(error, str(self._folder)) from error
        except NoSpace as error:
            raise NoSpace(f"{self._folder}: no room for {store.uri(key)} ({size_bytes} bytes). Free the disk, or move the cache") from error
        return descriptor

    def _evict(self, needed_bytes: int) -> None:
        """Remove copies that nobody uses, longest unused first, until they and `needed_bytes` fit."""
        copies = []
        stale_s = time.time() - STALE_TEMP_S
        try:
            with os.scandir(self._folder) as scan:
                for entry in scan:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if not entry.name.startswith(TEMP_PREFIX):
                        copies.append((status.st_mtime, status.st_size, Path(entry.path)))
                    elif status.st_mtime < stale_s:
                        Path(entry.path).unlink(missing_ok=True)
        except FileNotFoundError:
            return
        total = sum(size for _, size, _ in copies) + needed_bytes
        for _, size, path in sorted(copies):
            if total <= self._max_bytes:
                return
            if _remove_unused(path):
                total -= size


def _remove_unused(path: Path) -> bool:
    """Remove a file unless somebody holds its lock; returns whether it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
