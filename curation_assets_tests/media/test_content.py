"""Content: PySceneDetect's own SceneManager, fed with the same frames, finds the same cuts."""

import numpy as np
import pytest

scenedetect = pytest.importorskip("scenedetect")

from scenedetect import SceneManager, detectors, open_video  # noqa: E402

from curation_assets.media.content import Detection  # noqa: E402
from curation_assets.media.packets import index_packets  # noqa: E402
from curation_assets.media.small_frames import Stretch, plan_ranges  # noqa: E402
from curation_assets_tests import makevideo  # noqa: E402

KINDS = {
    "content": detectors.ContentDetector, "adaptive": detectors.AdaptiveDetector, "threshold": detectors.ThresholdDetector,
    "hash": detectors.HashDetector, "histogram": detectors.HistogramDetector,
}  # fmt: skip


def cuts_of(path, detector, *, frames_per_range=10**6, **options):
    index = index_packets(str(path))
    state, hw = None, None
    for first, stop in plan_ranges(index, 0, len(index.display_pts), num_frames=frames_per_range):
        detection = Detection(index, detector=detector, options=options, state=state)
        stretch = Stretch(str(path), index, first, stop, output_hw=detection.output_hw, scaling="nearest")
        for frame in stretch:
            detection.add(frame)
        detection.output_hw = hw = stretch.output_hw
        state = detection.state()
    return detection.finish(), hw


class OurFrames(scenedetect.VideoStream):
    """Our small frames as a video of PySceneDetect's."""

    def __new__(cls, path):  # the rest of the interface is that of their own backend
        video = open_video(str(path), backend="pyav")
        index = index_packets(str(path))
        frames = iter(Stretch(str(path), index, 0, len(index.display_pts), scaling="nearest"))
        read = video.read

        def read_ours(decode=True):
            if read(decode=False) is False:
                return False
            return np.ascontiguousarray(next(frames).pixels[..., ::-1])

        video.read = read_ours
        return video


def cuts_of_scene_manager(video, detector, *, is_scaled=True):
    manager = SceneManager()
    manager.auto_downscale = is_scaled
    manager.add_detector(KINDS[detector]())
    manager.detect_scenes(video)
    return [start.frame_num for start, _ in manager.get_scene_list()[1:]]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return makevideo.make_cuts(tmp_path_factory.mktemp("content") / "scenes.mp4", seconds=2, scenes=4, size=(320, 180))


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return makevideo.make_b_frames(tmp_path_factory.mktemp("content") / "film.mp4", fps=makevideo.Fraction(24000, 1001), size=(160, 96))


@pytest.mark.parametrize("detector", KINDS)
def test_equal_to_the_scene_manager_on_the_same_frames(detector, scenes, film, shared_media):
    real = [path for path in shared_media("real") if path.stem in ("bikes", "testvideo")]
    for path in [scenes, film, *real]:
        ours, hw = cuts_of(path, detector)
        assert ours == cuts_of_scene_manager(OurFrames(path), detector, is_scaled=False)
        assert max(hw) <= 256


@pytest.mark.parametrize("detector", ["content", "histogram"])
def test_equal_to_the_scene_manager_on_its_own_frames(detector, scenes, shared_media):
    for path in [scenes, *(path for path in shared_media("real") if path.suffix == ".mp4")]:
        assert cuts_of(path, detector)[0] == cuts_of_scene_manager(open_video(str(path)), detector)


@pytest.mark.parametrize("detector", KINDS)
def test_ranges_change_nothing(detector, scenes):
    assert cuts_of(scenes, detector, frames_per_range=13) == cuts_of(scenes, detector)


def test_options_reach_the_detector(scenes):
    assert cuts_of(scenes, "content")[0] == [50, 100, 150]
    assert cuts_of(scenes, "content", threshold=255.0)[0] == []
    assert cuts_of(scenes, "hash", threshold=1.0, size=4)[0] == []
