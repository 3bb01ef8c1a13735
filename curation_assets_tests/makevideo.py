"""Recipes of odd videos, one function each. All small, all deterministic, all made with PyAV alone.

Each takes the path to write and returns it. Times in comments are with the default arguments.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.stream import Disposition
from PIL import Image

from curation_assets.media.synthetic import Scene, encode_jpeg, paint_scene, paint_scenes, write_video

Size = tuple[int, int]
SMALL: Size = (96, 64)  # width, height
GOP = {"g": "12", "keyint_min": "12", "sc_threshold": "0", "preset": "veryfast"}


def paint(seconds: float, fps: Fraction | int = 25, *, size: Size = SMALL, seed: int = 1) -> Iterator[npt.NDArray[np.uint8]]:
    """One scene of that length."""
    return paint_scene(Scene(seed, max(1, round(seconds * fps))), width_px=size[0], height_px=size[1])


def make_cfr(path: Path, *, seconds: float = 3, fps: Fraction | int = 25, size: Size = SMALL, seed: int = 1, **options: str) -> Path:
    """H.264, constant rate, a keyframe every 12 frames, no B-frames. Further options go to the encoder."""
    return write_video(path, paint(seconds, fps, size=size, seed=seed), fps=fps, codec_options={**GOP, "bf": "0", **options})


def make_cuts(path: Path, *, seconds: float = 2, scenes: int = 3, fps: int = 25, size: Size = SMALL, seed: int = 1) -> Path:
    """H.264: scenes of `seconds` each, hard cuts between."""
    shots = [Scene(seed + k, round(seconds * fps)) for k in range(scenes)]
    return write_video(path, paint_scenes(shots, width_px=size[0], height_px=size[1]), fps=fps, codec_options=GOP)


def make_vfr(path: Path, *, seconds: float = 4, size: Size = SMALL, seed: int = 1) -> Path:
    """H.264 with B-frames: the first half of the time at 30 frames per second, the second at 10."""
    pts = [*range(0, round(500 * seconds), 33), *range(round(500 * seconds), round(1000 * seconds), 100)]
    frames = paint_scene(Scene(seed, len(pts)), width_px=size[0], height_px=size[1])
    return write_video(path, frames, fps=30, pts=pts, time_base=Fraction(1, 1000), codec_options={**GOP, "bf": "2"})


def make_ntsc_film(path: Path, *, seconds: float = 3, size: Size = SMALL) -> Path:
    """H.264 at 24000/1001 frames per second."""
    return make_b_frames(path, seconds=seconds, fps=Fraction(24000, 1001), size=size)


def make_b_frames(
    path: Path, *, seconds: float = 3, fps: Fraction | int = 25, size: Size = SMALL, codec: str = "libx264", **options: str
) -> Path:
    """H.264 with B-frames as reference, closed GOPs of 12."""
    return write_video(path, paint(seconds, fps, size=size), fps=fps, codec=codec, codec_options={**GOP, "bf": "3", **options})


def make_open_gop(path: Path, *, seconds: float = 3, size: Size = SMALL) -> Path:
    """H.264, open GOPs: only the first keyframe is IDR, leading B-frames refer to the GOP before."""
    return make_b_frames(path, seconds=seconds, size=size, **{"x264-params": "open-gop=1:bframes=3:b-adapt=0:keyint=12:min-keyint=12"})


def make_hevc_open_gop(path: Path, *, seconds: float = 3, size: Size = SMALL) -> Path:
    """H.265 as x265 makes it: CRA keyframes with RASL pictures."""
    params = "open-gop=1:bframes=3:b-adapt=0:keyint=12:min-keyint=12:scenecut=0:log-level=error:pools=none:frame-threads=1"
    return write_video(path, paint(seconds, size=size), codec="libx265", codec_options={"x265-params": params, "preset": "ultrafast"})


def make_gradual_refresh(path: Path, *, seconds: float = 3, size: Size = SMALL) -> Path:
    """H.264 with periodic intra refresh: after the first frame the container's keyframes are no clean entries."""
    return write_video(
        path, paint(seconds, size=size), codec_options={"preset": "veryfast", "x264-params": "intra-refresh=1:keyint=12:bframes=0"}
    )


def make_mid_gop_start(path: Path, *, seconds: float = 3, size: Size = SMALL) -> Path:
    """Open-GOP H.264 from 17 packets in, as a recording that begins mid-GOP: 7 packets come before the first keyframe, then its leading frames."""
    # parameter sets are stored once in MKV, in band in MPEG-TS
    whole = make_open_gop(path.with_suffix(f".whole{path.suffix}"), seconds=seconds, size=size)
    return _remux(whole, path, skip=17)


def make_late_start(path: Path, *, seconds: float = 2, start_s: int = 5) -> Path:
    """H.264 with B-frames whose first frame is shown at `start_s`."""
    pts = range(start_s * 25, start_s * 25 + round(seconds * 25))
    return write_video(path, paint(seconds), pts=pts, codec_options={**GOP, "bf": "2"})


def make_edit_list(path: Path, *, seconds: float = 3, hidden_frames: int = 17) -> Path:
    """H.264 with B-frames in MP4 whose edit list hides the first 17 frames; they are decoded for reference only."""
    pts = range(-hidden_frames, round(seconds * 25) - hidden_frames)
    return write_video(path, paint(seconds), pts=pts, codec_options={**GOP, "bf": "2"})


def make_rotated(path: Path, *, rotation_deg: int = 90, seconds: float = 1, size: Size = SMALL) -> Path:
    """H.264 with a display matrix that turns it clockwise."""
    return write_video(path, paint(seconds, size=size), rotation_deg=rotation_deg, codec_options=GOP)


def make_10bit(path: Path, *, seconds: float = 1) -> Path:
    """H.265 with 10 bits per sample."""
    return write_video(path, paint(seconds), codec="libx265", pix_fmt="yuv420p10le", codec_options=_X265)


def make_hdr(path: Path, *, seconds: float = 1) -> Path:
    """H.265, 10 bits, tagged BT.2020 primaries and matrix with the PQ transfer function (HDR10)."""
    return write_video(path, paint(seconds), codec="libx265", pix_fmt="yuv420p10le", colour=(9, 16, 9), codec_options=_X265)


def make_interlaced(path: Path, *, seconds: float = 2) -> Path:
    """Interlaced H.264 (MBAFF, top field first) with B-frames."""
    return make_b_frames(path, seconds=seconds, flags="+ildct+ilme", **{"x264-params": "tff=1"})


def make_odd_size(path: Path, *, seconds: float = 1) -> Path:
    """H.264 4:4:4 of 97 x 61 pixels."""
    return write_video(path, paint(seconds, size=(97, 61)), pix_fmt="yuv444p", codec_options=GOP)


def make_cover_art(path: Path, *, seconds: float = 1) -> Path:
    """H.264 with a JPEG cover that is larger than the video: an attached picture in MP4, an attachment in MKV."""
    return write_video(path, paint(seconds), cover=next(paint(1, size=(320, 320), seed=9)), codec_options=GOP)


def make_two_streams(path: Path, *, seconds: float = 2) -> Path:
    """Two H.264 streams: first 48 x 32 pixels at 10 fps, then 96 x 64 at 25 fps."""
    with av.open(str(path), "w") as output:
        streams = []
        for fps, size, seed in ((10, (48, 32), 3), (25, SMALL, 4)):
            stream = output.add_stream("libx264", rate=fps, options=GOP)
            (stream.width, stream.height), stream.pix_fmt, stream.disposition = size, "yuv420p", Disposition.default
            streams.append((stream, paint(seconds, fps, size=size, seed=seed)))
        for stream, frames in streams:
            for number, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(pixels)
                frame.pts = number
                output.mux(stream.encode(frame))
            output.mux(stream.encode())
    return path


def make_audio_only(path: Path, *, seconds: float = 1, has_cover: bool = False) -> Path:
    """AAC alone, or with cover art, by removing the video of a whole file."""
    whole = write_video(path.with_suffix(".whole.mp4"), paint(seconds), audio_s=seconds, cover=next(paint(1)) if has_cover else None)
    with av.open(str(whole)) as source, av.open(str(path), "w", format="mp4") as output:
        kept = [s for s in source.streams if s.type == "audio" or s.disposition & Disposition.attached_pic]
        targets = {s.index: output.add_stream_from_template(s) for s in kept}
        for stream in kept:
            if stream.type == "video":
                targets[stream.index].disposition = Disposition.attached_pic
        for packet in source.demux(kept):
            if packet.dts is not None:
                packet.stream = targets[packet.stream_index]
                output.mux(packet)
    return path


def make_long_audio(path: Path, *, seconds: float = 2, audio_s: float = 5) -> Path:
    """H.264 with audio that goes on after the picture."""
    return write_video(path, paint(seconds), audio_s=audio_s, codec_options={**GOP, "bf": "2"})


def make_fragmented(path: Path, *, seconds: float = 3) -> Path:
    """Fragmented MP4 with an empty moov, a fragment per keyframe, B-frames."""
    return write_video(path, paint(seconds), codec_options={**GOP, "bf": "2"}, container_options={"movflags": "frag_keyframe+empty_moov"})


def make_live_mkv(path: Path, *, seconds: float = 3) -> Path:
    """Matroska as a live recording: no cues, no duration, clusters of unknown size."""
    return write_video(path, paint(seconds), container="matroska", codec_options={**GOP, "bf": "2"}, container_options={"live": "1"})


def make_webm(path: Path, *, seconds: float = 2, codec: str = "libvpx-vp9") -> Path:
    """VP8 or VP9."""
    options = {"g": "24", "b": "200k", "deadline": "good", "cpu-used": "8"}
    return write_video(path, paint(seconds), codec=codec, codec_options=options)


def make_hidden_frames(path: Path, *, seconds: float = 2, codec: str = "libvpx") -> Path:
    """VP8 or VP9 in which every tenth frame is followed by one that is decoded but not shown, as alternate references are.

    In VP8 that is a packet of its own; in VP9 it shares one, a superframe, with the next frame.
    """
    show_frame = {"libvpx": 0x10, "libvpx-vp9": 0x02}[codec]
    whole = make_webm(path.with_suffix(".whole.webm"), seconds=seconds, codec=codec)
    with av.open(str(whole)) as source, av.open(str(path), "w") as output:
        stream = source.streams.video[0]
        target = output.add_stream_from_template(stream)
        for number, packet in enumerate(p for p in source.demux(stream) if p.size):
            packets = [packet]
            if number % 10 == 5:
                data = bytes(packet)
                hidden = av.Packet(bytes([data[0] & ~show_frame]) + data[1:])
                hidden.pts, hidden.dts, hidden.time_base = packet.pts + 1, packet.dts + 1, packet.time_base
                packets.append(hidden)
            for each in packets:
                each.stream = target
                output.mux(each)
    return path


def make_mpeg(path: Path, *, seconds: float = 2, codec: str = "mpeg2video") -> Path:
    """MPEG-2 with B-frames, open GOPs; the container goes by the suffix (.mpg, .ts, .mkv)."""
    return write_video(path, paint(seconds), codec=codec, codec_options={"g": "12", "bf": "2", "b": "400k"})


def make_avi(path: Path, *, seconds: float = 2, codec: str = "mpeg4", **options: str) -> Path:
    """AVI, which stores no presentation times, with B-frames."""
    return write_video(path, paint(seconds), codec=codec, codec_options={"g": "12", "bf": "2", **options})


def make_packed_avi(path: Path, *, seconds: float = 2) -> Path:
    """MPEG-4 in AVI with packed B-frames, as DivX wrote it: each B-frame shares a packet with the frame it precedes in display."""
    plain = write_video(
        path.with_suffix(".plain.avi"), paint(seconds), codec="mpeg4", codec_options={"g": "12", "bf": "1", "b_strategy": "0"}
    )
    with av.open(str(plain)) as source:
        stream = source.streams.video[0]
        coded = [bytes(packet) for packet in source.demux(stream) if packet.size]
        with av.open(str(path), "w") as output:
            target = output.add_stream_from_template(stream)
            for number, data in enumerate(_pack_b_frames(coded)):
                packet = av.Packet(data)
                packet.stream, packet.pts, packet.dts, packet.time_base = target, number, number, Fraction(1, 25)
                packet.is_keyframe = _vop_type(data) == "I"
                output.mux(packet)
    return path


def make_gif(path: Path, *, frames: int = 8) -> Path:
    """Animated GIF whose pictures stay for 0.1 s and 0.2 s in turn."""
    pictures = [Image.fromarray(p) for p in paint(frames, 1)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[100, 200] * (frames // 2), loop=0)
    return path


def make_one_frame(path: Path) -> Path:
    """H.264 of one frame."""
    return write_video(path, paint(0.04), codec_options=GOP)


def make_same_pts(path: Path) -> Path:
    """Matroska at 2500 frames per second: its millisecond ticks give several frames the same time."""
    return write_video(path, paint(0.02, 2500), fps=2500, codec_options={"g": "12", "bf": "0"})


def make_truncated(path: Path, *, whole: Path, share: float = 0.6) -> Path:
    """The first bytes of another file."""
    data = whole.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def make_faststart(path: Path, *, seconds: float = 4) -> Path:
    """MP4 with the moov first and B-frames: cut, it still lists every sample."""
    return write_video(path, paint(seconds), codec_options={**GOP, "bf": "2"}, container_options={"movflags": "faststart"})


def make_joined(path: Path, *, parts: list[Path]) -> Path:
    """Files written one after the other, as `cat` does; MPEG-TS and MPEG-PS allow it, each part with its own clock."""
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def make_zero_bytes(path: Path) -> Path:
    """Nothing."""
    path.write_bytes(b"")
    return path


def make_text(path: Path, *, text: str = "this is not a video\n" * 50) -> Path:
    """Text, whatever the name says."""
    path.write_text(text)
    return path


def make_image(path: Path) -> Path:
    """A still image as JPEG, whatever the name says."""
    path.write_bytes(encode_jpeg(next(paint(1))))
    return path


_X265 = {"preset": "ultrafast", "x265-params": "log-level=error:pools=none:frame-threads=1:keyint=12"}


def _remux(source_path: Path, path: Path, *, skip: int) -> Path:
    """Copy the video packets after the first `skip`."""
    with av.open(str(source_path)) as source, av.open(str(path), "w") as output:
        stream = source.streams.video[0]
        target = output.add_stream_from_template(stream)
        for number, packet in enumerate(source.demux(stream)):
            if packet.size and number >= skip:
                packet.stream = target
                output.mux(packet)
    return path


def _vop_type(data: bytes) -> str:
    """Picture type of the first MPEG-4 VOP in a packet."""
    return "IPBS"[data[data.index(b"\x00\x00\x01\xb6") + 4] >> 6]


def _pack_b_frames(coded: list[bytes]) -> Iterator[bytes]:
    """Join each B-frame to the reference frame before it; in its place stands a picture that is not coded."""
    divx = b"\x00\x00\x01\xb2DivX503b1393p"  # the user data that tells decoders of packing
    not_coded = b"\x00\x00\x01\xb6\x50\x00"  # P, modulo 0, marker, time 0, marker, vop_coded 0
    is_packed = False
    for data, following in pairwise([*coded, b""]):
        if is_packed:
            is_packed = False
            yield not_coded
            continue
        vop = data.index(b"\x00\x00\x01\xb6")
        if _vop_type(data) == "I":
            data = data[:vop] + divx + data[vop:]
        is_packed = bool(following) and _vop_type(following) == "B"
        yield data + following if is_packed else data
