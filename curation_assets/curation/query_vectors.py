"""Query vectors: from a text, a stored clip, or a video that is in no source, to the vector to search with."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curation_assets.curation.clips import update_clips
from curation_assets.curation.corpus import CorpusRun
from curation_assets.curation.embeddings import update_embeddings
from curation_assets.curation.frame_sets import update_frame_sets
from curation_assets.curation.loaded_models import held_model
from curation_assets.curation.model_files import check_model
from curation_assets.curation.model_frames import frame_set_of, frame_sets
from curation_assets.curation.query import find_clip
from curation_assets.curation.raw_videos import update_raw_videos
from curation_assets.curation.search_index import FOUND
from curation_assets.curation.sources import SourceRecord
from curation_assets.curation.warehouse import SourceRun, Warehouse
from curation_assets.engine.local import LocalEngine
from curation_assets.models import registry
from curation_assets.models.weights import WeightsError
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.embeddings import embeddings_table
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.schemas.outcomes import Outcome, is_usable
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.schemas.table import TableSpec
from curation_assets.settings import ClipsSettings, FixedStride, ProcessingSettings, RawVideosSettings, SettingsError
from curation_assets.storage.objects import child_uri, split_uri
from curation_assets.storage.objects_local import readable_path
from curation_assets.storage.snapshots import quoted

Vector = npt.NDArray[np.float32]
_WHOLE_PART_S = 1e9  # a clip length that nothing reaches: the part of the video is one clip
_NAME = "query"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What to look for: one of a text, a clip and a video.

    Attributes:
        text: words.
        clip_id: a stored clip, or the beginning of its id.
        video: absolute path or URI of a video.
        start_s: where the part of the video begins that is meant, in seconds; None is its beginning.
        end_s: where it ends; None is its end.

    Raises:
        SettingsError: none or several are given, the text is empty, or the part is.
    """

    text: str | None = None
    clip_id: str | None = None
    video: str | None = None
    start_s: float | None = None
    end_s: float | None = None

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.text, self.clip_id, self.video)) != 1:
            raise SettingsError("name one thing to search for: a text, a clip, or a video")
        if (self.text is not None and not self.text.strip()) or self.clip_id == "" or self.video == "":
            raise SettingsError("there is nothing to search for: the text, clip or video is empty")
        check_utf8(self.text, "the text")
        check_utf8(self.clip_id, "the clip's id")
        if self.video is not None:
            object.__setattr__(self, "video", readable_path(self.video))
            check_utf8(self.video, "the video's name")
        if self.video is None and self.is_part:
            raise SettingsError("a start and an end belong to a video; a text or a clip has none")
        start_s, end_s = self.start_s or 0.0, _WHOLE_PART_S if self.end_s is None else self.end_s
        if not 0 <= start_s < end_s <= _WHOLE_PART_S or round(start_s * 1e9) == round(end_s * 1e9):
            raise SettingsError(
                f"the part [{start_s:g} s, {end_s:g} s) of the video, from --start to --end, is empty, or begins before zero"
            )

    @property
    def is_part(self) -> bool:
        """Whether a part of the video is meant."""
        return self.start_s is not None or self.end_s is not None


def check_utf8(text: str | None, what: str) -> None:
    """Refuse what a command line gives for bytes that are no text.

    Raises:
        SettingsError: there are such bytes.
    """
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise SettingsError(f"{what} is not UTF-8 at character {error.start + 1}: {text!a}") from error


@dataclass(frozen=True, slots=True)
class QueryVector:
    """What to search with.

    Attributes:
        values: float32 (D,), unit length.
        clip_id: the stored clip that it is of, None for others.
        notes: what to know of it, in words.
    """

    values: Vector
    clip_id: str | None = None
    notes: Sequence[str] = ()


def choose_model(run: CorpusRun, query: Query, wanted: str | None) -> str:
    """Choose the model whose vectors are searched.

    Args:
        run: all sources.
        query: what to look for; a text needs a model that embeds texts.
        wanted: registry name; None for the first of `embeddings.models` that fits and has vectors.

    Raises:
        SettingsError: no such model, it takes no texts, or there are no vectors of it; says what to do.
    """
    with_text = [name for name in registry.names() if registry.spec(name).has_text]
    if wanted is not None:
        try:
            spec = registry.spec(wanted)
        except ValueError as error:
            raise SettingsError(str(error)) from error
        if query.text is not None and not spec.has_text:
            raise SettingsError(f"{wanted} does not embed texts; models that do: {', '.join(with_text)}. Or search with a clip or a video")
        if not _has_vectors(run, wanted):
            raise SettingsError(_why_no_vectors(run, [wanted]))
        return wanted
    fitting = [name for name in run.config.embeddings.models if query.text is None or name in with_text]
    for name in fitting:
        if _has_vectors(run, name):
            return name
    if fitting:
        raise SettingsError(_why_no_vectors(run, fitting))
    if query.text is None:
        raise SettingsError(f"embeddings.models names no model; make vectors: {_how_to_make(run, registry.names()[0])}")
    has = ", ".join(run.config.embeddings.models) or "none"
    raise SettingsError(
        f"no model of embeddings.models ({has}) embeds texts. Make vectors of one that does, {', '.join(with_text)}, for example: "
        f"curation-assets models download {with_text[0]}, then {_how_to_make(run, with_text[0])}. Or search with a clip or a video"
    )


def _has_vectors(run: CorpusRun, model: str) -> bool:
    """Say whether a clip has a vector that can be found; rows are read up to the first that has."""
    table = embeddings_table(model, registry.spec(model).dim)
    return any(batch.num_rows for name in run.sources for batch in run.warehouse.table(table, name).scan(["clip_id"], where=FOUND))


def _why_no_vectors(run: CorpusRun, models: Sequence[str]) -> str:
    for model in models:
        if model in run.config.embeddings.models and run.sources and not any(_uses(run, name, model) for name in run.sources):
            return f"no source uses {model}: each has embeddings.models of its own, without it; add it to one of them and run again"
        table = embeddings_table(model, registry.spec(model).dim)
        if not any(run.warehouse.table(table, name).num_rows() for name in run.sources):
            continue
        if not any("clip" in settings.embeddings.scopes for _, settings in run.sources.values()):
            return f"there are no vectors of clips by {model}: embeddings.scopes leaves clips out; add clip to it and run again"
        return f"{model} has run, and no clip has a vector of it: all failed; curation-assets failures says why"
    return f"there are no vectors of {' or '.join(models)} yet; make them: {_how_to_make(run, models[0])}"


def _uses(run: CorpusRun, source: str, model: str) -> bool:
    return model in run.sources[source][1].embeddings.models


def _how_to_make(run: CorpusRun, model: str) -> str:
    models = run.config.embeddings.models
    if model in models:
        return "curation-assets run"
    return f'curation-assets run --set "embeddings.models=[{", ".join([*models, model])}]"'


def query_vector(run: CorpusRun, query: Query, model: str) -> QueryVector:
    """Give the vector of a query.

    Raises:
        SettingsError: there is no such clip, it has no vector, the weights are not ready, or the video gives none; says why.
    """
    if query.clip_id is not None:
        return _stored_vector(run, query.clip_id, model)
    try:
        if query.video is not None:
            return _video_vector(run, query, model)
        check_model(model, run.config.models.cache_dir, device=run.config.embeddings.device)
        assert query.text is not None
        return _text_vector(run, query.text, model)
    except (WeightsError, PermissionError) as error:
        raise SettingsError(str(error)) from error


def _text_vector(run: CorpusRun, text: str, model: str) -> QueryVector:
    loaded, _ = held_model(run.config, registry.spec(model))
    return QueryVector(loaded.embed_texts([text])[0])


def _stored_vector(run: CorpusRun, clip_id: str, model: str) -> QueryVector:
    with run.connect() as connection:
        clip = find_clip(connection, clip_id)
    if clip is None:
        raise SettingsError(f"no clip {clip_id!r}; curation-assets sql 'select clip_id from clips' lists them")
    spec = embeddings_table(model, registry.spec(model).dim)
    where = f"scope = 'clip' AND clip_id = {quoted(clip['clip_id'])}"
    partition = run.partition_of(clip["source"], clip["video_id"])
    rows = run.source_run(partition).read(spec, ["outcome", "detail", "embedding"], where=where).to_pylist()
    if not rows or rows[0]["embedding"] is None:
        waits = "it waits for a run, or embeddings.scopes leaves clips out"
        if not rows and model in run.config.embeddings.models and not _uses(run, partition, model):
            waits = f"embeddings.models of its source, {clip['source']}, leaves the model out"
        why = f"{rows[0]['outcome']}: {rows[0]['detail']}" if rows else waits
        raise SettingsError(f"clip {clip['clip_id']} has no vector of {model}: {why}")
    return QueryVector(np.asarray(rows[0]["embedding"], np.float32), clip["clip_id"])


def _video_vector(run: CorpusRun, query: Query, model: str) -> QueryVector:
    """Take a video through the stages into a warehouse of its own, which is thrown away: so it is decoded, cut, sampled and embedded as the stored ones are."""
    assert query.video is not None
    source = source_of(run, query.video)
    settings = _settings_for(source[1] if source else run.config, model, query)
    check_model(model, settings.models.cache_dir, device=settings.embeddings.device)
    with (
        tempfile.TemporaryDirectory(prefix="curation-assets-query-") as folder,
        LocalEngine(workers=settings.engine.workers, timeout_s=settings.engine.timeout_s) as engine,
    ):
        manifest = Path(folder) / "query.json"
        entry = {"uri": query.video, "start_s": query.start_s, "end_s": query.end_s}
        manifest.write_text(json.dumps([entry]), encoding="utf-8")
        record = SourceRecord(_NAME, str(manifest), True, source[0].storage_options if source else run.config.storage_options)
        own = SourceRun(record, settings, Warehouse(str(Path(folder) / "warehouse")), engine, log=run.log)
        notes = list(_work(own, model, query.video))
        spec = embeddings_table(model, registry.spec(model).dim)
        found = own.read(spec, ["scope", "outcome", "detail", "embedding"]).to_pylist()
    vectors = [row["embedding"] for row in found if row["scope"] == "clip" and row["embedding"] is not None]
    mean = np.mean(np.asarray(vectors, np.float64), axis=0) if vectors else np.zeros(1)
    norm = float(np.linalg.norm(mean))
    if norm < 1e-6:
        why = "its clips' vectors cancel out" if vectors else next((f"{row['outcome']}: {row['detail']}" for row in found), "no clip")
        raise SettingsError(f"{query.video}: {why}")
    if others := _sources_with_other_frames(run, settings, model):
        notes.append(f"{', '.join(others)}: made with other frames of a clip (frame_sets, embeddings) than this video, so scores are lower")
    return QueryVector((mean / norm).astype(np.float32), notes=notes)


def _work(own: SourceRun, model: str, video: str) -> Iterator[str]:
    """Run the stages; yields what was lost on the way.

    Raises:
        SettingsError: a stage ends with nothing of the video.
    """
    stages: Sequence[tuple[TableSpec, Callable[[SourceRun], object]]] = (
        (RAW_VIDEOS, update_raw_videos),
        (CLIPS, update_clips),
        (FRAME_SETS, partial(update_frame_sets, specs=(FRAME_SETS,))),
    )
    for spec, update in stages:
        update(own)
        if spec is CLIPS and Outcome.TOO_SHORT.value in own.table(spec).headers(["outcome"])["outcome"].to_pylist():
            # shorter than the shortest clip of a run: somebody means it, so it is one clip
            own = replace(own, settings=own.settings.model_copy(update={"clips": _as_one_clip(own.settings)}))
            update(own)
        for row in own.table(spec).headers(["outcome", "detail"]).to_pylist():
            detail = (row["detail"] or "").removeprefix("the manifest names it, the store does not have it: ")  # nobody wrote a manifest
            said = f"{video}: {row['outcome']}: {detail}"
            if not is_usable(row["outcome"]):
                raise SettingsError(said)
            if detail:
                yield said
    update_embeddings(own, model)


def _as_one_clip(settings: ProcessingSettings) -> ClipsSettings:
    return settings.clips.model_copy(update={"splitter": FixedStride(clip_len_s=_WHOLE_PART_S, min_clip_len_s=0)})


def _settings_for(settings: ProcessingSettings, model: str, query: Query) -> ProcessingSettings:
    """Leave of the settings what one model's vectors of one video need."""
    name = frame_set_of(settings, model)
    sets = {key: item for key, item in frame_sets(settings).items() if key == name}
    return settings.model_copy(
        update={
            "raw_videos": RawVideosSettings().model_copy(update={"extensions": [""]}),  # it was named: no ending and no limit keeps it out
            "clips": _as_one_clip(settings) if query.is_part else settings.clips,
            "frame_sets": settings.frame_sets.model_copy(update={"sets": sets}),
            "embeddings": settings.embeddings.model_copy(
                update={"models": [model], "scopes": ["clip"], "frame_set": name if sets else None}
            ),
        }
    )


def source_of(run: CorpusRun, uri: str) -> tuple[SourceRecord, ProcessingSettings] | None:
    """Find the source below whose root, or beside whose manifest, a video lies; of several the one whose root is nearest to it."""
    found: tuple[int, SourceRecord, ProcessingSettings] | None = None
    with suppress(ValueError):  # no store has such a URI, as the listing will say
        scheme, bucket, key = split_uri(uri)
        for record, settings in run.sources.values():
            root = split_uri(record.uri.rpartition("/")[0] or "/" if record.is_manifest else record.uri)
            prefix = child_uri(root[2], "") if root[2] else ""
            if root[:2] == (scheme, bucket) and key.startswith(prefix) and (found is None or len(prefix) > found[0]):
                found = len(prefix), record, settings
    return found and found[1:]


def _sources_with_other_frames(run: CorpusRun, used: ProcessingSettings, model: str) -> list[str]:
    """Name the sources with rows of a model that were embedded from other frames, or otherwise."""
    table = embeddings_table(model, registry.spec(model).dim)
    found = (
        record.plain_name
        for name, (record, settings) in run.sources.items()
        if _recipe(settings, model) != _recipe(used, model) and run.warehouse.table(table, name).num_rows()
    )
    return list(dict.fromkeys(found))


def _recipe(settings: ProcessingSettings, model: str) -> dict[str, Any]:
    """Give what decides a clip's vector beside the clip; a frame set's name does not."""
    own = settings.embeddings
    if model not in own.models:
        settings = settings.model_copy(update={"embeddings": own.model_copy(update={"models": [model]})})
    frames = frame_sets(settings)[frame_set_of(settings, model)]
    dtype = own.dtype if registry.spec(model).weights else None
    return {
        **frames.model_dump(exclude={"purpose", "target_res"}),
        "target_fps": frames.fps,
        "size": frames.size,
        "embeddings": (own.selection, dtype),
    }
