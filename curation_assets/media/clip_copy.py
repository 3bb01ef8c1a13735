"""Clip copy: files whose frames are packets of the video as they are, or for the most part."""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from curation_assets.media.audio import AudioReader, ClipAudio
from curation_assets.media.clip_files import NO_AUDIO, How, TranscodedClip, TranscodeSpec, WantedClip
from curation_assets.media.clip_writer import ClipWriter
from curation_assets.media.decode import PacketReader
from curation_assets.media.encoders import EncodeError
from curation_assets.media.errors import MediaError
from curation_assets.media.packets import PacketIndex
from curation_assets.media.smart_cut import cut_smartly
from curation_assets.media.source import MediaSource
from curation_assets.media.verify import Depth, VerifyError, verify_file
from curation_assets.schemas.outcomes import Outcome

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

# Codecs that MP4 holds and that decoders are common for.
COPIED_CODECS = ("h264", "hevc", "av1", "vp9")
_COPIED_PIX_FMTS = ("yuv420p", "yuvj420p")
_HDR_TRANSFERS = (16, 18)
_PROGRESSIVE = (0, 1)
_DAMAGED = "frames in it are damaged"


class CopyingInput:
    """The open video, for spans whose packets can be copied; those of the ids in `damaged` are not."""

    def __init__(self, source: MediaSource, index: PacketIndex, spec: TranscodeSpec, damaged: Collection[str] = ()) -> None:
        self._source, self._index, self._spec, self._damaged = source, index, spec, frozenset(damaged)
        self._reader: PacketReader | None = None
        self._audio: AudioReader | None = None
        self._refusal: str | None = None

    def __enter__(self) -> CopyingInput:
        return self

    def __exit__(self, *_: object) -> None:
        for reader in (self._reader, self._audio):
            if reader is not None:
                reader.close()

    def copied(self, item: WantedClip, folder: Path) -> TranscodedClip | None:
        """Make the clip without encoding all of it; None when it must be encoded."""
        spec = self._spec
        if spec.way == "encode":
            return None
        if self._reader is None:
            self._reader = PacketReader(self._source, self._index, 1)
            self._refusal = self._why_not()
        first, stop = self._index.packet_range(item.span.start_ns, item.span.end_ns)
        problem = self._refusal or self._why_not_span(item, first, stop)
        how: How = "copy"
        if problem and not self._refusal and spec.way == "smart_cut" and problem != _DAMAGED:
            how, problem = "smart_cut", ""
        if not problem:
            path = folder / f"{item.span.id}.mp4"
            try:
                sound = self._sound(item)
                if how == "copy":
                    self._copy(item, first, stop, path, sound)
                else:
                    ends = (item.positions, item.end_pts)
                    cut_smartly(self._source, self._reader, *ends, spec=spec.encoder, path=path, audio=sound)
                depth: Depth = "keyframes" if how == "copy" else "all"
                found = verify_file(path, times_ns=item.times_ns(self._index), duration_ns=item.duration_ns(self._index), depth=depth)
            except (EncodeError, VerifyError) as error:
                path.unlink(missing_ok=True)
                problem = f"a {how.replace('_', ' ')} does not hold: {error}"
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            else:
                outcome = Outcome.TRUNCATED if item.shortfall else Outcome.OK
                detail = "; ".join(filter(None, [item.shortfall, sound.detail]))
                return TranscodedClip(item.span, outcome, detail, path, how, found)
        if spec.way == "copy":
            return TranscodedClip(item.span, Outcome.UNSUPPORTED, f"it cannot be copied: {problem}")
        item.note = problem if spec.way == "smart_cut" else ""
        return None

    def _why_not(self) -> str | None:
        """Say what keeps all of the video from being copied."""
        assert self._reader is not None
        context, spec = self._reader.context, self._spec
        codec, pix_fmt = context.codec.canonical_name, context.pix_fmt
        is_hdr = int(context.color_trc) in _HDR_TRANSFERS
        if codec not in COPIED_CODECS:
            return f"clips do not hold {codec}"
        if context.field_order not in _PROGRESSIVE:
            return "it is interlaced"
        if is_hdr and spec.hdr == "tonemap":
            return "it is HDR, and hdr is tonemap"
        if pix_fmt not in _COPIED_PIX_FMTS and not is_hdr:
            return f"its pixels are {pix_fmt}"
        if spec.max_side_px is not None and max(context.width, context.height) > spec.max_side_px:
            return f"it is larger than max_side_px {spec.max_side_px}"
        return None

    def _why_not_span(self, item: WantedClip, first: int, stop: int) -> str | None:
        """Say what keeps a span's frames from being a run of packets that begins with a keyframe."""
        index = self._index
        if item.is_damaged or item.span.id in self._damaged:
            return _DAMAGED
        if not index.is_keyframe[first] or int(item.positions[0]) != first:
            return "it does not begin at a keyframe"
        if stop - first != len(item.positions) or not bool(index.is_displayed[first:stop].all()):
            return "frames of its neighbours, or hidden ones, lie among its packets"
        return None

    def _copy(self, item: WantedClip, first: int, stop: int, path: Path, audio: ClipAudio) -> None:
        assert self._reader is not None
        reader, index = self._reader, self._index
        pts = index.pts[first:stop] - item.pts[0]
        in_order = np.sort(pts)
        dts = in_order - int((in_order - pts).max())  # strictly ascending, and never after the pts, whatever the container says
        packets = reader.packets(first, stop)
        head = next(packets)  # may open the container anew, so before the stream is taken as template
        template = reader.stream

        def add_video(output: OutputContainer) -> VideoStream:
            stream = output.add_stream_from_template(template, opaque=True)
            if template.codec_context.codec.canonical_name == "hevc":
                stream.codec_context.codec_tag = "hvc1"  # what Apple's players take; FFmpeg would write hev1
            return stream

        writer = ClipWriter(
            path,
            audio=audio,
            last=item.last(int(item.pts[0])),
            add_video=add_video,
        )
        try:
            for place, packet in chain([head], packets):
                copy = av.Packet(bytes(packet))
                copy.pts, copy.dts, copy.time_base = int(pts[place - first]), int(dts[place - first]), index.time_base
                copy.is_keyframe = bool(index.is_keyframe[place])
                writer.write([copy])
            writer.close()
        except MediaError:
            writer.abandon()
            raise

    def _sound(self, item: WantedClip) -> ClipAudio:
        if not self._spec.has_audio:
            return NO_AUDIO
        start_ns, end_ns = item.zero_ns(self._index, int(item.pts[0]))
        if self._audio is None:
            self._audio = AudioReader(self._source, self._index, start_ns=start_ns)
        return self._audio.clip(start_ns, end_ns)
