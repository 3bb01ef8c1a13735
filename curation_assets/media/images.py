"""Images: encode and decode stored frames with Pillow."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

ImageCodec = Literal["jpeg", "png", "raw"]


def encode_image(rgb: npt.NDArray[np.uint8], codec: ImageCodec, quality: int = 90) -> bytes:
    """Encode one picture.

    Args:
        rgb: uint8 (H, W, 3).
        codec: jpeg (4:2:0 chroma), png (lossless), or raw (the array's bytes).
        quality: of JPEG, 1 to 100.

    Raises:
        ValueError: the array is no uint8 (H, W, 3), or the codec is unknown.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"a picture must be uint8 (H, W, 3), is {rgb.dtype} {rgb.shape}")
    buffer = io.BytesIO()
    match codec:
        case "raw":
            return rgb.tobytes()
        case "jpeg":
            Image.fromarray(rgb).save(buffer, "JPEG", quality=quality)
        case "png":
            # Level 1: frames are read back soon and often, and photographs hardly shrink at higher levels.
            Image.fromarray(rgb).save(buffer, "PNG", compress_level=1)
        case _:
            raise ValueError(f"codec must be jpeg, png or raw, is {codec!r}")
    return buffer.getvalue()


def decode_image(data: bytes, codec: ImageCodec, height_px: int, width_px: int) -> npt.NDArray[np.uint8]:
    """Decode one stored picture.

    Args:
        data: what `encode_image` gave.
        codec: how it was encoded.
        height_px: its height.
        width_px: its width.

    Returns:
        uint8 (height_px, width_px, 3), RGB.

    Raises:
        ValueError: the bytes are damaged, or of another size or codec.
    """
    shape = (height_px, width_px, 3)
    if codec == "raw":
        if len(data) != height_px * width_px * 3:
            raise ValueError(f"a raw picture of {height_px}x{width_px} has {height_px * width_px * 3} bytes, not {len(data)}")
        return np.frombuffer(data, np.uint8).reshape(shape).copy()
    try:
        with Image.open(io.BytesIO(data), formats=[codec.upper()]) as image:
            rgb = np.array(image.convert("RGB"))
    except OSError as error:
        raise ValueError(f"not a {codec} picture: {error}") from error
    if rgb.shape != shape:
        raise ValueError(f"the picture is {rgb.shape[0]}x{rgb.shape[1]}, not {height_px}x{width_px}")
    return rgb
