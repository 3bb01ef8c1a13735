"""Small frames: one per displayed frame, in order, the same in any range; NVDEC's refusal and fallback."""

import gc

import numpy as np
import pytest
from av.video.frame import VideoFrame

from curation_assets.media import nvdec
from curation_assets.media.errors import MediaError
from curation_assets.media.packets import index_packets
from curation_assets.media.small_frames import Stretch, downscaled, plan_ranges
from curation_assets.schemas.outcomes import Outcome
from curation_assets_tests.conftest import RECIPES

WHOLE = [name for name in RECIPES if name not in ("audio_only", "audio_with_cover", "zero_bytes", "text", "image")]


def frames_of(path, first, stop, **options):
    return list(Stretch(str(path), index_packets(str(path)), first, stop, output_hw=(27, 48), **options))


@pytest.mark.parametrize("name", WHOLE)
def test_every_displayed_frame_once_in_order(name, made):
    index = index_packets(str(made(name)))
    count = len(index.display_times_ns)
    frames = frames_of(made(name), 0, count)
    assert [frame.rank for frame in frames] == list(range(count))
    assert not any(frame.problem for frame in frames)
    assert all(frame.pixels.shape == (27, 48, 3) and frame.pixels.dtype == np.uint8 for frame in frames)
    parts = [frame for first, stop in plan_ranges(index, 0, count, num_frames=20) for frame in frames_of(made(name), first, stop)]
    assert all((a.pixels == b.pixels).all() and a.rank == b.rank for a, b in zip(frames, parts, strict=True))


def test_ranges_begin_at_keyframes(made):
    index = index_packets(str(made("cfr")))  # keyframes every 12 of 75 frames
    assert plan_ranges(index, 0, 75, num_frames=20) == [(0, 24), (24, 48), (48, 72), (72, 75)]
    assert plan_ranges(index, 5, 30, num_frames=2) == [(5, 9), (9, 12), (12, 16), (16, 20), (20, 24), (24, 28), (28, 30)]


def test_frames_are_freed_without_the_garbage_collector(made):
    path = made("cfr")
    index = index_packets(str(path))
    gc.collect()
    gc.disable()
    try:
        count = sum(1 for _ in Stretch(str(path), index, 0, 30, output_hw=(27, 48)))
        kept = [item for item in gc.get_objects() if type(item) is VideoFrame]
    finally:
        gc.enable()
    assert count == 30
    assert not kept


def test_default_size_is_pyscenedetects():
    assert downscaled(720, 1280) == (144, 256)
    assert downscaled(1920, 1080) == (256, 144)
    assert downscaled(100, 200) == (100, 200)


def test_auto_falls_back_and_nvdec_refuses(made):
    if nvdec.why_missing() is None:
        pytest.skip("there is a GPU: see gpu/")
    index = index_packets(str(made("cuts")))
    stretch = Stretch(str(made("cuts")), index, 0, 10, output_hw=(27, 48), decoder="auto")
    assert len(list(stretch)) == 10
    assert stretch.note.startswith("decoded on the CPU: FFmpeg finds no CUDA device")
    with pytest.raises(MediaError, match="no CUDA device") as caught:
        frames_of(made("cuts"), 0, 10, decoder="nvdec")
    assert caught.value.outcome is Outcome.UNSUPPORTED
