"""Transcode: one MP4 file per span of a video, exactly the span's frames at their own times.

`copy` takes packets as they are: exact where the span's frames are a run of packets from a keyframe on. `encode` decodes what the spans need, each frame
once for all spans of a call, and encodes it; `smart_cut` encodes up to the first keyframe and copies the rest. Every file is opened again and checked
before it is handed out: a short or unplayable one is never called ok.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Literal

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from curation_assets.media.audio import AudioReader, ClipAudio
from curation_assets.media.clip_writer import ClipWriter, VideoEncoder
from curation_assets.media.decode import PacketReader, decode_targets
from curation_assets.media.encoders import TRAITS, EncodeError, EncoderSpec
from curation_assets.media.errors import MediaError
from curation_assets.media.packets import PacketIndex
from curation_assets.media.pictures import FramePreparer, HdrMode
from curation_assets.media.plan import DisplayOrder
from curation_assets.media.smart_cut import cut_smartly
from curation_assets.media.source import MediaSource
from curation_assets.media.timing import pts_array_to_ns
from curation_assets.media.verify import Depth, VerifiedFile, VerifyError, verify_file
from curation_assets.schemas.outcomes import Outcome

Way = Literal["auto", "encode", "copy", "smart_cut"]
How = Literal["copy", "encode", "smart_cut"]
# Codecs that MP4 holds and that decoders are common for.
COPIED_CODECS = ("h264", "hevc", "av1", "vp9")
_COPIED_PIX_FMTS = ("yuv420p", "yuvj420p")
_HDR_TRANSFERS = (16, 18)
_PROGRESSIVE = (0, 1)
_MAX_WAITING = 8  # frames that wait for one shown before them; more than any reorder delay
_NO_AUDIO = ClipAudio([], "", None)


@dataclass(frozen=True, slots=True)
class TranscodeSpec:
    """How clips are made.

    Attributes:
        way: auto copies where that is exact and encodes elsewhere; encode always encodes; copy never does; smart_cut encodes only up to the first
            keyframe where that works.
        encoder: what encodes.
        max_side_px: a longer side is scaled down to this, and nothing larger is copied; None for the source's size.
        has_audio: whether sound is kept.
        hdr: tonemap makes 8-bit BT.709 of PQ and HLG; keep keeps them.
    """

    way: Way = "auto"
    encoder: EncoderSpec = field(default_factory=EncoderSpec)
    max_side_px: int | None = None
    has_audio: bool = True
    hdr: HdrMode = "tonemap"

    def __post_init__(self) -> None:
        """Check that HDR can be kept.

        Raises:
            ValueError: the encoder has 8 bits only.
        """
        if self.hdr == "keep" and not TRAITS[self.encoder.name].takes_10bit:
            raise ValueError(
                f"hdr 'keep' needs an encoder of 10 bits: {', '.join(name for name, traits in TRAITS.items() if traits.takes_10bit)}"
            )


@dataclass(frozen=True, slots=True)
class ClipSpan:
    """A span [start_ns, end_ns) of the video's timeline, and the caller's name for it, which the file takes."""

    id: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class TranscodedClip:
    """How one clip came out.

    Attributes:
        span: the clip.
        outcome: ok; truncated when frames of the span could not be had from the source; else why there is no file.
        detail: what was seen, "" for nothing.
        path: the file, which is the caller's; None without one.
        how: how it was made.
        file: what it holds, as found by opening it.
    """

    span: ClipSpan
    outcome: Outcome
    detail: str
    path: Path | None = None
    how: How | None = None
    file: VerifiedFile | None = None


def transcode_clips(
    source: MediaSource, *, index: PacketIndex, spans: Sequence[ClipSpan], spec: TranscodeSpec, folder: Path
) -> Iterator[TranscodedClip]:
    """Make the files of some spans of a video; the video is decoded once, however the spans lie.

    Args:
        source: the video, whole: a local path for best speed.
        index: its packets.
        spans: in any order; they may overlap.
        spec: how.
        folder: where the files go, `<id>.mp4`; a file that is not handed out does not stay.

    Yields:
        Each span once, as soon as its file is complete.

    Raises:
        MediaError: the source cannot be opened, or no longer holds the indexed packets.
        OSError: the folder is full, or may not be written.
    """
    order = DisplayOrder(index)
    wanted = sorted((_Wanted.of(span, order, index) for span in spans), key=lambda item: (item.span.start_ns, item.span.end_ns))
    rest: list[_Wanted] = []
    with _Input(source, index, spec) as video:
        for item in wanted:
            if not item.ranks:
                what = "ends before it" if item.span.start_ns >= index.end_ns else "shows no frame in it"
                yield TranscodedClip(item.span, Outcome.NO_FRAMES, f"the video {what}")
                continue
            made = video.copied(item, folder)
            if made is None:
                rest.append(item)
            else:
                yield made
    yield from _encode(source, index, rest, spec, folder)


@dataclass(slots=True)
class _Wanted:
    """A span, and the frames that belong to it.

    Attributes:
        ranks: of its frames in display order, without gaps.
        pts: of these frames.
        end_pts: when the frame after the last one is shown.
        shortfall: what the span asks for beyond the video's end, in words.
        note: why it was not copied or cut, where that was asked for.
    """

    span: ClipSpan
    ranks: range
    pts: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    end_pts: int
    shortfall: str
    note: str = ""

    @classmethod
    def of(cls, span: ClipSpan, order: DisplayOrder, index: PacketIndex) -> _Wanted:
        low, high = (int(place) for place in np.searchsorted(order.times_ns, [span.start_ns, span.end_ns]))
        positions = order.positions[low:high]
        end_pts = int(index.pts[order.positions[high]]) if high < len(order.positions) else index.end_pts
        is_short = index.is_truncated and span.end_ns > index.end_ns
        shortfall = f"the span goes on to {span.end_ns / 1e9:.3f} s; {index.detail}" if is_short else ""
        return cls(span, range(low, high), index.pts[positions], positions, end_pts, shortfall)

    def times_ns(self, index: PacketIndex, kept: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.int64]:
        """Times of the frames relative to the first one."""
        pts = self.pts if kept is None else kept
        return pts_array_to_ns(pts, time_base=index.time_base, origin_pts=int(pts[0]))

    def rate(self, index: PacketIndex) -> Fraction:
        """About how many frames per second."""
        ticks = self.end_pts - int(self.pts[0])
        return max(Fraction(len(self.pts), max(1, ticks)) / index.time_base, Fraction(1, 1000)).limit_denominator(1001)

    def last(self, zero_pts: int) -> tuple[int, int]:
        """Ticks from a first frame to the last one, and for how many that is shown."""
        return int(self.pts[-1]) - zero_pts, self.end_pts - int(self.pts[-1])

    def zero_ns(self, index: PacketIndex, first_pts: int) -> tuple[int, int]:
        """Time of a first frame, and of the end of the last one, on the video's timeline."""
        return tuple(round(Fraction(pts - index.origin_pts) * index.time_base * 10**9) for pts in (first_pts, self.end_pts))  # type: ignore[return-value]


class _Input:
    """The open video, for spans whose packets can be copied."""

    def __init__(self, source: MediaSource, index: PacketIndex, spec: TranscodeSpec) -> None:
        self._source, self._index, self._spec = source, index, spec
        self._reader: PacketReader | None = None
        self._audio: AudioReader | None = None
        self._refusal: str | None = None

    def __enter__(self) -> _Input:
        return self

    def __exit__(self, *_: object) -> None:
        for reader in (self._reader, self._audio):
            if reader is not None:
                reader.close()

    def copied(self, item: _Wanted, folder: Path) -> TranscodedClip | None:
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
        if problem and not self._refusal and spec.way == "smart_cut":
            how, problem = "smart_cut", ""
        if not problem:
            path = folder / f"{item.span.id}.mp4"
            try:
                if how == "copy":
                    self._copy(item, first, stop, path)
                else:
                    ends = (item.positions, item.end_pts)
                    cut_smartly(self._source, self._reader, *ends, spec=spec.encoder, path=path, audio=self._sound(item))
                depth: Depth = "keyframes" if how == "copy" else "all"
                found = verify_file(path, times_ns=item.times_ns(self._index), depth=depth)
            except (EncodeError, VerifyError) as error:
                path.unlink(missing_ok=True)
                problem = f"a {how.replace('_', ' ')} does not hold: {error}"
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            else:
                outcome = Outcome.TRUNCATED if item.shortfall else Outcome.OK
                return TranscodedClip(item.span, outcome, item.shortfall, path, how, found)
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

    def _why_not_span(self, item: _Wanted, first: int, stop: int) -> str | None:
        """Say what keeps a span's frames from being a run of packets that begins with a keyframe."""
        index = self._index
        if not index.is_keyframe[first] or int(item.positions[0]) != first:
            return "it does not begin at a keyframe"
        if stop - first != len(item.positions) or not bool(index.is_displayed[first:stop].all()):
            return "frames of its neighbours, or hidden ones, lie among its packets"
        return None

    def _copy(self, item: _Wanted, first: int, stop: int, path: Path) -> None:
        assert self._reader is not None
        reader, index = self._reader, self._index
        pts = index.pts[first:stop] - item.pts[0]
        in_order = np.sort(pts)
        dts = in_order - int((in_order - pts).max())  # strictly ascending, and never after the pts, whatever the container says
        audio = self._sound(item)
        packets = reader.packets(first, stop)
        head = next(packets)  # may open the container anew, so before the stream is taken as template
        template = reader.stream
        writer = ClipWriter(
            path,
            audio=audio,
            last=item.last(int(item.pts[0])),
            add_video=lambda output: output.add_stream_from_template(template, opaque=True),
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

    def _sound(self, item: _Wanted) -> ClipAudio:
        if not self._spec.has_audio:
            return _NO_AUDIO
        start_ns, end_ns = item.zero_ns(self._index, int(item.pts[0]))
        if self._audio is None:
            self._audio = AudioReader(self._source, self._index, start_ns=start_ns)
        return self._audio.clip(start_ns, end_ns)


def _encode(
    source: MediaSource, index: PacketIndex, wanted: Sequence[_Wanted], spec: TranscodeSpec, folder: Path
) -> Iterator[TranscodedClip]:
    """Decode the frames of all spans once, in order, and hand each to the clips that it belongs to."""
    if not wanted:
        return
    first_ns, _ = wanted[0].zero_ns(index, int(wanted[0].pts[0]))
    audio = AudioReader(source, index, start_ns=first_ns) if spec.has_audio else None
    sample_aspect = _sample_aspect(source, index)
    targets = sorted({int(position) for item in wanted for position in item.positions})
    rank_of = {int(position): rank for item in wanted for rank, position in zip(item.ranks, item.positions, strict=True)}
    waiting, active = list(reversed(wanted)), list[_Encoding]()
    try:
        for decoded in decode_targets(source, index=index, targets=targets):
            rank = rank_of[decoded.position]
            while waiting and waiting[-1].ranks.start <= rank:
                active.append(_Encoding(waiting.pop(), index, spec, folder, audio, sample_aspect))
            for clip in active:
                if rank in clip.item.ranks:
                    clip.add(rank, decoded.frame, decoded.problem)
            for clip in [clip for clip in active if clip.is_complete]:
                active.remove(clip)
                yield clip.finish()
    finally:
        for clip in active:
            clip.abandon()
        if audio is not None:
            audio.close()


def _sample_aspect(source: MediaSource, index: PacketIndex) -> Fraction | None:
    reader = PacketReader(source, index, 1)
    try:
        return reader.stream.sample_aspect_ratio
    finally:
        reader.close()


class _Encoding:
    """A clip that is being encoded."""

    def __init__(
        self,
        item: _Wanted,
        index: PacketIndex,
        spec: TranscodeSpec,
        folder: Path,
        audio: AudioReader | None,
        sample_aspect: Fraction | None,
    ) -> None:
        self.item = item
        self._index, self._spec, self._audio = index, spec, audio
        self._path = folder / f"{item.span.id}.mp4"
        self._preparer = FramePreparer(sample_aspect=sample_aspect, hdr=spec.hdr, max_side_px=spec.max_side_px)
        self._encoder: VideoEncoder | None = None
        self._sound = _NO_AUDIO
        self._next = item.ranks.start
        self._waiting: dict[int, VideoFrame | None] = {}
        self._num_left = len(item.ranks)
        self._written: list[int] = []  # pts
        self._problem = ""
        self._failure = ""

    @property
    def is_complete(self) -> bool:
        """Whether every frame has come, or been found missing."""
        return not self._num_left

    def add(self, rank: int, frame: VideoFrame | None, problem: str) -> None:
        """Take one frame, None when it is missing; encode those whose turn it is."""
        self._num_left -= 1
        self._problem = self._problem or problem
        if rank < self._next:
            self._problem = self._problem or "the decoder gave frames out of order"
            return
        self._waiting[rank] = frame
        while self._waiting and (self._next in self._waiting or len(self._waiting) > _MAX_WAITING or not self._num_left):
            rank = min(self._waiting)
            self._next = rank + 1
            turn = self._waiting.pop(rank)
            if turn is not None and not self._failure:
                try:
                    self._encode(rank, turn)
                except EncodeError as error:
                    self._failure = str(error)
                    self.abandon()

    def finish(self) -> TranscodedClip:
        """Close the file and check it."""
        item = self.item
        num_missing = len(item.ranks) - len(self._written)
        missing = f"{num_missing} of {len(item.ranks)} frames could not be decoded: {self._problem}" if num_missing else ""
        if self._failure:
            return TranscodedClip(item.span, Outcome.ENCODE_FAILED, self._failure)
        if self._encoder is None:
            return TranscodedClip(item.span, Outcome.NO_FRAMES, missing)
        try:
            self._encoder.close()
            self._encoder = None
            times_ns = item.times_ns(self._index, np.array(self._written, dtype=np.int64))
            found = verify_file(self._path, times_ns=times_ns, depth="ends")
        except (EncodeError, VerifyError) as error:
            self.abandon()
            return TranscodedClip(item.span, Outcome.ENCODE_FAILED, f"the encoded file does not hold: {error}")
        except BaseException:
            self.abandon()
            raise
        outcome = Outcome.TRUNCATED if num_missing or item.shortfall else Outcome.OK
        detail = "; ".join(filter(None, [missing, item.shortfall, item.note, self._sound.detail]))
        return TranscodedClip(item.span, outcome, detail, self._path, "encode", found)

    def abandon(self) -> None:
        """Drop the file."""
        if self._encoder is not None:
            self._encoder.abandon()
            self._encoder = None
        self._path.unlink(missing_ok=True)

    def _encode(self, rank: int, frame: VideoFrame) -> None:
        item = self.item
        pts = int(item.pts[rank - item.ranks.start])
        prepared = self._preparer.prepare(frame)
        if self._encoder is None:
            assert self._preparer.format is not None
            if self._audio is not None:
                self._sound = self._audio.clip(*item.zero_ns(self._index, pts))
            self._encoder = VideoEncoder(
                self._path,
                spec=self._spec.encoder,
                picture=self._preparer.format,
                time_base=self._index.time_base,
                rate=item.rate(self._index),
                audio=self._sound,
                last=item.last(pts),
            )
            self._written = [pts]
        else:
            self._written.append(pts)
        self._encoder.encode(prepared, pts - self._written[0])
