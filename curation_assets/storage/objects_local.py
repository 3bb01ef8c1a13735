"""LocalStore: a folder as an object store."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar

from curation_assets.storage.errors import (
    AlreadyExists,
    Forbidden,
    NoSpace,
    NotFound,
    ObjectChanged,
    SourceNotFound,
    StoreError,
    Unavailable,
)
from curation_assets.storage.objects import ObjectInfo, ObjectStore, Reader, behind_folder

_T = TypeVar("_T")
TEMP_PREFIX = ".curation-tmp-"
_LANCE_TEMP = ".tmp??????"  # how Lance names a file that it has not written to its end (pylance 14.0)
# A file name that is not UTF-8 reaches Python with lone surrogates, which no table can hold. They are shown as private-use characters and turned back.
_FIRST_SURROGATE, _FIRST_SHOWN = 0xDC80, 0xEF80
_TO_SHOWN = {_FIRST_SURROGATE + i: _FIRST_SHOWN + i for i in range(128)}
_FROM_SHOWN = {shown: surrogate for surrogate, shown in _TO_SHOWN.items()}


def readable_path(path: str) -> str:
    """Write a path as the listing does: bytes that are not UTF-8 as private-use characters, which every function here turns back."""
    return path.translate(_TO_SHOWN)


def store_error(error: OSError, what: str) -> StoreError:
    """Make the StoreError of an operating system error.

    Args:
        error: what was raised.
        what: the path or URI, for the message.
    """
    reason = error.strerror or str(error)
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return NotFound(f"{what}: does not exist")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return Forbidden(f"{what}: {reason}. Give the user that runs this (uid {os.getuid()}) access to it")
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return NoSpace(f"{what}: {reason}. Make room there, or choose another place in the settings; what was written before is intact")
        case errno.EEXIST:
            return AlreadyExists(f"{what}: exists already")
        case errno.EIO | errno.ESTALE | errno.ETIMEDOUT | errno.EHOSTDOWN | errno.ENOTCONN | errno.EMFILE | errno.ENFILE:
            return Unavailable(f"{what}: {reason}. Check the disk or the mount and run again")
        case _:
            return StoreError(f"{what}: {reason}")


def local_etag(status: os.stat_result) -> str:
    """Return a local file's change tag: size and modification time in nanoseconds."""
    return f"{status.st_size}-{status.st_mtime_ns}"


class LocalStore(ObjectStore):
    """A local folder. Links to files and folders are followed; pipes, sockets and devices are left out; a dangling link is an empty object without an etag."""

    def __init__(self, root: str, options: Mapping[str, str]) -> None:
        super().__init__(root, options)
        self._root = Path(root)

    def local_path(self, key: str) -> Path:
        """Return the path of a key.

        Raises:
            ValueError: the key is empty, absolute, or leaves the root.
        """
        parts = PurePosixPath(key).parts
        if not parts or key.startswith("/") or ".." in parts or "\0" in key:
            raise ValueError(f"{key!r} is not a key: write a path below {self.root_uri}, without '..'")
        path = self._root.joinpath(*parts)
        if any(ord(char) in _FROM_SHOWN for char in key) and not os.path.lexists(path):
            return self._root.joinpath(*PurePosixPath(key.translate(_FROM_SHOWN)).parts)
        return path

    def list_pages(self, prefix: str = "", *, page_size: int = 1000, start_after: str | None = None) -> Iterator[list[ObjectInfo]]:  # noqa: D102
        folder = self.local_path(prefix) if prefix.strip("/") else self._root
        if not self._is_folder(self._root):
            raise SourceNotFound(f"{self.root_uri}: no such folder. Check the path, and that the disk is mounted")
        page: list[ObjectInfo] = []
        if self._is_folder(folder):
            base = prefix.strip("/") + "/" if prefix.strip("/") else ""
            try:
                for info in self._walk(str(folder), base, (), None if start_after is None else start_after.encode()):
                    page.append(info)
                    if len(page) >= page_size:
                        yield page
                        page = []
            except StoreError:
                if page:
                    yield page  # what lies before the folder that cannot be read
                raise
        if page:
            yield page

    def folders(self, prefix: str) -> list[str]:  # noqa: D102
        folder = self.local_path(prefix) if prefix.strip("/") else self._root
        try:
            with os.scandir(folder) as scan:
                return sorted((entry.name.translate(_TO_SHOWN) for entry in scan if entry.is_dir()), key=str.encode)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise store_error(error, str(folder)) from error

    def folder_stamps(self, prefix: str, *, inner: str) -> dict[str, str]:  # noqa: D102
        folder = str(self.local_path(prefix))
        stamps = {}
        try:
            with os.scandir(folder) as scan:
                names = [entry.name for entry in scan if entry.is_dir()]
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise store_error(error, folder) from error
        for name in names:
            path = f"{folder}/{name}/{inner}"
            try:
                stamps[name.translate(_TO_SHOWN)] = str(os.stat(path).st_mtime_ns)  # noqa: PTH116 - of 80,000 tables Path takes twice as long
            except FileNotFoundError:
                stamps[name.translate(_TO_SHOWN)] = ""
            except OSError as error:
                raise store_error(error, path) from error
        return stamps

    @staticmethod
    def _is_folder(path: Path) -> bool:
        try:
            return path.is_dir()
        except OSError as error:  # Python 3.11 answers False only where it is sure
            raise store_error(error, str(path)) from error

    def _walk(self, folder: str, base: str, above: tuple[tuple[int, int], ...], after: bytes | None) -> Iterator[ObjectInfo]:
        """Yield the files of a folder and its sub-folders in the byte order of their keys; `above` are the folders on the way, against link loops."""
        try:
            status = Path(folder).stat()
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                return
            with os.scandir(folder) as scan:
                # "/" after a folder's name puts its files where an object store has them
                entries = sorted((os.fsencode(entry.name) + (b"/" if entry.is_dir() else b""), entry) for entry in scan)
        except OSError as error:
            failure = store_error(error, folder)
            failure.folder = base.rstrip("/")
            raise failure from error
        for name, entry in entries:
            key = base + entry.name.translate(_TO_SHOWN)
            if name.endswith(b"/"):
                prefix = f"{key}/".encode()
                if after is None or prefix > after or (after.startswith(prefix) and after != behind_folder(key).encode()):
                    yield from self._walk(entry.path, f"{key}/", (*above, identity), after)
            elif (after is None or key.encode() > after) and not entry.name.startswith(TEMP_PREFIX):
                info = self._entry_info(key, entry)
                if info is not None:
                    yield info

    def _entry_info(self, key: str, entry: os.DirEntry[str]) -> ObjectInfo | None:
        try:
            status = entry.stat()
        except FileNotFoundError:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                return None
            return ObjectInfo(key=key, size_bytes=0, etag="", last_modified=datetime.fromtimestamp(status.st_mtime, UTC))
        except OSError as error:
            raise store_error(error, entry.path) from error
        return _info(key, status) if stat.S_ISREG(status.st_mode) else None

    def head(self, key: str) -> ObjectInfo:  # noqa: D102
        path = self.local_path(key)
        status = self._try(key, path.stat)
        if not stat.S_ISREG(status.st_mode):
            raise NotFound(f"{path}: is not a file")
        return _info(key, status)

    def get(self, key: str) -> bytes:  # noqa: D102
        return self._try(key, self.local_path(key).read_bytes)

    def put(self, key: str, data: bytes, *, create_only: bool = False) -> None:  # noqa: D102
        def write(temp: Path) -> None:
            with temp.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())

        self._write(key, write, create_only=create_only)

    def put_file(self, key: str, path: Path) -> None:  # noqa: D102
        def copy(temp: Path) -> None:
            shutil.copyfile(path, temp)
            with temp.open("rb") as file:
                os.fsync(file.fileno())

        self._write(key, copy, create_only=False)

    def _write(self, key: str, write: Callable[[Path], object], *, create_only: bool) -> None:
        path = self.local_path(key)
        temp = path.with_name(f"{TEMP_PREFIX}{secrets.token_hex(8)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                write(temp)
                if create_only:
                    os.link(
                        temp, path
                    )  # fails when the path exists, and shows it whole: rename would replace it, O_EXCL would show it half written
                else:
                    temp.replace(path)
            finally:
                temp.unlink(missing_ok=True)
        except OSError as error:
            raise store_error(error, str(path)) from error

    def delete(self, key: str) -> None:  # noqa: D102
        path = self.local_path(key)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise store_error(error, str(path)) from error

    def delete_temporary(self, prefix: str, *, before: datetime, is_dry_run: bool = False) -> int:  # noqa: D102
        num_deleted = 0
        folder = self.local_path(prefix)
        for path in (*folder.rglob(f"{TEMP_PREFIX}*"), *folder.rglob(_LANCE_TEMP)):
            try:
                if path.stat().st_mtime <= before.timestamp():
                    if not is_dry_run:
                        path.unlink()
                    num_deleted += 1
            except FileNotFoundError:  # its writer was done
                continue
            except OSError as error:
                raise store_error(error, str(path)) from error
        return num_deleted

    def download(self, key: str, path: Path, *, etag: str | None = None) -> None:  # noqa: D102
        if etag is not None and self.head(key).etag != etag:
            raise ObjectChanged(f"{self.uri(key)}: was replaced since it was listed")
        self._try(key, lambda: shutil.copyfile(self.local_path(key), path))

    def open_reader(self, key: str, *, info: ObjectInfo | None = None) -> Reader:  # noqa: D102
        def open_file() -> BinaryIO:
            return self.local_path(key).open("rb")

        file = self._try(key, open_file)
        if info is not None and local_etag(os.fstat(file.fileno())) != info.etag:
            file.close()
            raise ObjectChanged(f"{self.uri(key)}: was replaced since it was listed")
        return file

    def _try(self, key: str, action: Callable[[], _T]) -> _T:
        try:
            return action()
        except OSError as error:
            raise store_error(error, str(self.local_path(key))) from error


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    modified = datetime.fromtimestamp(status.st_mtime_ns // 1_000_000_000, UTC).replace(microsecond=status.st_mtime_ns // 1000 % 1_000_000)
    return ObjectInfo(key=key, size_bytes=status.st_size, etag=local_etag(status), last_modified=modified, changed_s=status.st_ctime)
