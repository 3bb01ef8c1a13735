"""Shards: one huge source as several partitions, each with the videos whose ids fall into it. Ids and the column `source` keep the plain name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from curation_assets.settings import SettingsError
from curation_assets.storage.layout import plain_name, shard_index, shard_name, shard_of, video_id


def partition_names(name: str, num_shards: int) -> list[str]:
    """Name the partitions of a source: one of its own name, or its shards."""
    return [name] if num_shards == 1 else [shard_name(name, index, num_shards) for index in range(num_shards)]


def has_key(partition: str, key: str) -> bool:
    """Say whether a partition holds the video of a key of its source; exactly one shard does, whatever the Unicode form of the key."""
    shard = shard_of(partition)
    return shard is None or shard_index(video_id(plain_name(partition), key), shard[1]) == shard[0]


def shards_by_source(known: Iterable[str]) -> dict[str, list[str]]:
    """Group the shards among some partitions by the source's name, in their order; partitions of sources that are not split are left out."""
    found: dict[str, list[str]] = {}
    for partition in sorted(filter(shard_of, known)):
        found.setdefault(plain_name(partition), []).append(partition)
    return found


def with_shards(names: Iterable[str], known: Collection[str]) -> list[str]:
    """Put the shards of a source in the place of its name; other names stay.

    Args:
        names: of sources or partitions.
        known: the partitions that there are.
    """
    chosen = list(names)
    shards = shards_by_source(known) if any(name not in known for name in chosen) else {}
    return list(dict.fromkeys(partition for name in chosen for partition in shards.get(name, [name])))


def num_shards_of(name: str, known: Iterable[str]) -> int:
    """Say into how many shards a source is split; 1 for one that is not, or that is not known."""
    for partition in known:
        if (shard := shard_of(partition)) and plain_name(partition) == name:
            return shard[1]
    return 1


def check_complete(known: Iterable[str]) -> None:
    """Refuse to curate a part of a source as if it were all of it.

    Raises:
        SettingsError: some shards of a source are not registered.
    """
    for name, shards in shards_by_source(known).items():
        if len(shards) < (number := num_shards_of(name, shards)):
            raise SettingsError(
                f"source {name!r} has {len(shards)} of its {number} shards, as after a command that was killed: complete it with curation-assets sources add "
                f"{name} URI --shards {number}, or remove the rest with curation-assets sources remove {name}"
            )


def check_shards(num_shards: Mapping[str, int], known: Collection[str]) -> None:
    """Refuse to split known sources otherwise than they are: their videos would be curated once more, beside what there is.

    Args:
        num_shards: by source, in how many it is to be split; 1 for not at all.
        known: the partitions that there are.

    Raises:
        SettingsError: one is split into another number of shards, or is not split.
    """
    shards = shards_by_source(known)
    for name, number in num_shards.items():
        present = [name] if name in known else shards.get(name, [])
        if not {*present} <= {*partition_names(name, number)}:
            shard = shard_of(present[0])
            now, kept = (f"is split into {shard[1]} shards", shard[1]) if shard else ("is not split", 1)
            raise SettingsError(
                f"source {name!r} {now}, and now shards is {number}: keep shards: {kept}, or take the source away with its tables and have it "
                f"curated anew: curation-assets sources remove {name} --delete-tables"
            )
