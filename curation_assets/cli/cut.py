"""Cut: `cut` makes the file of one clip again."""

from __future__ import annotations

from pathlib import Path

import click

from curation_assets.cli.base import EXIT_RUN_FAILED, cli, err, out, settings_of
from curation_assets.configuration import parse_assignments
from curation_assets.settings import SettingsError


@cli.command()
@click.argument("clip_id")
@click.option(
    "-o", "--output", "path", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Where to; else CLIP_ID.mp4 here."
)
@click.option(
    "--set", "assignments", metavar="KEY=VALUE", multiple=True, help="A setting of this command, for example transcoded_clips.way=encode."
)
@click.pass_context
def cut(context: click.Context, clip_id: str, path: Path | None, assignments: tuple[str, ...]) -> None:
    """Cut a clip from its source again, kept or not, as an MP4 file."""
    from curation_assets.curation.corpus import CorpusRun
    from curation_assets.curation.recut import CutError, cut_clip

    overrides = parse_assignments(assignments)
    if others := sorted(set(overrides) - {"transcoded_clips"}):
        raise SettingsError(f"--set: cut takes settings of transcoded_clips alone, not of {', '.join(others)}")
    if path is not None and path.suffix.lower() != ".mp4":
        raise SettingsError(f"--output {path}: the file is an MP4 file; give it a name that ends with .mp4")
    _, config = settings_of(context, overrides)
    path = path or Path(f"{clip_id}.mp4")
    try:
        made = cut_clip(CorpusRun(config, overrides), clip_id, path)
    except CutError as error:
        err.print(f"error: {error}", markup=False, soft_wrap=True)
        context.exit(EXIT_RUN_FAILED)
    except OSError as error:
        raise SettingsError(f"--output {path}: {error.strerror or error}") from error
    assert made.file is not None
    note = f"; {made.outcome.value}: {made.detail}" if made.detail else ""
    out.print(
        f"wrote {path}: {made.file.num_frames} frames, {made.file.duration_ns / 1e9:.3f} s, {made.file.codec}, {made.how}{note}",
        markup=False,
        soft_wrap=True,
    )
