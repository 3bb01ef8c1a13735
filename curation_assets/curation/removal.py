"""Removal: everything that was made from one source, tables, files and leases, also under settings that are no longer there."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import product

from curation_assets.curation.query import all_specs
from curation_assets.curation.warehouse import Warehouse
from curation_assets.schemas import names
from curation_assets.settings import Config
from curation_assets.storage.errors import NotFound
from curation_assets.storage.leases import Lease


def delete_source_tables(config: Config, *sources: str) -> int:
    """Delete the tables and files of a source, or of all its shards; returns how many objects they had.

    Raises:
        LeaseHeld: a run is working on one of them; nothing was deleted.
    """
    warehouse = Warehouse.of(config)
    store, layout = warehouse.store, warehouse.layout
    assets = [*dict.fromkeys([*(spec.asset for spec in all_specs(config)), *_previews(warehouse)])]
    num_deleted = 0
    with ExitStack() as held:
        for source, asset in product(sources, assets):
            held.enter_context(Lease(store, layout.lease_prefix(asset, source), run_id="sources remove", wait_s=0))
        for source, asset in product(sources, assets):
            warehouse.changes.begin(asset, source)
            num_deleted += store.delete_prefix(layout.table_key(asset, source) + "/")
            num_deleted += store.delete_prefix(layout.media_prefix(asset, source))
            warehouse.changes.end(asset, source)
    for source, asset in product(sources, assets):
        store.delete_prefix(layout.lease_prefix(asset, source))
    return num_deleted


def _previews(warehouse: Warehouse) -> set[str]:
    """List the previews that there ever were, by asset; the settings may have other names now."""
    found: set[str] = set()
    for root in ("tables", "media"):
        try:
            for page in warehouse.store.list_pages(f"{root}/{names.PREVIEWS}/"):
                found |= {"/".join(info.key.split("/")[1:3]) for info in page}
        except NotFound:
            continue
    return found
