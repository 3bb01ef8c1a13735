"""Recut: one clip cut from its source again, to a file of the user's."""

from __future__ import annotations

import tempfile
from pathlib import Path

from curation_assets.curation.corpus import CorpusRun
from curation_assets.curation.frame_sets import read_videos
from curation_assets.curation.query import find_clip
from curation_assets.curation.reading import ObjectRef, reading
from curation_assets.curation.transcoded_clips import check_encoders, transcode_spec
from curation_assets.media.errors import MediaError
from curation_assets.media.packets import PacketIndex
from curation_assets.media.transcode import ClipSpan, TranscodedClip, transcode_clips
from curation_assets.settings import SettingsError


class CutError(RuntimeError):
    """A clip cannot be cut; the message says why."""


def cut_clip(run: CorpusRun, clip_id: str, path: Path) -> TranscodedClip:
    """Cut a clip from its video as `transcoded_clips` would, with its source's settings; kept or not.

    Args:
        run: all sources; its overrides win.
        clip_id: the clip, or the beginning of its id.
        path: where the file goes; one that is there is replaced.

    Returns:
        How it came out.

    Raises:
        CutError: the video is not what it was, or holds nothing of the clip.
        OSError: the file cannot be written.
        SettingsError: there is no such clip, or the encoder is missing here.
    """
    with run.connect() as connection:
        clip = find_clip(connection, clip_id)
    if clip is None:
        raise SettingsError(f"no clip {clip_id!r}; curation-assets sql 'select clip_id from clips' lists them")
    source = run.source_run(run.partition_of(clip["source"], clip["video_id"]))
    check_encoders([source.settings.transcoded_clips])
    video = read_videos(source, [clip["video_id"]]).get(clip["video_id"])
    if video is None:
        raise CutError("the video has left its source; the next run removes the clip")
    ref = ObjectRef.of(video.uri, video.etag, storage_options=source.record.storage_options, engine=source.settings.engine)
    span = ClipSpan(clip["clip_id"], clip["start_ns"], clip["end_ns"])
    spec = transcode_spec(source.settings.transcoded_clips)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
            with reading(ref, whole=True) as file:
                (made,) = transcode_clips(file, index=PacketIndex.from_bytes(video.index), spans=[span], spec=spec, folder=Path(folder))
            if made.path is None:
                raise CutError(f"{made.outcome.value}: {made.detail}")
            made.path.replace(path)
    except MediaError as error:
        raise CutError(f"{error.outcome.value}: {error.detail}") from error
    return made
