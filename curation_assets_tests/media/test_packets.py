"""The packet index against the decoder: exactly the frames it gives, at its times, from the start and from the middle; and what is cut off is said."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from curation_assets.media.bitstream import is_shown
from curation_assets.media.errors import MediaError
from curation_assets.media.packets import PacketIndex, index_packets, read_packets
from curation_assets.media.source import open_container
from curation_assets.schemas.outcomes import Outcome
from curation_assets_tests import makevideo
from curation_assets_tests.conftest import RECIPES

VIDEOS = [name for name in RECIPES if name not in ("audio_only", "audio_with_cover", "zero_bytes", "text", "image")]
# FFmpeg's own times are wrong for these: it makes them up, in order of decoding or per part
RAW_TIMES_DIFFER = {"avi_h264", "avi_packed"}
FRAME_COUNTS = {
    "cfr": 75, "vfr": 81, "film": 72, "b_frames": 75, "open_gop": 75, "gradual_refresh": 75, "edit_list": 58, "late_start": 50, "long_audio_mkv": 50,
    "fragmented": 75, "live_mkv": 75, "vp8": 50, "vp9": 50, "mpeg_ps": 50, "avi": 100, "avi_h264": 50, "avi_packed": 50, "gif": 8, "one_frame": 1,
    "same_pts": 50, "two_streams": 50, "mid_gop_start": 51, "mid_gop_start_ts": 51,
}  # fmt: skip


def decode(path: Path, index: PacketIndex, *, first: int = 0, stop: int | None = None) -> dict[int, str]:
    """pts -> hash of each frame that the packets [first, stop) give, in order of output; damaged packets may give none."""
    frames: dict[int, str] = {}
    with open_container(str(path)) as container:
        context = next(s for s in container.streams.video if s.index == index.stream_index).codec_context
        for packet in [*read_packets(container, index, first=first, stop=stop), None]:
            try:
                for frame in context.decode(packet):
                    frames[frame.pts] = hashlib.md5(frame.to_ndarray().tobytes()).hexdigest()
            except av.error.InvalidDataError:
                continue
    return frames


def decoded_pts(path: Path, index: PacketIndex) -> list[int]:
    """What PyAV decodes by itself, with FFmpeg's own times."""
    pts = []
    with open_container(str(path)) as container:
        stream = next(s for s in container.streams.video if s.index == index.stream_index)
        for packet in container.demux(stream):
            try:
                pts += [frame.pts for frame in packet.decode()]
            except av.error.InvalidDataError:
                continue
    return pts


@pytest.mark.parametrize("name", VIDEOS)
def test_shows_exactly_the_decoded_frames(made, name):
    path = made(name)
    index = index_packets(str(path))
    if name in RAW_TIMES_DIFFER:
        assert list(decode(path, index)) == index.display_pts.tolist()
        assert len(decoded_pts(path, index)) == len(index.display_pts)
    else:
        assert decoded_pts(path, index) == index.display_pts.tolist()
    assert len(index.display_pts) == FRAME_COUNTS.get(name, len(index.display_pts))
    assert index.display_times_ns[0] == 0
    assert index.end_ns > index.display_times_ns[-1]
    assert (index.is_truncated, index.detail) == (False, "")


@pytest.mark.parametrize("name", sorted(set(VIDEOS) - {"same_pts"}))
def test_a_slice_decodes_to_the_same_pictures(made, name):
    path = made(name)
    index = index_packets(str(path))
    whole = decode(path, index)
    for part in range(4):
        start_ns, end_ns = index.end_ns * part // 4, index.end_ns * (part + 1) // 4
        first, stop = index.packet_range(start_ns, end_ns)
        piece = index.slice_for_span(start_ns, end_ns)
        frames = decode(path, index, first=first, stop=stop)
        shown = index.display_pts[(index.display_times_ns >= start_ns) & (index.display_times_ns < end_ns)]
        assert set(shown.tolist()) <= set(piece.display_pts.tolist())
        assert {p: frames.get(p) for p in piece.display_pts.tolist()} == {p: whole[p] for p in piece.display_pts.tolist()}
        assert len(piece) == stop - first
        if first:
            assert index.is_keyframe[first]


def test_a_slice_does_not_start_at_the_beginning(made):
    index = index_packets(str(made("b_frames")))
    first, stop = index.packet_range(2_000_000_000, 2_200_000_000)
    assert first > 30
    assert stop < len(index)
    assert index.packet_range(index.end_ns, index.end_ns + 1) == (0, 0)
    assert len(index.slice_for_span(5, 5)) == 0


def test_leading_frames_of_an_open_gop_need_the_gop_before(made):
    index = index_packets(str(made("open_gop")))
    keyframe = int(np.flatnonzero(index.is_keyframe)[2])
    leading_pts = index.pts[keyframe + 1]
    assert leading_pts < index.pts[keyframe]
    rank = int(np.searchsorted(index.display_pts, leading_pts))
    first, _ = index.packet_range(int(index.display_times_ns[rank]), int(index.display_times_ns[rank]) + 1)
    assert first == np.flatnonzero(index.is_keyframe)[1]


def test_times_are_right(made):
    film = index_packets(str(made("film")))
    expected = [(n * Fraction(1001, 24000) * 10**9 + Fraction(1, 2)).__floor__() for n in range(72)]
    assert film.display_times_ns.tolist() == expected
    assert film.end_ns == 3_003_000_000
    late = index_packets(str(made("late_start")))
    assert late.origin_pts * late.time_base == 5
    assert late.end_ns == 2_000_000_000
    vfr = index_packets(str(made("vfr_mkv")))
    assert vfr.display_times_ns[:3].tolist() == [0, 33_000_000, 66_000_000]
    assert vfr.display_times_ns[-2:].tolist() == [3_800_000_000, 3_900_000_000]
    assert index_packets(str(made("gif"))).display_times_ns.tolist()[:4] == [0, 100_000_000, 300_000_000, 400_000_000]
    assert index_packets(str(made("gif"))).end_ns == 1_200_000_000
    assert index_packets(str(made("one_frame"))).end_ns == 40_000_000


def test_keyframes(made):
    assert index_packets(str(made("cfr"))).keyframe_times_ns.tolist() == [n * 480_000_000 for n in range(7)]
    # the container marks every refresh, but decoding can begin at the first frame alone
    assert index_packets(str(made("gradual_refresh"))).is_keyframe.sum() == 1


@pytest.mark.parametrize(
    ("whole", "says"),
    [
        ("faststart", "samples are missing"),
        ("b_frames_mkv", "of 3.0 s"),
        ("fragmented", "missing"),
        ("b_frames_flv", "shorter than it says"),
        ("gif", "shorter than it says"),
        ("vp9", "of 2.0 s"),
        ("avi", "of 4.0 s"),
        ("mpeg_ps", "damaged"),
    ],
)
def test_cut_files_say_so_and_keep_the_rest(made, tmp_path, whole, says):
    path = makevideo.make_truncated(tmp_path / made(whole).name, whole=made(whole))
    index, full = index_packets(str(path)), index_packets(str(made(whole)))
    assert index.is_truncated
    assert says in index.detail
    shown = index.display_pts.tolist()
    assert set(shown) <= set(full.display_pts.tolist())
    assert 0 < len(shown) < len(full.display_pts)
    assert set(shown) <= set(decode(path, index))


def test_hidden_frames_are_indexed_but_not_shown(made):
    index = index_packets(str(made("vp8_hidden")))
    assert (len(index), len(index.display_pts)) == (55, 50)


def test_vp9_alternate_references_are_told_from_shown_frames(made):
    with av.open(str(made("vp9_hidden"))) as container:
        stream = container.streams.video[0]
        split = av.BitStreamFilterContext("vp9_superframe_split", stream)
        whole = [bytes(packet) for packet in container.demux(stream) if packet.size]
        container.seek(0)
        parts = [bytes(part) for packet in container.demux(stream) if packet.size for part in split.filter(packet)]
    assert (len(whole), sum(is_shown("vp9", memoryview(data)) for data in whole)) == (50, 50)
    assert (len(parts), sum(is_shown("vp9", memoryview(data)) for data in parts)) == (55, 50)


def test_cut_of_audio_after_the_picture_is_no_loss_in_mp4(made):
    assert not index_packets(str(made("long_audio"))).is_truncated


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("num_damaged", [1, 2])
def test_a_damaged_first_keyframe_is_told(tmp_path, suffix, num_damaged):
    path = makevideo.make_cfr(tmp_path / f"x.{suffix}")
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for packet in packets[: 12 * num_damaged : 12]:
        at = data.index(packet)
        data[at : at + 64] = bytes(64)
    path.write_bytes(data)
    index = index_packets(str(path))
    num_lost = 12 * num_damaged
    assert len(index.display_pts) == 75 - num_lost
    assert index.is_truncated
    assert index.detail == f"{num_lost} frames ({num_lost / 25:.1f} s) before the first intact keyframe cannot be decoded"


def test_joined_recordings_follow_each_other(made, tmp_path):
    part = made("mpeg_ps")
    index = index_packets(str(makevideo.make_joined(tmp_path / "joined.mpg", parts=[part, part])))
    assert len(index.display_pts) == 100
    assert not index.is_seekable
    assert set(np.diff(index.display_times_ns).tolist()) == {40_000_000}
    assert list(decode(tmp_path / "joined.mpg", index)) == index.display_pts.tolist()


def test_garbage_after_a_signature_is_corrupt(tmp_path):
    path = tmp_path / "x.mkv"
    path.write_bytes(b"\x1a\x45\xdf\xa3" + bytes(range(256)) * 40)
    with pytest.raises(MediaError) as caught:
        index_packets(str(path))
    assert caught.value.outcome is Outcome.CORRUPT


@pytest.mark.parametrize("name", ["b_frames", "edit_list", "vfr_mkv", "avi_h264", "one_frame"])
def test_packs_and_unpacks(made, name):
    index = index_packets(str(made(name)))
    packed = index.to_bytes()
    again = PacketIndex.from_bytes(packed)
    for field in ("pts", "durations", "is_keyframe", "is_displayed"):
        assert (getattr(again, field) == getattr(index, field)).all()
    for field in ("stream_index", "time_base", "origin_pts", "end_pts", "is_truncated", "detail", "is_seekable", "end_ns"):
        assert getattr(again, field) == getattr(index, field)
    assert again.to_bytes() == packed


def test_packed_long_video_is_small_and_extremes_survive():
    count = 100_000
    pts = np.arange(count, dtype=np.int64) * 512
    index = PacketIndex(
        stream_index=0, time_base=Fraction(1, 12800), pts=pts, durations=np.full(count, 512), is_keyframe=pts % (512 * 48) == 0,
        is_displayed=np.ones(count, bool), origin_pts=0, end_pts=count * 512, is_truncated=True, detail="zu kurz: 3 s",
    )  # fmt: skip
    assert len(index.to_bytes()) < 0.2 * count
    extreme = PacketIndex(
        stream_index=3, time_base=Fraction(1001, 2**31 - 1), pts=np.array([2**63 - 1, -(2**63), 5]), durations=np.zeros(3, np.int64),
        is_keyframe=np.array([True, False, True]), is_displayed=np.ones(3, bool), origin_pts=-(2**62), end_pts=2**62, is_truncated=False, detail="",
    )  # fmt: skip
    assert PacketIndex.from_bytes(extreme.to_bytes()).pts.tolist() == extreme.pts.tolist()


def test_refuses_garbage(made):
    packed = index_packets(str(made("cfr"))).to_bytes()
    changed = bytes([*packed[:60], packed[60] ^ 1, *packed[61:]])
    for garbage in (
        b"",
        b"PKI1",
        b"x" * 200,
        packed[:-1],
        packed + b"x",
        b"PKI2" + packed[4:],
        changed,
        packed[:20] + b"\xff" * 8 + packed[28:],
    ):
        with pytest.raises(ValueError, match="packet index"):
            PacketIndex.from_bytes(garbage)


def test_arrays_must_fit_together():
    with pytest.raises(ValueError, match="is_keyframe"):
        PacketIndex(
            stream_index=0, time_base=Fraction(1, 25), pts=np.zeros(2, np.int64), durations=np.zeros(2, np.int64), is_keyframe=np.zeros(1, bool),
            is_displayed=np.zeros(2, bool), origin_pts=0, end_pts=1, is_truncated=False, detail="",
        )  # fmt: skip


def test_every_shared_file_shows_exactly_the_decoded_frames(shared_media):
    for path in [*shared_media("formats"), *shared_media("real")]:
        index = index_packets(str(path))
        assert decoded_pts(path, index) == index.display_pts.tolist(), path
        assert not index.is_truncated, path
