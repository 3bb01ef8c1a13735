"""Base: what every settings class shares."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
"""What a frame set or a preview may be called."""

Seconds = Annotated[float, Field(le=1e9)]
"""A length of time; at most 30 years, which still fits into nanoseconds of 64 bits."""


class SettingsError(ValueError):
    """Settings that cannot be used; the message names the key, what was seen and what is allowed."""


class Model(BaseModel):
    """Base of all settings: unknown keys are errors, numbers are finite, values do not change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
