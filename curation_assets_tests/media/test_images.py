from __future__ import annotations

import numpy as np
import pytest

from curation_assets.media.images import decode_image, encode_image

GRADIENT = np.stack([*np.meshgrid(np.arange(40), np.arange(30)), np.full((30, 40), 90)], axis=-1).astype(np.uint8) * 2


@pytest.mark.parametrize("codec", ["png", "raw"])
def test_lossless_codecs_give_the_same_pixels(codec: str) -> None:
    data = encode_image(GRADIENT, codec)  # type: ignore[arg-type]
    assert np.array_equal(decode_image(data, codec, 30, 40), GRADIENT)  # type: ignore[arg-type]


def test_jpeg_is_near_and_quality_counts() -> None:
    low, high = (encode_image(GRADIENT, "jpeg", quality) for quality in (20, 95))
    assert len(low) < len(high)
    assert np.abs(decode_image(high, "jpeg", 30, 40).astype(int) - GRADIENT).max() <= 6


def test_strided_pictures_are_encoded_as_seen() -> None:
    turned = np.rot90(GRADIENT)
    assert np.array_equal(decode_image(encode_image(turned, "raw"), "raw", 40, 30), turned)
    assert np.array_equal(decode_image(encode_image(turned, "png"), "png", 40, 30), turned)


@pytest.mark.parametrize(
    ("data", "codec"),
    [
        (b"", "jpeg"),
        (b"junk", "png"),
        (b"123", "raw"),
        (encode_image(GRADIENT, "png"), "jpeg"),
        (encode_image(GRADIENT, "png")[:60], "png"),
    ],
)
def test_damaged_pictures_raise_value_error(data: bytes, codec: str) -> None:
    with pytest.raises(ValueError, match="picture"):
        decode_image(data, codec, 30, 40)  # type: ignore[arg-type]


def test_another_size_raises() -> None:
    with pytest.raises(ValueError, match="30x40"):
        decode_image(encode_image(GRADIENT, "png"), "png", 40, 30)


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        encode_image(np.zeros((4, 4)), "png")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="codec"):
        encode_image(GRADIENT, "webp")  # type: ignore[arg-type]
