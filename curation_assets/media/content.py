"""Content: the detectors of PySceneDetect, fed with small frames and real times, range after range. PySceneDetect and OpenCV are imported where they are used.

On files of a constant frame rate the cuts are those that PySceneDetect's own SceneManager finds on frames of this size.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from fractions import Fraction
from functools import partial
from typing import Any, Literal

import numpy as np

from curation_assets.media.packets import PacketIndex
from curation_assets.media.small_frames import SmallFrame

DetectorName = Literal["content", "adaptive", "threshold", "hash", "histogram"]


class Detection:
    """One detector on its way through one stretch of a video.

    Args:
        index: the video's packets.
        detector: which.
        options: its options as PySceneDetect names them; those left out have PySceneDetect's defaults.
        min_scene_len_s: cuts come at least so far apart; None for PySceneDetect's default of 15 frames.
        state: from `state`, to go on where an earlier range of the stretch ended; the other arguments must be the same.
    """

    def __init__(
        self,
        index: PacketIndex,
        *,
        detector: DetectorName,
        options: Mapping[str, Any],
        min_scene_len_s: float | None = None,
        state: bytes | None = None,
    ) -> None:
        import cv2
        from scenedetect import detectors
        from scenedetect.common import FrameTimecode, Timecode

        self._index = index
        self._to_bgr = partial(cv2.cvtColor, code=cv2.COLOR_RGB2BGR)
        self._timecode, self._frame_timecode = Timecode, FrameTimecode
        self._rate = _average_rate(index)
        self._cuts: list[Any] = []
        self._last: Any = None
        self.output_hw: tuple[int, int] | None = None
        if state is not None:
            self._detector, self._cuts, self._last, self.output_hw = pickle.loads(state)
            return
        kinds = {
            "content": detectors.ContentDetector, "adaptive": detectors.AdaptiveDetector, "threshold": detectors.ThresholdDetector,
            "hash": detectors.HashDetector, "histogram": detectors.HistogramDetector,
        }  # fmt: skip
        length = {} if min_scene_len_s is None else {"min_scene_len": float(min_scene_len_s)}
        self._detector = kinds[detector](**options, **length)

    def add(self, frame: SmallFrame) -> None:
        """Look at the next frame; frames come in order of display, none left out."""
        pts = int(self._index.display_pts[frame.rank]) - self._index.origin_pts
        self._last = self._frame_timecode(timecode=self._timecode(pts=pts, time_base=self._index.time_base), fps=self._rate)
        self._cuts += self._detector.process_frame(self._last, self._to_bgr(frame.pixels))

    def state(self) -> bytes:
        """Pack what the next range of the stretch needs."""
        return pickle.dumps((self._detector, self._cuts, self._last, self.output_hw))

    def finish(self) -> list[int]:
        """End the stretch: the ranks of the first frames after each cut, in order."""
        cuts = [*self._cuts, *(self._detector.post_process(self._last) if self._last is not None else [])]
        times_s = (self._index.display_pts - self._index.origin_pts) * float(self._index.time_base)
        after = np.clip(np.searchsorted(times_s, [cut.seconds for cut in cuts]), 1, max(1, len(times_s) - 1))
        # cuts in the middle of a fade are counted in frames of the average rate: take the frame that is nearest
        is_before = np.array([cut.seconds for cut in cuts]) - times_s[after - 1] < times_s[np.minimum(after, len(times_s) - 1)] - [
            cut.seconds for cut in cuts
        ]
        return sorted(set(np.where(is_before, after - 1, after).tolist()))


def _average_rate(index: PacketIndex) -> Fraction:
    """Compute frames per second over the whole video; PySceneDetect counts in frames of it. 25 where there is one frame."""
    pts = index.display_pts
    ticks = int(pts[-1] - pts[0])
    return Fraction(len(pts) - 1) / (ticks * index.time_base) if ticks else Fraction(25)
