"""Frame batches: stored frames of one frame set, decoded and put together for a model, while the model works on the batches before.

A thread reads the table and hands pictures to decoding threads; a bounded queue stands between it and the model. What is in memory at once is so many batches,
whatever the length of a video and the number of clips. Which frames of a clip are taken, what a clip is refused for and what the model does are the caller's.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from curation_assets.curation.pieces import Row
from curation_assets.curation.warehouse import SourceRun
from curation_assets.engine.local import cpu_count
from curation_assets.media.images import ImageCodec, decode_image
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.schemas.outcomes import Outcome, is_usable
from curation_assets.storage.snapshots import in_list

BATCHES_AHEAD = 1
_ROWS_PER_READ = 16, 16_384
_READ_S = 5.0, 20.0
_MOST_CLIPS = 4096
_POLL_S = 0.2  # how soon the reading thread sees that nobody waits for it any more
_COLUMNS = ("video_id", "clip_id", "fingerprint", "outcome", "detail", "height_px", "width_px", "codec", "frames")

Refusal = tuple[Outcome, str | None]


@dataclass(frozen=True, slots=True)
class FrameShape:
    """What a model takes.

    Attributes:
        height_px: height of a picture.
        width_px: width.
        resize: how stored pictures of another size come to it: `squash` ignores the aspect ratio, `crop` cuts the centre out.
        select: from the number of a clip's stored frames, at least 1, to the places of those to take, at least one; repeats are decoded once.
        refuse: from that number to the reason why a clip is not taken, None where it is.
    """

    height_px: int
    width_px: int
    resize: Literal["squash", "crop"]
    select: Callable[[int], npt.NDArray[np.int64]]
    refuse: Callable[[int], Refusal | None] = field(default=lambda _: None)


@dataclass(frozen=True, slots=True)
class StoredClip:
    """One clip of the table; `refusal` says why it has no frames in the batch."""

    video_id: str
    clip_id: str
    start_ns: int
    end_ns: int
    outcome: str
    detail: str | None
    num_frames: int
    refusal: Refusal | None


@dataclass(slots=True)
class FrameBatch:
    """Clips for one call of the model.

    Attributes:
        clips: in the order of the table; those without a refusal have frames.
        frames: uint8 (F, H, W, 3), RGB, the frames of these clips one after another; what `prepare` made of them.
        counts: frames of each clip that has some, F in all.
        complete: videos of which no later batch has clips.
        changed: those among them that were not read: their rows are not the ones that were asked for.
    """

    clips: list[StoredClip]
    frames: Any
    counts: list[int]
    complete: list[str] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)

    @property
    def taken(self) -> list[StoredClip]:
        """The clips that have frames."""
        return [clip for clip in self.clips if clip.refusal is None]


def read_frame_batches(
    run: SourceRun,
    frame_set: str,
    *,
    fingerprints: Mapping[str, str],
    video_ids: Iterable[str],
    shape: FrameShape,
    frames_per_batch: Callable[[], int],
    allocate: Callable[[tuple[int, ...]], npt.NDArray[np.uint8]] | None = None,
    prepare: Callable[[npt.NDArray[np.uint8]], Any] | None = None,
    batches_ahead: int = BATCHES_AHEAD,
) -> Generator[FrameBatch]:
    """Yield batches of decoded clips, spanning clips and videos, in the order of the table.

    While the caller works on one, the next ones are read, decoded and prepared, unless `batches_ahead` is 0. Close the iterator to end that early.

    Args:
        run: the source.
        frame_set: which of its frame sets.
        fingerprints: by video_id, of the rows that are meant; others are not read, and their video is in `changed`.
        video_ids: whose; drawn lazily, in groups.
        shape: what the model takes, and which frames of a clip.
        frames_per_batch: asked before each batch; a clip is never split, so one that selects more than that is a batch of its own.
        allocate: makes the array of a batch from its shape, for example in pinned memory; None for plain memory.
        prepare: gets each full array, in the reading thread, and gives what `frames` will be: the copy to the device.
        batches_ahead: batches that may wait; beside them there are the one in hand, one that is finished and one that is being decoded. 0 reads nothing ahead:
            for a model on the CPU, whose threads wait for one another when something else takes a core from one of them.

    Raises:
        StoreError: the tables cannot be read.
    """
    reader = _Reader(run, frame_set, fingerprints, shape, frames_per_batch, allocate or _in_memory, prepare or _as_it_is)
    with (
        ThreadPoolExecutor(cpu_count(), thread_name_prefix="decode-frames") as threads,
        closing(
            _ahead(reader.filled(video_ids, threads), batches_ahead) if batches_ahead else reader.one_by_one(video_ids, threads)
        ) as batches,
    ):
        yield from batches


def _in_memory(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    return np.empty(shape, np.uint8)


def _as_it_is(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return frames


class _Reader:
    """One frame set of one source, and how batches are made of it."""

    def __init__(
        self,
        run: SourceRun,
        frame_set: str,
        fingerprints: Mapping[str, str],
        shape: FrameShape,
        frames_per_batch: Callable[[], int],
        allocate: Callable[[tuple[int, ...]], npt.NDArray[np.uint8]],
        prepare: Callable[[npt.NDArray[np.uint8]], Any],
    ) -> None:
        self._run = run
        self._frame_set = frame_set
        self._fingerprints = fingerprints
        self._shape = shape
        self._frames_per_batch = frames_per_batch
        self._allocate = allocate
        self._prepare = prepare

    def filled(self, video_ids: Iterable[str], threads: ThreadPoolExecutor) -> Iterator[FrameBatch]:
        """Yield batches whose pictures are decoded; the ones after a batch are begun before it is waited for."""
        begun: _Begun | None = None
        for following in self._begun(video_ids, threads):
            if begun is not None:
                yield self._finished(begun)
            begun = following
        if begun is not None:
            yield self._finished(begun)

    def one_by_one(self, video_ids: Iterable[str], threads: ThreadPoolExecutor) -> Generator[FrameBatch]:
        """Yield batches whose pictures are decoded, each begun when it is asked for."""
        for begun in self._begun(video_ids, threads):
            yield self._finished(begun)

    def _finished(self, begun: _Begun) -> FrameBatch:
        """Wait for a batch's pictures; clips with a damaged one are refused."""
        batch = begun.batch
        problems = [future.result() for future in begun.futures]
        if any(problems):
            refused = dict(zip((clip.clip_id for clip in batch.taken), problems, strict=True))
            parts = np.split(batch.frames, np.cumsum(batch.counts)[:-1])
            good = [part for part, problem in zip(parts, problems, strict=True) if not problem]
            batch.frames = np.concatenate(good, out=self._allocate(self._size(sum(map(len, good))))) if good else batch.frames[:0]
            batch.counts = [len(part) for part in good]
            batch.clips = [
                replace(clip, refusal=(Outcome.CORRUPT, f"stored frame: {problem}")) if (problem := refused.get(clip.clip_id)) else clip
                for clip in batch.clips
            ]
        batch.frames = self._prepare(batch.frames)
        return batch

    def _size(self, num_frames: int) -> tuple[int, ...]:
        return (num_frames, self._shape.height_px, self._shape.width_px, 3)

    def _begun(self, video_ids: Iterable[str], threads: ThreadPoolExecutor) -> Iterator[_Begun]:
        """Yield batches whose pictures are being decoded."""
        waiting: list[tuple[StoredClip, _Pictures | None]] = []
        most, num_frames = self._frames_per_batch(), 0
        complete: list[str] = []  # videos read to their end, which no batch has told of yet
        changed: set[str] = set()
        for group in self._groups(video_ids):
            seen: set[str] = set()
            for clip, pictures in self._clips(group, changed):
                seen.add(clip.video_id)
                size = len(pictures.places) if pictures else 0
                # refused clips cost no frames, but a batch of them must not grow for ever either
                if waiting and (num_frames + size > most or len(waiting) >= _MOST_CLIPS):
                    yield self._begin(waiting, complete, changed, threads)
                    waiting, most, num_frames = [], self._frames_per_batch(), 0
                    complete = []
                waiting.append((clip, pictures))
                num_frames += size
            changed |= set(group) - seen
            complete += group
        if waiting or complete:
            yield self._begin(waiting, complete, changed, threads)

    def _groups(self, video_ids: Iterable[str]) -> Iterator[list[str]]:
        """Divide the videos into those that are read at once: so many that what they take the model is some seconds.

        The table is scanned once per group, and a video may be committed when its group was read: large groups make few scans, small ones lose little in an
        interrupted run. How fast the model is shows in how soon the next group is asked for.
        """
        counts = self._run.table(FRAME_SETS).headers(["video_id", "num_rows"])
        num_rows = dict(zip(counts.column("video_id").to_pylist(), counts.column("num_rows").to_pylist(), strict=True))
        most, group, size, begun_s = _ROWS_PER_READ[0], list[str](), 0, time.monotonic()
        for identity in video_ids:
            group.append(identity)
            size += num_rows.get(identity) or 1
            if size >= most:
                yield group
                took_s = time.monotonic() - begun_s
                if took_s < _READ_S[0]:
                    most = min(2 * most, _ROWS_PER_READ[1])
                elif took_s > _READ_S[1]:
                    most = max(most // 2, _ROWS_PER_READ[0])
                group, size, begun_s = [], 0, time.monotonic()
        if group:
            yield group

    def _clips(self, group: Sequence[str], changed: set[str]) -> Iterator[tuple[StoredClip, _Pictures | None]]:
        """Read the stored clips of some videos, and of each the pictures that are taken."""
        clips = self._run.read(CLIPS, ["clip_id", "start_ns", "end_ns"], where=in_list("video_id", group))
        spans = {row["clip_id"]: (row["start_ns"], row["end_ns"]) for row in clips.to_pylist()}
        where = f"name = '{self._frame_set}' AND {in_list('video_id', group)}"
        for batch in self._run.table(FRAME_SETS).scan_blobs(_COLUMNS, where=where):
            for row in batch.to_pylist():
                if row["fingerprint"] != self._fingerprints.get(row["video_id"]) or row["clip_id"] not in spans:
                    changed.add(row["video_id"])
                    continue
                clip = self._clip(row, *spans[row["clip_id"]])
                if clip.refusal is not None:
                    yield clip, None
                    continue
                places: list[int] = self._shape.select(clip.num_frames).tolist()
                data = {place: row["frames"][place] for place in places}  # the others are let go of
                yield clip, _Pictures(places, data, row["codec"], row["height_px"], row["width_px"])

    def _clip(self, row: Row, start_ns: int, end_ns: int) -> StoredClip:
        num_frames = len(row["frames"] or ())
        refusal: Refusal | None
        if not is_usable(row["outcome"]):
            refusal = Outcome(row["outcome"]), row["detail"]
        elif not num_frames:
            refusal = Outcome.NO_FRAMES, "the frame set has no frames of this clip"
        else:
            refusal = self._shape.refuse(num_frames)
        return StoredClip(row["video_id"], row["clip_id"], start_ns, end_ns, row["outcome"], row["detail"], num_frames, refusal)

    def _begin(
        self, waiting: Sequence[tuple[StoredClip, _Pictures | None]], complete: list[str], changed: set[str], threads: ThreadPoolExecutor
    ) -> _Begun:
        """Hand the pictures of a batch to the threads; each clip fills its own part of one array."""
        taken = [pictures for _, pictures in waiting if pictures is not None]
        counts = [len(pictures.places) for pictures in taken]
        frames = self._allocate(self._size(sum(counts)))
        ends = np.cumsum(counts).tolist()
        futures = [
            threads.submit(self._decode, pictures, frames[end - count : end])
            for pictures, count, end in zip(taken, counts, ends, strict=True)
        ]
        return _Begun(FrameBatch([clip for clip, _ in waiting], frames, counts, complete, changed & set(complete)), futures)

    def _decode(self, pictures: _Pictures, into: npt.NDArray[np.uint8]) -> str | None:
        """Decode one clip's pictures into uint8 (T, H, W, 3); returns what is wrong with them."""
        done: dict[int, int] = {}
        for position, place in enumerate(pictures.places):
            if place in done:
                into[position] = into[done[place]]
                continue
            try:
                picture = decode_image(pictures.data[place], pictures.codec, height_px=pictures.height_px, width_px=pictures.width_px)
            except ValueError as error:
                return str(error)
            into[position] = self._fitted(picture)
            done[place] = position
        return None

    def _fitted(self, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Bring a stored frame of another size to the model's."""
        size = (self._shape.width_px, self._shape.height_px)
        if picture.shape[1::-1] == size:
            return picture
        image = Image.fromarray(picture)
        return np.asarray(ImageOps.fit(image, size) if self._shape.resize == "crop" else image.resize(size))


@dataclass(frozen=True, slots=True)
class _Pictures:
    """The stored pictures of one clip that are taken: their places in order, and the bytes by place."""

    places: list[int]
    data: dict[int, bytes]
    codec: ImageCodec
    height_px: int
    width_px: int


@dataclass(frozen=True, slots=True)
class _Begun:
    """A batch whose pictures are being decoded."""

    batch: FrameBatch
    futures: list[Future[str | None]]


def _ahead(batches: Iterator[FrameBatch], most: int) -> Generator[FrameBatch]:
    """Draw batches in a thread, up to `most` ahead of the caller; what is raised there is raised here."""
    ready: queue.Queue[tuple[FrameBatch | None, BaseException | None]] = queue.Queue(maxsize=most)
    is_left = threading.Event()

    def offer(item: tuple[FrameBatch | None, BaseException | None]) -> bool:
        while not is_left.is_set():
            try:
                ready.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False

    def draw() -> None:
        error: BaseException | None = None
        try:
            for batch in batches:
                if not offer((batch, None)):
                    return
        except BaseException as raised:  # noqa: BLE001 - handed to the caller, whatever it is
            error = raised
        offer((None, error))

    thread = threading.Thread(target=draw, name="read-frames", daemon=True)
    thread.start()
    try:
        while True:
            batch, error = ready.get()
            if error is not None:
                raise error
            if batch is None:
                return
            yield batch
    finally:
        is_left.set()
        thread.join()
