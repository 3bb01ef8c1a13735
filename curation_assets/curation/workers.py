"""Workers: the functions that run in worker processes, each pure over one job. Light to import: no tables, no Arrow, no Dagster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from curation_assets.curation.pieces import Result, Row
from curation_assets.curation.reading import ObjectRef, reading
from curation_assets.curation.source_object import SourceObject
from curation_assets.media.errors import MediaError
from curation_assets.media.frames import SampledSet, sample_frames
from curation_assets.media.motion import MotionSpec, PixelScores
from curation_assets.media.packets import PacketIndex, index_packets
from curation_assets.media.plan import FrameSetSpec, SampleSpan
from curation_assets.media.probe import VideoHeader, probe_header
from curation_assets.media.shots import wanted_frames
from curation_assets.media.spans import Span, fixed_stride_spans
from curation_assets.schemas import names
from curation_assets.schemas.outcomes import Outcome
from curation_assets.settings import ClipsSettings, FixedStride, Limits
from curation_assets.storage.layout import clip_id, item_row_id

PARTIAL_ENDINGS = (".part", ".partial", ".crdownload", ".tmp", ".filepart")


@dataclass(frozen=True, slots=True)
class ProbeJob:
    """What a worker needs to probe one object."""

    item: SourceObject
    ref: ObjectRef
    limits: Limits


def probe_object(job: ProbeJob) -> Result:
    """Probe one object's header and judge it by the limits."""
    item = job.item
    if item.outcome is not None:
        return probe_result(item, item.outcome, item.detail)
    if item.key.lower().endswith(PARTIAL_ENDINGS):
        return probe_result(
            item, Outcome.PARTIAL_UPLOAD, "the name says that the upload is under way; it is taken when it has its final name"
        )
    if item.size_bytes == 0:
        return probe_result(item, Outcome.EMPTY_OBJECT, "zero bytes; it is taken when there are some")
    try:
        with reading(job.ref, whole=False) as source:
            header = probe_header(source)
    except MediaError as error:
        return probe_result(item, error.outcome, error.detail)
    outcome, detail = judge(header, item.size_bytes, job.limits)
    return probe_result(item, outcome, detail, header)


def judge(header: VideoHeader, size_bytes: int, limits: Limits) -> tuple[Outcome, str | None]:
    """Judge a video by the limits; what is unknown passes.

    Returns:
        OK and None, or the reason code of the first limit that it breaks and what was seen.
    """
    sides = sorted(side for side in (header.width_px, header.height_px) if side)
    duration_s = None if header.duration_ns is None else header.duration_ns / 1e9
    aspect = header.width_px / header.height_px if header.width_px and header.height_px else None
    rules = (
        (sides[0] if sides else None, limits.min_side_px, None, Outcome.TOO_SMALL, "shorter side in pixels"),
        (sides[-1] if sides else None, None, limits.max_side_px, Outcome.TOO_LARGE, "longer side in pixels"),
        (size_bytes, None, limits.max_size_bytes, Outcome.TOO_LARGE, "size in bytes"),
        (aspect, limits.min_aspect, limits.max_aspect, Outcome.BAD_ASPECT, "width / height"),
        (duration_s, limits.min_duration_s, None, Outcome.TOO_SHORT, "seconds"),
        (duration_s, None, limits.max_duration_s, Outcome.TOO_LONG, "seconds"),
    )
    for value, least, most, outcome, what in rules:
        if value is not None and least is not None and value < least:
            return outcome, f"{what}: {value:g}, the limit is at least {least:g}"
        if value is not None and most is not None and value > most:
            return outcome, f"{what}: {value:g}, the limit is at most {most:g}"
    return Outcome.OK, None


def probe_result(item: SourceObject, outcome: Outcome, detail: str | None, header: VideoHeader | None = None) -> Result:
    """Build the row of one object."""
    columns: Row = {
        "key": item.key,
        "uri": item.uri,
        "size_bytes": item.size_bytes,
        "etag": item.etag,
        "last_modified": item.last_modified,
        "regions_ns": None if item.regions_ns is None else [list(region) for region in item.regions_ns],
        **(asdict(header) if header else {}),
    }
    return Result(outcome=outcome, detail=detail, header={names.RAW_VIDEOS: columns})


@dataclass(frozen=True, slots=True)
class SplitJob:
    """What a worker needs to split one video."""

    video_id: str
    ref: ObjectRef
    settings: ClipsSettings
    regions_ns: list[tuple[int, int]] | None

    @property
    def regions(self) -> list[tuple[int, int]] | None:
        """The spans [start, end) that the video is limited to, as tuples."""
        return None if self.regions_ns is None else [(start, end) for start, end in self.regions_ns]


def split_video(job: SplitJob) -> Result:
    """Index one video's packets and lay a grid of spans over its timeline."""
    splitter = job.settings.splitter
    if not isinstance(splitter, FixedStride):
        raise TypeError(f"{splitter.method} does not split in one piece")
    index = index_video(job)
    if isinstance(index, Result):
        return index
    spans = fixed_stride_spans(
        index,
        clip_len_s=splitter.clip_len_s,
        clip_stride_s=splitter.clip_stride_s or splitter.clip_len_s,
        min_clip_len_s=splitter.min_clip_len_s,
        start_offset_s=splitter.start_offset_s,
        end_offset_s=splitter.end_offset_s,
        snap_to_keyframes=splitter.snap_to_keyframes,
        regions_ns=job.regions,
    )
    return split_result(job, index, spans)


def index_video(job: SplitJob) -> PacketIndex | Result:
    """Index one video's packets; the result when the video ends with that."""
    try:
        with reading(job.ref, whole=True) as source:
            index = index_packets(source)
    except MediaError as error:
        return Result(outcome=error.outcome, detail=error.detail)
    if index.is_truncated and job.settings.on_truncated == "refuse":
        return Result(outcome=Outcome.TRUNCATED_REFUSED, detail=f"{index.detail}; clips.on_truncated is refuse")
    return index


def split_result(job: SplitJob, index: PacketIndex, spans: Sequence[Span], *, loss: str = "") -> Result:
    """Build the rows of one video's clips.

    Args:
        job: the video.
        index: its packets, kept in the header row.
        spans: its clips.
        loss: what could not be decoded on the way, in words.
    """
    splitter = job.settings.splitter
    details = "; ".join(filter(None, [index.detail, loss]))
    if not spans:
        return Result(outcome=Outcome.TOO_SHORT, detail="; ".join(filter(None, [f"no clip: {_why_no_clip(job, index)}", details])))
    rows: list[Row] = []
    for span in spans:
        identity = clip_id(job.video_id, span.start_ns, span.end_ns)
        rows.append(
            {
                "row_id": identity,
                "clip_id": identity,
                "start_ns": span.start_ns,
                "end_ns": span.end_ns,
                "method": splitter.method,
                "shot_index": span.shot_index,
                "num_frames": span.num_frames,
                "is_vfr": span.is_vfr,
            }
        )
    return Result(
        rows={names.CLIPS: rows},
        outcome=Outcome.TRUNCATED if index.is_truncated or loss else Outcome.OK,
        detail=details or None,
        header={names.CLIPS: {"packet_index": index.to_bytes()}},
    )


def _why_no_clip(job: SplitJob, index: PacketIndex) -> str:
    """Say which rule left nothing of a video."""
    splitter, regions, end_s = job.settings.splitter, job.regions, index.end_ns / 1e9
    if regions == []:
        return "no region of the video is wanted"
    if regions and (first_ns := min(start_ns for start_ns, _ in regions)) >= index.end_ns:
        return f"its first region begins at {first_ns / 1e9:.3f} s, and the video ends at {end_s:.3f} s"
    offsets = f"start_offset_s {splitter.start_offset_s:g} and end_offset_s {splitter.end_offset_s:g}"
    if splitter.start_offset_s + splitter.end_offset_s >= end_s:
        return f"{offsets} leave nothing of {end_s:.3f} s of video"
    parts = wanted_frames(index, start_offset_s=splitter.start_offset_s, end_offset_s=splitter.end_offset_s, regions_ns=regions)
    if not parts:
        less = f", less {offsets}" if splitter.start_offset_s or splitter.end_offset_s else ""
        return f"no frame begins in {'its regions' if regions else 'the video'}{less}"
    times_ns = np.append(index.display_times_ns, index.end_ns)
    longest_s = max(int(times_ns[stop] - times_ns[first]) for first, stop in parts) / 1e9
    shortest = f"min_clip_len_s {splitter.min_clip_len_s:g}"
    if longest_s < splitter.min_clip_len_s:
        what = "the longest of its regions has" if regions else "it has"
        less = f" after {offsets}" if splitter.start_offset_s or splitter.end_offset_s else ""
        return f"{what} {longest_s:.3f} s{less}, less than {shortest}"
    if isinstance(splitter, FixedStride):
        return f"no part of {longest_s:.3f} s is as long as {shortest}"
    crop = f" after crop_s {splitter.crop_s:g} at transitions" if splitter.crop_s else ""
    return f"of {longest_s:.3f} s, no shot or part of one{crop} is as long as {shortest}"


@dataclass(frozen=True, slots=True)
class SampleJob:
    """What a worker needs to sample one piece of one video.

    Attributes:
        window_ns: the piece's part [start, end) of the timeline; whole-video sets take their frames from it.
    """

    video_id: str
    ref: ObjectRef
    index: bytes
    clips: tuple[tuple[str, int, int], ...]
    window_ns: tuple[int, int]
    frame_sets: tuple[FrameSetSpec, ...]
    motion: MotionSpec | None
    num_threads: int

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked for, so that nothing need be decoded."""
        return not self.frame_sets and self.motion is None


def sample_piece(job: SampleJob) -> Result:
    """Decode one piece of a video once, for its frame sets and its pixel scores; not at all where neither is asked for."""
    if job.is_empty:
        return Result()
    frame_rows: list[Row] = []
    score_rows: list[Row] = []
    partials: list[SampledSet] = []
    index = PacketIndex.from_bytes(job.index)
    spans = [SampleSpan(id=clip, start_ns=start, end_ns=end) for clip, start, end in job.clips]
    if any(spec.scope == "video" for spec in job.frame_sets):
        spans.append(SampleSpan(id=None, start_ns=0, end_ns=index.end_ns, window_ns=job.window_ns))
    try:
        with reading(job.ref, whole=True) as source:
            for sampled in sample_frames(
                source,
                index=index,
                spans=spans,
                frame_sets=job.frame_sets,
                motion=job.motion,
                num_threads=job.num_threads,
            ):
                if sampled.span.id is None:
                    partials.extend(sampled.sets)
                    continue
                frame_rows.extend(frame_row(item, job.video_id) for item in sampled.sets)
                if sampled.scores is not None and sampled.span.id is not None:
                    score_rows.append(_score_row(sampled.span.id, sampled.scores))
    except MediaError as error:
        return sample_failed(job, error.outcome, error.detail)
    return Result(rows={names.FRAME_SETS: frame_rows, names.CLIP_SCORES_PIXELS: score_rows}, partials=partials)


def frame_row(item: SampledSet, video_id: str) -> Row:
    """Build the row of one frame set."""
    outcome = Outcome.NO_FRAMES if not item.frames else Outcome.TRUNCATED if item.num_missing else Outcome.OK
    return {
        "row_id": item_row_id(video_id, item.span_id, item.name),
        "outcome": outcome.value,
        "detail": item.detail or None,
        "clip_id": item.span_id,
        "name": item.name,
        "fps": item.fps,
        "height_px": item.height_px,
        "width_px": item.width_px,
        "time_ns": list(item.time_ns),
        "num_frames": len(item.frames),
        "codec": item.codec,
        "frames": list(item.frames),
    }


def _score_row(clip_id: str, scores: PixelScores) -> Row:
    is_scored = scores.num_frames > 0
    return {
        "row_id": clip_id,
        "clip_id": clip_id,
        "outcome": (Outcome.OK if is_scored else Outcome.NO_FRAMES).value,
        "detail": None if is_scored else "no frame of the clip could be decoded",
        "motion_mean": scores.motion_mean,
        "motion_p95": scores.motion_p95,
        "still_share": scores.still_share,
        "black_share": scores.black_share,
        "sharpness": scores.sharpness,
        "letterbox_share": scores.letterbox_share,
    }


def sample_failed(job: SampleJob, outcome: Outcome, detail: str) -> Result:
    """Build the rows of a piece that gave nothing: one per clip and table, with the reason."""
    clips = [clip for clip, _, _ in job.clips]
    common = {"outcome": outcome.value, "detail": detail}
    return Result(
        rows={
            names.FRAME_SETS: [
                {
                    "row_id": item_row_id(job.video_id, clip, item.name),
                    "clip_id": clip,
                    "name": item.name,
                    "num_frames": 0,
                    "codec": item.codec,
                    **common,
                }
                for clip in clips
                for item in job.frame_sets
                if item.scope == "clip"
            ],
            names.CLIP_SCORES_PIXELS: [{"row_id": clip, "clip_id": clip, **common} for clip in clips],
        },
    )


def row_ids(job: SampleJob) -> dict[str, set[str]]:
    """Say which rows a piece gives, by asset; whole-video sets are no piece's."""
    clips = [clip for clip, _, _ in job.clips]
    sets = [item.name for item in job.frame_sets if item.scope == "clip"]
    return {
        names.FRAME_SETS: {item_row_id(job.video_id, clip, name) for clip in clips for name in sets},
        names.CLIP_SCORES_PIXELS: set(clips) if job.motion else set(),
    }
