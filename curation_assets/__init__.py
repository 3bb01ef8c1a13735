"""Curate video at any scale with Dagster: sources in, a queryable warehouse out.

The chain of tables, each made from the ones before it:

    raw_videos -> clips -> frame_sets + clip_scores/pixels -> embeddings/<model> -> duplicates/<model> -> curated_clips, search_index/<model>
                                                           -> transcoded_clips, previews/<name> (of kept clips)

`connect()` queries them with SQL, `open_table()` opens one with its frames, `search()` finds clips. The command line is `curation-assets`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curation_assets.storage.views import SqlConnection

__all__ = ["connect", "open_table", "search"]


def connect(*, config: str | None = None) -> SqlConnection:
    """Open the warehouse for SQL, with DuckDB over the Lance tables.

    Only the tables that a query names are opened. The views are those of the README.

    Args:
        config: settings file; None looks for `CURATION_CONFIG`, then `./curation.yaml`.

    Raises:
        SettingsError: the settings are wrong.
    """
    from curation_assets.configuration import find_config, load_config
    from curation_assets.curation.query import connect_config

    return connect_config(load_config(find_config(config)))


def open_table(view: str, source: str | None = None, *, config: str | None = None) -> Any:
    """Open one table of one source as a Lance dataset, encoded frames and header rows included.

    Args:
        view: SQL view name, for example `frame_sets` or `embeddings_fingerprint`.
        source: source name; None for a table over all sources, such as `curated_clips`.
        config: settings file; None looks for `CURATION_CONFIG`, then `./curation.yaml`.

    Raises:
        SettingsError: the settings are wrong.
        KeyError: no such view, or the source has no such table yet.
    """
    from curation_assets.configuration import find_config, load_config
    from curation_assets.curation.query import open_dataset

    return open_dataset(load_config(find_config(config)), view, source)


def search(
    text: str | None = None,
    *,
    clip: str | None = None,
    video: str | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
    model: str | None = None,
    k: int = 10,
    where: str | None = None,
    config: str | None = None,
) -> list[dict[str, Any]]:
    """Find the clips that lie nearest to a text, a stored clip, or a video; one of the three.

    Args:
        text: words; needs a model that embeds texts.
        clip: clip_id, or the beginning of one; the clip is no hit of its own.
        video: path or URI of a video that need be in no source; the mean of its clips is compared.
        start_s: with a video: only from here on, as one clip.
        end_s: with a video: only up to here, as one clip.
        model: registry name; None is the first of `embeddings.models` that can take the query and has vectors.
        k: most hits.
        where: SQL condition over the columns of clips, raw_videos, clip_scores and curated_clips; only clips that fulfil it are looked at.
        config: settings file; None looks for `CURATION_CONFIG`, then `./curation.yaml`.

    Returns:
        {clip_id, video_id, source, key, start_ns, end_ns, score}, the nearest first; of equal scores (cosines to six decimals) the smaller clip_id.

    Raises:
        SettingsError: the settings or the query cannot be used; the message says why and what to do.
    """
    from pathlib import Path

    from curation_assets.configuration import absolute_uri, find_config, load_config
    from curation_assets.curation.corpus import CorpusRun
    from curation_assets.curation.query_vectors import Query
    from curation_assets.curation.search import search as find

    query = Query(text=text, clip_id=clip, video=absolute_uri(video, Path.cwd()) if video else video, start_s=start_s, end_s=end_s)
    found = find(CorpusRun(load_config(find_config(config))), query, model=model, k=k, where=where)
    return [hit.as_dict() for hit in found.hits]
