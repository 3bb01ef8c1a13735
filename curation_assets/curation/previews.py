"""previews/<name>: an animated WebP of each kept clip, from its stored frames or decoded again."""

from __future__ import annotations

from collections.abc import Mapping

from curation_assets.curation.expected import Expected
from curation_assets.curation.frame_sets import SplitVideo, expected_frames
from curation_assets.curation.incremental import StageReport
from curation_assets.curation.kept_media import MediaStage, expected_media, update_kept_media
from curation_assets.curation.media_workers import MediaJob, PreviewJob, StoredFrames, preview_piece
from curation_assets.curation.reading import ObjectRef
from curation_assets.curation.warehouse import SourceRun
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.schemas.outcomes import Outcome, OutcomeClass, outcome_class
from curation_assets.schemas.previews import previews_table
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.settings import Preview

CODE_VERSION = "1"


def update_previews(run: SourceRun, name: str) -> StageReport:
    """Bring one source's previews of one name up to date with its kept clips.

    Args:
        run: the source.
        name: of the preview in the settings.

    Raises:
        StoreError: a disk is full, or may not be written.
    """
    return update_kept_media(run, _stage(name, run.settings.previews[name]))


def expected_previews(run: SourceRun, name: str) -> Expected:
    """Say which videos one preview's table should hold."""
    return expected_media(run, _stage(name, run.settings.previews[name]))


def _stage(name: str, preview: Preview) -> MediaStage:
    is_stored = preview.origin == "frames"
    # the frame set's name is what it holds, by its fingerprint
    recipe = [CODE_VERSION, preview.model_dump(mode="json", exclude={"frame_set"})]
    expected: dict[str, str] = {}  # fingerprints that the stored frames must have, read once per stage

    def frames_ready(run: SourceRun) -> tuple[Mapping[str, str], set[str]]:
        every = expected_frames(run, FRAME_SETS)
        ready, waiting = every.usable(run.headers(FRAME_SETS))
        expected.update(every.fingerprints)
        consumed = expected_frames(run, FRAME_SETS, only=preview.frame_set).fingerprints
        # frames that failed may be there after a retry, with the same fingerprint: then their content differs
        retried = {
            identity: header.content_hash for identity, header in ready.items() if outcome_class(header.outcome) is not OutcomeClass.OK
        }
        return {identity: f"{consumed[identity]} {retried.get(identity, '')}" for identity in ready}, waiting

    def build_job(run: SourceRun, video: SplitVideo, media: MediaJob) -> PreviewJob:
        ref = ObjectRef.of(video.uri, video.etag, storage_options=run.record.storage_options, engine=run.settings.engine)
        return PreviewJob(
            media,
            None if is_stored else ref,
            b"" if is_stored else video.index,
            _stored_frames(run, media, preview.frame_set, expected[video.video_id]) if is_stored else {},
            _display_size(run, video.video_id),
            preview.height_px,
            preview.fps,
            preview.quality,
            preview.seconds,
        )

    return MediaStage(previews_table(name), "webp", recipe, preview_piece, build_job, frames_ready if is_stored else None)


def _stored_frames(run: SourceRun, media: MediaJob, frame_set: str, expected: str) -> dict[str, StoredFrames]:
    """Read the frames of a piece's clips; those that another run has changed since the work list was made stay for the next run."""
    columns = ["clip_id", "fingerprint", "outcome", "detail", "fps", "time_ns", "frames", "codec", "height_px", "width_px"]
    ids = ", ".join(f"'{clip.clip_id}'" for clip in media.clips)
    where = f"name = '{frame_set}' AND clip_id IN ({ids})"
    found = {}
    for batch in run.table(FRAME_SETS).scan_blobs(columns, where=where):
        for row in batch.to_pylist():
            outcome, detail = row["outcome"], row["detail"]
            if row.pop("fingerprint") != expected:
                outcome, detail = Outcome.CHANGED.value, "another run changed the clip's frames meanwhile; the next run takes them"
            clip_id = row.pop("clip_id")
            found[clip_id] = StoredFrames(**{**row, "outcome": outcome, "detail": detail})
    return found


def _display_size(run: SourceRun, video_id: str) -> tuple[int, int]:
    (row,) = run.table(RAW_VIDEOS).headers(["height_px", "width_px"], video_ids=[video_id]).to_pylist()
    return row["height_px"] or 1, row["width_px"] or 1
