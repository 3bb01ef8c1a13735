"""Fingerprints: short hashes of all that a piece of work consumes, so that a changed one means stale and an equal one means done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint(*parts: Any) -> str:
    """Hash JSON-like values; the same values give the same 32 hex digits on every machine."""
    return hashlib.blake2b(_ENCODER.encode(parts).encode(), digest_size=16).hexdigest()


def content_hash(row: Mapping[str, Any]) -> str:
    """Hash what one row says: its own columns, encoded frames and vectors included."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(row):
        digest.update(name.encode() + b"\0")
        _update(digest, row[name])
    return digest.hexdigest()


def combine(hashes: Iterable[str]) -> str:
    """Hash a set of hashes; their order does not matter."""
    return fingerprint(sorted(hashes))


def _update(digest: Any, value: Any) -> None:
    if isinstance(value, bytes):
        digest.update(b"b%d\0" % len(value))
        digest.update(value)
    elif isinstance(value, np.ndarray):
        digest.update(f"a{value.dtype.str}{value.shape}\0".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, list | tuple):
        digest.update(b"l%d\0" % len(value))
        for item in value:
            _update(digest, item)
    else:
        digest.update(repr(value).encode() + b"\0")
