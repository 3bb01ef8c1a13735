"""Demux: read the packets of one video stream, past damage, from the start or from the middle, and ask the decoder when packets alone cannot tell."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING

import av.error
import numpy as np
import numpy.typing as npt

from curation_assets.media.bitstream import Access, access_of_packet, is_leading_decodable, is_shown, nals_of_stream
from curation_assets.media.errors import MediaError
from curation_assets.media.probe import best_video_stream, discard_others
from curation_assets.media.source import MediaSource, open_container
from curation_assets.schemas.outcomes import Outcome

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

NO_TIME = int(np.iinfo(np.int64).min)
# A demuxer that meets damage says so and goes on after it; this many errors in a row without a packet mean that nothing follows.
_MAX_ERRORS_IN_A_ROW = 8


@dataclass(slots=True)
class Columns:
    """What one demux gives, in decode order.

    Attributes:
        pts: ticks, NO_TIME where there is none.
        dts: ticks, NO_TIME where there is none.
        durations: ticks, 0 where there is none.
        is_marked: the container says keyframe.
        is_keyframe: and the bitstream does not deny it.
        is_whole: neither discarded nor hidden nor damaged.
        is_displayed: and its references are there: not before the first keyframe, after damage, or a leading frame of the first keyframe after these.
        is_damaged: the demuxer says so.
        error: the demuxer's last error, "" for none.
    """

    pts: array[int] = field(default_factory=lambda: array("q"))
    dts: array[int] = field(default_factory=lambda: array("q"))
    durations: array[int] = field(default_factory=lambda: array("q"))
    is_marked: array[int] = field(default_factory=lambda: array("b"))
    is_keyframe: array[int] = field(default_factory=lambda: array("b"))
    is_whole: array[int] = field(default_factory=lambda: array("b"))
    is_displayed: array[int] = field(default_factory=lambda: array("b"))
    is_damaged: array[int] = field(default_factory=lambda: array("b"))
    error: str = ""


def demux_columns(container: InputContainer, stream: VideoStream) -> Columns:
    """Read all packets of the stream into columns."""
    codec = stream.codec_context.codec.canonical_name
    nals = nals_of_stream(codec, stream.codec_context.extradata)
    columns = Columns()
    has_begun = False
    entry: Packet[VideoStream] | None = None  # keyframe that the frames now rest on; none before the first, and after damage
    for packet in iterate_packets(container, stream, columns):
        data, pts, is_damaged = memoryview(packet), packet.pts, packet.is_corrupt
        is_marked = packet.is_keyframe and not is_damaged
        is_keyframe = is_marked and access_of_packet(codec, data, nals) is not Access.NONE
        is_whole = not (is_damaged or packet.is_discard) and is_shown(codec, data)
        is_displayed = is_whole
        if is_damaged:
            entry = None
        elif entry is None:
            # gradual refreshes have one clean entry only; after damage, the container's keyframes must do
            entry = packet if is_keyframe or (has_begun and is_marked) else None
            is_displayed &= entry is not None
            has_begun |= entry is not None
        elif pts is not None and entry.pts is not None and pts < entry.pts and is_whole:
            is_displayed = is_leading_decodable(codec, data, nals, entry=memoryview(entry))
        columns.pts.append(NO_TIME if pts is None else pts)
        columns.dts.append(NO_TIME if packet.dts is None else packet.dts)
        columns.durations.append(packet.duration or 0)
        columns.is_marked.append(is_marked)
        columns.is_keyframe.append(is_keyframe)
        columns.is_whole.append(is_whole)
        columns.is_displayed.append(is_displayed)
        columns.is_damaged.append(is_damaged)
    return columns


def iterate_packets(container: InputContainer, stream: VideoStream, columns: Columns | None = None) -> Iterator[Packet[VideoStream]]:
    """Yield the stream's packets that hold data, past damage; the last error is noted in `columns`."""
    errors_in_a_row = 0
    while errors_in_a_row < _MAX_ERRORS_IN_A_ROW:
        try:
            for packet in container.demux(stream):
                if packet.size:
                    errors_in_a_row = 0
                    yield packet
        except av.error.FFmpegError as error:
            errors_in_a_row += 1
            if columns is not None:
                columns.error = error.strerror or type(error).__name__
        except IndexError:
            return  # at the end PyAV 18 flushes every stream, also those that came up on the way, which it has no object for
        else:
            return


def display_order(source: MediaSource, num_packets: int) -> npt.NDArray[np.int64]:
    """Decode the first packets to see which of them give frames, in order of display.

    Returns:
        int64, positions in decode order.
    """
    order: list[int] = []
    with open_container(source) as container:
        stream = best_video_stream(container)
        discard_others(container, stream)
        context = stream.codec_context
        context.thread_count = 1
        context.options = {"skip_loop_filter": "all"}  # the picture is not looked at
        for position, packet in enumerate(iterate_packets(container, stream)):
            if position == num_packets:
                break
            packet.pts = position
            order += _decoded_positions(context, packet)
        order += _decoded_positions(context, None)
    return np.array(order, dtype=np.int64)


def _decoded_positions(context: VideoCodecContext, packet: Packet[VideoStream] | None) -> list[int]:
    """Decode a packet whose pts is its position, None to flush; list the positions of the frames that come out."""
    try:
        return [frame.pts for frame in context.decode(packet) if frame.pts is not None]
    except av.error.FFmpegError:
        return []


def seek_packets(
    container: InputContainer, stream: VideoStream, wanted_pts: Sequence[int], *, targets_pts: Sequence[int]
) -> Iterator[Packet[VideoStream]]:
    """Yield packets from a known place on, whatever the container's seeking is worth.

    Seeking may land late, since containers seek by decode times, and FFmpeg may guess other times than it did from the start: then the next target
    is tried.

    Args:
        container: an open container.
        stream: the stream to read; the others are not read.
        wanted_pts: pts of the first packets that are wanted, in decode order.
        targets_pts: where to seek to, the likeliest first.

    Raises:
        MediaError: CORRUPT when none of the targets leads there.
    """
    for target_pts in targets_pts:
        try:
            container.seek(target_pts, stream=stream)
        except av.error.FFmpegError:
            continue
        packets = iterate_packets(container, stream)
        for packet in packets:
            if packet.pts == wanted_pts[0]:
                found = [packet, *islice(packets, len(wanted_pts) - 1)]
                if [p.pts for p in found] == list(wanted_pts):
                    return chain(found, packets)
                break
            if packet.is_keyframe and packet.pts is not None and packet.pts > wanted_pts[0]:
                break  # landed late
    raise MediaError(Outcome.CORRUPT, f"the packet of pts {wanted_pts[0]} cannot be found again")
