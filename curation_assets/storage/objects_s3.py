"""S3Objects: a bucket of S3 or a store that speaks its protocol, listed and read through boto3.

obstore takes no key with an empty segment (`a//b`, `/a`), a control character, or `.` and `..` as a segment: one such object ends its listing. It
also drops a slash at a key's end. Objects of others may have any key, so they are listed, read and deleted here by their literal key; only writing
goes through obstore.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import boto3
from botocore import UNSIGNED, exceptions
from botocore.config import Config

from curation_assets.storage.errors import Forbidden, NotFound, ObjectChanged, SourceNotFound, StoreError, Unavailable
from curation_assets.storage.objects import ObjectInfo, Reader, endpoint_of, split_uri
from curation_assets.storage.objects_local import store_error
from curation_assets.storage.objects_remote import RangeReader, RemoteStore, is_unsigned

_DOWNLOAD_BYTES = 8 * 1024 * 1024
_BODY_ATTEMPTS = 3  # boto3 retries requests, not what breaks off in a body
_DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AllAccessDisabled", "401", "403"}
_OLD_CREDENTIALS = {"ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
_UNITS_S = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0}


class S3Objects(RemoteStore):
    """A bucket of S3, or a prefix of one; any key that S3 allows."""

    def __init__(self, root: str, options: Mapping[str, str], *, cleaned: Mapping[str, str]) -> None:
        super().__init__(root, options, cleaned=cleaned)
        _, self._bucket, prefix = split_uri(root)
        self._base = f"{prefix}/" if prefix else ""
        self._client = _client(self._bucket, tuple(sorted(cleaned.items())))

    def list_pages(self, prefix: str = "", *, page_size: int = 1000, start_after: str | None = None) -> Iterator[list[ObjectInfo]]:  # noqa: D102
        folder = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        arguments: dict[str, Any] = {"Bucket": self._bucket, "Prefix": self._base + folder, "MaxKeys": min(page_size, 1000)}
        if start_after:
            arguments["StartAfter"] = self._base + start_after
        while True:
            with _errors(self.uri(prefix)):
                answer = self._client.list_objects_v2(**arguments)
            # the root's own folder marker has no key below the root
            page = [_info(item["Key"][len(self._base) :], item["Size"], item) for item in answer.get("Contents", ())]
            if page := [info for info in page if info.key]:
                yield page
            if not answer.get("IsTruncated"):
                return
            arguments["ContinuationToken"] = answer["NextContinuationToken"]

    def head(self, key: str) -> ObjectInfo:  # noqa: D102
        with _errors(self.uri(key)):
            answer = self._client.head_object(Bucket=self._bucket, Key=self._base + key)
        return _info(key, answer["ContentLength"], answer)

    def get(self, key: str) -> bytes:  # noqa: D102
        return self._fetch(key)

    def delete(self, key: str) -> None:  # noqa: D102
        try:
            with _errors(self.uri(key)):
                self._client.delete_object(Bucket=self._bucket, Key=self._base + key)
        except NotFound:
            return

    def download(self, key: str, path: Path, *, etag: str | None = None) -> None:  # noqa: D102
        info = self.head(key)
        try:
            with path.open("wb") as file:
                for start in range(0, info.size_bytes, _DOWNLOAD_BYTES):
                    end = min(start + _DOWNLOAD_BYTES, info.size_bytes)
                    file.write(self._fetch(key, etag=etag or info.etag, Range=f"bytes={start}-{end - 1}"))
        except OSError as error:
            raise store_error(error, str(path)) from error
        if etag and info.etag != etag:
            raise ObjectChanged(f"{self.uri(key)}: was replaced since it was listed")

    def open_reader(self, key: str, *, info: ObjectInfo | None = None) -> Reader:  # noqa: D102
        known = info or self.head(key)

        def fetch(start: int, end: int) -> bytes:
            return self._fetch(key, etag=known.etag, Range=f"bytes={start}-{end - 1}")

        return cast("Reader", RangeReader(fetch, known.size_bytes))

    def _fetch(self, key: str, *, etag: str | None = None, **arguments: str) -> bytes:
        if etag:
            arguments["IfMatch"] = f'"{etag}"'
        for attempt in range(_BODY_ATTEMPTS):
            try:
                with _errors(self.uri(key)):
                    answer = self._client.get_object(Bucket=self._bucket, Key=self._base + key, **arguments)
                    return bytes(answer["Body"].read())
            except Unavailable:
                if attempt == _BODY_ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")


@lru_cache(maxsize=16)
def _client(bucket: str, options: tuple[tuple[str, str], ...]) -> Any:
    """Connect; clients are safe to share between threads and cost too much to make for every object."""
    named = {name.removeprefix("aws_"): value for name, value in options}
    is_virtual = _is_true(named.get("virtual_hosted_style_request", ""))
    endpoint = endpoint_of(named)
    if endpoint and is_virtual:
        endpoint = endpoint.replace(f"//{bucket}.", "//", 1)  # obstore wants the bucket in it, boto3 puts it there
    # pauses between attempts are up to 1, 2, 4, ... seconds
    num_retries = min(int(named["client_max_retries"]), int(math.log2(float(named["client_retry_timeout"]) + 1)))
    config = Config(  # type: ignore[no-untyped-call]
        signature_version=UNSIGNED if is_unsigned(named) else None,
        s3={"addressing_style": "virtual" if is_virtual else "path"},
        retries={"mode": "standard", "total_max_attempts": num_retries + 1},
        connect_timeout=_seconds(named.get("connect_timeout", "5s")),
        read_timeout=_seconds(named.get("timeout", "30s")),
        proxies={"http": named["proxy_url"], "https": named["proxy_url"]} if "proxy_url" in named else None,
        max_pool_connections=32,
        # stores other than Amazon's do not know the newer checksums
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    client = boto3.session.Session().client(  # type: ignore[no-untyped-call]
        "s3",
        endpoint_url=endpoint or None,
        region_name=named.get("region") or named.get("default_region") or os.environ.get("AWS_REGION"),
        verify=False if _is_true(named.get("allow_invalid_certificates", "")) else None,
        config=config,
    )
    if _is_true(named.get("request_payer", "")):
        client.meta.events.register("before-call.s3", lambda params, **_: params["headers"].update({"x-amz-request-payer": "requester"}))
    return client


def _is_true(value: str) -> bool:
    return value.lower() in ("true", "1", "yes")


def _seconds(text: str) -> float:
    match = re.fullmatch(r"\s*([0-9.]+)\s*(ms|s|m|)\s*", text)
    if match is None:
        raise ValueError(f"storage option timeout {text!r}: write seconds, for example 30s")
    return float(match[1]) * _UNITS_S[match[2]]


@contextmanager
def _errors(what: str) -> Iterator[None]:
    """Turn boto3's errors into StoreErrors.

    Args:
        what: URI for the message.
    """
    try:
        yield
    except exceptions.ClientError as error:
        raise _client_error(what, error) from error
    except exceptions.NoCredentialsError as error:
        raise Forbidden(
            f"{what}: no AWS credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or the storage option "
            "aws_skip_signature: 'true' for a public bucket"
        ) from error
    except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
        raise Unavailable(f"{what}: cannot be reached: {error}. Check the endpoint and the network and run again") from error
    except exceptions.BotoCoreError as error:
        raise StoreError(f"{what}: {error}") from error


def _client_error(what: str, error: exceptions.ClientError) -> StoreError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code == "NoSuchBucket":
        return SourceNotFound(f"{what}: the bucket does not exist. Check its name, the endpoint and the region")
    if code in ("NoSuchKey", "404", "NotFound"):
        return NotFound(f"{what}: does not exist")
    if code in ("PreconditionFailed", "412", "InvalidRange", "416"):
        return ObjectChanged(f"{what}: was replaced while it was read")
    if code in _OLD_CREDENTIALS:
        _client.cache_clear()  # the next store reads the credentials again: somebody may have renewed them
    if code in _DENIED or status in (401, 403):
        return Forbidden(f"{what}: access denied ({error}). Check the credentials in the environment and what they may do here")
    if status >= 500 or code in ("SlowDown", "RequestTimeout", "429"):
        return Unavailable(f"{what}: cannot be reached or fails: {error}. Check the endpoint and the network and run again")
    return StoreError(f"{what}: {error}")


def _info(key: str, size_bytes: int, item: Mapping[str, Any]) -> ObjectInfo:
    modified = item["LastModified"]
    etag = item.get("ETag", "").removeprefix("W/").strip('"') or f"{size_bytes}-{int(modified.timestamp() * 1_000_000)}"
    return ObjectInfo(key=key, size_bytes=size_bytes, etag=etag, last_modified=modified)
