"""Source: open a video with PyAV, from a path or a seekable reader, and say in outcomes why it cannot be opened.

The only place that opens input. Demuxers that follow references into other files or the network (HLS, DASH, concat, SDP, image sequences) are never
allowed, whatever the bytes or the name say.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import av
import av.error

from curation_assets.media.errors import MediaError
from curation_assets.schemas.outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from av.codec.hwaccel import HWAccel
    from av.container import InputContainer


class SeekableReader(Protocol):
    """What a video is read through when it is no local file; binary file objects fit.

    An exception raised by these methods reaches the caller of this package unchanged, so that storage errors stay storage errors.
    """

    def read(self, size: int, /) -> bytes:
        """Read up to `size` bytes; b"" only at the end."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to a byte offset and return it."""

    def tell(self) -> int:
        """Return the byte offset."""


MediaSource = str | SeekableReader

# Self-contained formats only. Audio is here to be told from "not a video"; still images are not, so that they are refused.
_DEMUXERS = (
    "mov,matroska,avi,mpeg,mpegts,flv,asf,ogg,mxf,nut,gif,apng,webp_anim,rm,dv,wtv,gxf,nsv,ivf,obu,av1,h264,hevc,vvc,m4v,mpegvideo,h263,vc1,mjpeg,"
    "yuv4mpegpipe,dirac,amv,bink,dhav,film_cpk,fli,flic,ivr,lmlm4,mgsts,mv,nuv,roq,smk,swf,thp,ty,usm,vivo,xmv,"
    "mp3,wav,w64,flac,aac,ac3,eac3,aiff,amr,ape,au,caf,dts,loas,mpc,mpc8,tta,truehd,wv"
)
# Bounds for what is read to find out what the streams are.
_PROBE_OPTIONS = {"probesize": "5000000", "analyzeduration": "5000000", "format_whitelist": _DEMUXERS}
# One read of a reader: objects are read by range, where few large reads are cheaper than many small ones.
_BUFFER_BYTES = 256 * 1024
_HEAD_BYTES = 4096


def open_container(source: MediaSource, *, options: Mapping[str, str] | None = None, hwaccel: HWAccel | None = None) -> InputContainer:
    """Open a video for reading.

    Args:
        source: local path, or a seekable reader; a reader is read from its start.
        options: further FFmpeg demuxer options.
        hwaccel: device that decodes in place of the CPU.

    Returns:
        The open container; the caller closes it.

    Raises:
        MediaError: VANISHED, FORBIDDEN, EMPTY_OBJECT; NOT_A_VIDEO when no allowed demuxer takes the bytes; CORRUPT when one does but cannot go on.
    """
    head = read_head(source)
    if not head:
        raise MediaError(Outcome.EMPTY_OBJECT, "the object has no bytes")
    protocols = "file" if isinstance(source, str) else "none"
    target = f"file:{source}" if isinstance(source, str) else source
    if not isinstance(source, str):
        source.seek(0)
    signature = container_signature(head)
    container_options = {**_PROBE_OPTIONS, "protocol_whitelist": protocols, **(options or {})}
    try:
        with translate_errors(Outcome.CORRUPT if signature else Outcome.NOT_A_VIDEO):
            container: InputContainer = av.open(
                target, "r", metadata_errors="replace", buffer_size=_BUFFER_BYTES, container_options=container_options, hwaccel=hwaccel
            )
    except MediaError as error:
        if error.outcome is Outcome.NOT_A_VIDEO:
            raise MediaError(error.outcome, "the bytes are no video that FFmpeg knows by its content") from error
        if error.outcome is Outcome.CORRUPT:
            raise MediaError(error.outcome, _what_is_wrong(source, signature, error.detail)) from error
        raise
    if container.metadata.get("major_brand", "").strip() in ("avif", "heic", "heix", "mif1"):
        container.close()
        raise MediaError(Outcome.NOT_A_VIDEO, "a still image in an ISO container")
    return container


@contextmanager
def translate_errors(outcome: Outcome) -> Iterator[None]:
    """Turn PyAV's errors into MediaError.

    Args:
        outcome: code for errors that are neither a missing file nor a denied one.

    Raises:
        MediaError: in place of an FFmpeg error, or of a missing or denied file.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise MediaError(Outcome.VANISHED, f"the object is gone: {error.strerror or error}") from error
    except PermissionError as error:
        raise MediaError(Outcome.FORBIDDEN, f"reading is denied: {error.strerror or error}") from error
    except av.error.FFmpegError as error:
        raise MediaError(outcome, _words(error)) from error


def read_head(source: MediaSource) -> bytes:
    """Read the first bytes, for signatures.

    Raises:
        MediaError: VANISHED, FORBIDDEN; NOT_A_VIDEO for a folder.
    """
    with translate_errors(Outcome.CORRUPT):
        try:
            return read_at(source, 0, _HEAD_BYTES)
        except IsADirectoryError as error:
            raise MediaError(Outcome.NOT_A_VIDEO, "a folder") from error


def read_at(source: MediaSource, offset: int, count: int = -1) -> bytes:
    """Read bytes from an offset on, to the end by default; fewer at the end of the object. Moves a reader's position."""
    if isinstance(source, str):
        with Path(source).open("rb") as file:
            file.seek(offset)
            return file.read(count)
    source.seek(offset)
    data = b""
    while count < 0 or len(data) < count:
        piece = source.read(count - len(data) if count >= 0 else _HEAD_BYTES)
        if not piece:
            break
        data += piece
    return data


def container_signature(head: bytes) -> str | None:
    """Name the video container that the first bytes promise, None when they promise none.

    Args:
        head: the first bytes of the object, some hundreds.
    """
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"moof", b"wide", b"skip", b"free", b"styp", b"sidx"):
        return "mp4"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "webm" if b"webm" in head[:64] else "matroska"
    if head.startswith(b"RIFF") and head[8:11] == b"AVI":
        return "avi"
    if head.startswith((b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3")):
        return "mpeg"
    if head[:1] == b"\x47" and head[188:189] in (b"\x47", b""):
        return "mpegts"
    for magic, name in (
        (b"GIF8", "gif"),
        (b"FLV\x01", "flv"),
        (b"OggS", "ogg"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
        (b"\x06\x0e\x2b\x34", "mxf"),
    ):
        if head.startswith(magic):
            return name
    return None


def size_bytes(source: MediaSource) -> int:
    """Return how many bytes the object has; moves a reader's position."""
    if isinstance(source, str):
        return os.stat(source).st_size  # noqa: PTH116 - Path would change odd names
    return source.seek(0, os.SEEK_END)


def mp4_boxes(source: MediaSource) -> Iterator[tuple[bytes, int]]:
    """Walk the top-level boxes of an MP4 file.

    Yields:
        Type, and the offset where the box says that it ends, which may lie behind the file's end; a box that goes on to the end of the file ends there.
    """
    at, size = 0, size_bytes(source)
    while at + 8 <= size:
        header = read_at(source, at, 16)
        box_bytes = int.from_bytes(header[:4], "big")
        if box_bytes == 1:
            box_bytes = int.from_bytes(header[8:16], "big")
        at = at + box_bytes if box_bytes >= 8 else size
        yield header[4:8], at


def _what_is_wrong(source: MediaSource, signature: str | None, words: str) -> str:
    """Say why a demuxer that knows the bytes does not go on."""
    if signature == "mp4" and all(kind != b"moov" for kind, _ in mp4_boxes(source)):
        return "MP4 without its moov box: cut off, or still being written"
    return f"the bytes begin as {signature}, then: {words}"


def _words(error: av.error.FFmpegError) -> str:
    """Say an FFmpeg error without its file name, which may be long or private."""
    return str(error.strerror or type(error).__name__)
