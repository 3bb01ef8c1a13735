"""Bitstream: the few bits of coded video that containers get wrong or do not tell.

Two questions, answered from a packet's first bytes without decoding: may decoding begin here, and does this packet show a frame. Containers mark as
keyframes what encoders call so, which includes gradual refreshes and, in files without a sync table, every frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Parameter sets, delimiters and SEI stand before the first slice; one packet's worth of them ends well before this.
_SCAN_BYTES = 64 * 1024


class Access(Enum):
    """What decoding from a packet on gives."""

    NONE = "none"  # decoding cannot begin here, whatever the container says
    CLOSED = "closed"  # every frame from here on
    OPEN = "open"  # every frame shown at or after this one; those shown before it that follow in decode order need earlier packets


@dataclass(frozen=True, slots=True)
class Nals:
    """How a stream's packets are divided into NAL units: length prefixes of some bytes, or Annex B start codes for 0."""

    length_bytes: int


def nals_of_stream(codec: str, extradata: bytes | None) -> Nals:
    """Read from the stream's configuration record how its packets are divided.

    Args:
        codec: h264 or hevc.
        extradata: the stream's extradata, None where there is none.
    """
    if not extradata or extradata[0] != 1:
        return Nals(0)
    at = 4 if codec == "h264" else 21
    return Nals((extradata[at] & 3) + 1 if len(extradata) > at else 0)


def access_of_packet(codec: str, data: memoryview, nals: Nals) -> Access:
    """Say what decoding from a packet that the container marks as a keyframe gives.

    Args:
        codec: codec name; for others than h264 and hevc the container is believed.
        data: the packet.
        nals: from `nals_of_stream`.
    """
    if codec == "h264":
        return _access_h264(data, nals)
    if codec == "hevc":
        return _access_hevc(data, nals)
    return Access.OPEN


def is_shown(codec: str, data: memoryview) -> bool:
    """Say whether a packet of VP8 or VP9 shows a frame; alternate reference frames do not. True for other codecs.

    Reference: RFC 6386 section 9.1; VP9 bitstream specification sections 6.2 and Annex B.
    """
    if not data:
        return False
    first, last = data[0], data[-1]
    if codec == "vp8":
        return bool(first & 0x10)
    if codec != "vp9":
        return True
    if last & 0xE0 == 0xC0 and len(data) > 1:
        index_bytes = 2 + ((last >> 3 & 3) + 1) * ((last & 7) + 1)
        if len(data) >= index_bytes and data[-index_bytes] == last:
            return True  # a superframe: hidden frames together with the one they serve
    profile = (first >> 5 & 1) | (first >> 4 & 1) << 1
    flags = first << 8 | (data[1] if len(data) > 1 else 0)
    at = 11 - (profile == 3)  # bit of show_existing_frame, after frame_marker, profile and one reserved bit for profile 3
    shows_existing, is_displayed = flags >> at & 1, flags >> (at - 2) & 1
    return bool(shows_existing or is_displayed)


def is_leading_decodable(codec: str, data: memoryview, nals: Nals, *, entry: memoryview) -> bool:
    """Say whether a frame that is shown before the stream's first keyframe, but follows it in decode order, can be decoded without what came earlier.

    Args:
        codec: codec name.
        data: the frame's packet.
        nals: from `nals_of_stream`.
        entry: packet of the keyframe.
    """
    if codec == "hevc":  # RADL pictures
        return any(unit[0] >> 1 & 0x3F in (6, 7) for unit in _units(data, nals) if unit[0] >> 1 & 0x3F < 32)
    if codec in ("mpeg1video", "mpeg2video"):  # closed_gop in the header of the group of pictures
        head = bytes(entry[:_SCAN_BYTES])
        at = head.find(b"\x00\x00\x01\xb8")
        return at >= 0 and at + 7 < len(head) and bool(head[at + 7] & 0x40)
    return False


def _access_h264(data: memoryview, nals: Nals) -> Access:
    """IDR: closed. Recovery point that is exact at once: open. Anything else is no entry."""
    for unit in _units(data, nals):
        kind = unit[0] & 0x1F
        if kind == 5:
            return Access.CLOSED
        if kind == 6 and _recovers_at_once(bytes(unit[1:])):
            return Access.OPEN
        if kind in (1, 2):
            return Access.NONE
    return Access.NONE


def _access_hevc(data: memoryview, nals: Nals) -> Access:
    """Only intra random access pictures are entries; IDR pictures are closed."""
    for unit in _units(data, nals):
        kind = unit[0] >> 1 & 0x3F
        if kind in (19, 20):
            return Access.CLOSED
        if 16 <= kind <= 23:
            return Access.OPEN
        if kind < 32:
            return Access.NONE
    return Access.NONE


def _recovers_at_once(sei: bytes) -> bool:
    """Look in an H.264 SEI unit for a recovery point whose recovery_frame_cnt is zero (ITU-T H.264, D.1.8)."""
    payload = sei.replace(b"\x00\x00\x03", b"\x00\x00")
    at = 0
    while at + 2 < len(payload):
        kind = size = 0
        while at < len(payload) and payload[at] == 0xFF:
            kind, at = kind + 255, at + 1
        if at >= len(payload):
            return False
        kind, at = kind + payload[at], at + 1
        while at < len(payload) and payload[at] == 0xFF:
            size, at = size + 255, at + 1
        if at >= len(payload):
            return False
        size, at = size + payload[at], at + 1
        if kind == 6:
            return at < len(payload) and bool(payload[at] & 0x80)  # ue(v) of zero is the single bit 1
        at += size
    return False


def _units(data: memoryview, nals: Nals) -> Iterator[memoryview]:
    """Yield the NAL units of a packet, headers first; the last may be cut."""
    if nals.length_bytes:
        at = 0
        while at + nals.length_bytes < len(data):
            size = int.from_bytes(data[at : at + nals.length_bytes], "big")
            at += nals.length_bytes
            if size:
                yield data[at : at + size]
            at += size
        return
    head = bytes(data[:_SCAN_BYTES])
    at = head.find(b"\x00\x00\x01")
    while at >= 0 and at + 3 < len(head):
        following = head.find(b"\x00\x00\x01", at + 3)
        yield data[at + 3 : following if following >= 0 else len(data)]
        at = following
