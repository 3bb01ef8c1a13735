"""Clips' files against a plain transcode, and copied against encoded ones, in processor time on one thread.

The other side decodes the video once with PyAV and feeds each frame to the encoder of its span: same encoder, same options, one thread, moov in front;
it checks nothing and measures nothing. Ours has the packet index from the step before, opens each file again, checks every packet's time, decodes its
ends, and hashes it. Sound is left out on both sides.

    python benchmarks/transcode.py --inputs FOLDER [--seconds 40] [--output benchmarks/results/transcode.json]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import av
from av.video.frame import PictureType
from common import make_inputs, median_cpu_seconds, write_report

from curation_assets.media.encoders import EncoderName, EncoderSpec, configure
from curation_assets.media.packets import PacketIndex, index_packets
from curation_assets.media.transcode import ClipSpan, TranscodeSpec, transcode_clips

CLIP_NS = 10 * 10**9
OFFSET_NS = 123_000_000  # no span begins at a keyframe


def spans_anywhere(index: PacketIndex) -> list[ClipSpan]:
    """Clips of ten seconds that tile the video, none of which can be copied."""
    starts = range(OFFSET_NS, index.end_ns, CLIP_NS)
    return [ClipSpan(str(start), start, min(start + CLIP_NS, index.end_ns)) for start in starts]


def spans_at_keyframes(index: PacketIndex) -> list[ClipSpan]:
    """The same, moved to keyframes."""
    keyframes = index.keyframe_times_ns.tolist()
    starts = sorted({min(keyframes, key=lambda time: abs(time - span.start_ns)) for span in spans_anywhere(index)})
    return [ClipSpan(str(start), start, end) for start, end in zip(starts, [*starts[1:], index.end_ns], strict=True)]


def ours(path: Path, index: PacketIndex, spans: list[ClipSpan], spec: TranscodeSpec, how: str) -> int:
    """Make the files; returns their bytes."""
    with tempfile.TemporaryDirectory() as folder:
        clips = list(transcode_clips(str(path), index=index, spans=spans, spec=spec, folder=Path(folder)))
        assert all(clip.outcome == "ok" and clip.how == how for clip in clips), clips
        return sum(clip.file.size_bytes for clip in clips if clip.file)


def plain(path: Path, index: PacketIndex, spans: list[ClipSpan], encoder: EncoderSpec) -> int:
    """Decode once, encode each span; returns the files' bytes."""
    folder = Path(tempfile.mkdtemp())
    bounds = [(int(span.start_ns / 1e9 / index.time_base), int(span.end_ns / 1e9 / index.time_base)) for span in spans]
    number, output, stream = -1, None, None
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        video.codec_context.thread_count, video.thread_type = 1, "NONE"

        def finish() -> None:
            if output is not None and stream is not None:
                output.mux(stream.encode())
                output.close()

        for frame in container.decode(video):
            time = frame.pts - index.origin_pts
            at = next((place for place, (start, end) in enumerate(bounds) if start <= time < end), None)
            if at is None:
                continue
            if at != number:
                finish()
                number, first = at, frame.pts
                output = av.open(str(folder / f"{at}.mp4"), "w", container_options={"movflags": "+faststart"})
                stream = output.add_stream(encoder.name, rate=video.average_rate)
                context = stream.codec_context
                context.width, context.height, context.pix_fmt = frame.width, frame.height, "yuv420p"
                stream.time_base = context.time_base = index.time_base
                configure(context, encoder)
            frame.pts, frame.time_base, frame.pict_type = frame.pts - first, index.time_base, PictureType.NONE
            output.mux(stream.encode(frame))
        finish()
    size = sum(file.stat().st_size for file in folder.iterdir())
    shutil.rmtree(folder)
    return size


def measure(path: Path, *, encoder: EncoderName, repeats: int) -> dict[str, Any]:
    """Measure one video."""
    index = index_packets(str(path))
    spec = EncoderSpec(encoder)
    anywhere, at_keyframes = spans_anywhere(index), spans_at_keyframes(index)
    encode, copy = TranscodeSpec(way="encode", encoder=spec, has_audio=False), TranscodeSpec(way="copy", has_audio=False)
    seconds = median_cpu_seconds(
        {
            "plain": lambda: plain(path, index, anywhere, spec),
            "encode": lambda: ours(path, index, anywhere, encode, "encode"),
            "copy": lambda: ours(path, index, at_keyframes, copy, "copy"),
        },
        repeats=repeats,
    )
    return {
        "video": path.name,
        "encoder": encoder,
        "num_clips": len(anywhere),
        "num_clips_copied": len(at_keyframes),
        "megabytes": {
            "plain": round(plain(path, index, anywhere, spec) / 1e6, 3),
            "encode": round(ours(path, index, anywhere, encode, "encode") / 1e6, 3),
        },
        "cpu_s": {name: round(value, 4) for name, value in seconds.items()},
        "ratio_encode_to_plain": round(seconds["encode"] / seconds["plain"], 3),
        "ratio_encode_to_copy": round(seconds["encode"] / seconds["copy"], 1),
        "copy_ms_per_clip": round(1000 * seconds["copy"] / len(at_keyframes), 1),
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=Path, required=True, help="folder for the made video")
    parser.add_argument("--seconds", type=int, default=40, help="length of the made video")
    parser.add_argument("--video", type=Path, nargs="*", default=[], help="further videos to measure")
    parser.add_argument("--encoder", default="libx264", help="encoder to measure")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="file to write the JSON to")
    arguments = parser.parse_args()
    paths = (*make_inputs(arguments.inputs, seconds=arguments.seconds), *arguments.video)
    videos = [measure(path, encoder=arguments.encoder, repeats=arguments.repeats) for path in paths]
    claim = "encoding clips costs at most 1.1 of a plain one-pass PyAV transcode of the same spans; copying is at least 50 times cheaper"
    write_report(claim, {"repeats": arguments.repeats, "videos": videos}, output=arguments.output)


if __name__ == "__main__":
    main()
