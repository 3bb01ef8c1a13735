"""Reading: how a worker gets at an object, and how it knows that the object did not change meanwhile."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curation_assets.media.errors import MediaError
from curation_assets.schemas.outcomes import Outcome
from curation_assets.settings import EngineSettings
from curation_assets.storage.cache import ObjectCache
from curation_assets.storage.errors import Forbidden, NotFound, ObjectChanged, StoreError
from curation_assets.storage.objects import ObjectInfo, ObjectStore, open_store, split_uri


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """An object as a worker needs it: where it lies, which version is meant, and the cache for remote ones."""

    uri: str
    etag: str
    storage_options: dict[str, str] = field(default_factory=dict)
    cache_dir: str | None = None
    cache_bytes: int = 0

    @classmethod
    def of(cls, uri: str, etag: str, *, storage_options: dict[str, str], engine: EngineSettings) -> ObjectRef:
        """Build a reference with the engine's cache settings."""
        return cls(uri, etag, storage_options, engine.cache_dir, engine.cache_bytes)


@contextmanager
def reading(ref: ObjectRef, *, whole: bool) -> Iterator[Any]:
    """Give something that `media` can open: a local path, or a reader of byte ranges.

    Args:
        ref: the object.
        whole: True when every byte will be read: a remote object is then fetched once into the cache.

    Raises:
        MediaError: vanished, forbidden, unavailable, or changed since it was listed; also when it changed while it was read.
    """
    try:
        store, key = open_object(ref.uri, ref.storage_options)
        info = _check_version(store, key, ref)
        path = store.local_path(key)
        if path is not None:
            yield str(path)
        elif whole:
            folder = Path(ref.cache_dir) if ref.cache_dir else Path(tempfile.gettempdir()) / "curation-assets-cache"
            with ObjectCache(folder, max_bytes=ref.cache_bytes).fetch(store, key, etag=ref.etag, size_bytes=info.size_bytes) as cached:
                yield str(cached)
        else:
            yield store.open_reader(key, info=info)
        _check_version(store, key, ref)
    except NotFound as error:
        raise MediaError(Outcome.VANISHED, str(error)) from error
    except Forbidden as error:
        raise MediaError(Outcome.FORBIDDEN, str(error)) from error
    except ObjectChanged as error:
        raise MediaError(Outcome.CHANGED, str(error)) from error
    except StoreError as error:
        raise MediaError(Outcome.UNAVAILABLE, str(error)) from error


def open_object(uri: str, storage_options: Mapping[str, str]) -> tuple[ObjectStore, str]:
    """Open the store that holds one object, and give the object's key there."""
    scheme, bucket, key = split_uri(uri)
    if scheme == "file":
        return open_store("/", options=storage_options), key.lstrip("/")  # one key, so that odd names of folders are spelled back too
    return open_store(f"{scheme}://{bucket}", options=storage_options), key


def _check_version(store: ObjectStore, key: str, ref: ObjectRef) -> ObjectInfo:
    info = store.head(key)
    if info.etag != ref.etag:
        raise MediaError(Outcome.CHANGED, f"the object is another version now ({info.etag}, listed as {ref.etag}); the next run takes it")
    return info
