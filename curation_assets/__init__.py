"""Curate video at any scale with Dagster: sources in, a queryable warehouse out.

The chain of tables, each made from the ones before it:

    raw_videos -> clips -> frame_sets + clip_scores/pixels -> embeddings/<model> -> duplicates/<model> -> curated_clips
                                                           -> transcoded_clips, previews/<name> (of kept clips)

`connect()` queries them with SQL, `open_table()` opens one with its frames. The command line is `curation-assets`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curation_assets.storage.views import SqlConnection

__all__ = ["connect", "open_table"]


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
