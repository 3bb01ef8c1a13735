"""The sound of clips: of odd tracks, of damaged and joined clocks; what is missing is told, and never costs the picture."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition

from curation_assets.media.audio import AudioReader, ClipAudio
from curation_assets.media.packets import index_packets
from curation_assets.media.transcode import TranscodeSpec
from curation_assets_tests import makevideo
from curation_assets_tests.media.test_transcode import MS, check_clip, make

S = 1000 * MS
ENCODE = TranscodeSpec(way="encode")


def write_with_sound(path, *, seconds=3, audio_s=3.0, start_s=0, codec="aac", rate=48000, tracks=("stereo",), default=0, muxer=None):
    """Video with one track of sound per layout: a tone of 300 Hz in the first, 600 Hz in the second, and so on."""
    video_codec, options = {".avi": ("mpeg4", {}), ".vob": ("mpeg2video", {})}.get(path.suffix, ("libx264", makevideo.GOP | {"bf": "2"}))
    with av.open(str(path), "w", format=muxer) as output:
        video = output.add_stream(video_codec, rate=25, options=options)
        video.width, video.height = makevideo.SMALL
        audios = [output.add_stream(codec, rate=rate, layout=layout, options={"strict": "experimental"}) for layout in tracks]
        for number, audio in enumerate(audios):
            audio.disposition = Disposition.default if number == default else Disposition(0)
        packets = []
        for number, pixels in enumerate(makevideo.paint(seconds)):
            frame = av.VideoFrame.from_ndarray(pixels)
            frame.pts = number + start_s * 25
            packets += video.encode(frame)
        packets += video.encode()
        for number, audio in enumerate(audios):
            size = audio.codec_context.frame_size or 1024
            for at in range(0, round(audio_s * rate), size):
                wave = 0.4 * np.sin(2 * np.pi * 300 * (number + 1) / rate * np.arange(at, at + size))
                channels = 1 if tracks[number] == "mono" else 2
                frame = av.AudioFrame.from_ndarray(np.stack([wave.astype(np.float32)] * channels), format="fltp", layout=tracks[number])
                frame.sample_rate, frame.pts, frame.time_base = rate, at + start_s * rate, Fraction(1, rate)
                for resampled in av.AudioResampler(audio.codec_context.format, tracks[number], rate).resample(frame):
                    packets += audio.encode(resampled)
            packets += audio.encode()
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            output.mux(packet)
    return path


def sound(path):
    """(seconds from the first to the last sample, channels, loudest frequency)."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        rate, channels = frames[0].sample_rate, frames[0].layout.nb_channels
        samples = np.concatenate([frame.to_ndarray()[0].astype(np.float64) for frame in frames])
        end_s = float(frames[-1].pts * frames[-1].time_base) + frames[-1].samples / rate
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return end_s, channels, int(spectrum.argmax()) * rate / len(samples)


@pytest.mark.parametrize("way", ["auto", "encode", "smart_cut"])
def test_clips_long_after_the_sound_has_ended(tmp_path, way):
    """Seeking finds no sound, so the container is opened again."""
    path = write_with_sound(tmp_path / "x.mkv", seconds=8, audio_s=1, codec="vorbis")
    for start_ms in range(4100, 7900, 400):
        _, clips = make(path, [("a", start_ms * MS, 8 * S)], tmp_path / "out", TranscodeSpec(way=way))
        assert (clips["a"].outcome, clips["a"].file.has_audio) == ("ok", False)
        clips["a"].path.unlink()


@pytest.mark.parametrize("suffix", ["ts", "vob"])
def test_joined_recordings_lose_their_sound_and_say_so(tmp_path, suffix):
    """The index moves the second recording's pictures; its sound stands at the times of the first."""
    codec = {"ts": "aac", "vob": "ac3"}[suffix]
    part = write_with_sound(tmp_path / f"part.{suffix}", codec=codec, muxer={"ts": None, "vob": "vob"}[suffix])
    path = makevideo.make_joined(tmp_path / f"x.{suffix}", parts=[part, part])
    index, clips = make(path, [("a", 0, 2 * S), ("b", 3480 * MS, 5 * S)], tmp_path / "out")
    assert index.is_joined
    assert type(index).from_bytes(index.to_bytes()).is_joined
    for clip in clips.values():
        assert (clip.outcome, clip.file.has_audio) == ("ok", False)
        assert "recordings with clocks of their own are joined" in clip.detail
        check_clip(clip, path, index)
    assert not index_packets(str(part)).is_joined


@pytest.mark.parametrize("way", ["auto", "encode"])
def test_sound_whose_clock_jumps_back_is_told(tmp_path, way):
    """The pictures follow each other; the first recording's sound goes on for 2 s longer."""
    first = write_with_sound(tmp_path / "a.ts", audio_s=5)
    second = write_with_sound(tmp_path / "b.ts", start_s=3)
    path = makevideo.make_joined(tmp_path / "x.ts", parts=[first, second])
    index, clips = make(
        path, [("before", 0, 2 * S), ("part", 2400 * MS, 5900 * MS), ("after", 5480 * MS, 6 * S)], tmp_path / "out", TranscodeSpec(way=way)
    )
    assert not index.is_joined
    assert (clips["before"].file.has_audio, clips["before"].detail) == (True, "")
    assert clips["part"].file.has_audio
    assert not clips["after"].file.has_audio
    for name in ("part", "after"):  # the join breaks the counters of its transport stream, so a frame or two may be called damaged
        assert clips[name].outcome in ("ok", "truncated")
        assert "was left out: its clock jumps back" in clips[name].detail


@pytest.mark.parametrize(("suffix", "layout", "channels"), [("avi", "mono", 1), ("avi", "stereo", 2), ("mkv", "mono", 1)])
def test_pcm_of_any_layout(tmp_path, suffix, layout, channels):
    """AVI says how many channels there are, not which."""
    path = write_with_sound(tmp_path / f"x.{suffix}", codec="pcm_s16le", tracks=(layout,))
    _, clips = make(path, [("a", 400 * MS, 2 * S)], tmp_path / "out", ENCODE)
    assert clips["a"].detail == ""
    _, found, frequency = sound(clips["a"].path)
    assert found == channels
    assert abs(frequency - 300) < 2


def test_packets_with_equal_times(tmp_path):
    """FFmpeg gives two packets of MPEG-PS the later one's time, where only some have one."""
    whole, path = write_with_sound(tmp_path / "whole.mkv", codec="ac3", rate=32000), tmp_path / "x.mkv"  # 48 ms each
    with av.open(str(whole)) as source, av.open(str(path), "w") as output:
        targets = {stream.index: output.add_stream_from_template(stream, opaque=True) for stream in source.streams}
        number = 0
        for packet in source.demux():
            if packet.size:
                number += packet.stream.type == "audio"
                if packet.stream.type == "audio" and number % 10 == 5:
                    packet.pts = packet.dts = packet.pts + 48
                packet.stream = targets[packet.stream_index]
                output.mux(packet)
    with av.open(str(path)) as container:
        times = [packet.pts for packet in container.demux(audio=0) if packet.pts is not None]
    assert np.diff(times).min() == 0
    _, clips = make(path, [("a", 400 * MS, 3 * S)], tmp_path / "out")
    assert (clips["a"].outcome, clips["a"].detail) == ("ok", "")
    with av.open(str(clips["a"].path)) as container:
        times = [packet.pts for packet in container.demux(audio=0) if packet.pts is not None]
    assert len(times) >= 54
    assert set(np.diff(times).tolist()) == {1536}


def test_sound_that_mp4_does_not_take_is_left_out(tmp_path):
    path = write_with_sound(tmp_path / "x.mp4")
    reader = AudioReader(str(path), index_packets(str(path)), start_ns=0)
    good = reader.clip(0, S)
    assert good.checked() is good
    backwards = ClipAudio(list(reversed(good.packets)), "", good._template).checked()
    assert backwards.packets == []
    assert "the sound was left out, MP4 does not take it" in backwards.detail
    reader.close()


def test_the_default_track_is_taken(tmp_path):
    for default, frequency_hz in ((0, 300), (1, 600)):
        path = write_with_sound(tmp_path / f"{default}.mkv", tracks=("stereo", "stereo"), default=default)
        _, clips = make(path, [("a", 0, 2 * S)], tmp_path / f"out{default}")
        assert abs(sound(clips["a"].path)[2] - frequency_hz) < 2


@pytest.mark.parametrize(("suffix", "codec"), [("mkv", "flac"), ("avi", "pcm_s16le")])
def test_encoded_sound_ends_with_the_picture(tmp_path, suffix, codec):
    path = write_with_sound(tmp_path / f"x.{suffix}", codec=codec)
    _, clips = make(path, [(str(end), 480 * MS, end * MS) for end in (1000, 1240, 1480)], tmp_path / "out", ENCODE)
    for clip in clips.values():
        end_s, _, _ = sound(clip.path)
        assert 0 <= end_s - clip.file.duration_ns / 1e9 <= 1024 / 48000
