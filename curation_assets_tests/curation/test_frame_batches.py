"""Frame batches: whole, in order, ahead of the model, bounded, and over when nobody wants more."""

import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

from curation_assets.curation import frame_batches
from curation_assets.curation.frame_batches import FrameShape, read_frame_batches
from curation_assets.curation.frame_sets import expected_frames
from curation_assets.models import select_frames
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.schemas.outcomes import Outcome

SETTINGS = {"clips": {"splitter": {"clip_len_s": 1, "clip_stride_s": 0.5, "min_clip_len_s": 0.5}}}


@pytest.fixture
def read(project):
    """Read batches of a project's frames."""
    project.settings = SETTINGS
    project.run(stages=("raw_videos", "clips", "frame_sets"))
    run = project.source()
    expected = expected_frames(run, FRAME_SETS).fingerprints
    stored = {row["clip_id"]: row for row in project.rows("frame_sets", ["clip_id", "video_id", "frames"])}
    videos = sorted({row["video_id"] for row in stored.values()})

    def read(*, most=8, video_ids=videos, fingerprints=expected, shape=None, **extra):
        shape = shape or FrameShape(224, 224, "squash", select=lambda count: np.arange(count))
        return read_frame_batches(
            run, "embeddings", fingerprints=fingerprints, video_ids=video_ids, shape=shape, frames_per_batch=lambda: most, **extra
        )

    read.stored, read.videos, read.expected = stored, videos, expected
    return read


def pictures(data):
    return np.stack([np.asarray(Image.open(io.BytesIO(item))) for item in data])


def parts(batches):
    """Split batches into the frames of each clip."""
    for batch in batches:
        assert len(batch.frames) == sum(batch.counts)
        ends = np.cumsum(batch.counts)
        for clip, count, end in zip(batch.taken, batch.counts, ends, strict=True):
            yield clip, np.array(batch.frames[end - count : end])


def test_every_clip_comes_once_with_its_own_frames(read):
    found = list(parts(read(most=20)))
    assert sorted(clip.clip_id for clip, _ in found) == sorted(read.stored)
    for clip, frames in found:
        np.testing.assert_array_equal(frames, pictures(read.stored[clip.clip_id]["frames"]))


def test_batches_hold_what_is_asked_and_tell_what_is_complete(read):
    batches = list(read(most=20))
    assert all(len(batch.frames) <= 20 for batch in batches)
    assert all(len(batch.frames) > 10 for batch in batches[:-1])
    assert [identity for batch in batches for identity in batch.complete] == read.videos
    seen = set()
    for batch in batches:
        assert not {clip.video_id for clip in batch.clips} & seen
        seen |= set(batch.complete)
    # a clip is never split
    assert {len(batch.frames) for batch in read(most=1)} == {len(row["frames"]) for row in read.stored.values()}


def test_frames_are_chosen_scaled_and_repeated(read):
    shape = FrameShape(60, 80, "crop", select=lambda count: select_frames(count, 11))
    for clip, frames in parts(read(shape=shape)):
        assert frames.shape == (11, 60, 80, 3)
        places = select_frames(clip.num_frames, 11)
        np.testing.assert_array_equal(frames[1:][places[1:] == places[:-1]], frames[:-1][places[1:] == places[:-1]])


def test_refusals_are_clips_without_frames(read):
    shape = FrameShape(
        224,
        224,
        "squash",
        select=lambda count: np.arange(count),
        refuse=lambda count: (Outcome.TOO_FEW_FRAMES, "no") if count < 9 else None,
    )
    batches = list(read(shape=shape))
    refused = {clip.clip_id for batch in batches for clip in batch.clips if clip.refusal == (Outcome.TOO_FEW_FRAMES, "no")}
    assert refused == {identity for identity, row in read.stored.items() if len(row["frames"]) < 9}
    assert {clip.clip_id for clip, _ in parts(batches)} == set(read.stored) - refused


def test_rows_of_another_fingerprint_are_not_read(read):
    other = {**read.expected, read.videos[1]: "another"}
    batches = list(read(fingerprints=other))
    assert {identity for batch in batches for identity in batch.changed} == {read.videos[1]}
    assert {clip.video_id for batch in batches for clip in batch.clips} == {read.videos[0], read.videos[2]}
    missing = list(read(video_ids=["nobody"]))
    assert [(batch.clips, batch.complete, batch.changed) for batch in missing] == [([], ["nobody"], {"nobody"})]


def test_the_next_batches_are_made_meanwhile_and_no_more(read):
    made = []

    def allocate(shape):
        made.append(shape)
        return np.empty(shape, np.uint8)

    batches = read(most=1, allocate=allocate)
    first = next(batches)
    deadline = time.monotonic() + 10
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    assert len(made) == 4  # in hand, waiting, finished, being decoded
    rest = list(batches)
    assert len(made) == 1 + len(rest) == len(read.stored)
    assert first.clips


def test_pictures_are_decoded_while_the_model_works(read, monkeypatch):
    decoded = []
    real = frame_batches.decode_image

    def decode(*arguments, **named):
        decoded.append(threading.current_thread().name)
        return real(*arguments, **named)

    monkeypatch.setattr(frame_batches, "decode_image", decode)
    batches = read(most=1)
    next(batches)
    deadline = time.monotonic() + 10
    while len(decoded) < 16 and time.monotonic() < deadline:  # of two batches more
        time.sleep(0.01)
    assert len(decoded) >= 16
    assert {name.split("_")[0] for name in decoded} == {"decode-frames"}
    batches.close()


def test_leaving_early_ends_the_threads(read):
    batches = read(most=1)
    next(batches)
    batches.close()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("read-frames", "decode-frames"))]


def test_what_fails_in_the_thread_is_raised_here(read):
    def prepare(frames):
        raise RuntimeError("CUDA error: unspecified launch failure")

    with pytest.raises(RuntimeError, match="unspecified launch failure"):
        list(read(prepare=prepare))
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("read-frames")]
