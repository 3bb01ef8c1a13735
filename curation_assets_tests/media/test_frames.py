"""The frames of sets are those of a full decode and the nearest-frame rule, bit for bit."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
import numpy.typing as npt
import pytest

from curation_assets.media.color import FrameScaler
from curation_assets.media.decode import decode_targets
from curation_assets.media.frames import SampledSpan, sample_frames
from curation_assets.media.images import decode_image
from curation_assets.media.motion import MotionSpec
from curation_assets.media.packets import PacketIndex, index_packets, read_packets
from curation_assets.media.plan import FrameSetSpec, SampleSpan
from curation_assets.media.source import open_container
from curation_assets.media.synthetic import write_video
from curation_assets_tests import makevideo
from curation_assets_tests.conftest import RECIPES

S = 1_000_000_000
NO_VIDEO = {"audio_only", "audio_with_cover", "zero_bytes", "text", "image"}
SPECS = [FrameSetSpec(f"s{k}", codec="raw", target_res=(32, 48), target_fps=fps) for k, fps in enumerate((2, 0.5, 29.97, 7, 24000 / 1001))]

Made = Callable[[str], Path]
Shared = Callable[[str], list[Path]]


def decode_everything(source: str, index: PacketIndex) -> dict[int, bytes]:
    """Every frame of a plain decode, scaled, by pts."""
    scaler, found = FrameScaler(), dict[int, bytes]()
    with open_container(source) as container:
        context = next(s for s in container.streams.video if s.index == index.stream_index).codec_context
        context.thread_count = 1
        for packet in [*read_packets(container, index), None]:
            try:
                for frame in context.decode(packet):
                    if frame.pts not in found:
                        found[frame.pts] = scaler.to_rgb(frame, height_px=32, width_px=48).tobytes()
            except av.error.FFmpegError:
                continue
    return found


def choose_exactly(index: PacketIndex, fps: float, first: int, stop: int) -> list[int]:
    """The sampling rule in exact fractions; pts of the choice in the span from the frame `first` to the frame `stop`."""
    pts = np.unique(index.display_pts).tolist()
    rate, time_base = Fraction(fps).limit_denominator(1001), index.time_base
    end_pts = pts[stop] if stop < len(pts) else index.end_pts
    chosen, k = list[int](), 0
    while (point := pts[first] + k / rate / time_base) < end_pts:
        nearest = min(pts[first:stop], key=lambda p: (abs(p - point), p))
        if nearest not in chosen:
            chosen.append(nearest)
        k += 1
    return chosen


def spans_of(index: PacketIndex) -> dict[SampleSpan, tuple[int, int]]:
    """Spans at the beginning, in the middle, at the end, overlapping and of one frame, with their frames."""
    times = np.unique(index.display_times_ns)
    count = len(times)
    pieces = {
        (0, max(1, count // 4)),
        (count // 3, count // 3 + max(1, count // 4)),
        (count // 2, max(count // 2 + 1, count * 3 // 4)),
        (count * 5 // 6, count),
    }
    pieces.add((count // 2, count // 2 + 1))
    return {
        SampleSpan(f"{first}:{stop}", int(times[first]), int(times[stop]) if stop < count else index.end_ns): (first, stop)
        for first, stop in sorted(pieces)
    }


def check_equal(source: str, index: PacketIndex, *, spans: Iterable[SampleSpan], num_threads: int = 1) -> None:
    full, pieces = decode_everything(source, index), spans_of(index)
    for sampled in sample_frames(source, index=index, spans=list(spans), frame_sets=SPECS, motion=None, num_threads=num_threads):
        first, stop = pieces[sampled.span]
        for spec, frames in zip(SPECS, sampled.sets, strict=True):
            chosen = choose_exactly(index, spec.target_fps, first, stop)
            assert frames.num_missing == 0, frames.detail
            assert len(frames.time_ns) == len(chosen)
            assert list(frames.frames) == [full[pts] for pts in chosen], (sampled.span, spec)


@pytest.mark.parametrize("name", sorted(set(RECIPES) - NO_VIDEO))
def test_frames_equal_a_full_decode(name: str, made: Made) -> None:
    source = str(made(name))
    index = index_packets(source)
    spans = list(spans_of(index))
    check_equal(source, index, spans=spans)
    check_equal(source, index, spans=spans[-1:])  # a clip alone is reached by seeking
    check_equal(source, index, spans=spans[1:2], num_threads=2)


def test_frames_of_shared_files_equal_a_full_decode(shared_media: Shared) -> None:
    for path in shared_media("formats"):
        index = index_packets(str(path))
        spans = list(spans_of(index))
        check_equal(str(path), index, spans=spans)
        check_equal(str(path), index, spans=spans[2:3], num_threads=3)


def test_frames_equal_a_full_decode_of_other_codecs(tmp_path: Path) -> None:
    recipes = [
        ("mpeg1.mpg", "mpeg1video", "yuv420p", {"g": "12", "bf": "2"}),
        ("av1.mkv", "libsvtav1", "yuv420p", {"preset": "12"}),
        (
            "temporal_layers.mp4",
            "libx265",
            "yuv420p",
            {"x265-params": "temporal-layers=3:bframes=4:b-adapt=0:keyint=24:log-level=none:pools=none"},
        ),
        ("mpeg4.mp4", "mpeg4", "yuv420p", {"g": "12", "bf": "2"}),
        ("gray.mp4", "libx264", "gray", {"bf": "3", "g": "12"}),
        ("rgb.mkv", "libx264rgb", "rgb24", {"bf": "3", "g": "12"}),
        ("prores.mov", "prores_ks", "yuv422p10le", {}),
    ]
    for name, codec, pix_fmt, options in recipes:
        path = write_video(tmp_path / name, makevideo.paint(2), codec=codec, pix_fmt=pix_fmt, codec_options=options)
        index = index_packets(str(path))
        check_equal(str(path), index, spans=list(spans_of(index)))


def sample(path: Path, spans: list[SampleSpan], *specs: FrameSetSpec, motion: MotionSpec | None = None) -> list[SampledSpan]:
    return list(sample_frames(str(path), index=index_packets(str(path)), spans=spans, frame_sets=specs, motion=motion))


def test_a_reader_serves_as_well_as_a_path(made: Made) -> None:
    path, span = made("b_frames"), SampleSpan("x", S, 2 * S)
    with path.open("rb") as reader:
        (from_reader,) = sample_frames(reader, index=index_packets(str(path)), spans=[span], frame_sets=SPECS, motion=None)
    assert from_reader.sets == sample(path, [span], *SPECS)[0].sets


def test_spans_come_in_the_given_order_with_sets_of_their_scope(made: Made) -> None:
    spans = [SampleSpan("late", 2 * S, 3 * S), SampleSpan(None, 0, 3 * S), SampleSpan("early", 0, S)]
    clip, video = FrameSetSpec("clip"), FrameSetSpec("video", scope="video", target_fps=1)
    results = sample(made("b_frames"), spans, clip, video, motion=MotionSpec())
    assert [r.span for r in results] == spans
    assert [[s.name for s in r.sets] for r in results] == [["clip"], ["video"], ["clip"]]
    assert [r.scores is None for r in results] == [False, True, False]
    assert [len(r.sets[0].frames) for r in results] == [2, 3, 2]


class FarthestReader(io.BytesIO):
    """A file that remembers how far it was read."""

    farthest_byte = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.farthest_byte = max(self.farthest_byte, self.tell())
        return data


def test_a_span_is_handed_out_before_the_next_is_read(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (75, 240, 320, 3)).astype(np.uint8)
    path = write_video(tmp_path / "v.mkv", noise, codec_options={"g": "12"})
    reader = FarthestReader(path.read_bytes())
    index = index_packets(reader)
    reader.farthest_byte = 0
    spans = [SampleSpan("first", 0, S), SampleSpan("second", 2 * S, 3 * S)]
    results = sample_frames(reader, index=index, spans=spans, frame_sets=[FrameSetSpec("x")], motion=None)
    assert next(results).span.id == "first"
    assert reader.farthest_byte < len(reader.getvalue()) * 0.6
    assert next(results).span.id == "second"


def test_sizes_codecs_and_times(made: Made) -> None:
    specs = [
        FrameSetSpec("square", target_res=40), FrameSetSpec("wide", target_res=(-1, 48), codec="png"), FrameSetSpec("own", target_res=None, codec="raw"),
        FrameSetSpec("middle", policy="middle", target_res=(30, -1)),
    ]  # fmt: skip
    (result,) = sample(made("cfr"), [SampleSpan("x", S, 2 * S)], *specs)
    assert [(s.height_px, s.width_px) for s in result.sets] == [(40, 40), (32, 48), (64, 96), (30, 44)]  # 45 made even
    assert [s.time_ns for s in result.sets] == [(S, S + 480_000_000)] * 3 + [(S + 480_000_000,)]
    assert [s.fps for s in result.sets] == [2, 2, 2, None]
    for frames in result.sets:
        for data in frames.frames:
            assert decode_image(data, frames.codec, frames.height_px, frames.width_px).shape == (frames.height_px, frames.width_px, 3)


SCALED = (("own", (240, 360), "area"), ("area", (112, 112), "area"), ("bicubic", (112, 112), "bicubic"))


@pytest.mark.parametrize(
    ("fit_res", "scaled", "top", "left"), [((40, 40), (40, 60), 0, 10), ((60, 30), (60, 90), 0, 30), ((20, 60), (40, 60), 10, 0)]
)
def test_crop_scales_and_cuts_the_middle_out(made: Made, fit_res: tuple[int, int], scaled: tuple[int, int], top: int, left: int) -> None:
    sets = sample(
        made("cfr"),  # 64 x 96
        [SampleSpan("x", 0, S)],
        FrameSetSpec("cut", target_res=fit_res, fit="crop", codec="raw"),
        FrameSetSpec("whole", target_res=scaled, codec="raw"),
    )[0].sets
    cut, whole = (decode_image(item.frames[0], "raw", height_px=item.height_px, width_px=item.width_px) for item in sets)
    assert cut.shape == (*fit_res, 3)
    assert (cut == whole[top : top + fit_res[0], left : left + fit_res[1]]).all()


def test_bicubic_is_near_to_what_models_were_trained_with(tmp_path: Path) -> None:
    """The reference is torch's bicubic with antialiasing on bytes, which torchvision calls; measured 0.55 levels for bicubic, 2.2 by area."""
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(3)
    picture = (
        np.clip(random.normal(128, 40, (60, 90, 1)), 0, 255).astype(np.uint8).repeat(4, axis=0).repeat(4, axis=1).repeat(3, axis=2)
    )  # grey, 240 x 360
    path = write_video(tmp_path / "v.mp4", [picture] * 5)
    specs = [FrameSetSpec(name, target_res=res, fit="crop", scaling=scaling, codec="raw") for name, res, scaling in SCALED]  # type: ignore[arg-type]
    own, area, bicubic = (
        decode_image(item.frames[0], "raw", height_px=item.height_px, width_px=item.width_px).astype(np.float32)
        for item in sample(path, [SampleSpan("x", 0, S)], *specs)[0].sets
    )
    whole = torch.from_numpy(own.astype(np.uint8)).permute(2, 0, 1)[None].contiguous()
    small = torch.nn.functional.interpolate(whole, (112, 168), mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()[:, 28:140]
    errors = [float(np.abs(found - small).mean()) for found in (area, bicubic)]
    assert errors[1] < 0.7
    assert errors[1] < errors[0] / 3


def test_rotated_video_is_upright_and_sized_as_displayed(tmp_path: Path) -> None:
    """A clockwise quarter turn brings the left edge to the top."""
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:, :24] = 255
    for turn, lit in ((90, np.s_[:24, :]), (180, np.s_[:, 72:]), (270, np.s_[72:, :])):
        path = write_video(tmp_path / f"{turn}.mp4", [picture] * 10, rotation_deg=turn)
        (result,) = sample(path, [SampleSpan("x", 0, S)], FrameSetSpec("x", target_res=None, codec="raw"))
        (frames,) = result.sets
        assert (frames.height_px, frames.width_px) == ((64, 96) if turn == 180 else (96, 64))
        rgb = decode_image(frames.frames[0], "raw", frames.height_px, frames.width_px)
        assert rgb[lit].mean() > 235
        assert rgb.mean() < 80


def test_hdr_is_tone_mapped_and_said(made: Made) -> None:
    spec, span = FrameSetSpec("x", codec="raw"), SampleSpan("x", 0, S)
    assert sample(made("hdr"), [span], spec)[0].is_hdr_tone_mapped
    assert not sample(made("10bit"), [span], spec)[0].is_hdr_tone_mapped


def test_a_change_of_resolution_in_mid_stream(tmp_path: Path) -> None:
    parts = [
        write_video(tmp_path / "a.ts", makevideo.paint(1), codec_options={"bf": "2"}),
        write_video(tmp_path / "b.ts", makevideo.paint(1, size=(128, 96)), pts=range(25, 50), codec_options={"bf": "2"}),
    ]
    path = makevideo.make_joined(tmp_path / "joined.ts", parts=parts)
    index = index_packets(str(path))
    (result,) = sample_frames(
        str(path), index=index, spans=[SampleSpan("x", 0, index.end_ns)], frame_sets=[FrameSetSpec("x", target_res=None)], motion=None
    )
    (frames,) = result.sets
    assert (frames.height_px, frames.width_px, frames.num_missing) == (64, 96, 0)
    assert len(frames.frames) == 4


def test_a_span_without_frames_gives_empty_sets(made: Made) -> None:
    (result,) = sample(made("cfr"), [SampleSpan("x", 99 * S, 100 * S)], FrameSetSpec("x"), motion=MotionSpec())
    (frames,) = result.sets
    assert (frames.frames, frames.time_ns, frames.num_missing) == ((), (), 0)
    assert "no frame" in frames.detail
    assert result.scores is not None
    assert (result.scores.num_frames, result.scores.motion_mean) == (0, None)


def test_damage_is_counted_and_ends_with_the_next_keyframe(made: Made, tmp_path: Path) -> None:
    """Frames from the damaged packet to the next keyframe are missing, all others are those of the whole file."""
    whole = made("b_frames")  # 75 frames, a keyframe every 12
    data = bytearray(whole.read_bytes())
    with av.open(str(whole)) as container:
        packet = [p for p in container.demux(video=0) if p.size][26]
        for place in range(packet.pos + 5, packet.pos + packet.size):
            data[place] = random.Random(place).randrange(256)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    span, spec = SampleSpan("x", 0, 3 * S), FrameSetSpec("x", target_fps=25, codec="raw")
    (good,), (bad,) = sample(whole, [span], spec), sample(broken, [span], spec, motion=MotionSpec())
    reference = dict(zip(good.sets[0].time_ns, good.sets[0].frames, strict=True))
    (frames,) = bad.sets
    assert 8 <= frames.num_missing <= 11
    assert len(frames.frames) == 75 - frames.num_missing
    assert all(reference[time_ns] == frame for time_ns, frame in zip(frames.time_ns, frames.frames, strict=True))
    assert "could not be decoded" in frames.detail
    assert bad.num_missing == frames.num_missing
    assert bad.scores is not None
    assert bad.scores.motion_mean is not None


@pytest.mark.parametrize("name", ["faststart", "mpeg_ts", "live_mkv", "avi"])
def test_truncated_files_give_their_readable_part(name: str, made: Made, tmp_path: Path) -> None:
    whole = made(name)
    cut = makevideo.make_truncated(tmp_path / f"cut{whole.suffix}", whole=whole)
    span, spec = SampleSpan("x", 0, 4 * S), FrameSetSpec("x", target_fps=5, codec="raw")
    (good,), (bad,) = sample(whole, [span], spec), sample(cut, [span], spec)
    assert 0 < len(bad.sets[0].frames) < len(good.sets[0].frames)
    reference = dict(zip(good.sets[0].time_ns, good.sets[0].frames, strict=True))
    common = [(reference[t], f) for t, f in zip(bad.sets[0].time_ns, bad.sets[0].frames, strict=True) if t in reference]
    assert len(common) >= len(bad.sets[0].frames) - 1  # the last grid points may take another frame
    assert all(a == b for a, b in common)


def test_an_unnoticed_false_keyframe_is_helped_from_further_back(made: Made) -> None:
    """A packet wrongly marked as an entry gives no intact frames; the second attempt begins earlier."""
    path = str(made("b_frames"))
    index = index_packets(path)
    marked = index.is_keyframe.copy()
    keyframes = np.flatnonzero(marked)
    marked[keyframes[2] + 1] = True
    lying = PacketIndex(
        stream_index=index.stream_index, time_base=index.time_base, pts=index.pts.copy(), durations=index.durations.copy(), is_keyframe=marked,
        is_displayed=index.is_displayed.copy(), origin_pts=index.origin_pts, end_pts=index.end_pts, is_truncated=False, detail="",
    )  # fmt: skip
    target = int(keyframes[2]) + 1
    (decoded,) = decode_targets(path, index=lying, targets=[target])
    (expected,) = decode_targets(path, index=index, targets=[target])
    assert decoded.frame is not None
    assert expected.frame is not None
    assert pixels(decoded.frame) == pixels(expected.frame)


def pixels(frame: av.VideoFrame) -> bytes:
    data: npt.NDArray[np.uint8] = frame.to_ndarray()
    return data.tobytes()


def test_two_sets_of_one_name_are_refused(made: Made) -> None:
    with pytest.raises(ValueError, match="must differ"):
        sample(made("cfr"), [SampleSpan("x", 0, S)], FrameSetSpec("x"), FrameSetSpec("x"))


def test_num_threads_must_be_positive(made: Made) -> None:
    index = index_packets(str(made("cfr")))
    with pytest.raises(ValueError, match="num_threads"):
        list(decode_targets(str(made("cfr")), index=index, targets=[0], num_threads=0))
