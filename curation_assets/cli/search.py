"""Search: `search` finds clips by a text, by a stored clip, or by a video."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Column, Table

from curation_assets.cli.base import absolute, cell, cli, err, out, print_json, settings_of, with_json
from curation_assets.settings import SettingsError


@cli.command()
@click.argument("text", required=False)
@click.option("--clip", "clip_id", metavar="CLIP_ID", help="Find the neighbours of a stored clip; the beginning of its id will do.")
@click.option(
    "--video",
    metavar="FILE",
    help="Find clips like a video that need be in no source: a file, or a URI. The mean of its clips is compared.",
)
@click.option("--start", "start_s", metavar="SECONDS", type=float, help="With --video: only from here on, as one clip.")
@click.option("--end", "end_s", metavar="SECONDS", type=float, help="With --video: only up to here, as one clip.")
@click.option(
    "--model", metavar="NAME", help="Whose vectors; else the first of embeddings.models that has some, for a text one that embeds texts."
)
@click.option("-k", "k", type=click.IntRange(min=1, max=2**63 - 1), default=10, show_default=True, help="Most hits.")
@click.option(
    "--where",
    metavar="SQL",
    help="Look only at clips for which this holds, over the columns of clips, raw_videos, clip_scores and curated_clips, for example "
    "\"is_selected and motion_mean > 0.01 and source = 'a'\". outcome and detail are those of clips, uri that of curated_clips.",
)
@click.option("--html", "page", metavar="FILE", type=click.Path(path_type=Path), help="Write a page of the hits, moving.")
@with_json
@click.pass_context
def search(
    context: click.Context,
    text: str | None,
    clip_id: str | None,
    video: str | None,
    start_s: float | None,
    end_s: float | None,
    model: str | None,
    k: int,
    where: str | None,
    page: Path | None,
    as_json: bool,
) -> None:
    """Find the clips that lie nearest to TEXT, to a stored clip, or to a video."""
    from curation_assets.curation.corpus import CorpusRun
    from curation_assets.curation.query_vectors import Query
    from curation_assets.curation.search import clock
    from curation_assets.curation.search import search as find

    query = Query(text=text, clip_id=clip_id, video=absolute(video) if video else video, start_s=start_s, end_s=end_s)
    run = CorpusRun(settings_of(context)[1])
    found = find(run, query, model=model, k=k, where=where)
    for note in found.notes:
        err.print(f"note: {note}", markup=False, soft_wrap=True)
    if page is not None:
        from curation_assets.curation.sheet import render_hits
        from curation_assets.storage.objects_local import readable_path

        title = f"Clips like {text or readable_path(video or '') or f'clip {clip_id}'}"
        try:
            page.write_text(render_hits(run, [hit.as_dict() for hit in found.hits], title=title, model=found.model), encoding="utf-8")
        except OSError as error:
            raise SettingsError(f"--html {page}: {error.strerror or error}") from error
        err.print(f"wrote {page}", markup=False, soft_wrap=True)
    if as_json:
        print_json([hit.as_dict() for hit in found.hits])
        return
    if not found.hits:
        out.print("no clip fits the filter" if where else "there is nothing to find yet: no other clip has a vector")
        return
    table = Table(
        Column("score", justify="right"), "source", "key", Column("start", justify="right"), Column("end", justify="right"), "clip"
    )
    for hit in found.hits:
        table.add_row(f"{hit.score:.4f}", cell(hit.source), cell(hit.key), clock(hit.start_ns), clock(hit.end_ns), hit.clip_id)
    out.print(table)
