"""Transcode: one MP4 file per span of a video, exactly the span's frames at their own times.

`copy` takes packets as they are: exact where the span's frames are a run of packets from a keyframe on. `encode` decodes what the spans need, each frame
once for all spans of a call, and encodes it; `smart_cut` encodes up to the first keyframe and copies the rest. Every file is opened again and checked
before it is handed out: a short or unplayable one is never called ok.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

from curation_assets.media.audio import AudioReader
from curation_assets.media.clip_copy import CopyingInput
from curation_assets.media.clip_encode import ClipEncoding
from curation_assets.media.clip_files import ClipSpan, TranscodedClip, TranscodeSpec, WantedClip
from curation_assets.media.decode import PacketReader, decode_targets
from curation_assets.media.packets import PacketIndex
from curation_assets.media.plan import DisplayOrder
from curation_assets.media.source import MediaSource
from curation_assets.schemas.outcomes import Outcome

__all__ = ["ClipSpan", "TranscodeSpec", "TranscodedClip", "transcode_clips"]


def transcode_clips(
    source: MediaSource, *, index: PacketIndex, spans: Sequence[ClipSpan], spec: TranscodeSpec, folder: Path, damaged: Collection[str] = ()
) -> Iterator[TranscodedClip]:
    """Make the files of some spans of a video; the video is decoded once, however the spans lie.

    Args:
        source: the video, whole: a local path for best speed.
        index: its packets.
        spans: in any order; they may overlap.
        spec: how.
        folder: where the files go, `<id>.mp4`; a file that is not handed out does not stay.
        damaged: ids of spans known to hold frames that do not decode; these are not copied.

    Yields:
        Each span once, as soon as its file is complete.

    Raises:
        MediaError: the source cannot be opened, or no longer holds the indexed packets.
        OSError: the folder is full, or may not be written.
    """
    order = DisplayOrder(index)
    wanted = sorted((WantedClip.of(span, order, index) for span in spans), key=lambda item: (item.span.start_ns, item.span.end_ns))
    rest: list[WantedClip] = []
    with CopyingInput(source, index, spec, damaged) as video:
        for item in wanted:
            if not item.ranks:
                what = "ends before it" if item.span.start_ns >= index.end_ns else "shows no frame in it"
                yield TranscodedClip(item.span, Outcome.NO_FRAMES, "; ".join(filter(None, [f"the video {what}", item.shortfall])))
                continue
            made = video.copied(item, folder)
            if made is None:
                rest.append(item)
            else:
                yield made
    yield from _encode(source, index, rest, spec, folder)


def _encode(
    source: MediaSource, index: PacketIndex, wanted: Sequence[WantedClip], spec: TranscodeSpec, folder: Path
) -> Iterator[TranscodedClip]:
    """Decode the frames of all spans once, in order, and hand each to the clips that it belongs to."""
    if not wanted:
        return
    first_ns, _ = wanted[0].zero_ns(index, int(wanted[0].pts[0]))
    audio = AudioReader(source, index, start_ns=first_ns) if spec.has_audio else None
    sample_aspect = _sample_aspect(source, index)
    targets = sorted({int(position) for item in wanted for position in item.positions})
    rank_of = {int(position): rank for item in wanted for rank, position in zip(item.ranks, item.positions, strict=True)}
    waiting, active = list(reversed(wanted)), list[ClipEncoding]()
    try:
        for decoded in decode_targets(source, index=index, targets=targets):
            rank = rank_of[decoded.position]
            while waiting and waiting[-1].ranks.start <= rank:
                active.append(ClipEncoding(waiting.pop(), index, spec, folder, audio, sample_aspect))
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
