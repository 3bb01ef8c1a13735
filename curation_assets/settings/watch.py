"""Watch: the roots whose sub-folders become sources by themselves, and the bounds of the sensors that look at them."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from curation_assets.settings.base import Model, Seconds, StorageOptions

MAX_WATCH_NAME_LEN = 40
"""Leaves 80 characters of a source's name for the folder."""


class WatchSettings(Model):
    """One watched root."""

    uri: str = Field(min_length=1, description="A folder, or an s3:// gs:// az:// prefix.")
    depth: int = Field(
        1,
        ge=0,
        le=16,
        description="How many folders below the root a source is: 1 makes each sub-folder one, 0 the root itself. "
        "Files that lie above it are in a source that has the watch's own name.",
    )
    storage_options: StorageOptions
    settings: dict[str, Any] = Field(default_factory=dict, description="Overrides of the processing settings for the sources made.")
    quiet_period_s: Seconds = Field(
        60.0, ge=0, description="An object is taken when it was last written to this long ago: until then it may still be uploaded."
    )


class SensorSettings(Model):
    """Bounds of one tick of a sensor; what it does not get to, the next ticks do."""

    interval_s: int = Field(30, ge=5, le=86_400, description="Seconds between two ticks, at least.")
    max_tick_s: float = Field(
        20.0,
        gt=0,
        le=45,
        description="A tick stops looking after so long. Dagster gives up on one after 60 s, retries of the store included.",
    )
    max_requests_per_tick: int = Field(100, ge=1, le=1000, description="Most runs that a tick asks for, one per source.")
