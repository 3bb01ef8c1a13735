"""Queue events: what a message of a queue says was created in, or removed from, a bucket.

Read are S3's own notifications, the same wrapped by SNS, and EventBridge's, wrapped by SNS or not. Source: "Event message structure" of Amazon's S3 user guide
(keys are URL-encoded there), "EventBridge event message structure" of the same (they are not), and the SNS developer guide on message formats.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

_MOST_WRAPPERS = 3
_CREATED = ("ObjectCreated:", "ObjectRestore:Completed")
_REMOVED = ("ObjectRemoved:", "LifecycleExpiration:")
_CREATED_DETAIL = ("Object Created", "Object Restore Completed")


@dataclass(frozen=True, slots=True)
class ObjectEvent:
    """Something happened to one object.

    Attributes:
        bucket: its bucket.
        key: literal key in the bucket.
        is_removed: it was deleted, else created or replaced.
    """

    bucket: str
    key: str
    is_removed: bool


class JunkMessage(ValueError):  # noqa: N818 - it is the message that is junk
    """A message that is no notification of a bucket."""


def read_events(body: str) -> list[ObjectEvent]:
    """Read a message's events; a test event of S3, or one of another kind such as a change of tags, gives none.

    Raises:
        JunkMessage: it is no notification of a bucket; the message says what it is.
    """
    return list(_events(body, _MOST_WRAPPERS))


def _events(body: str, wrappers_left: int) -> Iterator[ObjectEvent]:
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise JunkMessage(f"it is not JSON: {error}") from error
    if not isinstance(tree, dict):
        raise JunkMessage(f"it is not a JSON object but {type(tree).__name__}")
    try:
        if isinstance(tree.get("Message"), str) and tree.get("Type") == "Notification":
            if not wrappers_left:
                raise JunkMessage("it is wrapped by SNS again and again")
            yield from _events(tree["Message"], wrappers_left - 1)
        elif isinstance(tree.get("Records"), list):
            for record in tree["Records"]:
                yield from _s3_event(record)
        elif tree.get("source") == "aws.s3" and "detail-type" in tree:
            yield from _bridge_event(tree)
        elif tree.get("Event") != "s3:TestEvent":
            raise JunkMessage(f"it is no notification of S3, SNS or EventBridge; its keys are {sorted(tree)[:10]}")
    except (KeyError, TypeError, AttributeError) as error:
        raise JunkMessage(f"it looks like a notification, but a part is missing or wrong: {error!r}") from error


def _s3_event(record: Mapping[str, Any]) -> Iterator[ObjectEvent]:
    name = str(record["eventName"]).removeprefix("s3:")
    if name.startswith((*_CREATED, *_REMOVED)):
        yield _event(record["s3"]["bucket"]["name"], unquote_plus(record["s3"]["object"]["key"]), is_removed=name.startswith(_REMOVED))


def _bridge_event(tree: Mapping[str, Any]) -> Iterator[ObjectEvent]:
    name, detail = tree["detail-type"], tree["detail"]
    if name in (*_CREATED_DETAIL, "Object Deleted"):
        yield _event(detail["bucket"]["name"], detail["object"]["key"], is_removed=name == "Object Deleted")


def _event(bucket: Any, key: Any, *, is_removed: bool) -> ObjectEvent:
    if not (isinstance(bucket, str) and isinstance(key, str) and bucket and key):
        raise JunkMessage(f"bucket and key must be texts: {bucket!r}, {key!r}")
    return ObjectEvent(bucket, key, is_removed)
