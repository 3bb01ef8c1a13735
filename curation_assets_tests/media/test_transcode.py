"""Clips of every odd video play, hold exactly the span's frames at their own times, and look like the source; or say why not."""

from __future__ import annotations

import resource
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from av.stream import Disposition

from curation_assets.media.color import FrameScaler, display_matrix, is_hdr
from curation_assets.media.decode import decode_targets
from curation_assets.media.encoders import EncoderSpec, missing_encoder
from curation_assets.media.errors import MediaError
from curation_assets.media.packets import PacketIndex, index_packets
from curation_assets.media.plan import DisplayOrder
from curation_assets.media.source import mp4_boxes
from curation_assets.media.transcode import ClipSpan, TranscodeSpec, transcode_clips
from curation_assets_tests import makevideo
from curation_assets_tests.conftest import RECIPES
from curation_assets_tests.storage.conftest import file_size_limit  # noqa: F401 - fixture

NOT_VIDEOS = ("audio_only", "audio_with_cover", "zero_bytes", "text", "image")
VIDEOS = [name for name in RECIPES if name not in NOT_VIDEOS]
# x264 at crf 23 on these small pictures; measured 33 to 46 dB
LEAST_PSNR_DB = 30.0
ENCODE = TranscodeSpec(way="encode")
MS = 1_000_000


def psnr_db(a, b):
    """Of luma; chroma has half the lines, and colours as loud as those of the made videos do not pass through that."""
    luma = np.array([0.299, 0.587, 0.114])
    error = np.mean((a @ luma - b @ luma) ** 2)
    return 99.0 if error == 0 else 10 * np.log10(255**2 / error)


def source_frames(path, index, start_ns, end_ns):
    """Times relative to the first, and the frames, of a span of the source."""
    order = DisplayOrder(index)
    low, high = np.searchsorted(order.times_ns, [start_ns, end_ns])
    positions = order.positions[low:high].tolist()
    frames = {decoded.position: decoded.frame for decoded in decode_targets(str(path), index=index, targets=positions)}
    times = order.times_ns[low:high]
    return (times - times[0]).tolist() if len(times) else [], [frames[position] for position in positions]


def file_frames(path):
    """Times in nanoseconds and frames that a plain player shows."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        return [round(frame.pts * frame.time_base * 10**9) for frame in frames], frames


def rgb(frame, size):
    return FrameScaler().to_rgb(frame, height_px=size[0], width_px=size[1])


def check_clip(clip, path, index):
    """The file of a clip, against the source."""
    times, wanted = source_frames(path, index, clip.span.start_ns, clip.span.end_ns)
    shown_ns, frames = file_frames(clip.path)
    assert len(frames) == len(wanted) == clip.file.num_frames
    assert shown_ns[0] == 0
    assert np.abs(np.array(shown_ns) - times).max() <= 1.1 * MS  # a tick of the coarsest container
    kinds = [kind for kind, _ in mp4_boxes(str(clip.path))]
    assert kinds.index(b"moov") < kinds.index(b"mdat")
    assert clip.path.stat().st_size == clip.file.size_bytes
    for frame, source in zip(frames, wanted, strict=True):
        if clip.how == "copy":
            assert frame.format.name == source.format.name
            assert np.array_equal(frame.to_ndarray(), source.to_ndarray())
        else:
            size = (clip.file.height_px, clip.file.width_px)
            picture = FrameScaler().to_rgb(
                source, height_px=size[0] + (size[0] == 60), width_px=size[1] + (size[0] == 60)
            )  # 97 x 61 is cropped
            assert psnr_db(rgb(frame, size), picture[: size[0], : size[1]]) > LEAST_PSNR_DB
    return frames


def make(path, spans, folder, spec=TranscodeSpec()):  # noqa: B008 - frozen
    index = index_packets(str(path))
    folder.mkdir(exist_ok=True)
    clips = list(transcode_clips(str(path), index=index, spans=[ClipSpan(*span) for span in spans], spec=spec, folder=folder))
    assert sorted(clip.span.id for clip in clips) == sorted(span[0] for span in spans)
    kept = {clip.path for clip in clips if clip.path}
    assert set(folder.iterdir()) == kept  # nothing half made stays
    return index, {clip.span.id: clip for clip in clips}


@pytest.mark.parametrize("name", VIDEOS)
def test_every_odd_video(name, made, tmp_path):
    """Overlapping spans, not at keyframes, in one call."""
    path = made(name)
    end_ns = index_packets(str(path)).end_ns
    spans = [("begin", 0, end_ns // 2), ("middle", end_ns // 4, 3 * end_ns // 4), ("rest", end_ns // 2, end_ns), ("all", 0, end_ns)]
    index, clips = make(path, spans, tmp_path / "out")
    for clip in clips.values():
        if not source_frames(path, index, clip.span.start_ns, clip.span.end_ns)[1]:
            assert clip.outcome == "no_frames"
            assert clip.path is None
            continue
        assert clip.outcome == "ok", clip.detail
        check_clip(clip, path, index)
    durations = sum(clips[name].file.duration_ns for name in ("begin", "rest") if clips[name].file)
    assert abs(durations - end_ns) <= 2 * 1.1 * MS


@pytest.mark.parametrize(
    "name", ["cfr", "b_frames_ts", "vfr_mkv", "film", "vp9", "rotated", "avi_h264", "late_start", "fragmented", "hevc"]
)
def test_copies_are_exact(name, made, tmp_path):
    if name == "hevc":
        path = makevideo.write_video(
            tmp_path / "x.mp4",
            makevideo.paint(2),
            codec="libx265",
            codec_options={"preset": "ultrafast", "x265-params": makevideo._X265["x265-params"] + ":open-gop=0:bframes=2"},
        )
    else:
        path = made(name)
    keyframes = [*index_packets(str(path)).keyframe_times_ns.tolist(), index_packets(str(path)).end_ns]
    index, clips = make(path, [(f"{start}", start, end) for start, end in pairwise(keyframes)], tmp_path / "out")
    for clip in clips.values():
        assert (clip.how, clip.outcome) == ("copy", "ok")
        check_clip(clip, path, index)


def test_a_span_that_no_copy_fits(made, tmp_path):
    path = made("open_gop")
    second = int(index_packets(str(path)).keyframe_times_ns[1])
    _, clips = make(path, [("a", second, second + 480 * MS)], tmp_path / "out", TranscodeSpec(way="copy"))
    assert (clips["a"].outcome, clips["a"].path) == ("unsupported", None)
    assert "neighbours" in clips["a"].detail
    _, clips = make(made("vp8"), [("a", 0, 10**9)], tmp_path / "out", TranscodeSpec(way="copy"))
    assert "clips do not hold vp8" in clips["a"].detail


def test_frames_are_decoded_once(made, tmp_path, monkeypatch):
    """Neighbouring and overlapping spans share one decode."""
    from curation_assets.media import decode

    fed = []
    feed = decode._Attempt._feed
    monkeypatch.setattr(
        decode._Attempt,
        "_feed",
        lambda self, context, packet, position: [fed.append(position) if packet else None, feed(self, context, packet, position)][1],
    )
    path = made("b_frames")
    index = index_packets(str(path))
    spans = [ClipSpan(str(start), start, start + 700 * MS) for start in range(40 * MS, 2200 * MS, 300 * MS)]
    (tmp_path / "out").mkdir()
    clips = transcode_clips(str(path), index=index, spans=spans, spec=ENCODE, folder=tmp_path / "out")
    monkeypatch.setattr("curation_assets.media.clip_encode.verify_file", lambda *_, **__: None)
    assert all(clip.outcome == "ok" for clip in clips)
    assert len(fed) == len(set(fed)) >= 60


def test_rotation_aspect_and_colours_stay(made, tmp_path):
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options=makevideo.GOP)
        stream.width, stream.height = makevideo.SMALL
        context = stream.codec_context
        context.sample_aspect_ratio = Fraction(4, 3)
        context.color_primaries, context.color_trc, context.colorspace = 1, 1, 1
        stream.set_display_rotation(-90)
        for number, pixels in enumerate(makevideo.paint(1)):
            frame = av.VideoFrame.from_ndarray(pixels)
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    for way in ("copy", "encode"):
        _, clips = make(path, [(way, 0, 10**9)], tmp_path / "out", TranscodeSpec(way=way))
        with av.open(str(clips[way].path)) as container:
            stream = container.streams.video[0]
            frame = next(container.decode(stream))
            assert stream.sample_aspect_ratio == Fraction(4, 3)
            assert round(frame.rotation) == -90
            assert (int(frame.color_primaries), int(frame.color_trc), int(frame.colorspace)) == (1, 1, 1)
        assert (clips[way].file.height_px, clips[way].file.width_px) == (96, 64)
        clips[way].path.unlink()


@pytest.mark.parametrize("is_hdr_source", [False, True])
@pytest.mark.parametrize("turn", [(-90, True, False), (0, True, False), (0, False, True), (90, True, False)])
def test_mirrored_pictures_are_shown_alike(tmp_path, turn, is_hdr_source):
    """As pixels for frame sets and tone-mapped clips, as the source's own matrix elsewhere."""
    picture = np.full((64, 96, 3), 40, np.uint8)
    picture[:32, :48], picture[32:, :48] = 220, 130  # top left, bottom left
    degrees, is_hflipped, is_vflipped = turn
    # as a player does it: turn, then mirror
    shown = np.rot90(picture, degrees // 90)
    shown = shown[:, ::-1] if is_hflipped else shown[::-1]
    path = tmp_path / "x.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx265" if is_hdr_source else "libx264", rate=25, options=makevideo._X265 if is_hdr_source else {})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p10le" if is_hdr_source else "yuv420p"
        if is_hdr_source:
            context = stream.codec_context
            context.color_primaries, context.color_trc, context.colorspace = 9, 16, 9
        stream.set_display_rotation(degrees, hflip=is_hflipped, vflip=is_vflipped)
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    _, (source, *_) = file_frames(path)
    _, clips = make(path, [("a", 0, 10**9)], tmp_path / "out", ENCODE)
    _, (frame, *_) = file_frames(clips["a"].path)
    assert display_matrix(frame) == (None if is_hdr_source else display_matrix(source))
    size = shown.shape[:2]
    for image in (rgb(source, size), rgb(frame, size), FrameScaler().to_luma(source, height_px=size[0], width_px=size[1])):
        rows, columns = (16, size[0] - 16), (16, size[1] - 16)
        seen = [[float(image[row, column].mean()) for column in columns] for row in rows]
        wanted = [[float(shown[row, column].mean()) for column in columns] for row in rows]
        assert np.corrcoef(np.ravel(seen), np.ravel(wanted))[0, 1] > 0.9


def test_hdr_is_mapped_or_kept(made, tmp_path):
    path = made("hdr")
    index, clips = make(path, [("sdr", 0, 10**9)], tmp_path / "out")
    (frame, *_) = check_clip(clips["sdr"], path, index)
    assert frame.format.name == "yuv420p"
    assert (int(frame.color_primaries), int(frame.color_trc), int(frame.colorspace)) == (1, 1, 1)
    clips["sdr"].path.unlink()
    index, clips = make(path, [("hdr", 40 * MS, 10**9)], tmp_path / "out", TranscodeSpec(way="encode", hdr="keep"))
    (frame, *_) = check_clip(clips["hdr"], path, index)
    assert frame.format.name == "yuv420p10le"
    assert is_hdr(frame)
    with pytest.raises(ValueError, match="10 bits"):
        TranscodeSpec(hdr="keep", encoder=EncoderSpec("h264_nvenc"))


def test_full_range_becomes_limited(tmp_path):
    path = makevideo.write_video(tmp_path / "full.mp4", makevideo.paint(1), pix_fmt="yuvj420p", codec_options=makevideo.GOP)
    index, clips = make(path, [("a", 0, 10**9)], tmp_path / "out", ENCODE)
    (frame, *_) = check_clip(clips["a"], path, index)
    assert (frame.format.name, int(frame.color_range) in (0, 1)) == ("yuv420p", True)


def test_smaller_pictures(tmp_path):
    path = makevideo.make_rotated(tmp_path / "x.mp4", size=(320, 180))
    _, clips = make(path, [("a", 0, 10**9)], tmp_path / "out", TranscodeSpec(max_side_px=160))
    assert (clips["a"].how, clips["a"].file.height_px, clips["a"].file.width_px) == ("encode", 160, 90)


def click_video(path, codec, *, rate=48000, gap=False):
    """Video whose picture turns white at 1.2 s and 2.2 s, with a click in the sound at both times."""
    with av.open(str(path), "w") as output:
        # MPEG-PS and AVI tell no order of display: codecs of their time, and no B-frames
        codecs = {".mpg": ("mpeg2video", {}), ".avi": ("mpeg4", {})}
        video_codec, options = codecs.get(path.suffix, ("libx264", makevideo.GOP | {"bf": "2"}))
        video = output.add_stream(video_codec, rate=25, options=options)
        video.width, video.height = makevideo.SMALL
        audio = output.add_stream(codec, rate=rate, options={"strict": "experimental"})
        for number in range(75):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 255 if number in (30, 55) else 20, np.uint8))
            frame.pts = number
            output.mux(video.encode(frame))
        output.mux(video.encode())
        samples = np.zeros(3 * rate, np.float32)
        for at_s in (1.2, 2.2):
            samples[round(at_s * rate) : round(at_s * rate) + 200] = 0.8
        size = audio.codec_context.frame_size or 1024
        for at in range(0, len(samples), size):
            if gap and 0.5 * rate < at < 0.9 * rate:
                continue
            part = np.stack([samples[at : at + size]] * 2)
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = rate, at, Fraction(1, rate)
            for resampled in av.AudioResampler(audio.codec_context.format, "stereo", rate).resample(frame):
                output.mux(audio.encode(resampled))
        output.mux(audio.encode())
    return path


def clicks_s(path):
    """When a player of the clip hears the clicks."""
    found = []
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            loud = np.abs(frame.to_ndarray().astype(np.float64))
            loud = loud / (32768 if frame.format.name.startswith("s16") else 1)
            loud = (
                loud.reshape(len(frame.layout.channels), -1)[0]
                if frame.format.is_planar
                else loud.reshape(-1, len(frame.layout.channels))[:, 0]
            )
            for place in np.flatnonzero(loud > 0.3):
                time_s = float(frame.pts * frame.time_base) + place / frame.sample_rate
                if not found or time_s > found[-1] + 0.5:
                    found.append(time_s)
    return found


@pytest.mark.parametrize(
    ("suffix", "codec", "kept"),
    [
        ("mp4", "aac", "aac"),
        ("ts", "aac", "aac"),
        ("mkv", "libopus", "opus"),
        ("mkv", "ac3", "ac3"),
        ("mp4", "libmp3lame", "mp3"),
        ("mpg", "mp2", "aac"),
        ("mkv", "vorbis", "aac"),
        ("mkv", "pcm_s16le", "aac"),
        ("mkv", "flac", "aac"),
        ("avi", "pcm_s16le", "aac"),
    ],
)
@pytest.mark.parametrize("way", ["auto", "encode"])
def test_sound_stays_with_the_picture(tmp_path, suffix, codec, kept, way):
    path = click_video(tmp_path / f"x.{suffix}", codec)
    spans = [("a", 960 * MS, 1920 * MS), ("b", 1920 * MS, 3000 * MS), ("c", 1080 * MS, 2400 * MS)]
    _, clips = make(path, spans, tmp_path / "out", TranscodeSpec(way=way))
    for clip in clips.values():
        assert clip.outcome == "ok", clip.detail
        assert clip.file.has_audio, clip.detail
        with av.open(str(clip.path)) as container:
            assert container.streams.audio[0].codec_context.codec.canonical_name == kept
            flashes = [
                float(frame.pts * frame.time_base) for frame in container.decode(video=0) if frame.to_ndarray(format="gray").mean() > 150
            ]
        heard = clicks_s(clip.path)
        assert len(flashes) == len(heard) == (2 if clip.span.id == "c" else 1)
        assert np.abs(np.array(flashes) - heard).max() < 0.024  # one AAC frame, 21 ms, and the click's own rise


def test_a_gap_in_the_sound_is_silence(tmp_path):
    path = click_video(tmp_path / "x.mkv", "pcm_s16le", gap=True)
    _, clips = make(path, [("a", 0, 3000 * MS)], tmp_path / "out")
    assert np.abs(np.array(clicks_s(clips["a"].path)) - [1.2, 2.2]).max() < 0.024


def test_sound_that_is_not_there_or_cannot_be_read(made, tmp_path):
    path = made("long_audio")
    _, clips = make(path, [("a", 0, 10**9)], tmp_path / "out", TranscodeSpec(has_audio=False))
    assert not clips["a"].file.has_audio
    clips["a"].path.unlink()
    # sound that ends before the span begins
    short = makevideo.write_video(tmp_path / "short.mp4", makevideo.paint(3), audio_s=1, codec_options=makevideo.GOP)
    _, clips = make(short, [("a", 1960 * MS, 3000 * MS)], tmp_path / "out")
    assert (clips["a"].outcome, clips["a"].file.has_audio, clips["a"].detail) == ("ok", False, "")
    clips["a"].path.unlink()
    # FLAC whose packets are noise
    damaged = tmp_path / "noise.mkv"
    with av.open(str(click_video(tmp_path / "flac.mkv", "flac"))) as source, av.open(str(damaged), "w") as output:
        targets = {stream.index: output.add_stream_from_template(stream, opaque=True) for stream in source.streams}
        random = np.random.default_rng(0)
        for packet in source.demux():
            if packet.size:
                copy = packet
                if packet.stream.type == "audio":
                    copy = av.Packet(random.bytes(packet.size))
                    copy.pts, copy.dts, copy.time_base, copy.duration = packet.pts, packet.dts, packet.time_base, packet.duration
                copy.stream = targets[packet.stream_index]
                output.mux(copy)
    _, clips = make(damaged, [("a", 0, 2 * 10**9)], tmp_path / "out", ENCODE)
    assert (clips["a"].outcome, clips["a"].file.has_audio) == ("ok", False)
    assert "the sound was left out" in clips["a"].detail


@pytest.mark.parametrize("way", ["auto", "encode"])
def test_durations_of_slides(tmp_path, way):
    """Frames that stay for very different times, B-frames: the durations in MP4 follow the decode times, but the last frame stays as long as it should."""
    random = np.random.default_rng(1)
    pts = np.cumsum([0, *random.choice([40, 40, 200, 1000, 2500], 39)]).tolist()
    path = tmp_path / "x.mkv"
    makevideo.write_video(
        path, makevideo.paint(40, 1), fps=25, pts=pts, time_base=Fraction(1, 1000), codec_options={**makevideo.GOP, "bf": "2"}
    )
    ends = [pts[number] for number in (12, 17, 25, 30, 36)]
    index, clips = make(path, [(str(end), 0, end * MS) for end in ends], tmp_path / "out", TranscodeSpec(way=way))
    for end in ends:
        clip = clips[str(end)]
        assert clip.outcome == "ok", clip.detail
        assert abs(clip.file.duration_ns - end * MS) <= MS
        check_clip(clip, path, index)


def test_a_truncated_end(tmp_path):
    whole = makevideo.make_faststart(tmp_path / "whole.mp4", seconds=4)
    path = makevideo.make_truncated(tmp_path / "cut.mp4", whole=whole, share=0.6)
    index = index_packets(str(path))
    assert index.is_truncated
    _, clips = make(path, [("in", 0, 10**9), ("past", 10**9, 4 * 10**9), ("behind", 3900 * MS, 4 * 10**9)], tmp_path / "out")
    assert clips["in"].outcome == "ok"
    assert clips["past"].outcome == "truncated"
    assert "the span goes on to 4.000 s" in clips["past"].detail
    check_clip(clips["past"], path, index)
    assert clips["behind"].outcome == "no_frames"


def test_damaged_frames_are_told(tmp_path):
    path = makevideo.make_cfr(tmp_path / "x.mp4", seconds=2)
    data = bytearray(path.read_bytes())
    index = index_packets(str(path))
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    data[places[14] + 8 : places[15]] = bytes(places[15] - places[14] - 8)  # the third frame of the second GOP
    path.write_bytes(data)
    _, clips = make(path, [("a", 200 * MS, 2 * 10**9)], tmp_path / "out", ENCODE)
    clip = clips["a"]
    assert clip.outcome == "truncated"
    num_there = clip.file.num_frames
    assert 30 <= num_there < 45
    assert f"{45 - num_there} of 45 frames could not be decoded" in clip.detail
    assert len(file_frames(clip.path)[1]) == num_there
    assert len(index) == 50


@pytest.mark.parametrize("way", ["auto", "copy", "smart_cut", "encode"])
def test_damage_that_the_demuxer_tells_is_not_copied(tmp_path, way):
    """In a transport stream: the damaged packet takes the rest of its GOP with it, so what is left are the first frames."""
    path = makevideo.make_cfr(tmp_path / "x.ts")
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    data[places[16] + 1] |= 0x80  # the receiver's mark of an error; FFmpeg takes it for packet 14, two before
    path.write_bytes(data)
    keyframes = [0, 480 * MS, 960 * MS]
    index, clips = make(
        path,
        [("good", *keyframes[:2]), ("bad", *keyframes[1:]), ("few", 480 * MS, 560 * MS), ("none", 600 * MS, 760 * MS)],
        tmp_path / "out",
        TranscodeSpec(way=way),
    )
    assert index.has_damage
    assert PacketIndex.from_bytes(index.to_bytes()).has_damage
    assert clips["good"].outcome == clips["few"].outcome == "ok"
    assert clips["none"].outcome == "no_frames"
    assert "4 of 4 frames in it are damaged" in clips["none"].detail
    if way == "copy":
        assert (clips["bad"].outcome, clips["bad"].path) == ("unsupported", None)
        assert "damaged" in clips["bad"].detail
    else:
        assert (clips["bad"].outcome, clips["bad"].how) == ("truncated", "encode")
        assert clips["bad"].file.num_frames == 2
        assert "10 of 12 frames in it are damaged" in clips["bad"].detail
        check_clip(clips["bad"], path, index)


@pytest.mark.parametrize("way", ["auto", "copy", "smart_cut"])
def test_what_the_caller_knows_to_be_damaged_is_not_copied(made, tmp_path, way):
    path = made("cfr")
    index = index_packets(str(path))
    spans = [ClipSpan("known", 0, 480 * MS), ClipSpan("not", 0, 480 * MS)]
    clips = transcode_clips(str(path), index=index, spans=spans, spec=TranscodeSpec(way=way), folder=tmp_path, damaged=["known"])
    how = {clip.span.id: (clip.how, clip.outcome) for clip in clips}
    assert how == {"not": ("copy", "ok"), "known": (None, "unsupported") if way == "copy" else ("encode", "ok")}


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_copied_hevc_plays_on_apple(tmp_path, suffix):
    params = makevideo._X265["x265-params"] + ":open-gop=0"
    path = makevideo.write_video(
        tmp_path / f"x.{suffix}", makevideo.paint(1), codec="libx265", codec_options={**makevideo._X265, "x265-params": params}
    )
    index, clips = make(path, [("a", 0, 480 * MS)], tmp_path / "out")
    assert clips["a"].how == "copy"
    check_clip(clips["a"], path, index)
    with av.open(str(clips["a"].path)) as container:
        assert container.streams.video[0].codec_context.codec_tag == "hvc1"


@pytest.mark.parametrize("way", ["copy", "encode"])
def test_a_folder_that_is_gone_is_no_outcome(made, tmp_path, way):
    path = made("cfr")
    spans = [ClipSpan("a", 0, 480 * MS)]
    clips = transcode_clips(str(path), index=index_packets(str(path)), spans=spans, spec=TranscodeSpec(way=way), folder=tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        next(clips)


def test_a_full_disk_is_no_outcome(made, tmp_path, file_size_limit):  # noqa: F811
    path = made("b_frames")
    for way in ("copy", "encode"):
        with file_size_limit(1500), pytest.raises(OSError, match="File too large"):
            make(path, [("a", 0, 480 * MS), ("b", 480 * MS, 2000 * MS)], tmp_path / way, TranscodeSpec(way=way))
        assert list((tmp_path / way).iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.parametrize("name", ["libsvtav1", "libvpx-vp9", "h264_nvenc", "libopenh264"])
def test_other_encoders(name, made, tmp_path):
    for encoder in (EncoderSpec(name), EncoderSpec(name, bit_rate_bps=300_000, gop=10)):
        if problem := missing_encoder(encoder):
            assert name in problem
            assert "Available: libx264" in problem
            pytest.skip(problem)
        path = made("vfr")
        index, clips = make(
            path, [("a", 500 * MS, 2500 * MS), ("b", 1000 * MS, 4000 * MS)], tmp_path / "out", TranscodeSpec(way="encode", encoder=encoder)
        )
        for clip in clips.values():
            assert clip.outcome == "ok", clip.detail
            assert clip.file.codec == encoder.codec
            check_clip(clip, path, index)
            clip.path.unlink()


def test_settings_of_encoders():
    with pytest.raises(ValueError, match="no constant quality"):
        EncoderSpec("libopenh264", quality=20)
    with pytest.raises(ValueError, match=r"0 \(best\) to 51"):
        EncoderSpec("libx264", quality=60)
    with pytest.raises(ValueError, match="not both"):
        EncoderSpec("libx264", quality=20, bit_rate_bps=1000)
    assert "preset" in (missing_encoder(EncoderSpec("libx264", preset="quick")) or "") or missing_encoder(
        EncoderSpec("libx264", preset="quick")
    )
    assert missing_encoder(EncoderSpec()) is None


def test_gops_are_closed_and_short(made, tmp_path):
    _, clips = make(made("cuts"), [("a", 40 * MS, 6 * 10**9)], tmp_path / "out", TranscodeSpec(way="encode", encoder=EncoderSpec(gop=20)))
    index = index_packets(str(clips["a"].path))
    keyframes = np.flatnonzero(index.is_keyframe)
    assert np.diff(keyframes).max() <= 20
    assert all((index.pts[at:] >= index.pts[at]).all() for at in keyframes)


@pytest.mark.parametrize("name", ["b_frames", "b_frames_ts", "b_frames_mkv", "cfr", "vfr", "late_start"])
def test_smart_cuts_are_exact(name, made, tmp_path):
    path = made(name)
    end_ns = index_packets(str(path)).end_ns
    spans = [("a", 200 * MS, end_ns - 90 * MS), ("b", 0, end_ns - 130 * MS), ("c", 330 * MS, end_ns)]
    index, clips = make(path, spans, tmp_path / "out", TranscodeSpec(way="smart_cut"))
    assert {clip.outcome for clip in clips.values()} == {"ok"}
    assert clips["a"].how == "smart_cut"
    for clip in clips.values():
        check_clip(clip, path, index)
    times, wanted = source_frames(path, index, 200 * MS, end_ns - 90 * MS)
    _, frames = file_frames(clips["a"].path)
    num_equal = sum(np.array_equal(a.to_ndarray(), b.to_ndarray()) for a, b in zip(frames, wanted, strict=True))
    assert len(times) > num_equal >= 12  # a GOP at least is the source's own


def test_a_smart_cut_that_does_not_hold_is_encoded(made, tmp_path):
    index, clips = make(made("open_gop"), [("a", 200 * MS, 2000 * MS)], tmp_path / "out", TranscodeSpec(way="smart_cut"))
    assert (clips["a"].outcome, clips["a"].how) == ("ok", "encode")
    assert "no whole closed GOP" in clips["a"].detail
    check_clip(clips["a"], made("open_gop"), index)


def test_shared_formats(shared_media, tmp_path):
    for path in shared_media("formats"):
        try:
            index = index_packets(str(path))
        except MediaError:
            continue
        span = min(index.end_ns, 2 * 10**9)
        _, clips = make(path, [("a", span // 3, span), ("b", 0, span // 2)], tmp_path / path.name)
        for clip in clips.values():
            assert clip.outcome == "ok", (path.name, clip.detail)
            times, wanted = source_frames(path, index, clip.span.start_ns, clip.span.end_ns)
            shown_ns, frames = file_frames(clip.path)
            assert len(frames) == len(wanted), path.name
            assert np.abs(np.array(shown_ns) - times).max() <= 1.1 * MS
            assert all(not frame.is_corrupt for frame in frames)
            with av.open(str(path)) as container:
                has_audio = any(not stream.disposition & Disposition.attached_pic for stream in container.streams.audio)
            assert clip.file.has_audio == has_audio, (path.name, clip.detail)
