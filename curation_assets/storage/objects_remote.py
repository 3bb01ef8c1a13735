"""RemoteStore: a bucket of Google Cloud Storage or Azure as an object store, through obstore; S3 writes through it too (`objects_s3`)."""

from __future__ import annotations

import io
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import obstore
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, S3Store

from curation_assets.storage.errors import AlreadyExists, Forbidden, NotFound, ObjectChanged, SourceNotFound, StoreError, Unavailable
from curation_assets.storage.objects import ObjectInfo, ObjectStore, Reader, split_uri
from curation_assets.storage.objects_local import store_error

BLOCK_BYTES = 256 * 1024  # one range request of a probe; a header and a moov box at the end of the file take two or three
MAX_RUN_BLOCKS = 16  # reading on doubles the request up to 4 MiB
MAX_CACHED_BLOCKS = 64
_CLIENT_OPTIONS = ("allow_http", "allow_invalid_certificates", "connect_timeout", "timeout", "proxy_url", "user_agent", "read_timeout")
_LANCE_ONLY = ("download_retry_count", "new_table_data_storage_version", "new_table_enable_v2_manifest_paths")
_NO_BUCKET = re.compile(r"NoSuchBucket|bucket (you tried to access |)does not exist|ContainerNotFound", re.IGNORECASE)
_DENIED = re.compile(
    r"\b40[13]\b|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|credential|AuthenticationFailed|security token",
    re.IGNORECASE,
)


class RemoteStore(ObjectStore):
    """A bucket, or a prefix of one. Retries transient errors itself, bounded by `client_retry_timeout`."""

    def __init__(self, root: str, options: Mapping[str, str], *, cleaned: Mapping[str, str]) -> None:
        super().__init__(root, options)
        with _errors(root):
            self._store: Any = _open(root, dict(cleaned))

    def local_path(self, key: str) -> None:
        """Return None: nothing here has a local path."""

    def list_pages(self, prefix: str = "", *, page_size: int = 1000, start_after: str | None = None) -> Iterator[list[ObjectInfo]]:  # noqa: D102
        with _errors(self.uri(prefix)):
            stream = iter(obstore.list(self._store, prefix.strip("/") or None, offset=start_after, chunk_size=page_size))
        while True:
            with _errors(self.uri(prefix)):
                batch = next(stream, None)
            if batch is None:
                return
            yield [_info(dict(meta)) for meta in batch]

    def folder_stamps(self, prefix: str, *, inner: str) -> dict[str, str]:  # noqa: D102
        del inner
        with _errors(self.uri(prefix)):
            found = obstore.list_with_delimiter(self._store, prefix.strip("/"))
        return {str(folder).rstrip("/").rpartition("/")[2]: "" for folder in found["common_prefixes"]}

    def head(self, key: str) -> ObjectInfo:  # noqa: D102
        with _errors(self.uri(key)):
            return _info(dict(obstore.head(self._store, key)))

    def get(self, key: str) -> bytes:  # noqa: D102
        with _errors(self.uri(key)):
            return bytes(obstore.get(self._store, key).bytes())

    def put(self, key: str, data: bytes, *, create_only: bool = False) -> None:  # noqa: D102
        with _errors(self.uri(key)):
            obstore.put(self._store, key, data, mode="create" if create_only else "overwrite", use_multipart=False if create_only else None)

    def put_file(self, key: str, path: Path) -> None:  # noqa: D102
        with _errors(self.uri(key)):
            obstore.put(self._store, key, path)

    def delete(self, key: str) -> None:  # noqa: D102
        try:
            with _errors(self.uri(key)):
                obstore.delete(self._store, key)
        except NotFound:
            return

    def download(self, key: str, path: Path, *, etag: str | None = None) -> None:  # noqa: D102
        with _errors(self.uri(key)), path.open("wb") as file:
            result = obstore.get(self._store, key, options={"if_match": _quoted(etag)} if etag else None)
            for chunk in result.stream(min_chunk_size=4 * 1024 * 1024):
                file.write(chunk)

    def open_reader(self, key: str, *, info: ObjectInfo | None = None) -> Reader:  # noqa: D102
        info = info or self.head(key)

        def fetch(start: int, end: int) -> bytes:
            with _errors(self.uri(key)):
                options = {"range": (start, end), **({"if_match": _quoted(info.etag)} if info.etag else {})}
                return bytes(obstore.get(self._store, key, options=cast("Any", options)).bytes())

        return cast("Reader", RangeReader(fetch, info.size_bytes))


class RangeReader(io.RawIOBase):
    """Reads an object by ranges, with a small cache of blocks, because demuxers seek to and fro between a file's head and its index.

    Args:
        fetch: returns the bytes [start, end).
        size_bytes: size of the object.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], size_bytes: int) -> None:
        super().__init__()
        self._fetch = fetch
        self._size_bytes = size_bytes
        self._position = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._next_block, self._run_blocks = -1, 1

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that it can seek."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move the position; behind the end is allowed and reads as empty."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size_bytes}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        """Fill the buffer as far as the object goes."""
        view = memoryview(buffer).cast("B")
        end = min(self._position + len(view), self._size_bytes)
        done = 0
        while self._position < end:
            index = self._position // BLOCK_BYTES
            block = self._block(index)
            first = self._position - index * BLOCK_BYTES
            part = block[first : first + end - self._position]
            view[done : done + len(part)] = part
            done += len(part)
            self._position += len(part)
        return done

    def _block(self, index: int) -> bytes:
        block = self._blocks.get(index)
        if block is not None:
            self._blocks.move_to_end(index)
            return block
        self._run_blocks = min(self._run_blocks * 2, MAX_RUN_BLOCKS) if index == self._next_block else 1
        start = index * BLOCK_BYTES
        data = self._fetch(start, min(start + self._run_blocks * BLOCK_BYTES, self._size_bytes))
        for i in range(0, len(data), BLOCK_BYTES):
            self._blocks[index + i // BLOCK_BYTES] = data[i : i + BLOCK_BYTES]
        self._next_block = index + self._run_blocks
        while len(self._blocks) > MAX_CACHED_BLOCKS:
            self._blocks.popitem(last=False)
        return self._blocks[index]


def _open(root: str, options: dict[str, str]) -> Any:
    scheme, bucket, prefix = split_uri(root)
    retry: Any = {
        "max_retries": int(options.pop("client_max_retries")),
        "retry_timeout": timedelta(seconds=float(options.pop("client_retry_timeout"))),
        "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2},
    }
    client: Any = {name: options.pop(name) for name in _CLIENT_OPTIONS if name in options}
    if "allow_http" in client:
        client["allow_http"] = client["allow_http"].lower() in ("true", "1", "yes")
    config: Any = {name: value for name, value in options.items() if name not in _LANCE_ONLY}
    prefix_or_none = prefix or None
    try:
        if scheme == "s3":
            provider = None if is_unsigned(options) else _aws_profile(root)
            return S3Store(
                bucket,
                prefix=prefix_or_none,
                config=config,
                client_options=client,
                retry_config=retry,
                credential_provider=cast("Any", provider),
            )
        if scheme == "gs":
            return GCSStore(bucket, prefix=prefix_or_none, config=config, client_options=client, retry_config=retry)
        return AzureStore(bucket, prefix=prefix_or_none, config=config, client_options=client, retry_config=retry)
    except exceptions.UnknownConfigurationKeyError as error:
        raise ValueError(f"{root}: unknown storage option. {_first_line(error)}") from error


def is_unsigned(options: Mapping[str, str]) -> bool:
    """Say whether requests go without credentials, as to a public bucket."""
    return any(options.get(name, "").lower() in ("true", "1") for name in ("aws_skip_signature", "skip_signature"))


def _aws_profile(root: str) -> Any:
    """Return boto3's credentials where the environment has no keys: obstore reads no profiles (0.12)."""
    if os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_SKIP_SIGNATURE"):
        return None
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        return Boto3CredentialProvider()
    except (ValueError, BotoCoreError) as error:
        raise Forbidden(
            f"{root}: no AWS credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or the storage option "
            f"aws_skip_signature: 'true' for a public bucket ({error})"
        ) from error


@contextmanager
def _errors(what: str) -> Iterator[None]:
    """Turn obstore's errors into StoreErrors.

    Args:
        what: URI for the message.
    """
    try:
        yield
    except FileNotFoundError as error:
        if _NO_BUCKET.search(str(error)):
            raise SourceNotFound(f"{what}: the bucket does not exist. Check its name, the endpoint and the region") from error
        raise NotFound(f"{what}: does not exist") from error
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        raise _forbidden(what, error) from error
    except exceptions.AlreadyExistsError as error:
        raise AlreadyExists(f"{what}: exists already") from error
    except exceptions.PreconditionError as error:
        raise ObjectChanged(f"{what}: was replaced while it was read or written") from error
    except exceptions.InvalidPathError as error:
        raise StoreError(
            f"{what}: a key that cannot be read ({_first_line(error)}). Rename the object, or leave its folder out of the source"
        ) from error
    except exceptions.NotSupportedError as error:
        raise StoreError(f"{what}: the store lacks an operation that is needed here ({_first_line(error)})") from error
    except exceptions.BaseError as error:
        text = str(error)
        if _NO_BUCKET.search(text):
            raise SourceNotFound(f"{what}: the bucket does not exist. Check its name, the endpoint and the region") from error
        if _DENIED.search(_first_line(error)) or re.search(
            r"<Code>(AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken)", text
        ):
            raise _forbidden(what, error) from error
        raise Unavailable(
            f"{what}: cannot be reached or fails: {_first_line(error)}. Check the endpoint and the network and run again"
        ) from error
    except OSError as error:
        raise store_error(error, what) from error


def _forbidden(what: str, error: Exception) -> Forbidden:
    return Forbidden(f"{what}: access denied ({_first_line(error)}). Check the credentials in the environment and what they may do here")


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:300]


def _quoted(etag: str) -> str:
    return f'"{etag}"'


def _info(meta: dict[str, Any]) -> ObjectInfo:
    modified: datetime = meta["last_modified"]
    etag = (meta.get("e_tag") or "").removeprefix("W/").strip('"') or f"{meta['size']}-{int(modified.timestamp() * 1_000_000)}"
    return ObjectInfo(key=meta["path"], size_bytes=meta["size"], etag=etag, last_modified=modified)
