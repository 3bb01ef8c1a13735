"""Kept sets: the frame sets of a video that are still as wanted when others of the settings come, go or change; they are neither decoded nor encoded again.

A video's header row says what each of its sets was made from. Rows of a kept set are written again with those of the others, because all rows of a video carry one
fingerprint; they are read piece by piece, from the version of the table that its group was planned with.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from curation_assets.curation.pieces import Result, Row
from curation_assets.curation.warehouse import SourceRun
from curation_assets.curation.workers import SampleJob
from curation_assets.media.plan import FrameSetSpec
from curation_assets.schemas.columns import SECONDS, SET_FINGERPRINTS
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.schemas.outcomes import Outcome
from curation_assets.storage.layout import item_row_id
from curation_assets.storage.snapshots import Snapshot, in_list

_ROW = ("row_id", "outcome", "detail", "content_hash", *(column.name for column in FRAME_SETS.columns if column is not SET_FINGERPRINTS))


@dataclass(frozen=True, slots=True)
class KeptSets:
    """What stays of one video.

    Attributes:
        snapshot: the version of the table that has the rows.
        numbers: of the video's rows in it, by row_id.
        specs: the sets, at least one.
        work_s: seconds that the video took when it was last decoded.
    """

    snapshot: Snapshot
    numbers: Mapping[str, int]
    specs: tuple[FrameSetSpec, ...]
    work_s: float | None

    @property
    def names(self) -> set[str]:
        """Their names."""
        return {spec.name for spec in self.specs}

    def of_piece(self, job: SampleJob) -> list[Row]:
        """Read the rows of a piece's clips."""
        return self._read(_row_ids(job.video_id, [clip for clip, _, _ in job.clips], self.specs))

    def of_video(self, video_id: str) -> list[Row]:
        """Read the rows of the sets of the whole video."""
        return self._read(_row_ids(video_id, [None], self.specs))

    def _read(self, ids: Collection[str]) -> list[Row]:
        batches = self.snapshot.numbered_rows(_ROW, [self.numbers[row_id] for row_id in ids])
        return [row for batch in batches for row in batch.to_pylist()]


def _row_ids(video_id: str, clips: Iterable[str | None], specs: Iterable[FrameSetSpec]) -> set[str]:
    return {item_row_id(video_id, clip, spec.name) for clip in clips for spec in specs if (spec.scope == "video") == (clip is None)}


def find_kept_sets(
    run: SourceRun, wanted: Mapping[str, Mapping[str, str]], clips: Mapping[str, Sequence[str]], specs: Mapping[str, FrameSetSpec]
) -> dict[str, KeptSets]:
    """Find the sets that stay of some videos, by video_id; videos of which none does are left out.

    Only of videos all of whose frames were made without fault: what went wrong with one set may have gone wrong with the decoding of all.

    Args:
        run: the source.
        wanted: fingerprint by video_id and name of the set.
        clips: clip ids by video_id.
        specs: by name.
    """
    snapshot = run.table(FRAME_SETS).snapshot()
    if snapshot is None or not wanted:
        return {}
    columns = ("video_id", "outcome", SECONDS.name, SET_FINGERPRINTS.name)
    headers = snapshot.headers(columns, video_ids=wanted.keys()).to_pylist()
    faultless = {header["video_id"]: header for header in headers if header["outcome"] == Outcome.OK and header[SET_FINGERPRINTS.name]}
    numbers = snapshot.row_numbers(in_list("video_id", faultless)) if faultless else {}
    found: dict[str, KeptSets] = {}
    for identity, header in faultless.items():
        same = tuple(specs[name] for name, expected in wanted[identity].items() if expected in header[SET_FINGERPRINTS.name])
        ids = _row_ids(identity, [*clips[identity], None], same)
        if same and ids <= numbers.keys():
            found[identity] = KeptSets(snapshot, {row_id: numbers[row_id] for row_id in ids}, same, header[SECONDS.name])
    return found


def with_kept_rows(result: Result, job: SampleJob, kept: KeptSets | None, fingerprints: Mapping[str, str]) -> Result:
    """Add to what a piece gave the rows that stay, and to the header what each set was made from.

    Args:
        result: of the piece.
        job: what it was asked for: the other sets.
        kept: what stays of the video.
        fingerprints: of all sets of the video, by name.
    """
    header: Row = {SET_FINGERPRINTS.name: sorted(fingerprints.values())}
    rows = [*result.rows.get(FRAME_SETS.asset, ())]
    if kept is not None:
        rows = [*kept.of_piece(job), *rows]
        if job.is_empty:
            header[SECONDS.name] = kept.work_s  # what a decode costs is estimated from it
    return replace(
        result,
        rows={**result.rows, FRAME_SETS.asset: rows},
        header={**result.header, FRAME_SETS.asset: {**result.header.get(FRAME_SETS.asset, {}), **header}},
    )
