"""Media workers: the functions that make clips' files in worker processes, and put them into the warehouse. Light to import, as `workers` is.

A file is in the warehouse before its row is committed, so that no row names a file that is not there.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation_assets.curation.fingerprints import content_hash
from curation_assets.curation.pieces import Result, Row
from curation_assets.curation.reading import ObjectRef, reading
from curation_assets.media.errors import MediaError
from curation_assets.media.frames import sample_frames
from curation_assets.media.images import decode_image
from curation_assets.media.packets import PacketIndex
from curation_assets.media.plan import FrameSetSpec, SampleSpan
from curation_assets.media.preview import MAX_FRAMES, choose_stored, encode_webp, preview_size
from curation_assets.media.transcode import ClipSpan, TranscodeSpec, transcode_clips
from curation_assets.schemas.outcomes import Outcome, is_usable
from curation_assets.storage.errors import StoreError
from curation_assets.storage.objects import open_store
from curation_assets.storage.objects_local import store_error


@dataclass(frozen=True, slots=True)
class MediaClip:
    """A clip whose file is to be made.

    Attributes:
        fingerprint: of all that it is made from.
        key: where the file goes in the warehouse.
    """

    clip_id: str
    start_ns: int
    end_ns: int
    fingerprint: str
    key: str


@dataclass(frozen=True, slots=True)
class MediaJob:
    """What every worker of this module needs.

    Attributes:
        asset: of the table.
        columns: the table's own columns, so that each row has every one of them.
        clips: in order of their starts.
        warehouse_uri: where the files go.
        storage_options: of the warehouse.
        work_folder: where files are made.
    """

    video_id: str
    asset: str
    columns: tuple[str, ...]
    clips: tuple[MediaClip, ...]
    warehouse_uri: str
    storage_options: Mapping[str, str]
    work_folder: str


@dataclass(frozen=True, slots=True)
class TranscodeJob:
    """What a worker needs to make the files of a piece of a video; `damaged` are clips of which an earlier stage could not decode all frames."""

    media: MediaJob
    ref: ObjectRef
    index: bytes
    spec: TranscodeSpec
    damaged: frozenset[str]


@dataclass(frozen=True, slots=True)
class StoredFrames:
    """The stored frames of one clip, as its row has them."""

    outcome: str
    detail: str | None
    fps: float | None
    time_ns: list[int]
    frames: list[bytes]
    codec: Any
    height_px: int
    width_px: int


@dataclass(frozen=True, slots=True)
class PreviewJob:
    """What a worker needs to make the previews of a piece of a video.

    Attributes:
        ref: the video, for pictures decoded from it; None for stored frames.
        index: its packed packet index, b"" for stored frames.
        stored: frames by clip_id.
        display_size: (height, width) of the video, for stored frames, whose own proportions may be others.
        height_px: height of the preview.
        fps: pictures per second.
        quality: of the WebP.
        seconds: most seconds from the clip's start; None for all.
    """

    media: MediaJob
    ref: ObjectRef | None
    index: bytes
    stored: Mapping[str, StoredFrames]
    display_size: tuple[int, int]
    height_px: int
    fps: float
    quality: int
    seconds: float | None


AnyJob = TranscodeJob | PreviewJob


def carry_over(_: None) -> Result:
    """Give no rows: the work of a video from which clips only went, or to which nothing came."""
    return Result()


def transcode_piece(job: TranscodeJob) -> Result:
    """Make the files of one piece of a video, in one pass over it."""
    spans = [ClipSpan(clip.clip_id, clip.start_ns, clip.end_ns) for clip in job.media.clips]

    def make(folder: Path) -> Iterator[tuple[str, Outcome, str, Path | None, Row]]:
        with reading(job.ref, whole=True) as source:
            index = PacketIndex.from_bytes(job.index)
            for made in transcode_clips(source, index=index, spans=spans, spec=job.spec, folder=folder, damaged=job.damaged):
                file = made.file
                columns: Row = {"how": made.how}
                if file is not None:
                    columns |= {name: getattr(file, name) for name in _FILE_COLUMNS}
                yield made.span.id, made.outcome, made.detail, made.path, columns

    return _put_all(job.media, make)


_FILE_COLUMNS = ("codec", "size_bytes", "num_frames", "duration_ns", "sha256", "width_px", "height_px", "has_audio")


def preview_piece(job: PreviewJob) -> Result:
    """Make the previews of one piece of a video."""
    make = _previews_from_frames if job.ref is None else _previews_from_video
    return _put_all(job.media, lambda folder: make(job, folder))


def _previews_from_frames(job: PreviewJob, folder: Path) -> Iterator[tuple[str, Outcome, str, Path | None, Row]]:
    from PIL import Image

    height_px, width_px = preview_size(job.height_px, display_height_px=job.display_size[0], display_width_px=job.display_size[1])
    for clip in job.media.clips:
        stored = job.stored.get(clip.clip_id)
        if stored is None or not stored.frames or not is_usable(stored.outcome):
            outcome = Outcome(stored.outcome) if stored and not is_usable(stored.outcome) else Outcome.NO_FRAMES
            yield clip.clip_id, outcome, (stored.detail if stored else None) or "the clip has no stored frames", None, {}
            continue
        end_ns = _shown_until(clip, job.seconds)
        places = choose_stored(stored.time_ns, fps=job.fps, start_ns=clip.start_ns, end_ns=end_ns)
        pictures = [
            Image.fromarray(decode_image(stored.frames[place], stored.codec, stored.height_px, stored.width_px)).resize(
                (width_px, height_px)
            )
            for place in places
        ]
        times = [stored.time_ns[place] for place in places]
        fps = job.fps if stored.fps is None else min(job.fps, stored.fps)
        yield _write_preview(job, folder, clip, pictures, times, fps, (Outcome(stored.outcome), stored.detail or ""))


def _previews_from_video(job: PreviewJob, folder: Path) -> Iterator[tuple[str, Outcome, str, Path | None, Row]]:
    assert job.ref is not None
    clips = {clip.clip_id: clip for clip in job.media.clips}
    height_px = min(job.height_px, job.display_size[0])
    spec = FrameSetSpec("preview", target_fps=job.fps, target_res=(height_px, -1), codec="raw", max_frames=MAX_FRAMES)
    spans = [SampleSpan(clip.clip_id, clip.start_ns, _shown_until(clip, job.seconds)) for clip in clips.values()]
    with reading(job.ref, whole=True) as source:
        index = PacketIndex.from_bytes(job.index)
        for sampled in sample_frames(source, index=index, spans=spans, frame_sets=[spec], motion=None):
            (found,) = sampled.sets
            clip = clips[str(sampled.span.id)]
            if not found.frames:
                yield clip.clip_id, Outcome.NO_FRAMES, found.detail, None, {}
                continue
            pictures = [decode_image(frame, "raw", found.height_px, found.width_px) for frame in found.frames]
            outcome = Outcome.TRUNCATED if found.num_missing else Outcome.OK
            yield _write_preview(job, folder, clip, pictures, list(found.time_ns), found.fps or job.fps, (outcome, found.detail))


def _shown_until(clip: MediaClip, seconds: float | None) -> int:
    return clip.end_ns if seconds is None else min(clip.end_ns, clip.start_ns + max(1, round(seconds * 1e9)))


def _write_preview(
    job: PreviewJob, folder: Path, clip: MediaClip, pictures: list[Any], times: list[int], fps: float, how: tuple[Outcome, str]
) -> tuple[str, Outcome, str, Path | None, Row]:
    import numpy as np

    arrays = [np.asarray(picture) for picture in pictures]
    data = encode_webp(arrays, time_ns=times, end_ns=_shown_until(clip, job.seconds), quality=job.quality)
    path = folder / f"{clip.clip_id}.webp"
    path.write_bytes(data)
    height_px, width_px = arrays[0].shape[:2]
    columns = {"height_px": height_px, "width_px": width_px, "fps": fps, "num_frames": len(arrays), "size_bytes": len(data)}
    return clip.clip_id, *how, path, columns


def media_failed(job: MediaJob, outcome: Outcome, detail: str, *, done: Mapping[str, Row] | None = None) -> list[Row]:
    """Build the rows of a piece's clips that have no file, with the reason."""
    return [media_row(job, clip, outcome, detail, {}) for clip in job.clips if clip.clip_id not in (done or {})]


def media_row(job: MediaJob, clip: MediaClip, outcome: Outcome, detail: str | None, columns: Row, *, uri: str | None = None) -> Row:
    """Build one clip's row. What counts as its content is what the file was made from and holds, not where it lies, nor its bytes: x264 gives others now and
    then for the same frames (mbtree, in the build of PyAV 18.1), and with other threads.
    """
    row: Row = {
        **dict.fromkeys(job.columns),
        **columns,
        "row_id": clip.clip_id,
        "clip_id": clip.clip_id,
        "outcome": outcome.value,
        "clip_fingerprint": clip.fingerprint,
    }
    content = {name: value for name, value in row.items() if name not in ("uri", "detail", "sha256", "size_bytes")}
    return {**row, "content_hash": content_hash(content), "detail": detail or None, "uri": uri}


def _put_all(job: MediaJob, make: Callable[[Path], Iterator[tuple[str, Outcome, str, Path | None, Row]]]) -> Result:
    """Put each file as it is made; a piece whose video changed meanwhile keeps none of them."""
    store = open_store(job.warehouse_uri, options=job.storage_options)
    clips = {clip.clip_id: clip for clip in job.clips}
    rows: dict[str, Row] = {}
    put: list[str] = []
    try:
        with _folder(job.work_folder) as folder:
            try:
                for clip_id, outcome, detail, path, columns in make(folder):
                    clip, uri = clips[clip_id], None
                    if path is not None:
                        store.put_file(clip.key, path)
                        put.append(clip.key)
                        path.unlink()
                        uri = clip.key
                    rows[clip_id] = media_row(job, clip, outcome, detail, columns, uri=uri)
            except MediaError as error:
                if error.outcome is Outcome.CHANGED:
                    for key in put:
                        store.delete(key)
                    rows = {}
                return Result(rows={job.asset: [*rows.values(), *media_failed(job, error.outcome, error.detail, done=rows)]})
    except StoreError as error:
        return Result(error=error)
    except OSError as error:
        return Result(error=store_error(error, error.filename or job.work_folder))
    return Result(rows={job.asset: list(rows.values())})


@contextmanager
def _folder(parent: str) -> Iterator[Path]:
    """Make a folder of this process; `media_files.work_folder` removes those of processes that were killed."""
    Path(parent).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{os.getpid()}-", dir=parent) as name:
        yield Path(name)
