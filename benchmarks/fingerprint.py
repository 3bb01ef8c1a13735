"""Recall and precision of the `fingerprint` model on near-duplicates: real encodes of a generated corpus, and of clips of real videos.

    python benchmarks/fingerprint.py [--media FOLDER] [--output FILE]

Each clip is copied by every transformation of fingerprint_corpus, each copy is written by a real encoder and takes the path of the pipeline: packet index,
frames at 2 fps squashed to 224 x 224 as JPEG, select_frames, embed. Pairs are (original, copy): of one clip a positive, of two clips a negative, hard when both
are of one family or one real video. Two clips of the same place at different times are neither and are shown apart. The descriptor and its threshold
were chosen on the families of DEVELOPMENT and looked at on HELD_OUT's landscape and the real videos; demo_scene came after.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from common import write_report
from fingerprint_corpus import (
    CLIPS_PER_PLACE,
    DEVELOPMENT,
    FPS,
    HELD_OUT,
    ORIGINAL,
    SAME_PLACE,
    TRANSFORMATIONS,
    Frames,
    cut_real_clips,
    make_clip,
    transformed,
)

from curation_assets import models
from curation_assets.media.frames import sample_frames
from curation_assets.media.images import decode_image
from curation_assets.media.packets import index_packets
from curation_assets.media.plan import FrameSetSpec, SampleSpan
from curation_assets.models.fingerprint import NEAR_DUPLICATE_SIMILARITY

Vectors = npt.NDArray[np.float32]

FRAME_SET = FrameSetSpec(name="default")
THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8)
BINS = np.round(np.arange(-0.5, 1.01, 0.1), 1)


@dataclass(frozen=True)
class Clip:
    """One clip of the corpus; clips of one `place` but different numbers are the same place at other times."""

    family: str
    number: int
    place: int | None = None
    frames: Frames | None = None
    fps: int = FPS


def read_clip(path: Path) -> npt.NDArray[np.uint8]:
    """Take a file through the pipeline's own stages to the frames that the model takes, (T, H, W, 3)."""
    index = index_packets(str(path))
    span = SampleSpan("clip", 0, index.end_ns)
    (sampled,) = sample_frames(str(path), index=index, spans=[span], frame_sets=[FRAME_SET], motion=None)
    stored = sampled.sets[0]
    chosen = models.select_frames(len(stored.frames), models.spec("fingerprint").frames)
    return np.stack([decode_image(stored.frames[k], stored.codec, stored.height_px, stored.width_px) for k in chosen])


def embed_copies(clip: Clip) -> tuple[Vectors, float]:
    """Embed the original and every copy of one clip; returns (1 + transformations, D) and the model's CPU seconds per vector."""
    frames = make_clip(clip.family, clip.number) if clip.frames is None else clip.frames
    with tempfile.TemporaryDirectory() as folder:
        batch = np.stack([read_clip(transformed(frames, clip.fps, t, folder)) for t in (ORIGINAL, *TRANSFORMATIONS.values())])
    begin = time.process_time()
    vectors = models.load("fingerprint").embed_frames(batch)
    return vectors, (time.process_time() - begin) / len(batch)


def list_clips(media: Path | None, clips_per_family: int) -> Iterator[Clip]:
    for family in (*DEVELOPMENT, *HELD_OUT):
        yield from (Clip(family, number) for number in range(clips_per_family))
    yield from (Clip(SAME_PLACE, number, place=number // CLIPS_PER_PLACE) for number in range(clips_per_family))
    for path in sorted(media.glob("*.mp4")) if media else ():
        # Near-duplicates of one another would be false negatives: a distorted encode of a video that is there in full.
        if "distorted" not in path.stem:
            clips, fps = cut_real_clips(path)
            yield from (Clip(f"real/{path.stem}", number, frames=frames, fps=fps) for number, frames in enumerate(clips))


def rates(positive: Vectors, negative: Vectors) -> dict[str, Any]:
    """Compute the figures of one group of pairs."""
    positive, negative = np.sort(positive), np.sort(negative)

    def at(threshold: float) -> dict[str, float]:
        hits = int(len(positive) - np.searchsorted(positive, threshold))
        false = int(len(negative) - np.searchsorted(negative, threshold))
        precision = hits / (hits + false) if hits + false else 1.0
        return {
            "threshold": round(threshold, 4),
            "recall": round(hits / len(positive), 4),
            "precision": round(precision, 4),
            "num_false": false,
        }

    precise = [row for row in map(at, np.unique(positive).astype(float)) if row["precision"] >= 0.99]
    return {
        "num_positive": len(positive),
        "num_negative": len(negative),
        "at_documented_threshold": at(NEAR_DUPLICATE_SIMILARITY),
        "best_at_precision_0.99": max(precise, key=lambda row: row["recall"]) if precise else None,
        "at_recall_0.95": at(float(np.quantile(positive, 0.05, method="lower"))),
        "by_threshold": [at(threshold) for threshold in THRESHOLDS],
        "largest_negative": round(float(negative[-1]), 4),
    }


def histogram(values: Vectors) -> dict[str, int]:
    counts, _ = np.histogram(values.clip(BINS[0], BINS[-1] - 1e-6), BINS)
    return {f"{low:.1f}": int(count) for low, count in zip(BINS, counts, strict=False)}


def evaluate(clips: list[Clip], vectors: Vectors) -> dict[str, Any]:
    """Compare every original with every copy. vectors: (clips, 1 + transformations, D)."""
    similarity = np.einsum("id,jkd->ijk", vectors[:, 0], vectors[:, 1:], optimize=True)
    positive = similarity[np.arange(len(clips)), np.arange(len(clips))]  # (clips, transformations)
    family = np.array([clip.family for clip in clips])
    place = np.array([-1 - n if clip.place is None else clip.place for n, clip in enumerate(clips)])
    is_same_place = place[:, None] == place[None]
    is_same_family = family[:, None] == family[None]
    is_real = np.char.startswith(family, "real/")
    groups = {
        "all": np.ones(len(clips), dtype=bool),
        "all_but_slides": family != "slides",
        "development": np.isin(family, list(DEVELOPMENT)),
        "held_out": np.isin(family, list(HELD_OUT)),
        "real": is_real,
    }
    figures = {
        name: rates(positive[group].ravel(), similarity[group[:, None] & group[None] & ~is_same_place].ravel())
        for name, group in groups.items()
        if group.sum() > 1
    }
    is_hit = positive >= NEAR_DUPLICATE_SIMILARITY
    other_time = similarity[is_same_place & ~np.eye(len(clips), dtype=bool)].ravel()
    return {
        "threshold": NEAR_DUPLICATE_SIMILARITY,
        "groups": figures,
        "recall_by_transformation": {name: round(float(is_hit[:, k].mean()), 4) for k, name in enumerate(TRANSFORMATIONS)},
        "recall_by_family": {name: round(float(is_hit[family == name].mean()), 4) for name in dict.fromkeys(family.tolist())},
        "same_place_other_time": {
            "share_at_documented_threshold": round(float((other_time >= NEAR_DUPLICATE_SIMILARITY).mean()), 4),
            "quartiles": np.quantile(other_time, (0.25, 0.5, 0.75)).round(3).tolist(),
        },
        "histograms": {
            "positive": histogram(positive.ravel()),
            "negative_same_family": histogram(similarity[is_same_family & ~is_same_place].ravel()),
            "negative_other_family": histogram(similarity[~is_same_family].ravel()),
            "same_place_other_time": histogram(other_time),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", type=Path, help="folder of real videos (.mp4)")
    parser.add_argument("--clips-per-family", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "fingerprint.json")
    arguments = parser.parse_args()
    clips = list(list_clips(arguments.media, arguments.clips_per_family))
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        results = list(pool.map(embed_copies, clips, chunksize=2))
    measured = {
        # Where the videos lie is nobody's business: the figures follow from what they are.
        "command": f"python benchmarks/fingerprint.py --clips-per-family {arguments.clips_per_family}{' --media FOLDER' if arguments.media else ''}",
        "revision": models.spec("fingerprint").revision,
        "num_clips": len(clips),
        "num_copies_per_clip": len(TRANSFORMATIONS),
        "model_cpu_ms_per_clip": round(1e3 * float(np.median([seconds for _, seconds in results])), 2),
        **evaluate(clips, np.stack([vectors for vectors, _ in results])),
    }
    write_report("near-duplicates: precision >= 0.99 at recall >= 0.95 over all transformations", measured, output=arguments.output)


if __name__ == "__main__":
    main()
