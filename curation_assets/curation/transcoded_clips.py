"""transcoded_clips: the kept clips as MP4 files, copied where that is exact and encoded elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from curation_assets.curation.expected import Expected
from curation_assets.curation.frame_sets import SplitVideo
from curation_assets.curation.incremental import StageReport
from curation_assets.curation.kept_media import MediaStage, expected_media, update_kept_media
from curation_assets.curation.media_workers import MediaJob, TranscodeJob, transcode_piece
from curation_assets.curation.reading import ObjectRef
from curation_assets.curation.warehouse import SourceRun, deciding_model
from curation_assets.media.encoders import EncoderSpec, missing_encoder
from curation_assets.media.transcode import TranscodeSpec
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.duplicates import duplicates_table
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.schemas.transcoded_clips import TRANSCODED_CLIPS
from curation_assets.settings import ProcessingSettings, SettingsError, TranscodedClipsSettings

CODE_VERSION = "1"
_NO_CHANGE_OF_BYTES = {"enabled", "encoder_threads", "skip_duplicates"}


def update_transcoded_clips(run: SourceRun) -> StageReport:
    """Bring one source's clip files up to date with its kept clips.

    Raises:
        SettingsError: this machine does not have the encoder.
        StoreError: a disk is full, or may not be written.
    """
    check_encoders([run.settings.transcoded_clips])
    return update_kept_media(run, _stage(run.settings))


def expected_transcoded_clips(run: SourceRun) -> Expected:
    """Say which videos the table should hold."""
    return expected_media(run, _stage(run.settings))


def check_encoders(all_settings: Sequence[TranscodedClipsSettings]) -> None:
    """Open each encoder that the settings name, before any work.

    Raises:
        SettingsError: one cannot be opened here, or does not take its settings; says what is available.
    """
    for settings in all_settings:
        if settings.enabled and settings.way != "copy":
            problem = missing_encoder(transcode_spec(settings).encoder)
            if problem is not None:
                raise SettingsError(f"transcoded_clips.encoder: {problem}")


def transcode_spec(settings: TranscodedClipsSettings) -> TranscodeSpec:
    """Build what `media` needs to know.

    Raises:
        SettingsError: the settings contradict each other.
    """
    try:
        encoder = EncoderSpec(
            name=settings.encoder,
            quality=settings.quality,
            bit_rate_bps=settings.bit_rate_bps,
            preset=settings.preset,
            gop=settings.gop,
            threads=settings.encoder_threads,
        )
        return TranscodeSpec(
            way=settings.way, encoder=encoder, max_side_px=settings.max_side_px, has_audio=settings.audio == "keep", hdr=settings.hdr
        )
    except ValueError as error:
        raise SettingsError(f"transcoded_clips: {error}") from error


def _stage(processing: ProcessingSettings) -> MediaStage:
    settings = processing.transcoded_clips
    damaged: dict[str, set[str]] = {}  # clips of which frames could not be decoded, by video_id: they are not copied

    def known_damage(run: SourceRun) -> tuple[Mapping[str, str], set[str]]:
        rows = run.read(FRAME_SETS, ["video_id", "clip_id"], where="clip_id IS NOT NULL AND outcome <> 'ok'")
        for video_id, clip_id in zip(rows.column("video_id").to_pylist(), rows.column("clip_id").to_pylist(), strict=True):
            damaged.setdefault(video_id, set()).add(clip_id)
        told = dict.fromkeys(run.headers(CLIPS), "")
        return told | {video_id: " ".join(sorted(clips)) for video_id, clips in damaged.items()}, set()

    def build_job(run: SourceRun, video: SplitVideo, media: MediaJob) -> TranscodeJob:
        ref = ObjectRef.of(video.uri, video.etag, storage_options=run.record.storage_options, engine=run.settings.engine)
        return TranscodeJob(media, ref, video.index, transcode_spec(settings), frozenset(damaged.get(video.video_id, ())))

    recipe = [CODE_VERSION, settings.model_dump(mode="json", exclude=_NO_CHANGE_OF_BYTES)]
    model = deciding_model(processing) if settings.skip_duplicates else None
    without = duplicates_table(model) if model else None
    return MediaStage(TRANSCODED_CLIPS, "mp4", recipe, transcode_piece, build_job, known_damage, without)
