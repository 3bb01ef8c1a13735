"""Verify: open a clip's file again and compare what it holds with what it should hold."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from curation_assets.media.color import display_size
from curation_assets.media.decode import decode_targets
from curation_assets.media.errors import MediaError
from curation_assets.media.packets import PacketIndex, index_packets
from curation_assets.media.plan import DisplayOrder
from curation_assets.media.source import mp4_boxes, open_container, read_at
from curation_assets.media.timing import NS_PER_S
from curation_assets.schemas.outcomes import Outcome

# What is decoded. Of an encoded file the first and the last frame, with all that the last one rests on: its encoder saw every frame, and every packet's
# time is compared. Of a copied one the first and the last keyframe, for the coded frames are the source's own. Of a smart cut everything.
Depth = Literal["ends", "keyframes", "all"]
_READ_BYTES = 1024 * 1024
_MOVIE_TICK_NS = 11_112  # of `clip_writer`


class VerifyError(Exception):
    """A file does not hold what it should; the message says what was seen."""


@dataclass(frozen=True, slots=True)
class VerifiedFile:
    """What a clip's file holds.

    Attributes:
        num_frames: frames that its packets show, as many as it should.
        duration_ns: from its first frame to the end of its last.
        codec: of the video.
        height_px: height as displayed, in stored pixels.
        width_px: width as displayed.
        has_audio: whether there is an audio track.
        size_bytes: size.
        sha256: of the whole file, hex.
    """

    num_frames: int
    duration_ns: int
    codec: str
    height_px: int
    width_px: int
    has_audio: bool
    size_bytes: int
    sha256: str


def verify_file(path: Path, *, times_ns: npt.NDArray[np.int64], duration_ns: int, depth: Depth) -> VerifiedFile:
    """Open a clip's file and check it.

    Every packet is read: as many frames as there should be, each at its time to within a tick of the file, and the last one shown for as long as it should
    be. The moov box stands before the media data. Then some frames are decoded, by `depth`.

    Args:
        path: the file.
        times_ns: int64 (N,), ascending times of the frames relative to the first.
        duration_ns: from the first frame to the end of the last.
        depth: what is decoded.

    Raises:
        VerifyError: it holds something else, or cannot be played.
        OSError: it is gone.
    """
    try:
        kinds = [kind for kind, _ in mp4_boxes(str(path))]
        if b"moov" not in kinds or b"mdat" not in kinds or kinds.index(b"moov") > kinds.index(b"mdat"):
            raise VerifyError(f"its boxes are {[kind.decode('latin-1') for kind in kinds]}: moov must stand before mdat")
        index = index_packets(str(path))
        _check_times(index, times_ns)
        found_ns = _track_ns(path)
        if abs(found_ns - duration_ns) > 2 * (_tick_ns(index) + _MOVIE_TICK_NS):
            raise VerifyError(f"it lasts {found_ns / 1e9:.3f} s, it should last {duration_ns / 1e9:.3f} s")
        height_px, width_px = _decode(path, index, depth)
        with open_container(str(path)) as container:
            stream = next(stream for stream in container.streams.video if stream.index == index.stream_index)
            codec, has_audio = stream.codec_context.codec.canonical_name, bool(container.streams.audio)
    except MediaError as error:
        if error.outcome is Outcome.VANISHED:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
        raise VerifyError(error.detail) from error
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_READ_BYTES):
            digest.update(data)
    return VerifiedFile(
        num_frames=len(index.display_pts),
        duration_ns=found_ns,
        codec=codec,
        height_px=height_px,
        width_px=width_px,
        has_audio=has_audio,
        size_bytes=path.stat().st_size,
        sha256=digest.hexdigest(),
    )


def _check_times(index: PacketIndex, times_ns: npt.NDArray[np.int64]) -> None:
    if index.is_truncated:
        raise VerifyError(index.detail)
    if len(index.display_times_ns) != len(times_ns):
        raise VerifyError(f"it shows {len(index.display_times_ns)} frames, it should show {len(times_ns)}")
    worst_ns = int(np.abs(index.display_times_ns - times_ns).max())
    if worst_ns > _tick_ns(index):
        raise VerifyError(f"a frame stands {worst_ns / 1e6:.3f} ms from its time")


def _tick_ns(index: PacketIndex) -> int:
    return int(1e9 * index.time_base) + 2


def _track_ns(path: Path) -> int:
    """Read how long the video track is shown (ISO/IEC 14496-12, 8.3.2).

    FFmpeg tells the sum of the packets' durations where that is less; these follow the decode times, not how long each frame is shown.
    """
    at = 0
    for kind, end in mp4_boxes(str(path)):
        if kind == b"moov":
            moov = read_at(str(path), at, end - at)[8:]
            movie = dict(_boxes(moov))
            per_s = int.from_bytes(_after_dates(movie[b"mvhd"])[:4], "big")
            for track_kind, track in _boxes(moov):
                inside = dict(_boxes(track)) if track_kind == b"trak" else {}
                if inside and dict(_boxes(inside[b"mdia"]))[b"hdlr"][8:12] == b"vide":
                    field_bytes = 8 if inside[b"tkhd"][0] else 4
                    return int.from_bytes(_after_dates(inside[b"tkhd"])[8 : 8 + field_bytes], "big") * NS_PER_S // per_s
        at = end
    raise VerifyError("it has no video track")


def _after_dates(box: bytes) -> bytes:
    """Skip the version, the flags and the two dates, which are longer in version 1."""
    return box[20:] if box[0] else box[12:]


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Give kind and content of the boxes in another box's content."""
    at = 0
    while at + 8 <= len(data):
        size = max(8, int.from_bytes(data[at : at + 4], "big"))
        yield data[at + 4 : at + 8], data[at + 8 : at + size]
        at += size


def _decode(path: Path, index: PacketIndex, depth: Depth) -> tuple[int, int]:
    """Decode some frames; returns (height, width) as displayed."""
    positions = DisplayOrder(index).positions
    targets = {int(positions[0])}
    match depth:
        case "ends":
            targets.add(int(positions[-1]))
        case "keyframes":
            targets.add(int(np.flatnonzero(index.is_keyframe & index.is_displayed)[-1]))
        case "all":
            targets |= set(positions.tolist())
    size = (0, 0)
    for decoded in decode_targets(str(path), index=index, targets=sorted(targets)):
        if decoded.frame is None:
            raise VerifyError(f"frame {decoded.position} of {len(index)} does not decode: {decoded.problem}")
        size = display_size(decoded.frame)
    return size
