"""NVDEC: decoding on an NVIDIA GPU, through FFmpeg's CUDA devices as PyAV offers them. Frames come back to the CPU's memory, so what follows is the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import av
import av.error
from av.codec.hwaccel import HWAccel

from curation_assets.media.errors import MediaError
from curation_assets.media.source import MediaSource, open_container
from curation_assets.schemas.outcomes import Outcome

if TYPE_CHECKING:
    from av.container import InputContainer


def why_missing() -> str | None:
    """Say why nothing can be decoded on a GPU here, None when it can."""
    try:
        HWAccel("cuda", allow_software_fallback=False).create(av.Codec("h264", "r"))
    except (av.error.FFmpegError, NotImplementedError, OSError) as error:
        return f"FFmpeg finds no CUDA device ({error})"
    return None


def open(source: MediaSource) -> InputContainer:  # noqa: A001 - read as nvdec.open
    """Open a video whose decoders run on the GPU.

    Raises:
        MediaError: as `open_container`; UNSUPPORTED when there is no GPU, or it does not take the codec.
    """
    accelerator = HWAccel("cuda", allow_software_fallback=False)
    reason = why_missing()
    if reason is not None:
        raise MediaError(Outcome.UNSUPPORTED, reason)
    try:
        return open_container(source, hwaccel=accelerator)
    except NotImplementedError as error:
        raise MediaError(Outcome.UNSUPPORTED, f"the GPU does not decode this codec: {error}") from error
