"""frame_sets and clip_scores/pixels: one decode per video gives the stored frames and the pixel scores.

Long videos are worked on in pieces of a few minutes, so that memory, deadlines and lost work are bounded by the settings and not by the video. Only the table that is
stale is written: new thresholds touch nothing, new motion settings leave the frames alone, and frame sets that stay are not made again when others come or go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from curation_assets.curation.clips import expected_clips
from curation_assets.curation.expected import Expected
from curation_assets.curation.fingerprints import fingerprint
from curation_assets.curation.incremental import PieceResults, Plan, StageReport, batched, on_engine, run_stage
from curation_assets.curation.kept_sets import KeptSets, find_kept_sets, with_kept_rows
from curation_assets.curation.model_frames import frame_sets
from curation_assets.curation.pieces import Piece, Result, Row
from curation_assets.curation.reading import ObjectRef
from curation_assets.curation.warehouse import SourceRun
from curation_assets.curation.workers import SampleJob, frame_row, row_ids, sample_failed, sample_piece
from curation_assets.engine.local import Done
from curation_assets.media.frames import SampledSet
from curation_assets.media.motion import MotionSpec
from curation_assets.media.plan import FrameSetSpec
from curation_assets.schemas.clip_scores import CLIP_SCORES_PIXELS
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.schemas.outcomes import Outcome
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.schemas.table import TableSpec
from curation_assets.settings import ProcessingSettings
from curation_assets.storage.tables import RowState

CODE_VERSIONS = {FRAME_SETS.asset: "1", CLIP_SCORES_PIXELS.asset: "1"}
_VIDEOS_PER_READ = 64


def update_frame_sets(run: SourceRun, specs: Sequence[TableSpec] = (FRAME_SETS, CLIP_SCORES_PIXELS)) -> StageReport:
    """Bring one source's frame sets and pixel scores up to date with its clips.

    Args:
        run: the source.
        specs: the tables asked for; one decode serves both.
    """
    with run.writing(*specs) as writer:
        headers = {spec.asset: run.headers(spec) for spec in specs}
        upstream = _read_upstream(run)
        expected = {spec.asset: _expected(run, spec, upstream) for spec in specs}
        stale = {asset: set(expected[asset].work(headers[asset], retry_failed=run.retry_failed)) for asset in expected}
        order = next(iter(expected.values())).fingerprints
        work = run.limited([identity for identity in order if any(identity in videos for videos in stale.values())])
        specs_by_name = frame_set_specs(run.settings)
        recipes = {name: _consumed_settings(run.settings, FRAME_SETS, name) for name in specs_by_name}
        stage = _Sampling()

        def made_from(video: SplitVideo) -> dict[str, str]:
            return {name: _made_from(FRAME_SETS, video.etag, video.content_hash, recipe) for name, recipe in recipes.items()}

        def is_renewed(identity: str) -> bool:
            header = headers[FRAME_SETS.asset].get(identity) if identity in stale.get(FRAME_SETS.asset, ()) else None
            return header is not None and header.fingerprint != expected[FRAME_SETS.asset].fingerprints[identity]

        def plans() -> Iterator[Plan]:
            for group in batched(work, _VIDEOS_PER_READ):
                videos = read_videos(run, group)
                renewed = {identity: made_from(video) for identity, video in videos.items() if is_renewed(identity)}
                kept = find_kept_sets(run, renewed, {identity: videos[identity].clip_ids for identity in renewed}, specs_by_name)
                for identity in group:
                    video = videos.get(identity)
                    if video is None or (video.etag, video.content_hash) != upstream.consumed[identity]:
                        run.log(f"{run.source}: video {identity}: another run changed its clips meanwhile; it stays pending")
                        continue
                    fingerprints = {asset: expected[asset].fingerprints[identity] for asset in expected if identity in stale[asset]}
                    # not when the header is there: it is a retry then, and what failed must be done again
                    is_new = not any(
                        identity in headers[asset] and headers[asset][identity].fingerprint == fingerprints[asset] for asset in fingerprints
                    )
                    if FRAME_SETS.asset in fingerprints:
                        stage.sets[identity] = kept.get(identity), made_from(video)
                    yield _plan(run, video, fingerprints, is_new=is_new, kept=kept.get(identity))

        progress = run.progress(specs[0], len(work))
        report = run_stage(plans(), stage=stage, writer=writer, run_pieces=stage.completed(on_engine(run.engine)), progress=progress)
        for spec in specs:
            gone = expected[spec.asset].gone(headers[spec.asset])
            run.table(spec).delete_videos(gone)
            report.num_removed = max(report.num_removed, len(gone))
        report.num_unchanged = len(order) - len(work)
    return report


def expected_frames(run: SourceRun, spec: TableSpec, *, only: str | None = None) -> Expected:
    """Say which videos `frame_sets` or `clip_scores/pixels` should hold.

    Args:
        run: the source.
        spec: the table.
        only: the name of one frame set: fingerprints then stand for that set alone, for a stage that reads no other.
    """
    return _expected(run, spec, _read_upstream(run), only=only)


@dataclass(frozen=True, slots=True)
class _Upstream:
    """What the videos' rows would be made from: (etag, content hash of the clips) by video_id, and the videos to wait for."""

    consumed: dict[str, tuple[str, str]]
    waiting: set[str]


def _read_upstream(run: SourceRun) -> _Upstream:
    ready, waiting = expected_clips(run).usable(run.headers(CLIPS))
    etags = _etags(run)
    return _Upstream({identity: (etags[identity], header.content_hash) for identity, header in ready.items() if identity in etags}, waiting)


def _expected(run: SourceRun, spec: TableSpec, upstream: _Upstream, *, only: str | None = None) -> Expected:
    tree = _consumed_settings(run.settings, spec, only)
    return Expected(
        {identity: _made_from(spec, etag, clips, tree) for identity, (etag, clips) in upstream.consumed.items()}, upstream.waiting
    )


def _made_from(spec: TableSpec, etag: str, clips: str, tree: Any) -> str:
    return fingerprint(spec.asset, CODE_VERSIONS[spec.asset], etag, clips, tree)


def frame_set_specs(settings: ProcessingSettings) -> dict[str, FrameSetSpec]:
    """Translate the frame sets of the settings and those that its models need beside them, purposes resolved."""
    return {
        name: FrameSetSpec(
            name=name,
            policy=item.policy,
            target_fps=item.fps,
            target_res=item.target_res,
            fit=item.fit,
            scaling=item.scaling,
            codec=item.codec,
            quality=item.quality,
            scope=item.scope,
            min_frames=item.least_frames,
            max_frames=item.max_frames,
        )
        for name, item in frame_sets(settings).items()
    }


def _consumed_settings(settings: ProcessingSettings, spec: TableSpec, only: str | None) -> Any:
    if spec is FRAME_SETS:
        return {name: asdict(item) for name, item in frame_set_specs(settings).items() if only in (None, name)}
    return asdict(_motion_spec(settings))


def _motion_spec(settings: ProcessingSettings) -> MotionSpec:
    return MotionSpec(motion_fps=settings.clip_scores.pixels.motion_fps)


def _etags(run: SourceRun) -> dict[str, str]:
    rows = run.table(RAW_VIDEOS).headers(["video_id", "etag"])
    return dict(zip(rows.column("video_id").to_pylist(), rows.column("etag").to_pylist(), strict=True))


@dataclass(frozen=True, slots=True)
class SplitVideo:
    """A video with its clips: where it lies, its packed packet index, and (clip_id, start_ns, end_ns) in order."""

    video_id: str
    uri: str
    etag: str
    content_hash: str
    index: bytes
    clips: list[tuple[str, int, int]]

    @property
    def clip_ids(self) -> list[str]:
        """The clips' ids, in order."""
        return [clip for clip, _, _ in self.clips]


def read_videos(run: SourceRun, group: Sequence[str]) -> dict[str, SplitVideo]:
    """Read what sampling needs of some videos, by video_id, from one version of each table; those that are gone are left out."""
    ids = ", ".join(f"'{identity}'" for identity in group)
    where = f"video_id IN ({ids})"
    objects = {row["video_id"]: row for row in run.read(RAW_VIDEOS, ["video_id", "uri", "etag"], where=where).to_pylist()}
    snapshot = run.table(CLIPS).snapshot()
    if snapshot is None:
        return {}
    clips: dict[str, list[tuple[str, int, int]]] = {identity: [] for identity in group}
    for batch in snapshot.batches(["video_id", "clip_id", "start_ns", "end_ns"], where=where):
        for row in batch.to_pylist():
            clips[row["video_id"]].append((row["clip_id"], row["start_ns"], row["end_ns"]))
    videos = {}
    for batch in snapshot.batches(["video_id", "content_hash", "packet_index"], where=where, rows="headers", is_blob_scan=True):
        for row in batch.to_pylist():
            identity = row["video_id"]
            if identity in objects and row["packet_index"] is not None:
                spans = sorted(clips[identity], key=lambda clip: clip[1:])
                uri, etag = objects[identity]["uri"], objects[identity]["etag"]
                videos[identity] = SplitVideo(identity, uri, etag, row["content_hash"], row["packet_index"], spans)
    return videos


def _plan(run: SourceRun, video: SplitVideo, fingerprints: dict[str, str], *, is_new: bool, kept: KeptSets | None) -> Plan:
    settings = run.settings
    specs = tuple(frame_set_specs(settings).values()) if FRAME_SETS.asset in fingerprints else ()
    if kept is not None:
        specs = tuple(spec for spec in specs if spec.name not in kept.names)
    motion = _motion_spec(settings) if CLIP_SCORES_PIXELS.asset in fingerprints else None
    groups = list(batched(video.clips, settings.engine.clips_per_chunk))
    # whole-video sets take the frames before the first clip and after the last one too
    starts = [-(2**62), *(group[0][1] for group in groups[1:])]
    ends = [*starts[1:], 2**62]
    ref = ObjectRef.of(video.uri, video.etag, storage_options=run.record.storage_options, engine=settings.engine)
    pieces = [
        Piece(
            video.video_id,
            sample_piece,
            SampleJob(video.video_id, ref, video.index, tuple(group), (start, end), specs, motion, settings.frame_sets.num_cpus),
        )
        for group, start, end in zip(groups, starts, ends, strict=True)
    ]
    if is_new and kept is None and len(pieces) > 1 and not any(spec.scope == "video" for spec in specs):
        return _resumed(run, Plan(video.video_id, video.etag, fingerprints, pieces))
    return Plan(video.video_id, video.etag, fingerprints, pieces)


def _resumed(run: SourceRun, plan: Plan) -> Plan:
    """Leave out the pieces of a long video whose rows an interrupted run has written; the last piece is always done, so that the video ends."""
    stored = {
        spec.asset: run.table(spec).unfinished_rows(plan.video_id, plan.fingerprints[spec.asset])
        for spec in (FRAME_SETS, CLIP_SCORES_PIXELS)
        if spec.asset in plan.fingerprints
    }
    kept: list[Piece] = []
    resumed: dict[str, list[RowState]] = {asset: [] for asset in stored}
    for piece in plan.pieces:
        wanted = row_ids(piece.payload)
        if piece is not plan.pieces[-1] and all(stored[asset].keys() >= wanted[asset] for asset in stored):
            for asset, states in resumed.items():
                states.extend(stored[asset][row_id] for row_id in wanted[asset])
        else:
            kept.append(piece)
    return Plan(plan.video_id, plan.etag, plan.fingerprints, kept, resumed) if len(kept) < len(plan.pieces) else plan


class _Sampling:
    def __init__(self) -> None:
        # of the videos under way: what stays, and what each set is made from
        self.sets: dict[str, tuple[KeptSets | None, dict[str, str]]] = {}

    def completed(self, run_pieces: Callable[[Iterable[Piece]], PieceResults]) -> Callable[[Iterable[Piece]], PieceResults]:
        """Add to what the pieces give what needs no decoding."""

        def run(pieces: Iterable[Piece]) -> PieceResults:
            for done in run_pieces(pieces):
                piece = done.item
                result = done.value if isinstance(done, Done) else self.failed(piece, done.outcome, done.detail)
                if piece.video_id in self.sets:
                    result = with_kept_rows(result, piece.payload, *self.sets[piece.video_id])
                yield Done(piece, result)

        return run

    def failed(self, piece: Piece, outcome: Outcome, detail: str) -> Result:
        return sample_failed(piece.payload, outcome, detail)

    def finish(self, plan: Plan, partials: Sequence[Any]) -> Mapping[str, Sequence[Row]]:
        """Put the whole-video sets together from their pieces."""
        specs = plan.pieces[0].payload.frame_sets
        kept, _ = self.sets.pop(plan.video_id, (None, {}))
        rows = kept.of_video(plan.video_id) if kept else []
        for spec in specs:
            if spec.scope != "video":
                continue
            parts = sorted((part for part in partials if part.name == spec.name), key=lambda part: part.time_ns[:1])
            frames = [pair for part in parts for pair in zip(part.time_ns, part.frames, strict=True)]
            details = [part.detail for part in parts if part.num_missing] or ["" if frames else "the video shows no frame"]
            first = next((part for part in parts if part.frames), None)
            whole = SampledSet(
                span_id=None,
                name=spec.name,
                fps=parts[0].fps if parts else None,
                height_px=first.height_px if first else 0,
                width_px=first.width_px if first else 0,
                time_ns=tuple(time for time, _ in frames),
                frames=tuple(frame for _, frame in frames),
                codec=spec.codec,
                num_missing=sum(part.num_missing for part in parts),
                detail="; ".join(details),
            )
            rows.append(frame_row(whole, plan.video_id))
        return {FRAME_SETS.asset: rows}
