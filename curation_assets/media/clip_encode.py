"""Clip encode: one file that is fed frame by frame, in order, checked when it is complete."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame

from curation_assets.media.audio import AudioReader
from curation_assets.media.clip_files import NO_AUDIO, TranscodedClip, TranscodeSpec, WantedClip
from curation_assets.media.clip_writer import VideoEncoder
from curation_assets.media.encoders import EncodeError
from curation_assets.media.packets import PacketIndex
from curation_assets.media.pictures import FramePreparer
from curation_assets.media.verify import VerifyError, verify_file
from curation_assets.schemas.outcomes import Outcome

_MAX_WAITING = 8  # frames that wait for one shown before them; more than any reorder delay


class ClipEncoding:
    """A clip that is being encoded."""

    def __init__(
        self,
        item: WantedClip,
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
        self._sound = NO_AUDIO
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
            duration_ns = item.duration_ns(self._index, self._written[0])
            found = verify_file(self._path, times_ns=times_ns, duration_ns=duration_ns, depth="ends")
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
