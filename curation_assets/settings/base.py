"""Base: what every settings class shares."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
"""What a frame set or a preview may be called."""

Seconds = Annotated[float, Field(le=1e9)]
"""A length of time; at most 30 years, which still fits into nanoseconds of 64 bits."""


class SettingsError(ValueError):
    """Settings that cannot be used; the message names the key, what was seen and what is allowed."""


class Model(BaseModel):
    """Base of all settings: unknown keys are errors, numbers are finite, values do not change after reading, and no error of pydantic's repeats one."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


_USER_IN_URL = re.compile(r"^[a-z][a-z0-9+.-]*://[^/]*@", re.IGNORECASE)
_SIGNATURE_IN_URL = re.compile(r"^[a-z][a-z0-9+.-]*://.*[?&](sig|[a-z-]*signature)=", re.IGNORECASE)  # Azure's SAS; S3 and Google


def without_credentials(uri: str) -> str:
    """Return a URI that names no user and is not signed: what stands in the settings is shown in logs, tables and the UI.

    Raises:
        PydanticCustomError: it has a user, with a password or without, or a signature; the message does not repeat it.
    """
    for pattern, what in ((_USER_IN_URL, "a user or password before '@' in a URL"), (_SIGNATURE_IN_URL, "the signature in a URL")):
        if pattern.match(uri):
            raise PydanticCustomError("credential", f"{what} would be shown in logs and tables: credentials come from the environment")  # type: ignore[arg-type]
    return uri


Uri = Annotated[str, AfterValidator(without_credentials), Field(min_length=1)]
"""A folder or a URL; credentials never stand in it."""

_SECRET_OPTION = re.compile(r"secret|password|token|access_key|account_key|sas|credential", re.IGNORECASE)


def _without_secrets(options: dict[str, str]) -> dict[str, str]:
    for option, value in options.items():
        without_credentials(value)
        if _SECRET_OPTION.search(option):
            raise ValueError(
                f"storage option {option!r}: credentials come from the environment (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), not from settings"
            )
    return options


StorageOptions = Annotated[
    dict[str, str],
    AfterValidator(_without_secrets),
    Field(
        default_factory=dict,
        description="Options of the object store, for example aws_endpoint, aws_region, allow_http; never credentials.",
    ),
]
