"""Maintenance: how long `maintain` keeps what nothing needs any more."""

from __future__ import annotations

from pydantic import Field

from curation_assets.settings.base import Model


class MaintenanceSettings(Model):
    """What `curation-assets maintain` and the job `maintain_warehouse` do by themselves."""

    older_than_days: float = Field(
        7.0,
        ge=0.25,
        le=36500,
        description="Versions of tables that were replaced for so long are dropped; who reads a table must be done with a version by then.",
    )
