"""Sheet: one HTML page with a picture of each clip, what it is, and whether it is selected or why not. Nothing in it comes from elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from curation_assets.curation.corpus import CorpusRun
from curation_assets.curation.corpus_looks import clip_frames
from curation_assets.curation.media_looks import encode_moving, preview_pictures
from curation_assets.schemas.previews import previews_table
from curation_assets.schemas.transcoded_clips import TRANSCODED_CLIPS
from curation_assets.storage.errors import NotFound

MOST_CLIPS = 240
_PICTURE_PX = (240, 180)
_STYLE = """
body{font:14px/1.4 system-ui,sans-serif;margin:24px;background:#fafafa;color:#222}
h1{font-size:20px;margin:0 0 4px} p{margin:0 0 16px;color:#555}
main{margin-top:12px;display:grid;grid-template-columns:repeat(auto-fill,minmax(240px,1fr));gap:16px}
figure{margin:0;background:#fff;border:1px solid #ddd;border-radius:8px;overflow:hidden}
figure.out{opacity:.75} figure img,figure div{display:block;width:100%;aspect-ratio:4/3;object-fit:contain;background:#111}
figcaption{padding:8px 10px;overflow-wrap:anywhere} b.in{color:#0a7a3c} b.out{color:#b3261e} small{color:#777}
label{margin-right:12px} #in:checked~main figure.out,#out:checked~main figure.in{display:none}
"""


def render_sheet(run: CorpusRun, *, most_clips: int = MOST_CLIPS) -> str:
    """Write the page.

    Args:
        run: all sources.
        most_clips: clips on it; of more, every n-th in the order of source, key and time.
    """
    columns = "source, video_id, key, clip_id, start_ns, end_ns, uri, is_selected, reject_reasons, duplicate_of"
    order = "ORDER BY source, key, start_ns, end_ns"
    with run.connect() as connection:
        total, num_selected = connection.execute("SELECT count(*), count(*) FILTER (WHERE is_selected) FROM curated_clips").fetchall()[0]
        step = max(1, -(-total // most_clips))
        numbered = f"SELECT {columns}, row_number() OVER ({order}) AS place FROM curated_clips"
        rows = connection.execute(f"SELECT * FROM ({numbered}) WHERE place % {step} = 1 % {step} ORDER BY place")
        names = [column[0] for column in rows.description]
        clips = [dict(zip(names, row, strict=True)) for row in rows.fetchall()]
        kept = [clip["duplicate_of"] for clip in clips if clip["duplicate_of"]]
        marks = ", ".join("?" for _ in kept) or "NULL"
        places = {
            clip: f"{key} {start_ns / 1e9:.1f} s"
            for clip, key, start_ns in connection.execute(
                f"SELECT clip_id, key, start_ns FROM curated_clips WHERE clip_id IN ({marks})", kept
            ).fetchall()
        }
    pictures = _pictures(run, clips)
    shown = f"{len(clips):,} of {total:,} clips shown, {num_selected:,} of all selected"
    figures = "\n".join(_figure(clip, pictures.get(clip["clip_id"]), **_verdict(clip, places)) for clip in clips)
    return _page(
        "Curated clips",
        f"{shown}; warehouse {run.config.warehouse}",
        "<input type=radio name=show id=all checked><label for=all>all</label><input type=radio name=show id=in><label for=in>selected</label>"
        f"<input type=radio name=show id=out><label for=out>left out</label><main>{figures}</main>",
    )


def render_hits(run: CorpusRun, hits: Sequence[dict[str, Any]], *, title: str, model: str) -> str:
    """Write the page of a search.

    Args:
        run: all sources.
        hits: as `search` gives them, in their order.
        title: what was looked for.
        model: whose vectors were compared.
    """
    pictures = _pictures(run, hits)
    files = _files(run, hits)
    figures = "\n".join(
        _figure({**hit, "uri": files.get(hit["clip_id"])}, pictures.get(hit["clip_id"]), kind="in", word=f"{hit['score']:.4f}")
        for hit in hits
    )
    shown = f"{len(hits):,} clips by the cosine of their {model} vectors; warehouse {run.config.warehouse}"
    return _page(title, shown, f"<main>{figures}</main>")


def _page(title: str, shown: str, body: str) -> str:
    head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{escape(title)}</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang=en>{head}<h1>{escape(title)}</h1><p>{escape(shown)}</p>{body}</html>\n"


def _files(run: CorpusRun, clips: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Find the files of some clips, where they have one."""
    marks = ", ".join("?" for _ in clips) or "NULL"
    query = f"SELECT clip_id, uri FROM {TRANSCODED_CLIPS.view} WHERE uri IS NOT NULL AND clip_id IN ({marks})"
    with run.connect() as connection:
        return dict(connection.execute(query, [clip["clip_id"] for clip in clips]).fetchall())


def _pictures(run: CorpusRun, clips: Sequence[dict[str, Any]]) -> dict[str, tuple[str, bytes]]:
    """Read a picture of some clips: their preview, else a stored frame."""
    pictures = _previews(run, clips)
    frames = clip_frames(run, [clip["clip_id"] for clip in clips if clip["clip_id"] not in pictures])
    return pictures | {clip: ("image/jpeg", _to_jpeg(frame)) for clip, frame in frames.items()}


def _previews(run: CorpusRun, clips: Sequence[dict[str, Any]]) -> dict[str, tuple[str, bytes]]:
    """Read the first preview of the settings of some clips, where there is one, made smaller."""
    pictures: dict[str, tuple[str, bytes]] = {}
    for name in list(run.config.previews)[:1]:
        places = {clip["clip_id"]: run.partition_of(clip["source"], clip["video_id"]) for clip in clips}
        for place in dict.fromkeys(place for place in places.values() if place in run.sources):
            own = run.source_run(place)
            ids = ", ".join(f"'{clip}'" for clip, its_place in places.items() if its_place == place)
            for row in own.read(previews_table(name), ["clip_id", "uri"], where=f"uri IS NOT NULL AND clip_id IN ({ids})").to_pylist():
                try:
                    moving = preview_pictures(run.warehouse.store.get(row["uri"]), _PICTURE_PX)
                except (NotFound, OSError):
                    continue  # the check media_exists tells
                pictures[row["clip_id"]] = ("image/webp", encode_moving(moving))
    return pictures


def _verdict(clip: dict[str, Any], places: dict[str, str]) -> dict[str, str]:
    if clip["is_selected"]:
        return {"kind": "in", "word": "selected"}
    return {"kind": "out", "word": _reasons(clip["reject_reasons"], places.get(clip["duplicate_of"] or ""))}


def _figure(clip: dict[str, Any], picture: tuple[str, bytes] | None, *, kind: str, word: str) -> str:
    image = "<div></div>"
    if picture is not None:
        image = f"<img loading=lazy alt='' src='data:{picture[0]};base64,{base64.b64encode(picture[1]).decode()}'>"
    if str(clip["uri"]).startswith("/"):
        image = f"<a href='{escape(Path(clip['uri']).as_uri())}' title='open the clip'>{image}</a>"
    where = f"{escape(clip['source'])}/{escape(str(clip['key']))}"
    span = f"{clip['start_ns'] / 1e9:.2f} to {clip['end_ns'] / 1e9:.2f} s"
    return f"<figure class={kind}>{image}<figcaption><b class={kind}>{escape(word)}</b><br>{where}<br>{span}<br><small>{clip['clip_id']}</small></figcaption></figure>"


def _reasons(reasons: Sequence[str], kept: str | None) -> str:
    return ", ".join(f"duplicate of {kept}" if reason == "duplicate" and kept else reason for reason in reasons)


def _to_jpeg(picture: Image.Image) -> bytes:
    """Encode a small picture for the page."""
    small = picture.copy()
    small.thumbnail(_PICTURE_PX)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
