"""Watched names: which source an object below a watched root belongs to, and what that source is called, the same for every sensor and for ever."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from curation_assets.storage.layout import MAX_SOURCE_NAME_LEN, check_source_name, shard_of

_DROPPED = re.compile(r"[^a-z0-9_]+")
_HASH = r"(?=[0-9]*[a-f])[0-9a-f]{8}"  # with a letter, so that a date such as 20261121 is none
_LOOKS_HASHED = re.compile(f"-{_HASH}$")
_HASH_LEN = 8


def source_folder(key: str, depth: int) -> str | None:
    """Return the folder, so many levels below the root, that a key lies in and that is a source of its own.

    Args:
        key: literal key below the watched root.
        depth: levels; 0 is the root itself.

    Returns:
        The folder without a slash at its end ("" at depth 0), or None for a key that lies above that depth, or in a folder that has no name (`a//b`), which
        no URI can tell from its parent: those are in the source that has the watch's own name.
    """
    if not depth:
        return ""
    parts = key.split("/", depth)
    if len(parts) <= depth or "" in parts[:depth]:
        return None
    return key[: len(key) - len(parts[depth]) - 1]


def watched_source_name(watch: str, folder: str | None) -> str:
    """Name the source of one folder below a watched root.

    A hash of the folder's bytes follows where letters were lost, so that no two folders have one name, also where file names ignore case.

    Args:
        watch: name of the watch.
        folder: as `source_folder` gives it.
    """
    if not folder:
        return check_source_name(watch)
    plain = unicodedata.normalize("NFKD", folder).encode("ascii", "ignore").decode().lower()
    room = MAX_SOURCE_NAME_LEN - len(watch) - 1
    slug = _DROPPED.sub("-", plain).strip("-")
    if slug != folder or len(slug) > room or _LOOKS_HASHED.search(slug) or shard_of(f"{watch}-{slug}"):
        slug = f"{slug[: room - _HASH_LEN - 1].rstrip('-') or 'x'}-{_hash(folder)}"
    return check_source_name(f"{watch}-{slug}")


def _hash(folder: str) -> str:
    digest = hashlib.sha256(folder.encode()).hexdigest()
    return next(part for i in range(len(digest)) if re.fullmatch(_HASH, part := digest[i : i + _HASH_LEN]))
