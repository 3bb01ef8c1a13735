"""StoreError and its kinds: what reading or writing a folder, a bucket or a table can fail with."""

# ruff: noqa: N818 - the names say what happened; "Error" after each would add nothing

from __future__ import annotations


class StoreError(Exception):
    """A folder, bucket or table cannot be read or written; the message says what was seen and what to do.

    Attributes:
        folder: key of the folder at which a listing of a local root ended; "" elsewhere.
    """

    folder = ""


class NotFound(StoreError):
    """The object does not exist."""


class SourceNotFound(NotFound):
    """The root itself, a folder or bucket, does not exist."""


class Forbidden(StoreError):
    """The store denies it: permissions, or missing or wrong credentials."""


class Unavailable(StoreError):
    """The store cannot be reached or answers with errors after retries; trying later may help."""


class AlreadyExists(StoreError):
    """A create-only write found the object there already."""


class ObjectChanged(StoreError):
    """The object was replaced while it was being read."""


class NoSpace(StoreError):
    """No space is left, or a quota or file size limit is reached."""


class WriteConflict(StoreError):
    """Other writers kept changing the same rows; nothing of this write was kept."""


class LeaseHeld(StoreError):
    """Another live run holds the lease."""


class LeaseLost(StoreError):
    """Another run took the lease over; this one must stop writing."""
