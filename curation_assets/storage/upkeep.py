"""Upkeep: which versions and files of a Lance table nobody needs any more, and their removal.

Lance judges a version by the time it was made. A reader needs a version as long as it reads, however old that is: of a table that nobody has written to
for a month, the version that a write has replaced a minute ago is a month old. So a version goes here by the time since which there is a newer one.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from curation_assets.storage.snapshots import Snapshot, lance_errors

_FOR_EVER = timedelta(days=36500)


class Dropped(NamedTuple):
    """What was removed of a table, or would be."""

    num_versions: int = 0
    num_bytes: int = 0


def drop_old_versions(snapshot: Snapshot, older_than: timedelta, *, is_dry_run: bool = False, is_alone: bool = False) -> Dropped:
    """Drop the versions that have been replaced for some time, the files that only they need, and what killed writers left more than 7 days ago.

    Safe beside readers and writers, and when it is killed: the newest version stays, and the files of a write that is under way are younger than 7 days.

    Args:
        snapshot: of the table's newest version.
        older_than: time since a version was replaced by the next one.
        is_dry_run: say what would go, and remove nothing.
        is_alone: nobody else uses the table, so that all files of no version go, whatever their age.
    """
    dataset: Any = snapshot.dataset  # its annotations make a union of a version's number and its time
    clean = dataset.explain_cleanup_old_versions if is_dry_run else dataset.cleanup_old_versions
    with lance_errors(dataset.uri):
        versions = sorted(dataset.versions(), key=lambda version: version["version"])
        before = datetime.now(UTC) - older_than
        replaced = [
            version["version"]
            for version, following in itertools.pairwise(versions)
            if following["timestamp"].astimezone(UTC) <= before and version["version"] < dataset.version
        ]
        which = {"versions": replaced} if replaced else {"older_than": _FOR_EVER}
        found = clean(**which, delete_unverified=is_alone, error_if_tagged_old_versions=False)
    stats = found.stats if is_dry_run else found
    return Dropped(int(stats.old_versions), int(stats.bytes_removed))
