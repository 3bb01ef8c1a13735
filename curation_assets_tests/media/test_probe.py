"""Opening and probing: the right stream and header facts, the right reason for what is no video, nothing opened beside the file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from curation_assets.media.errors import MediaError
from curation_assets.media.packets import index_packets
from curation_assets.media.probe import probe_header
from curation_assets.media.source import open_container
from curation_assets.schemas.outcomes import Outcome
from curation_assets_tests import makevideo


class CountingReader:
    """A seekable reader that counts bytes."""

    def __init__(self, path: Path) -> None:
        self.file, self.num_bytes = path.open("rb"), 0

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.num_bytes += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()


def test_header_of_plain_video(made):
    header = probe_header(str(made("film")))
    assert (header.container, header.codec, header.pix_fmt) == ("mp4", "h264", "yuv420p")
    assert (header.width_px, header.height_px, header.rotation_deg) == (96, 64, 0)
    assert (header.fps_num, header.fps_den) == (24000, 1001)
    assert header.duration_ns == 3_003_000_000
    assert header.bit_rate_bps > 0
    assert (header.has_audio, header.audio_codec, header.is_hdr) == (False, None, False)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rotated", {"rotation_deg": 90, "width_px": 64, "height_px": 96}),
        ("rotated_180", {"rotation_deg": 180, "width_px": 96, "height_px": 64}),
        ("hdr", {"is_hdr": True, "codec": "hevc", "pix_fmt": "yuv420p10le"}),
        ("10bit", {"is_hdr": False, "pix_fmt": "yuv420p10le"}),
        ("odd_size", {"width_px": 97, "height_px": 61, "pix_fmt": "yuv444p"}),
        ("cover_art", {"width_px": 96, "codec": "h264"}),
        ("cover_art_mkv", {"width_px": 96, "codec": "h264", "container": "matroska"}),
        ("two_streams", {"width_px": 96, "fps_num": 25}),
        ("long_audio", {"has_audio": True, "audio_codec": "aac", "duration_ns": 2_000_000_000}),
        ("vp9", {"container": "webm", "codec": "vp9"}),
        ("gif", {"container": "gif", "codec": "gif"}),
        ("b_frames_mov", {"container": "mov"}),
        ("avi", {"container": "avi", "codec": "mpeg4"}),
        ("live_mkv", {"duration_ns": None}),
    ],
)
def test_header_facts(made, name, expected):
    header = probe_header(str(made(name)))
    assert {key: getattr(header, key) for key in expected} == expected


def test_rotation_of_each_quarter_turn(tmp_path):
    path = makevideo.make_rotated(tmp_path / "r.mp4", rotation_deg=270, seconds=0.2)
    assert probe_header(str(path)).rotation_deg == 270


def test_reader_gives_the_same_and_reads_a_bounded_part(tmp_path):
    path = makevideo.make_cfr(tmp_path / "big.mp4", size=(160, 120), qp="0")
    with path.open("ab") as file:  # a large box after the video
        file.write((20_000_000).to_bytes(4, "big") + b"free")
        file.truncate(path.stat().st_size + 20_000_000 - 8)
    reader = CountingReader(path)
    assert probe_header(reader) == probe_header(str(path))
    assert reader.num_bytes < 8_000_000


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("text", Outcome.NOT_A_VIDEO),
        ("image", Outcome.NOT_A_VIDEO),
        ("zero_bytes", Outcome.EMPTY_OBJECT),
        ("audio_only", Outcome.NO_VIDEO_STREAM),
        ("audio_with_cover", Outcome.NO_VIDEO_STREAM),
    ],
)
@pytest.mark.parametrize("function", [probe_header, index_packets])
def test_reason_for_what_is_no_video(made, name, outcome, function):
    for source in (str(made(name)), CountingReader(made(name))):
        with pytest.raises(MediaError) as caught:
            function(source)
        assert caught.value.outcome is outcome
        assert caught.value.detail


def test_mp4_without_moov_is_corrupt(made, tmp_path):
    path = makevideo.make_truncated(tmp_path / "cut.mp4", whole=made("cfr"))
    with pytest.raises(MediaError, match="moov") as caught:
        probe_header(str(path))
    assert caught.value.outcome is Outcome.CORRUPT


def test_missing_folder_and_forbidden(tmp_path, made):
    for source, outcome in ((tmp_path / "gone.mp4", Outcome.VANISHED), (tmp_path, Outcome.NOT_A_VIDEO)):
        with pytest.raises(MediaError) as caught:
            open_container(str(source))
        assert caught.value.outcome is outcome


@pytest.mark.parametrize("name", ["hls.m3u8", "hls.mp4", "list.ffconcat", "image%03d.png", "master.mpd", "a.sdp"])
def test_playlists_never_open_other_files(made, tmp_path, name):
    target = tmp_path / "target.ts"
    shutil.copy(made("b_frames_ts"), target)
    texts = {
        ".m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{target}\n#EXT-X-ENDLIST\n",
        ".ffconcat": f"ffconcat version 1.0\nfile '{target}'\n",
        ".mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
        ".sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    }
    path = makevideo.make_text(tmp_path / name, text=texts.get(Path(name).suffix, texts[".m3u8"]))
    with pytest.raises(MediaError) as caught:
        open_container(str(path))
    assert caught.value.outcome is Outcome.NOT_A_VIDEO


@pytest.mark.parametrize("name", ["concat:x.mp4", "%03d.mp4", "a b'c\"d.mp4", "ünïcode=1.mp4", "http:__x", "-i.mp4"])
def test_odd_names_open_by_content(made, tmp_path, name):
    path = tmp_path / name
    shutil.copy(made("cfr"), path)
    assert probe_header(str(path)).width_px == 96


class FailingReader(CountingReader):
    """A reader whose store goes away after some bytes."""

    def read(self, size: int) -> bytes:
        if self.num_bytes > 200_000:
            raise ConnectionResetError("store gone")
        return super().read(size)


def test_errors_of_the_reader_come_through(tmp_path):
    path = makevideo.make_cfr(tmp_path / "v.mkv", size=(320, 240), qp="1")
    assert path.stat().st_size > 300_000
    with pytest.raises(ConnectionResetError, match="store gone"):
        index_packets(FailingReader(path))


def test_every_shared_file_has_a_header(shared_media):
    for path in [*shared_media("formats"), *shared_media("real")]:
        header = probe_header(str(path))
        assert header.width_px, path
        assert header.height_px, path
