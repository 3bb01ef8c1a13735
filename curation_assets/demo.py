"""Demo: a few sample videos, good and bad ones, made on the spot."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from curation_assets.media.synthetic import Scene, paint_scene, paint_scenes, write_video

_SIZE = {"width_px": 320, "height_px": 180}
_FPS = 25
_X264 = {"preset": "veryfast", "g": "50"}


def make_demo_videos(folder: Path) -> list[Path]:
    """Make the samples: hard cuts, a near-duplicate re-encode, variable frame rate, rotated, truncated, and a text file that calls itself a video.

    Args:
        folder: made when missing; files of the same names are replaced.

    Returns:
        The files, sorted by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cuts = folder / "hard_cuts.mp4"
    scenes = [Scene(seed=seed, num_frames=3 * _FPS) for seed in (11, 12, 13, 14)]
    write_video(cuts, paint_scenes(scenes, **_SIZE), fps=_FPS, codec_options=_X264, audio_s=12)
    _reencode(cuts, folder / "hard_cuts_again.webm")
    # 4 s at 25 fps, then 4 s at 10 fps, on a millisecond clock
    times = [40 * n for n in range(100)] + [4000 + 100 * n for n in range(40)]
    write_video(
        folder / "variable_frame_rate.mkv",
        paint_scene(Scene(seed=21, num_frames=len(times)), **_SIZE),
        pts=times,
        time_base=Fraction(1, 1000),
        codec_options=_X264,
    )
    write_video(
        folder / "phone rotated.mov",
        paint_scene(Scene(seed=31, num_frames=5 * _FPS), **_SIZE),
        fps=_FPS,
        codec_options=_X264,
        rotation_deg=90,
    )
    whole = folder / "truncated.mp4"
    write_video(
        whole,
        paint_scene(Scene(seed=41, num_frames=10 * _FPS), **_SIZE),
        fps=_FPS,
        codec_options=_X264,
        container_options={"movflags": "faststart"},
    )
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) * 6 // 10])
    (folder / "not_a_video.mp4").write_text("This is a text file that calls itself a video.\n" * 20, encoding="utf-8")
    return sorted(folder.iterdir())


def _reencode(source: Path, target: Path) -> None:
    """Encode again at half the size as VP9, as another site would."""
    with av.open(str(source)) as container:
        frames = (
            frame.to_ndarray(format="rgb24", width=160, height=90).astype(np.uint8, copy=False) for frame in container.decode(video=0)
        )
        write_video(
            target, frames, fps=_FPS, codec="libvpx-vp9", codec_options={"crf": "40", "b": "0", "deadline": "realtime", "cpu-used": "8"}
        )
