"""Media looks: what the UI shows beside clips' files and previews: how they were made, and a sheet that moves."""

from __future__ import annotations

import base64
import io
from collections import Counter

from av.error import FFmpegError
from PIL import Image, ImageSequence

from curation_assets.curation.looks import contact_sheet, spread
from curation_assets.curation.warehouse import SourceRun
from curation_assets.media.color import FrameScaler, display_size
from curation_assets.media.errors import MediaError
from curation_assets.media.source import open_container
from curation_assets.schemas.previews import previews_table
from curation_assets.schemas.transcoded_clips import TRANSCODED_CLIPS
from curation_assets.storage.errors import NotFound

_COLUMNS, _CELL_PX = 4, (160, 90)
_MOST_PICTURES = 8
_PICTURE_MS = 500
_QUALITY = 45
_MOST_SHEET_BYTES = 200_000  # a third more as base64


def look_at_transcoded_clips(run: SourceRun) -> str | None:
    """Tabulate how the files were made, their codecs and sizes, and show the first picture of a few."""
    columns = ["how", "codec", "width_px", "height_px", "size_bytes", "duration_ns", "num_frames", "has_audio"]
    rows = run.read(TRANSCODED_CLIPS, columns, where="uri IS NOT NULL").to_pylist()
    if not rows:
        return None
    counts: Counter[tuple[str, ...]] = Counter()
    sizes: Counter[tuple[str, ...]] = Counter()
    for row in rows:
        key = (row["how"], row["codec"], f"{row['width_px']}x{row['height_px']}", "yes" if row["has_audio"] else "no")
        counts[key] += 1
        sizes[key] += row["size_bytes"]
    lines = "\n".join(f"| {' | '.join(key)} | {number:,} | {sizes[key] / 1e6:.2f} |" for key, number in counts.most_common(20))
    hours = sum(row["duration_ns"] for row in rows) / 3.6e12
    total = sum(row["size_bytes"] for row in rows)
    rate = 8 * total / (hours * 3600) / 1e6 if hours else 0.0
    summary = f"{len(rows):,} files, {hours:.3f} hours, {total / 1e6:.2f} MB, {rate:.2f} Mb/s"
    return f"{summary}\n\n| how | codec | size | sound | files | MB |\n|---|---|---|---|---|---|\n{lines}{_first_pictures(run)}"


def _first_pictures(run: SourceRun) -> str:
    """Show a picture each of a few files."""
    rows = spread(run.read(TRANSCODED_CLIPS, ["clip_id", "how", "uri"], where="uri IS NOT NULL"))
    thumbs = []
    for row in rows:
        key = str(row["uri"])
        path = run.warehouse.store.local_path(key)
        try:
            with open_container(str(path) if path else run.warehouse.store.open_reader(key)) as container:
                frame = next(container.decode(container.streams.video[0]))
        except (NotFound, MediaError, FFmpegError, LookupError, StopIteration):
            continue  # the check media_exists tells
        height_px, width_px = display_size(frame)
        scale = min(_CELL_PX[0] / width_px, _CELL_PX[1] / height_px)
        rgb = FrameScaler().to_rgb(frame, height_px=max(2, round(height_px * scale)), width_px=max(2, round(width_px * scale)))
        thumbs.append((Image.fromarray(rgb), f"{str(row['clip_id'])[:8]}  {row['how']}"))
    return f"\n\n{contact_sheet(thumbs)}" if thumbs else ""


def look_at_previews(run: SourceRun, *, name: str) -> str | None:
    """Show previews of clips spread over the source, moving, on one sheet."""
    spec = previews_table(name)
    rows = run.read(spec, ["clip_id", "uri", "size_bytes", "num_frames"], where="uri IS NOT NULL")
    if not rows.num_rows:
        return None
    sizes, frames = rows.column("size_bytes").to_numpy(), rows.column("num_frames").to_numpy()
    summary = f"{rows.num_rows:,} previews, {sizes.sum() / 1e6:.2f} MB, {sizes.mean() / 1e3:.1f} kB and {frames.mean():.1f} pictures each"
    animations = []
    for row in spread(rows):
        try:
            animations.append(preview_pictures(run.warehouse.store.get(str(row["uri"])), _CELL_PX))
        except (NotFound, OSError):
            continue
    return f"{summary}\n\n{_moving_sheet(animations)}" if animations else summary


def preview_pictures(data: bytes, size_px: tuple[int, int]) -> list[Image.Image]:
    """Decode the first pictures of a preview, fitted to (width, height).

    Raises:
        OSError: the bytes are no picture.
    """
    pictures = []
    with Image.open(io.BytesIO(data)) as image:
        for number, frame in enumerate(ImageSequence.Iterator(image)):
            if number == _MOST_PICTURES:
                break
            picture = frame.convert("RGB")
            picture.thumbnail(size_px)
            pictures.append(picture)
    return pictures


def encode_moving(pictures: list[Image.Image]) -> bytes:
    """Encode pictures of one size as a small WebP that repeats."""
    buffer = io.BytesIO()
    pictures[0].save(buffer, "WEBP", save_all=True, append_images=pictures[1:], duration=_PICTURE_MS, loop=0, quality=_QUALITY, method=2)
    return buffer.getvalue()


def _moving_sheet(animations: list[list[Image.Image]]) -> str:
    """Lay animations out on one that repeats; fewer pictures where it would be large."""
    width, height = _CELL_PX
    num_rows = -(-len(animations) // _COLUMNS)
    most = max(len(pictures) for pictures in animations)
    while True:
        sheets = []
        for number in range(most):
            sheet = Image.new("RGB", (_COLUMNS * (width + 4), num_rows * (height + 4)), "white")
            for place, pictures in enumerate(animations):
                picture = pictures[number % len(pictures)]
                left, top = place % _COLUMNS * (width + 4) + 2, place // _COLUMNS * (height + 4) + 2
                sheet.paste(picture, (left + (width - picture.width) // 2, top + (height - picture.height) // 2))
            sheets.append(sheet)
        data = encode_moving(sheets)
        if len(data) <= _MOST_SHEET_BYTES or most == 1:
            return f"![previews](data:image/webp;base64,{base64.b64encode(data).decode()})"
        most = max(1, most // 2)
