"""Frame sets and pixel scores against decoding every frame, in processor time on one thread.

The other side decodes every frame with PyAV and scales only the chosen ones, with the same scaler to the same size. JPEG is left out on both sides
(frames are stored raw), and the packet index is made beforehand: a curation run has it from the step before.

    python benchmarks/frame_sets.py --inputs FOLDER [--video FILE ...] [--output benchmarks/results/frame_sets.json]
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import av
from av.video.frame import PictureType
from common import make_inputs, median_cpu_seconds, write_report

from curation_assets.media.color import FrameScaler
from curation_assets.media.frames import sample_frames
from curation_assets.media.motion import MotionSpec
from curation_assets.media.packets import PacketIndex, index_packets
from curation_assets.media.plan import DisplayOrder, FrameSetSpec, SampleSpan, choose_frames

CLIP_S = 10
SPEC = FrameSetSpec("embeddings", target_fps=2.0, target_res=224, codec="raw")
MOTION = MotionSpec()


def clips(index: PacketIndex) -> list[SampleSpan]:
    """Clips of ten seconds, all of the video."""
    step_ns = CLIP_S * 10**9
    return [SampleSpan(str(start_ns), start_ns, min(start_ns + step_ns, index.end_ns)) for start_ns in range(0, index.end_ns, step_ns)]


def decode_everything(path: Path, wanted_pts: set[int]) -> dict[int, bytes]:
    """Decode every frame, scale the wanted ones."""
    scaler, found = FrameScaler(), {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count, stream.thread_type = 1, "NONE"
        for frame in container.decode(stream):
            if frame.pts in wanted_pts:
                found[frame.pts] = scaler.to_rgb(frame, height_px=224, width_px=224).tobytes()
    return found


def sample(path: Path, index: PacketIndex, motion: MotionSpec | None) -> list[bytes]:
    """Sample the clips."""
    spans = sample_frames(str(path), index=index, spans=clips(index), frame_sets=[SPEC], motion=motion)
    return [frame for span in spans for sampled in span.sets for frame in sampled.frames]


def measure(path: Path, *, repeats: int) -> dict[str, Any]:
    """Measure one video."""
    index = index_packets(str(path))
    order = DisplayOrder(index)
    ranks = [
        rank for clip in clips(index) for rank in choose_frames(SPEC, order, start_ns=clip.start_ns, end_ns=clip.end_ns).ranks.tolist()
    ]
    wanted = {int(index.pts[order.positions[rank]]) for rank in ranks}
    seconds = median_cpu_seconds(
        {
            "every_frame": lambda: decode_everything(path, wanted),
            "frame_sets": lambda: sample(path, index, None),
            "frame_sets_and_scores": lambda: sample(path, index, MOTION),
        },
        repeats=repeats,
    )
    everything = decode_everything(path, wanted)
    with av.open(str(path)) as container:
        kinds = Counter(PictureType(frame.pict_type).name for frame in container.decode(video=0))
    return {
        "video": path.name,
        "picture_types": dict(kinds),
        "num_frames": len(index),
        "num_sampled": len(wanted),
        "is_equal_to_full_decode": [everything[pts] for pts in sorted(everything)] == sample(path, index, None),
        "cpu_s": {name: round(value, 4) for name, value in seconds.items()},
        "ratio_frame_sets": round(seconds["frame_sets"] / seconds["every_frame"], 3),
        "ratio_frame_sets_and_scores": round(seconds["frame_sets_and_scores"] / seconds["every_frame"], 3),
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=Path, required=True, help="folder for the made video")
    parser.add_argument("--video", type=Path, nargs="*", default=[], help="further videos to measure")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="file to write the JSON to")
    arguments = parser.parse_args()
    videos = [measure(path, repeats=arguments.repeats) for path in (*make_inputs(arguments.inputs), *arguments.video)]
    claim = (
        "2 fps at 224 px from x264 medium costs at most 0.75 of decoding every frame and scaling the chosen ones; with scores at most 0.85"
    )
    write_report(claim, {"repeats": arguments.repeats, "videos": videos}, output=arguments.output)


if __name__ == "__main__":
    main()
