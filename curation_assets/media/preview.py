"""Preview: an animated WebP from the pictures of a clip, each shown for as long as the clip shows it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image

from curation_assets.media.plan import sample_grid

MAX_FRAMES = 600
# Of 0 to 6. 20 pictures of 426 x 240: 2 takes 0.10 s, 4 takes 0.20 s for 7 % fewer bytes (Pillow 13.0, libwebp); FFmpeg's libwebp_anim is within 20 % of both.
_METHOD = 2
_MS = 1_000_000
_SHORTEST_MS = 20  # browsers slow shorter ones down to 100 ms


def encode_webp(pictures: Sequence[npt.NDArray[np.uint8]], *, time_ns: Sequence[int], end_ns: int, quality: int) -> bytes:
    """Encode pictures as an animation that repeats for ever.

    Args:
        pictures: uint8 (H, W, 3) each, all of one size; at least one.
        time_ns: when each is shown, ascending.
        end_ns: when the last one ends.
        quality: 1 to 100, lossy.
    """
    # from rounded times, so that rounding does not add up
    starts_ms = [round((time - time_ns[0]) / _MS) for time in (*time_ns, max(end_ns, time_ns[-1] + _MS))]
    durations = [max(_SHORTEST_MS, b - a) for a, b in pairwise(starts_ms)]
    images = [Image.fromarray(picture) for picture in pictures]
    buffer = io.BytesIO()
    images[0].save(buffer, "WEBP", save_all=True, append_images=images[1:], duration=durations, loop=0, quality=quality, method=_METHOD)
    return buffer.getvalue()


def choose_stored(time_ns: Sequence[int], *, fps: float, start_ns: int, end_ns: int) -> list[int]:
    """Choose, from stored frames, those nearest to a grid of `fps` over the span [start_ns, end_ns).

    Args:
        time_ns: times of the stored frames, ascending.
        fps: most frames per second; stored ones that are sparser are all taken.
        start_ns: start of the span.
        end_ns: its end.

    Returns:
        Places in `time_ns`, ascending, at most `MAX_FRAMES`.
    """
    places = np.unique(sample_grid(np.array(time_ns, dtype=np.int64), fps, start_ns=start_ns, end_ns=end_ns))
    if len(places) > MAX_FRAMES:
        places = places[np.unique(np.linspace(0, len(places) - 1, MAX_FRAMES).round().astype(np.int64))]
    return [int(place) for place in places]


def preview_size(height_px: int, *, display_height_px: int, display_width_px: int) -> tuple[int, int]:
    """Return (height, width) of a preview in the picture's own proportions; it is never larger than the picture."""
    height_px = min(height_px, max(2, display_height_px))
    return height_px, max(2, 2 * round(height_px * display_width_px / display_height_px / 2))
