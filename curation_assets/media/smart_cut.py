"""Smart cut: encode the frames before the first whole GOP of a span and after the last one, copy the GOPs between.

H.264 only. The encoded parts have parameter sets of their own under another id, beside the source's in the file's header, so that neither overwrites the
other. Whether decoders put up with it, each file must show: the caller decodes all of it.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.video.frame import PictureType

from curation_assets.media.audio import ClipAudio
from curation_assets.media.bitstream import Access, access_of_packet, nals_of_stream
from curation_assets.media.clip_writer import ClipWriter, encode_errors
from curation_assets.media.decode import PacketReader, decode_targets
from curation_assets.media.encoders import EncodeError, EncoderSpec, configure
from curation_assets.media.source import MediaSource

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

_SET_ID = 29  # of the encoded parts' parameter sets; encoders number theirs from 0
_LENGTH_BYTES = 4
_SPS, _PPS = 7, 8


def cut_smartly(
    source: MediaSource,
    reader: PacketReader,
    positions: npt.NDArray[np.int64],
    end_pts: int,
    *,
    spec: EncoderSpec,
    path: Path,
    audio: ClipAudio,
) -> None:
    """Write the file of one span.

    Args:
        source: the video.
        reader: its packets.
        positions: packets of the span's frames, in order of display.
        end_pts: when the frame after the last one is shown.
        spec: the encoder of the parts that are not copied; libx264.
        path: file to write.
        audio: the clip's sound.

    Raises:
        EncodeError: there is no whole GOP to copy, or the video is of a kind that cannot be joined so.
        OSError: the disk is full, or may not be written.
    """
    index, context = reader.index, reader.context
    codec = context.codec.canonical_name
    if codec != "h264" or spec.name != "libx264" or context.pix_fmt != "yuv420p":
        raise EncodeError(f"only H.264 in yuv420p is joined, with libx264; this is {codec} in {context.pix_fmt}, with {spec.name}")
    low, high = _whole_gops(reader, positions)
    head, sets_of_head = _encoded(source, reader, positions[:low], spec)
    tail, sets_of_tail = _encoded(source, reader, positions[high:], spec)
    sets = sets_of_head or sets_of_tail
    if sets_of_head and sets_of_tail and sets_of_head != sets_of_tail:
        raise EncodeError("the two encoded parts have different parameter sets")
    first, stop = int(positions[low]), int(positions[low:high].max()) + 1
    nals = nals_of_stream(codec, context.extradata)
    middle = [
        (int(index.pts[place]), _prefixed(bytes(packet), nals.length_bytes), bool(index.is_keyframe[place]))
        for place, packet in reader.packets(first, stop)
    ]
    parts = [*head, *middle, *tail]  # pts, data, is keyframe; in decode order
    extradata = _configuration(bytes(reader.context.extradata or b""), sets)
    template = reader.stream

    def add_video(output: OutputContainer) -> VideoStream:
        stream = output.add_stream_from_template(template, opaque=True)
        stream.codec_context.extradata = extradata
        return stream

    zero = int(index.pts[positions[0]])
    shown = sorted(pts - zero for pts, _, _ in parts)
    delay = max(early - (pts - zero) for early, (pts, _, _) in zip(shown, parts, strict=True))
    writer = ClipWriter(path, audio=audio, last=(shown[-1], end_pts - zero - shown[-1]), add_video=add_video)
    for early, (pts, data, is_keyframe) in zip(shown, parts, strict=True):
        packet = av.Packet(data)
        packet.pts, packet.dts, packet.time_base = pts - zero, early - delay, index.time_base
        packet.is_keyframe = is_keyframe
        writer.write([packet])
    writer.close()


def _whole_gops(reader: PacketReader, positions: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Find the frames [low, high) of a span, in order of display, whose packets are a run of whole, closed GOPs."""
    index = reader.index
    entries = [place for place, position in enumerate(positions) if index.is_keyframe[position]]
    for low in entries:
        (_, packet), *_ = reader.packets(int(positions[low]), int(positions[low]) + 1)
        codec = reader.context.codec.canonical_name
        if access_of_packet(codec, memoryview(bytes(packet)), nals_of_stream(codec, reader.context.extradata)) is not Access.CLOSED:
            continue
        for high in [len(positions), *[entry for entry in reversed(entries) if entry > low]]:
            run = positions[low:high]
            if int(run.min()) == int(run[0]) and int(run.max()) - int(run[0]) + 1 == len(run):
                return low, high
    raise EncodeError("no whole closed GOP lies in the span")


def _encoded(
    source: MediaSource, reader: PacketReader, positions: npt.NDArray[np.int64], spec: EncoderSpec
) -> tuple[list[tuple[int, bytes, bool]], list[bytes]]:
    """Encode some frames; returns (pts, data, is keyframe) in decode order, and the parameter sets."""
    if not len(positions):
        return [], []
    index, source_context = reader.index, reader.context
    context: VideoCodecContext = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = source_context.width, source_context.height, "yuv420p"
    context.time_base, context.framerate = index.time_base, reader.stream.average_rate or Fraction(25)
    context.sample_aspect_ratio = source_context.sample_aspect_ratio or Fraction(1)
    context.color_primaries, context.color_trc = source_context.color_primaries, source_context.color_trc
    context.colorspace, context.color_range = source_context.colorspace, source_context.color_range
    configure(context, spec)
    context.options = {**context.options, "x264-params": f"sps-id={_SET_ID}:repeat-headers=0"}
    context.flags |= 1 << 22  # AV_CODEC_FLAG_GLOBAL_HEADER: parameter sets in the extradata
    packets: list[Packet[Stream]] = []
    with encode_errors(Path("smart cut")):
        for decoded in decode_targets(source, index=index, targets=positions.tolist()):
            if decoded.frame is None:
                raise EncodeError(f"a frame could not be decoded: {decoded.problem}")
            frame = decoded.frame
            frame.time_base, frame.pict_type = index.time_base, PictureType.NONE
            packets += context.encode(frame)
        packets += context.encode()
    sets = [unit for unit in _split(bytes(context.extradata or b"")) if unit[0] & 0x1F in (_SPS, _PPS)]
    return [(int(packet.pts or 0), _prefixed(bytes(packet), 0), packet.is_keyframe) for packet in packets], sets


def _configuration(extradata: bytes, more: list[bytes]) -> bytes:
    """Write the decoder configuration record (ISO/IEC 14496-15, 5.3.3.1) with the source's parameter sets and some more."""
    units = _record_units(extradata) if extradata[:1] == b"\x01" else [unit for unit in _split(extradata) if unit[0] & 0x1F in (_SPS, _PPS)]
    units += more
    sps = [unit for unit in units if unit[0] & 0x1F == _SPS]
    pps = [unit for unit in units if unit[0] & 0x1F == _PPS]
    if not sps or not pps:
        raise EncodeError("the video's header has no parameter sets")
    # version, then profile, constraints and level of the first set; lengths of four bytes
    record = bytes([1, *sps[0][1:4], 0xFC | (_LENGTH_BYTES - 1), 0xE0 | len(sps)])
    record += b"".join(len(unit).to_bytes(2, "big") + unit for unit in sps)
    record += bytes([len(pps)]) + b"".join(len(unit).to_bytes(2, "big") + unit for unit in pps)
    if sps[0][1] in (100, 110, 122, 144):
        record += bytes([0xFC | 1, 0xF8, 0xF8, 0])  # 4:2:0, 8 bits, no extension sets
    return record


def _record_units(record: bytes) -> list[bytes]:
    """Read the parameter sets of a decoder configuration record."""
    units, at = [], 6
    for count in (record[5] & 0x1F, None):
        if count is None:
            count, at = record[at], at + 1
        for _ in range(count):
            size = int.from_bytes(record[at : at + 2], "big")
            units.append(record[at + 2 : at + 2 + size])
            at += 2 + size
    return units


def _prefixed(data: bytes, length_bytes: int) -> bytes:
    """Return a packet whose NAL units have lengths of four bytes before them; `length_bytes` 0 means start codes."""
    if length_bytes == _LENGTH_BYTES:
        return data
    if length_bytes == 0:
        return b"".join(len(unit).to_bytes(_LENGTH_BYTES, "big") + unit for unit in _split(data))
    units, at = [], 0
    while at + length_bytes < len(data):
        size = int.from_bytes(data[at : at + length_bytes], "big")
        units.append(data[at + length_bytes : at + length_bytes + size])
        at += length_bytes + size
    return b"".join(len(unit).to_bytes(_LENGTH_BYTES, "big") + unit for unit in units)


def _split(data: bytes) -> list[bytes]:
    """Split a byte stream at its start codes."""
    units, at = [], data.find(b"\x00\x00\x01")
    while at >= 0:
        following = data.find(b"\x00\x00\x01", at + 3)
        unit = data[at + 3 : following if following >= 0 else len(data)]
        units.append(unit.rstrip(b"\x00") if following >= 0 else unit)
        at = following
    return [unit for unit in units if unit]
