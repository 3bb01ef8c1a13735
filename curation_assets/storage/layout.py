"""Layout: every key and path of the warehouse, and every id. Nothing else in the project puts such a name together."""

from __future__ import annotations

import re
import unicodedata
import uuid
from dataclasses import dataclass

from curation_assets.schemas.names import SHARD_NAME
from curation_assets.storage.objects import child_uri, root_uri

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "curation-assets")
MAX_SOURCE_NAME_LEN = 120
SOURCES_PREFIX = "sources/"
CHANGES_PREFIX, WRITERS_PREFIX = "changes/done/", "changes/writing/"
SUMMARIES_KEY = "changes/summaries.json"
REGISTRY_COPY_KEY = "changes/sources.json"
_SOURCE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


def check_source_name(name: str) -> str:
    """Return the name of a source if it can be a partition key, a file name and a part of an object key everywhere.

    Raises:
        ValueError: it is empty, too long, starts with a dot, has `..`, or has other characters than letters, digits and `._-`.
    """
    if len(name) > MAX_SOURCE_NAME_LEN or ".." in name or not _SOURCE_NAME.fullmatch(name):
        raise ValueError(
            f"source name {name!r} cannot be used: take 1 to {MAX_SOURCE_NAME_LEN} letters (a-z, A-Z), digits, '.', '_' or '-', "
            "not starting with a dot and without '..'"
        )
    return name


def video_id(source: str, key: str) -> str:
    """Make the id of a video: a UUID from the source's plain name and the key in Unicode NFC, the same in every run and on every machine."""
    return str(uuid.uuid5(NAMESPACE, f"{source}\0{unicodedata.normalize('NFC', key)}"))


def shard_name(source: str, index: int, num_shards: int) -> str:
    """Name one shard of a source, a partition of its own: `name--003-of-016`; the first has index 0."""
    return f"{source}--{index:03}-of-{num_shards:03}"


def shard_of(partition: str) -> tuple[int, int] | None:
    """Return the index of a shard and the number of shards, None for the partition of a source that is not split."""
    found = SHARD_NAME.fullmatch(partition)
    if found is None or int(found[2]) >= int(found[3]):
        return None
    return int(found[2]), int(found[3])


def plain_name(partition: str) -> str:
    """Return the name of the source that a partition is, or is a shard of: what the column `source` and the ids have."""
    return partition if shard_of(partition) is None else partition.rpartition("--")[0]


def shard_index(video_id: str, num_shards: int) -> int:
    """Choose the shard that holds a video; the id is a hash of source and key already."""
    return uuid.UUID(video_id).int % num_shards


def clip_id(video_id: str, start_ns: int, end_ns: int) -> str:
    """Make the id of a clip from its video and its span [start_ns, end_ns)."""
    return str(uuid.uuid5(uuid.UUID(video_id), f"{start_ns}:{end_ns}"))


def header_row_id(video_id: str) -> str:
    """Make the row_id of a video's header row."""
    return video_id


def item_row_id(video_id: str, clip_id: str | None, name: str) -> str:
    """Make the row_id of a row that a clip, or a whole video (clip_id None), has once per name: a frame set, or an embedding's scope."""
    return f"{clip_id or video_id}:{name}"


@dataclass(frozen=True, slots=True)
class Layout:
    """Names everything below one warehouse.

    Attributes:
        root_uri: local folder or `s3://`, `gs://`, `az://` URI; made absolute and without a slash at its end.
    """

    root_uri: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "root_uri", root_uri(self.root_uri))

    def uri(self, key: str) -> str:
        """Return the URI of a key of the warehouse as people write it."""
        return child_uri(self.root_uri, key)

    def table_key(self, asset: str, source: str | None = None) -> str:
        """Return the folder of one table: of an asset and source, or of a corpus asset (source None)."""
        return f"tables/{asset}.lance" if source is None else f"tables/{asset}/{check_source_name(source)}.lance"

    def table_uri(self, asset: str, source: str | None = None) -> str:
        """Return the URI of one table, to open with `VideoTable`."""
        return self.uri(self.table_key(asset, source))

    def source_key(self, name: str) -> str:
        """Return the key of a source's entry in the registry."""
        return f"{SOURCES_PREFIX}{check_source_name(name)}.json"

    def change_key(self, source: str) -> str:
        """Return the key of the mark that every change of a source's tables makes anew."""
        return f"{CHANGES_PREFIX}{check_source_name(source)}"

    def writers_prefix(self, asset: str, source: str) -> str:
        """Return the folder of the marks of those who write one table, ending in a slash."""
        return f"{WRITERS_PREFIX}{check_source_name(source)}/{asset}/"

    def watch_prefix(self, watch: str) -> str:
        """Return the folder of what a sensor remembers of one watched root, ending in a slash."""
        return f"watch/{check_source_name(watch)}/"

    def queue_prefix(self, queue: str) -> str:
        """Return the folder of what a sensor remembers of one queue, ending in a slash."""
        return f"queues/{check_source_name(queue)}/"

    def lease_prefix(self, asset: str, source: str | None = None) -> str:
        """Return the folder of one table's lease, ending in a slash."""
        return f"leases/{asset}/" if source is None else f"leases/{asset}/{check_source_name(source)}/"

    def media_below(self, root: str) -> str | None:
        """Return how the keys of this warehouse's own media begin below a root that holds the warehouse; None where it does not.

        Clips that were made from videos are no videos to make clips from.
        """
        media, inside = f"{self.root_uri}/media/", f"{root_uri(root).rstrip('/')}/"
        return media.removeprefix(inside) or None if media.startswith(inside) else None

    def media_prefix(self, asset: str, source: str) -> str:
        """Return the folder of one asset's media of one source, ending in a slash."""
        return f"media/{asset}/{check_source_name(source)}/"

    def media_key(self, asset: str, source: str, *, clip_id: str, fingerprint: str, ext: str) -> str:
        """Return the key of one clip's media file; the fingerprint in it keeps a new file from replacing one that rows still name."""
        return f"{self.media_prefix(asset, source)}{clip_id}-{fingerprint[:8]}.{ext.removeprefix('.')}"
