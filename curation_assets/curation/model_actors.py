"""Model actors: a stage's model on the actors of a Ray cluster. Each loads it once and works on groups of videos; their rows come back here to be committed."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from curation_assets.curation.frame_model import FrameModel, video_piece, work_on
from curation_assets.curation.incremental import PieceResults
from curation_assets.curation.pieces import Piece, Result
from curation_assets.curation.sources import SourceRecord
from curation_assets.curation.warehouse import SourceRun, Warehouse
from curation_assets.engine.local import Done, LocalEngine
from curation_assets.engine.ray import RayEngine
from curation_assets.models.weights import WeightsError
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.settings import ProcessingSettings

_ROWS_PER_GROUP = 512  # enough that the last batch of a group, which is not full, matters little
_GROUPS_PER_ACTOR = 4  # so that they end at about the same time


@dataclass(frozen=True, slots=True)
class VideoGroup:
    """Videos that one actor works on together: by video_id the fingerprint of the frames that are meant, and whose rows come from `FrameModel.again`."""

    consumed: Mapping[str, str]
    kept: frozenset[str]


@dataclass(slots=True)
class GroupResult:
    """What an actor gives for a group: results by video_id, lines for the log, and what keeps the model from running there at all."""

    results: list[tuple[str, Result]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class ModelWork:
    """What an actor needs to make one source's rows; called once there, it gives the function of a group."""

    record: SourceRecord
    settings: ProcessingSettings
    warehouse_uri: str
    storage_options: Mapping[str, str]
    asset: str
    load: Callable[[SourceRun], FrameModel]

    def __call__(self) -> Callable[[VideoGroup], GroupResult]:
        """Prepare the source; the model is loaded with the first group."""
        lines: list[str] = []
        warehouse = Warehouse(self.warehouse_uri, self.storage_options)
        run = SourceRun(self.record, self.settings, warehouse, LocalEngine(workers=0), log=lines.append)
        models: list[FrameModel] = []

        def work(group: VideoGroup) -> GroupResult:
            found = GroupResult()
            try:
                if not models:
                    models.append(self.load(run))
                pieces = [video_piece(identity, has_rows=identity in group.kept) for identity in group.consumed]
                found.results = [
                    (done.item.video_id, done.value)
                    for done in work_on(run, self.asset, models[0], pieces, group.consumed)
                    if isinstance(done, Done)
                ]
            except WeightsError as error:
                found.error = WeightsError(f"on the Ray node {socket.gethostname()}: {error}")
            found.lines, lines[:] = [f"{line} (Ray node {socket.gethostname()})" for line in lines], []
            return found

        return work


def on_actors(
    run: SourceRun, engine: RayEngine, model: ModelWork, pieces: Iterable[Piece], groups: Sequence[VideoGroup], *, may_use_gpu: bool
) -> PieceResults:
    """Run a model over videos as `work_on`, on the actors of a cluster.

    Args:
        run: the source; gets the actors' lines for its log.
        engine: the cluster.
        model: what the actors load.
        pieces: of `video_piece`, in the order of the groups; drawn as results come.
        groups: of `group_videos`.
        may_use_gpu: whether the model may run on one.

    Raises:
        WeightsError: a node does not have them.
        EngineError: a node lacks something else.
    """
    source = iter(pieces)
    drawn: dict[str, Piece] = {}
    for found in engine.map_groups(model, groups, may_use_gpu=may_use_gpu):
        for line in found.lines:
            run.log(line)
        if found.error is not None:
            raise found.error
        for identity, result in found.results:
            while identity not in drawn:
                piece = next(source)
                drawn[piece.video_id] = piece
            yield Done(drawn.pop(identity), result)


def group_videos(
    run: SourceRun, work: Sequence[str], kept: Collection[str], consumed: Mapping[str, str], *, num_actors: int
) -> list[VideoGroup]:
    """Divide videos into groups of about as many rows, in their order.

    Args:
        run: the source.
        work: the videos.
        kept: those whose rows come from `FrameModel.again`.
        consumed: by video_id, the fingerprint of the frames that are meant.
        num_actors: between which the groups are shared out.
    """
    counts = run.table(FRAME_SETS).headers(["video_id", "num_rows"])
    num_rows = dict(zip(counts.column("video_id").to_pylist(), counts.column("num_rows").to_pylist(), strict=True))
    sizes = [num_rows.get(identity) or 1 for identity in work]
    most = min(_ROWS_PER_GROUP, -(-sum(sizes) // (_GROUPS_PER_ACTOR * num_actors)))
    groups: list[VideoGroup] = []
    members: dict[str, str] = {}
    total = 0
    for identity, size in zip(work, sizes, strict=True):
        if members and total + size > most:
            groups.append(VideoGroup(members, frozenset(kept).intersection(members)))
            members, total = {}, 0
        members[identity] = consumed.get(identity, "")
        total += size
    if members:
        groups.append(VideoGroup(members, frozenset(kept).intersection(members)))
    return groups
