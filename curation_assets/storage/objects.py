"""Objects: one way to list, read and write folders and buckets (`s3://`, `gs://`, `az://`), for video roots and for the warehouse.

Keys are relative to the store's root, separated by `/`, and taken literally: no character of a key is ever an escape. Listings are sorted by the
UTF-8 bytes of the key, everywhere. Credentials come from the environment (or the AWS profile), never from options.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

REMOTE_SCHEMES = ("s3", "gs", "az")
CREDENTIAL_OPTIONS = ("secret", "access_key", "account_key", "session_token", "bearer_token", "sas_", "service_account_key", "password")
DEFAULT_RETRY_TIMEOUT_S = 30
DEFAULT_MAX_RETRIES = 8


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object of a listing.

    Attributes:
        key: literal key below the store's root.
        size_bytes: size.
        etag: the store's tag without quotes; `size-mtime_ns` for local files (an inode would change with every copy or restore); "" for a link to nothing.
        last_modified: UTC.
        changed_s: of a local file, its ctime in Unix seconds: moving or copying may keep `last_modified`, but never this. None elsewhere.
    """

    key: str
    size_bytes: int
    etag: str
    last_modified: datetime
    changed_s: float | None = field(default=None, compare=False)


class Reader(Protocol):
    """What PyAV needs of a file: seekable, binary, and closed by `with`."""

    def read(self, size: int = -1, /) -> bytes: ...  # noqa: D102
    def seek(self, offset: int, whence: int = 0, /) -> int: ...  # noqa: D102
    def tell(self) -> int: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102
    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /) -> None: ...


class ObjectStore(ABC):
    """A root and the objects below it. Pickles by URI and options, so a worker process opens its own connections.

    Every method raises a `StoreError`: NotFound, SourceNotFound (the root is missing), Forbidden, Unavailable, NoSpace, or AlreadyExists.
    """

    def __init__(self, root: str, options: Mapping[str, str]) -> None:
        self.root_uri = root
        self.options = dict(options)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle as URI and options."""
        return _reopen, (self.root_uri, self.options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.root_uri!r})"

    def uri(self, key: str) -> str:
        """Return the URI of a key as people write it: a plain absolute path, or `s3://bucket/key` without percent-encoding."""
        return child_uri(self.root_uri, key)

    @abstractmethod
    def list_pages(self, prefix: str = "", *, page_size: int = 1000, start_after: str | None = None) -> Iterator[list[ObjectInfo]]:
        """List objects in pages, sorted by the UTF-8 bytes of their keys, never holding more than a page and one folder.

        Args:
            prefix: folder below the root; empty for all. A folder that does not exist has no objects.
            page_size: objects per page.
            start_after: only keys behind this one.

        Raises:
            SourceNotFound: the root does not exist.
            Forbidden: the root or a folder in it may not be read.
        """

    @abstractmethod
    def folders(self, prefix: str) -> list[str]:
        """List the folders right in a folder: their names, sorted, without what is in them. A folder that does not exist has none.

        Args:
            prefix: folder below the root; empty for the root itself.
        """

    @abstractmethod
    def head(self, key: str) -> ObjectInfo:
        """Look one object up."""

    @abstractmethod
    def get(self, key: str) -> bytes:
        """Read one object whole; for small ones."""

    @abstractmethod
    def put(self, key: str, data: bytes, *, create_only: bool = False) -> None:
        """Write one object whole, atomically.

        Raises:
            AlreadyExists: `create_only`, and the key exists.
        """

    @abstractmethod
    def put_file(self, key: str, path: Path) -> None:
        """Write one object from a local file, atomically, without holding it in memory."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete one object; one that does not exist is fine."""

    @abstractmethod
    def download(self, key: str, path: Path, *, etag: str | None = None) -> None:
        """Copy one object into a local file, streamed.

        Raises:
            ObjectChanged: its etag is not `etag` any more.
        """

    @abstractmethod
    def open_reader(self, key: str, *, info: ObjectInfo | None = None) -> Reader:
        """Open one object for reading by range.

        Args:
            key: the object.
            info: its listing entry, which saves a request and pins the version: reads raise ObjectChanged when it was replaced.
        """

    @abstractmethod
    def local_path(self, key: str) -> Path | None:
        """Return the path of a key in a local store, None elsewhere."""

    def folder_stamps(self, prefix: str, *, inner: str) -> dict[str, str]:
        """List the folders right below a folder, without what lies in them: what is cheap to know of very many.

        Args:
            prefix: folder below the root; one that does not exist has none.
            inner: name of a folder that each of them has.

        Returns:
            By name, in a local store the time in nanoseconds at which something was last put into or taken out of `inner`, "" where there is none; in a
            bucket always "".
        """
        del inner
        return dict.fromkeys(self.folders(prefix), "")

    def delete_prefix(self, prefix: str) -> int:
        """Delete every object of a folder; returns how many."""
        num_deleted = 0
        for page in self.list_pages(prefix):
            for info in page:
                self.delete(info.key)
                num_deleted += 1
        return num_deleted

    def delete_temporary(self, prefix: str, *, before: datetime, is_dry_run: bool = False) -> int:
        """Delete what killed processes have left of writes in a folder and below, where the store shows it to nobody; returns how many.

        Args:
            prefix: folder below the root.
            before: younger ones may still be written to, and stay.
            is_dry_run: count them only.
        """
        del prefix, before, is_dry_run
        return 0  # parts of an upload that did not end are no objects; a lifecycle rule of the bucket removes them

    def exists(self, key: str) -> bool:
        """Say whether an object exists."""
        from curation_assets.storage.errors import NotFound

        try:
            self.head(key)
        except NotFound:
            return False
        return True


def split_uri(uri: str) -> tuple[str, str, str]:
    """Split a URI into scheme, bucket and literal key; a local path has the scheme `file` and no bucket.

    Nothing is percent-decoded, and `?` and `#` are parts of a key: this is how people write `s3://` URIs. Only `file://` URIs are decoded.

    Raises:
        ValueError: an unknown scheme, or no bucket.
    """
    scheme, found, rest = uri.partition("://")
    if not found or "/" in scheme:
        if not uri:
            raise ValueError("an empty URI: write a folder, or s3://bucket/prefix, gs://bucket/prefix, az://container/prefix")
        return "file", "", str(Path(os.path.abspath(Path(uri).expanduser())))  # noqa: PTH100 - Path.absolute keeps "..", resolve follows links
    scheme = {"gcs": "gs", "abfs": "az", "abfss": "az", "azure": "az", "s3a": "s3"}.get(scheme.lower(), scheme.lower())
    if scheme == "file":
        from urllib.parse import unquote

        return "file", "", str(Path(os.path.abspath(unquote("/" + rest.partition("/")[2]))))  # noqa: PTH100
    if scheme not in REMOTE_SCHEMES:
        raise ValueError(
            f"{uri!r}: unknown scheme {scheme!r}; write a folder, or s3://bucket/prefix, gs://bucket/prefix, az://container/prefix"
        )
    bucket, _, key = rest.partition("/")
    if not bucket:
        raise ValueError(f"{uri!r} names no bucket; write {scheme}://bucket/prefix")
    return scheme, bucket, key


def root_uri(uri: str) -> str:
    """Return the one spelling of a root: an absolute path, or scheme://bucket/prefix, without a slash at its end."""
    scheme, bucket, key = split_uri(uri)
    if scheme == "file":
        return key
    return f"{scheme}://{bucket}/{key}".rstrip("/")


def child_uri(root: str, key: str) -> str:
    """Return the URI of a key below a root, as people write it."""
    return f"{root.rstrip('/')}/{key}"


def behind_folder(folder: str) -> str:
    """Return a key to list on from, behind all that lies in a folder."""
    return f"{folder}/\U0010ffff"


def clean_options(uri: str, options: Mapping[str, str]) -> dict[str, str]:
    """Return storage options as both obstore and Lance take them.

    Plain HTTP is allowed when the endpoint says `http://`; retries end after 30 s unless `client_retry_timeout` (seconds) and
    `client_max_retries` say otherwise.

    Raises:
        ValueError: a credential among the options.
    """
    cleaned = {name.lower(): str(value) for name, value in options.items()}
    for name in cleaned:
        if any(word in name for word in CREDENTIAL_OPTIONS):
            raise ValueError(f"storage option {name!r} is a credential: take it out of the settings and set it in the environment")
    if split_uri(uri)[0] == "file":
        return cleaned
    endpoint = endpoint_of({name.removeprefix("aws_"): value for name, value in cleaned.items()})
    plain_http = cleaned.pop("aws_allow_http", None) or ("true" if endpoint.startswith("http://") else None)
    if plain_http:
        cleaned.setdefault("allow_http", plain_http)
    cleaned.setdefault("client_retry_timeout", str(DEFAULT_RETRY_TIMEOUT_S))
    cleaned.setdefault("client_max_retries", str(DEFAULT_MAX_RETRIES))
    return cleaned


def endpoint_of(options: Mapping[str, str]) -> str:
    """Return the endpoint that options (without `aws_` before their names), or else the environment, give; "" for the cloud's own."""
    variables = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    given = [options.get("endpoint"), options.get("endpoint_url"), *map(os.environ.get, variables)]
    return next(filter(None, given), None) or ""


def open_store(uri: str, *, options: Mapping[str, str] | None = None) -> ObjectStore:
    """Open a folder or bucket; nothing is read yet.

    Args:
        uri: local folder, or `s3://`, `gs://`, `az://` with an optional prefix.
        options: storage options by the names that obstore and Lance share (aws_endpoint, aws_region, allow_http, ...).

    Raises:
        ValueError: an unknown scheme or option, or a credential among the options.
        Forbidden: no credentials can be found.
    """
    cleaned = clean_options(uri, options or {})
    scheme = split_uri(uri)[0]
    if scheme == "file":
        from curation_assets.storage.objects_local import LocalStore

        return LocalStore(root_uri(uri), options or {})
    if scheme == "s3":
        from curation_assets.storage.objects_s3 import S3Objects

        return S3Objects(root_uri(uri), options or {}, cleaned=cleaned)
    from curation_assets.storage.objects_remote import RemoteStore

    return RemoteStore(root_uri(uri), options or {}, cleaned=cleaned)


def _reopen(uri: str, options: Mapping[str, str]) -> ObjectStore:
    return open_store(uri, options=options)
