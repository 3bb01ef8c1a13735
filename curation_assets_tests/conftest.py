"""Fixtures for all tests: shared media files, and videos made once per session."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from curation_assets_tests import makevideo


def pytest_configure() -> None:
    """Take Ctrl-C also where a shell has started this in the background: programs that ignore it make the programs that they start ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# name -> (suffix, recipe, its arguments)
RECIPES: dict[str, tuple[str, Callable[..., Path], dict[str, object]]] = {
    "cfr": ("mp4", makevideo.make_cfr, {}),
    "cuts": ("mp4", makevideo.make_cuts, {}),
    "vfr": ("mp4", makevideo.make_vfr, {}),
    "vfr_mkv": ("mkv", makevideo.make_vfr, {}),
    "film": ("mp4", makevideo.make_ntsc_film, {}),
    "film_mkv": ("mkv", makevideo.make_ntsc_film, {}),
    "b_frames": ("mp4", makevideo.make_b_frames, {}),
    "b_frames_mkv": ("mkv", makevideo.make_b_frames, {}),
    "b_frames_mov": ("mov", makevideo.make_b_frames, {}),
    "b_frames_ts": ("ts", makevideo.make_b_frames, {}),
    "b_frames_flv": ("flv", makevideo.make_b_frames, {}),
    "open_gop": ("mp4", makevideo.make_open_gop, {}),
    "open_gop_ts": ("ts", makevideo.make_open_gop, {}),
    "hevc_open_gop": ("mp4", makevideo.make_hevc_open_gop, {}),
    "hevc_open_gop_mkv": ("mkv", makevideo.make_hevc_open_gop, {}),
    "gradual_refresh": ("mp4", makevideo.make_gradual_refresh, {}),
    "mid_gop_start": ("mkv", makevideo.make_mid_gop_start, {}),
    "mid_gop_start_ts": ("ts", makevideo.make_mid_gop_start, {}),
    "late_start": ("mp4", makevideo.make_late_start, {}),
    "late_start_mkv": ("mkv", makevideo.make_late_start, {}),
    "edit_list": ("mp4", makevideo.make_edit_list, {}),
    "interlaced": ("ts", makevideo.make_interlaced, {}),
    "rotated": ("mp4", makevideo.make_rotated, {}),
    "rotated_180": ("mp4", makevideo.make_rotated, {"rotation_deg": 180}),
    "10bit": ("mp4", makevideo.make_10bit, {}),
    "hdr": ("mp4", makevideo.make_hdr, {}),
    "odd_size": ("mp4", makevideo.make_odd_size, {}),
    "cover_art": ("mp4", makevideo.make_cover_art, {}),
    "cover_art_mkv": ("mkv", makevideo.make_cover_art, {}),
    "two_streams": ("mp4", makevideo.make_two_streams, {}),
    "long_audio": ("mp4", makevideo.make_long_audio, {}),
    "long_audio_mkv": ("mkv", makevideo.make_long_audio, {}),
    "fragmented": ("mp4", makevideo.make_fragmented, {}),
    "live_mkv": ("mkv", makevideo.make_live_mkv, {}),
    "vp9": ("webm", makevideo.make_webm, {}),
    "vp8": ("webm", makevideo.make_webm, {"codec": "libvpx"}),
    "vp8_hidden": ("webm", makevideo.make_hidden_frames, {}),
    "vp9_hidden": ("webm", makevideo.make_hidden_frames, {"codec": "libvpx-vp9"}),
    "mpeg_ps": ("mpg", makevideo.make_mpeg, {}),
    "mpeg_ts": ("ts", makevideo.make_mpeg, {}),
    "avi": ("avi", makevideo.make_avi, {"seconds": 4}),
    "avi_h264": ("avi", makevideo.make_avi, {"codec": "libx264"}),
    "avi_packed": ("avi", makevideo.make_packed_avi, {}),
    "gif": ("gif", makevideo.make_gif, {}),
    "one_frame": ("mp4", makevideo.make_one_frame, {}),
    "one_frame_mkv": ("mkv", makevideo.make_one_frame, {}),
    "same_pts": ("mkv", makevideo.make_same_pts, {}),
    "faststart": ("mp4", makevideo.make_faststart, {}),
    "audio_only": ("mp4", makevideo.make_audio_only, {}),
    "audio_with_cover": ("m4a", makevideo.make_audio_only, {"has_cover": True}),
    "zero_bytes": ("mp4", makevideo.make_zero_bytes, {}),
    "text": ("mp4", makevideo.make_text, {}),
    "image": ("mp4", makevideo.make_image, {}),
}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the video of a name in RECIPES, made when first asked for; not to be written to."""
    folder, paths = tmp_path_factory.mktemp("made"), {}

    def make(name: str) -> Path:
        if name not in paths:
            suffix, recipe, arguments = RECIPES[name]
            paths[name] = recipe(folder / f"{name}.{suffix}", **arguments)
        return paths[name]

    return make


@pytest.fixture(scope="session")
def shared_media() -> Callable[[str], list[Path]]:
    """Give the files of one kind (formats, real) of the shared test media: of CURATION_TEST_MEDIA, or of a folder `shared/media` beside the repository."""
    root = Path(os.environ.get("CURATION_TEST_MEDIA") or Path(__file__).resolve().parents[2] / "shared" / "media")

    def find(kind: str) -> list[Path]:
        files = sorted(p for p in (root / kind).glob("*") if p.suffix != ".csv") if (root / kind).is_dir() else []
        if not files:
            pytest.skip(f"no shared media in {root / kind}")
        return files

    return find
