"""Looks: Markdown with pictures that the UI shows beside an asset: contact sheets, histograms, nearest pairs.

Kept small: an event with its pictures is stored in Dagster's database and sent to the browser whole.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageDraw

from curation_assets.curation.frame_sets import read_videos
from curation_assets.curation.reading import ObjectRef
from curation_assets.curation.warehouse import SourceRun
from curation_assets.curation.workers import SampleJob, sample_piece
from curation_assets.engine.local import Done
from curation_assets.media.images import decode_image
from curation_assets.media.plan import FrameSetSpec
from curation_assets.schemas.clip_scores import CLIP_SCORES_AESTHETIC, CLIP_SCORES_PIXELS, PIXEL_SCORES
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.columns import AESTHETIC_SCORE
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.schemas.outcomes import OutcomeClass, codes
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.schemas.table import TableSpec
from curation_assets.storage.snapshots import in_list

_SHEET_COLUMNS, _MOST_THUMBS = 4, 12
_THUMB_PX = (160, 90)
_LABEL_PX = 14
_MOST_VECTORS = 2000  # pairs grow with the square
_NUM_BINS = 20
_NARROWEST = 1e-3


def look_at_videos(run: SourceRun) -> str | None:
    """Tabulate hours, bytes, codecs and sizes of the source's videos."""
    rows = run.read(RAW_VIDEOS, ["size_bytes", "duration_ns", "codec", "width_px", "height_px"])
    if not rows.num_rows:
        return "No objects: the source is empty, or no name ends like a video (raw_videos.extensions)."
    hours = (pc.sum(rows.column("duration_ns")).as_py() or 0) / 3.6e12
    gigabytes = (pc.sum(rows.column("size_bytes")).as_py() or 0) / 1e9
    known = rows.filter(pc.is_valid(rows.column("codec")))
    kinds = known.group_by(["codec", "width_px", "height_px"]).aggregate([([], "count_all")]).sort_by([("count_all", "descending")])
    lines = "\n".join(
        f"| {kind['codec']} {kind['width_px']}x{kind['height_px']} | {kind['count_all']:,} |" for kind in kinds.slice(0, 12).to_pylist()
    )
    return f"{rows.num_rows:,} objects, {hours:.2f} hours by their headers, {gigabytes:.3f} GB\n\n| codec and size | videos |\n|---|---|\n{lines}"


def look_at_clips(run: SourceRun) -> str | None:
    """Show the middle frames of clips spread over the source, and the clips' lengths."""
    clips = run.read(CLIPS, ["video_id", "clip_id", "start_ns", "end_ns"])
    if not clips.num_rows:
        return None
    lengths = (clips.column("end_ns").to_numpy() - clips.column("start_ns").to_numpy()) / 1e9
    summary = f"{clips.num_rows:,} clips, {lengths.sum() / 3600:.3f} hours, {lengths.min():.2f} to {lengths.max():.2f} s long"
    chosen = spread(clips)
    frames = stored_frames(run, [str(clip["clip_id"]) for clip in chosen]) or _decoded_frames(run, chosen)
    thumbs = [(frames[clip["clip_id"]], _label(clip)) for clip in chosen if clip["clip_id"] in frames]
    return f"{summary}\n\n{contact_sheet(thumbs)}" if thumbs else summary


def _decoded_frames(run: SourceRun, chosen: Sequence[dict[str, Any]]) -> dict[str, Image.Image]:
    """Decode the middle frame of a few clips, in workers: a decoder that crashes must not end the run."""
    videos = read_videos(run, sorted({clip["video_id"] for clip in chosen}))
    spec = FrameSetSpec(name="sheet", policy="middle", target_res=(-1, _THUMB_PX[0]))
    jobs = []
    for clip in chosen:
        video = videos.get(str(clip["video_id"]))
        if video is None:
            continue
        ref = ObjectRef.of(video.uri, video.etag, storage_options=run.record.storage_options, engine=run.settings.engine)
        span = (clip["clip_id"], clip["start_ns"], clip["end_ns"])
        jobs.append(SampleJob(video.video_id, ref, video.index, (span,), span[1:], (spec,), None, 1))
    frames: dict[str, Image.Image] = {}
    for result in run.engine.map(sample_piece, jobs):
        if isinstance(result, Done):
            row = result.value.rows[FRAME_SETS.asset][0]
            if row["num_frames"]:
                frames[row["clip_id"]] = Image.fromarray(decode_image(row["frames"][0], row["codec"], row["height_px"], row["width_px"]))
    return frames


def stored_frames(run: SourceRun, clip_ids: Sequence[str]) -> dict[str, Image.Image]:
    """Read the middle one of the stored frames of a few clips, in the picture's own proportions."""
    ids = ", ".join(f"'{clip}'" for clip in clip_ids)
    videos = run.read(CLIPS, ["video_id"], where=f"clip_id IN ({ids})").column("video_id").to_pylist()
    shapes = run.table(RAW_VIDEOS).headers(["video_id", "width_px", "height_px"], video_ids=set(videos)).to_pylist()
    sizes = {row["video_id"]: row for row in shapes}
    columns = ["clip_id", "video_id", "codec", "height_px", "width_px", "frames"]
    pictures: dict[str, Image.Image] = {}
    for batch in run.table(FRAME_SETS).scan_blobs(columns, where=f"num_frames > 0 AND clip_id IN ({ids})"):
        for row in batch.to_pylist():
            middle = row["frames"][len(row["frames"]) // 2]
            picture = Image.fromarray(decode_image(middle, row["codec"], row["height_px"], row["width_px"]))
            size = sizes.get(row["video_id"], row)
            width = max(1, round(picture.height * (size["width_px"] or 1) / (size["height_px"] or 1)))
            pictures[row["clip_id"]] = picture.resize((width, picture.height))
    return pictures


def look_at_frames(run: SourceRun) -> str | None:
    """Show one stored frame of clips spread over the source, in the picture's own proportions."""
    columns = ["video_id", "clip_id", "name", "outcome", "num_frames", "fps", "height_px", "width_px"]
    rows = run.read(FRAME_SETS, columns, where="clip_id IS NOT NULL AND num_frames > 0")
    if not rows.num_rows:
        return None
    kinds = rows.group_by(["name", "fps", "height_px", "width_px"]).aggregate([([], "count_all")]).sort_by([("count_all", "descending")])
    lines = "\n".join(
        f"| {kind['name']} | {kind['fps']} | {kind['height_px']}x{kind['width_px']} | {kind['count_all']:,} |"
        for kind in kinds.slice(0, 12).to_pylist()
    )
    chosen = {row["clip_id"]: row for row in spread(rows.filter(pc.equal(rows.column("name"), rows.column("name")[0])))}
    ids = ", ".join(f"'{clip}'" for clip in chosen)
    spans = {row["clip_id"]: row for row in run.read(CLIPS, ["clip_id", "start_ns", "end_ns"], where=f"clip_id IN ({ids})").to_pylist()}
    pictures = stored_frames(run, [str(clip) for clip in chosen])
    thumbs = [(picture, _label(spans[clip])) for clip, picture in pictures.items() if clip in spans]  # another run may have split anew
    return f"| frame set | fps | size | clips |\n|---|---|---|---|\n{lines}\n\n{contact_sheet(thumbs)}"


def look_at_scores(run: SourceRun) -> str | None:
    """Draw a histogram of every score."""
    names = [column.name for column in PIXEL_SCORES]
    scores = run.read(CLIP_SCORES_PIXELS, names)
    if not scores.num_rows:
        return None
    return "\n\n".join(histogram(name, scores.column(name).drop_null().to_numpy()) for name in names)


def look_at_aesthetic(run: SourceRun) -> str | None:
    """Draw a histogram of the scores, and show the clips with the lowest and the highest."""
    name = AESTHETIC_SCORE.name
    scores = run.read(CLIP_SCORES_AESTHETIC, ["clip_id", name], where=f"{name} IS NOT NULL").sort_by(
        [(name, "ascending"), ("clip_id", "ascending")]
    )
    if not scores.num_rows:
        return None
    ends = (
        scores
        if scores.num_rows <= _MOST_THUMBS
        else pa.concat_tables([scores.slice(0, _MOST_THUMBS // 2), scores.slice(scores.num_rows - _MOST_THUMBS // 2)])
    )
    pictures = stored_frames(run, ends.column("clip_id").to_pylist())
    thumbs = [
        (pictures[row["clip_id"]], f"{row['clip_id'][:8]}  {row[name]:.2f}") for row in ends.to_pylist() if row["clip_id"] in pictures
    ]
    return f"{histogram(name, scores.column(name).to_numpy())}\n\n{contact_sheet(thumbs)}"


def look_at_embeddings(run: SourceRun, *, spec: TableSpec) -> str | None:
    """Draw how near each clip's nearest neighbour is, and list the nearest pairs."""
    found = run.read(spec, ["row_id"], where=f"scope = 'clip' AND {in_list('outcome', codes(OutcomeClass.OK, OutcomeClass.PARTIAL))}")
    if found.num_rows < 2:
        return None
    chosen = found.take(np.unique(np.linspace(0, found.num_rows - 1, min(found.num_rows, _MOST_VECTORS)).astype(np.int64)))
    where = in_list("row_id", chosen.column("row_id").to_pylist())
    rows = pa.Table.from_batches(run.table(spec).scan_blobs(["clip_id", "embedding"], where=where))
    vectors = np.stack(rows.column("embedding").to_numpy(zero_copy_only=False)).astype(np.float32)
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -2)
    nearest = similarity.max(axis=1)
    clips = rows.column("clip_id").to_pylist()
    pairs = sorted(
        {(round(float(nearest[i]), 4), *sorted((clips[i], clips[int(similarity[i].argmax())]))) for i in range(len(clips))}, reverse=True
    )
    lines = "\n".join(f"| {value:.4f} | {first} | {second} |" for value, first, second in pairs[:5])
    return f"{histogram('cosine with the nearest other clip', nearest)}\n\n| cosine | clip | clip |\n|---|---|---|\n{lines}"


def contact_sheet(thumbs: Sequence[tuple[Image.Image, str]]) -> str:
    """Lay pictures with labels out on one sheet; returns a Markdown image."""
    num_rows = -(-len(thumbs) // _SHEET_COLUMNS)
    width, height = _THUMB_PX
    sheet = Image.new("RGB", (_SHEET_COLUMNS * (width + 4), num_rows * (height + _LABEL_PX + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    for position, (picture, label) in enumerate(thumbs):
        fitted = picture.copy()
        fitted.thumbnail(_THUMB_PX)
        left, top = position % _SHEET_COLUMNS * (width + 4) + 2, position // _SHEET_COLUMNS * (height + _LABEL_PX + 4) + 2
        sheet.paste(fitted, (left + (width - fitted.width) // 2, top + (height - fitted.height) // 2))
        draw.text((left, top + height + 1), label, fill="black")
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=60)
    return f"![contact sheet](data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()})"


def histogram(title: str, values: np.ndarray) -> str:  # type: ignore[type-arg]
    """Draw a histogram as SVG; returns a Markdown image."""
    if not len(values):
        return f"{title}: no values"
    low, high = float(values.min()), float(values.max())
    if high - low < _NARROWEST * max(1.0, abs(low)):  # all but equal: bins of no width cannot be made
        low, high = low - _NARROWEST, low + _NARROWEST
    counts, _ = np.histogram(values, bins=_NUM_BINS, range=(low, high))
    return draw_bars(f"{title}: median {np.median(values):.4g}, {len(values):,} values", counts.tolist(), low=low, high=high)


def draw_bars(title: str, counts: Sequence[int], *, low: float, high: float) -> str:
    """Draw the counts of equal bins from `low` to `high` as SVG; returns a Markdown image."""
    top, width = max(1, *counts), 400 / len(counts)
    bars = "".join(
        f'<rect x="{10 + width * i:.1f}" y="{90 - 70 * n / top:.1f}" width="{width - 2:.1f}" height="{70 * n / top:.1f}" fill="#4f43dd"/>'
        for i, n in enumerate(counts)
    )
    text = 'font-family="sans-serif" font-size="11"'
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="420" height="110"><rect width="420" height="110" fill="white"/>'
        f'<text x="10" y="13" {text}>{escape(title)}, tallest bar {top:,}</text>{bars}'
        f'<text x="10" y="104" {text}>{low:.4g}</text><text x="410" y="104" {text} text-anchor="end">{high:.4g}</text></svg>'
    )
    return f"![{title}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def spread(rows: pa.Table) -> list[dict[str, object]]:
    """Take up to twelve rows, evenly."""
    places = np.unique(np.linspace(0, rows.num_rows - 1, _MOST_THUMBS).round().astype(np.int64))
    return rows.take(places).to_pylist()  # type: ignore[no-any-return]


def _label(clip: dict[str, object]) -> str:
    return f"{str(clip['clip_id'])[:8]}  {int(clip['start_ns']) / 1e9:.1f}-{int(clip['end_ns']) / 1e9:.1f} s"  # type: ignore[call-overload]
