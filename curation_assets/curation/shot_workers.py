"""Shot workers: the pieces of work that shot splitters give to worker processes. Light to import, as `workers` is: no torch, and PySceneDetect only where used."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from curation_assets.curation.pieces import Result
from curation_assets.curation.reading import ObjectRef, reading
from curation_assets.curation.workers import SplitJob, index_video
from curation_assets.media.content import Detection
from curation_assets.media.errors import MediaError
from curation_assets.media.packets import PacketIndex
from curation_assets.media.small_frames import Decoder, Stretch
from curation_assets.settings import Content


@dataclass(frozen=True, slots=True, eq=False)
class ShotTask:
    """What a worker gets: a module-level function and its job."""

    video_id: str
    function: Callable[[Any], Any]
    job: Any


@dataclass(frozen=True, slots=True)
class Timed:
    """What a task gave, and how many seconds it took."""

    value: Any
    work_s: float


def run_task(task: ShotTask) -> Timed:
    """Do one task and take its time; a video that cannot be read gives the result that it ends with."""
    started = time.monotonic()
    try:
        value = task.function(task.job)
    except MediaError as error:
        value = Result(outcome=error.outcome, detail=error.detail)
    return Timed(value, time.monotonic() - started)


def index_task(job: SplitJob) -> bytes | Result:
    """Index one video: the packed packet index, or the result that the video ends with."""
    index = index_video(job)
    return index if isinstance(index, Result) else index.to_bytes()


@dataclass(frozen=True, slots=True)
class RangeJob:
    """Displayed frames [first, stop) of a video to look at."""

    ref: ObjectRef
    index: bytes
    first: int
    stop: int
    num_threads: int
    decoder: Decoder


@dataclass(frozen=True, slots=True, eq=False)
class RangeFrames:
    """The small frames of a range: uint8 (stop - first, H, W, 3), or none when none of them could be decoded; and what was wrong."""

    first: int
    stop: int
    pixels: npt.NDArray[np.uint8] | None
    num_filled: int
    problem: str
    note: str


def read_range(job: tuple[RangeJob, tuple[int, int]]) -> RangeFrames:
    """Decode a range to frames of one size, for a model in the run's process."""
    part, (height_px, width_px) = job
    pixels = np.empty((part.stop - part.first, height_px, width_px, 3), np.uint8)
    with reading(part.ref, whole=True) as source:
        stretch = Stretch(
            source, PacketIndex.from_bytes(part.index), part.first, part.stop,
            output_hw=(height_px, width_px), num_threads=part.num_threads, decoder=part.decoder,
        )  # fmt: skip
        for frame in stretch:
            pixels[frame.rank - part.first] = frame.pixels
    is_empty = stretch.num_filled == len(pixels)
    return RangeFrames(part.first, part.stop, None if is_empty else pixels, stretch.num_filled, stretch.problem, stretch.note)


@dataclass(frozen=True, slots=True)
class DetectJob:
    """A range for a PySceneDetect detector, which goes on from `state`; the last range of its stretch ends it."""

    part: RangeJob
    splitter: Content
    state: bytes | None
    is_last: bool


@dataclass(frozen=True, slots=True)
class RangeCuts:
    """What a detector found: the state for the next range of the stretch, or after the last the ranks of the first frames after each cut."""

    first: int
    stop: int
    state: bytes | None
    cuts: list[int]
    num_filled: int
    problem: str
    note: str


def detect_range(job: DetectJob) -> RangeCuts:
    """Decode a range and show its frames to the detector."""
    part, splitter = job.part, job.splitter
    index = PacketIndex.from_bytes(part.index)
    detection = Detection(
        index, detector=splitter.detector, options=splitter.detector_options(), min_scene_len_s=splitter.min_scene_len_s, state=job.state
    )
    with reading(part.ref, whole=True) as source:
        stretch = Stretch(
            source, index, part.first, part.stop,
            output_hw=splitter.output_hw or detection.output_hw, num_threads=part.num_threads, decoder=part.decoder, scaling="nearest",
        )  # fmt: skip
        for frame in stretch:
            detection.add(frame)
    detection.output_hw = stretch.output_hw
    found = RangeCuts(part.first, part.stop, None, [], stretch.num_filled, stretch.problem, stretch.note)
    return replace(found, cuts=detection.finish()) if job.is_last else replace(found, state=detection.state())
