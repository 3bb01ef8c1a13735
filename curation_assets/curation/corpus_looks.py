"""Corpus looks: Markdown that the UI shows beside the tables over all sources: similarities, example pairs, counts of reasons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from PIL import Image

from curation_assets.curation.corpus import CorpusRun
from curation_assets.curation.curated_clips import count_reasons
from curation_assets.curation.looks import contact_sheet, draw_bars, stored_frames
from curation_assets.models import registry
from curation_assets.schemas.duplicates import duplicates_table
from curation_assets.schemas.search_index import search_index_table

_MOST_PAIRS = 6
_MOST_CLIPS = 12


def look_at_duplicates(run: CorpusRun, model: str) -> str | None:
    """Draw how similar each clip is to the nearest kept one, and show pairs: the least similar ones, where errors would be, then the most similar."""
    table = run.table(duplicates_table(model))
    facts = table.facts()
    if not facts.get("num_clips"):
        return None
    threshold = 1 - facts["eps"]
    bars = draw_bars(f"cosine with the nearest kept clip; duplicates from {threshold:.4g}", facts["similarity_counts"], low=-1, high=1)
    summary = f"{facts['num_clips']:,} clips, {facts['num_duplicates']:,} near-duplicates, {facts['num_clusters']:,} clusters\n\n{bars}"
    view = table.spec.view
    pairs_sql = f"SELECT clip_id, kept_id, similarity FROM {view} ORDER BY similarity, clip_id LIMIT ?"
    with run.connect() as connection:
        least = connection.execute(pairs_sql, [_MOST_PAIRS // 2]).fetchall()
        most = connection.execute(pairs_sql.replace("ORDER BY similarity,", "ORDER BY similarity DESC,"), [_MOST_PAIRS // 2]).fetchall()
    pairs = list(dict.fromkeys([*least, *most]))
    frames = clip_frames(run, [clip for pair in pairs for clip in pair[:2]])
    thumbs = []
    for clip, kept, similarity in pairs:
        if clip in frames and kept in frames:
            thumbs += [(frames[kept], f"{kept[:8]} kept"), (frames[clip], f"{clip[:8]} {similarity:.3f}")]
    return f"{summary}\n\n{contact_sheet(thumbs)}" if thumbs else summary


def look_at_search_index(run: CorpusRun, model: str) -> str | None:
    """Say how many vectors there are, and how they are searched."""
    facts = run.table(search_index_table(model, registry.spec(model).dim)).facts()
    if not facts.get("num_vectors"):
        return None
    how = "through an index" if facts["is_indexed"] else f"one by one; an index is made from {run.config.search.index_from:,} on"
    return f"{facts['num_vectors']:,} vectors, searched {how}"


def look_at_curated(run: CorpusRun) -> str | None:
    """Tabulate why clips are left out, and show some of the selected ones."""
    reasons = count_reasons(run)
    if not reasons:
        return None
    lines = "\n".join(f"| {reason} | {number:,} |" for reason, number in reasons.items())
    with run.connect() as connection:
        query = "SELECT clip_id FROM curated_clips WHERE is_selected ORDER BY hash(clip_id), clip_id LIMIT ?"
        chosen = [clip for (clip,) in connection.execute(query, [_MOST_CLIPS]).fetchall()]
    frames = clip_frames(run, chosen)
    thumbs = [(frames[clip], clip[:8]) for clip in chosen if clip in frames]
    table = f"| first reason | clips |\n|---|---|\n{lines}"
    return f"{table}\n\n{contact_sheet(thumbs)}" if thumbs else table


def clip_frames(run: CorpusRun, clip_ids: Sequence[str]) -> dict[str, Image.Image]:
    """Read a stored frame of some clips of any source."""
    if not clip_ids:
        return {}
    marks = ", ".join("?" for _ in clip_ids)
    with run.connect() as connection:
        found = connection.execute(f"SELECT source, video_id, clip_id FROM clips WHERE clip_id IN ({marks})", list(clip_ids)).fetchall()
    by_source = defaultdict(list)
    for source, video, clip in found:
        by_source[run.partition_of(source, video)].append(clip)
    return {clip: picture for source, clips in by_source.items() for clip, picture in stored_frames(run.source_run(source), clips).items()}
