"""Embedding: clips per second of `embeddings/<model>` from stored frame sets, against a bare loop of the same model over batches that are ready.

Both sides use one loaded model and one batch size. The stage reads JPEG frames from the table, decodes them, brings them to the device, checks the vectors and
commits them; the loop calls the model and no more: its batches, and on a GPU their copies there, exist before the clock starts. Weights are random, in files of the
published format; neither speed nor memory depends on their values. Loading and the trial of batch sizes are left out on both sides.

On a GPU the networks have their full size. `--tiny` is siglip2 with 3 layers in place of 12 and patches of 32 pixels, for the CPU: a clip still costs it many
times the decoding of its 8 JPEGs. With the model on every core decoding is not free; `--threads 1` leaves it another, as it has beside a GPU. On a machine that others
use too, the runs of `seconds` say more than their median.

    python benchmarks/embedding.py --inputs FOLDER --tiny --threads 1 [--output benchmarks/results/embedding.json]
    python benchmarks/embedding.py --inputs FOLDER --model internvideo2 --num-videos 8 --stride-s 0.1        (a GPU)
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import make_inputs, write_report

from curation_assets.cli.base import source_records, source_run
from curation_assets.configuration import load_config
from curation_assets.curation.embeddings import update_embeddings
from curation_assets.curation.loaded_models import LoadedModel, load_model
from curation_assets.curation.warehouse import SourceRun
from curation_assets.models import image_text, internvideo2, internvideo2_weights
from curation_assets.models.embedder import EmbedderSpec
from curation_assets.models.registry import MODELS, ModelEntry
from curation_assets.models.weights import WeightFile, WeightsSpec, snapshot_folder
from curation_assets.schemas.embeddings import embeddings_table

LEAST_SHARE = 0.9
READY_BATCHES = 8  # taken in turn; more would only hold memory
SECONDS, CLIP_S = 60, 2
MATMUL_SIDE, MATMUL_REPEATS = 8192, 30


def write_siglip2(folder: Path, *, is_tiny: bool) -> list[WeightsSpec]:
    """Write a checkpoint of siglip2: base, 16 pixels a patch; or small."""
    import tokenizers
    from transformers import SiglipConfig, SiglipModel

    vocabulary = {"<pad>": 0, "<eos>": 1, "<unk>": 2}
    layers, patch, width = (3, 32, 3072) if is_tiny else (12, 16, 3072)
    inner = {"num_hidden_layers": layers, "num_attention_heads": 12, "intermediate_size": width, "hidden_size": 768}
    text = {**inner, "num_hidden_layers": 1, "vocab_size": len(vocabulary), "max_position_embeddings": 64, "projection_size": 768}
    SiglipModel(SiglipConfig(text_config=text, vision_config={**inner, "image_size": 224, "patch_size": patch})).save_pretrained(folder)
    tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>")).save(str(folder / "tokenizer.json"))
    return [_as_published(folder, image_text.SIGLIP2.weights)]


def write_internvideo2(folder: Path) -> list[WeightsSpec]:
    """Write a checkpoint of internvideo2 in its full size, and a vocabulary of as many words."""
    import torch

    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, shape in internvideo2_weights.expected_shapes(internvideo2_weights.FULL).items():
        is_one = "norm" in name.lower() and name.endswith("weight")
        state[name] = torch.ones(shape) if is_one else torch.empty(shape).normal_(std=0.02, generator=generator)
        state[name] = state[name].bfloat16()
    torch.save({"module": state}, folder / internvideo2_weights.CHECKPOINT.files[0].name)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [f"word{number}" for number in range(internvideo2_weights.FULL.text_vocabulary - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return [_as_published(folder, weights) for weights in internvideo2.SPEC.weights or () if isinstance(weights, WeightsSpec)]


def _as_published(folder: Path, weights: Any) -> WeightsSpec:
    """Say that the files in a folder are the published ones, so that all checks run as ever."""
    files = []
    for file in weights.files:
        with (folder / file.name).open("rb") as stream:
            files.append(WeightFile(file.name, (folder / file.name).stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest()))
    found: WeightsSpec = replace(weights, files=tuple(files), about_bytes=None)
    return found


def install(model: str, place: Path, *, is_tiny: bool) -> EmbedderSpec:
    """Put a model with random weights into a cache of its own and into the registry."""
    written = place / "written"
    written.mkdir()
    if model == "siglip2":
        weights = write_siglip2(written, is_tiny=is_tiny)
        spec = replace(image_text.SIGLIP2, weights=weights[0])
        image_text.SIGLIP2 = spec
        MODELS[model] = ModelEntry(spec, image_text.build_siglip2)
    else:
        weights = write_internvideo2(written)
        internvideo2_weights.CHECKPOINT, internvideo2_weights.VOCABULARY = weights
        spec = replace(internvideo2.SPEC, weights=tuple(weights))
        MODELS[model] = ModelEntry(spec, internvideo2.build)
    for part in weights:
        folder = snapshot_folder(part, place / "cache")
        folder.mkdir(parents=True)
        for file in part.files:
            (written / file.name).rename(folder / file.name)
    return spec


def make_frames(inputs: Path, place: Path, arguments: argparse.Namespace) -> Path:
    """Make a warehouse with frame sets, by the command line; returns the settings file."""
    (place / "videos").mkdir()
    for path in make_inputs(inputs, seconds=SECONDS, num_videos=arguments.num_videos):
        (place / "videos" / path.name).symlink_to(path.resolve())
    settings = place / "curation.yaml"
    settings.write_text(
        f"warehouse: {place}/warehouse\nsources:\n  camera: {{uri: {place}/videos}}\nmodels: {{cache_dir: {place}/cache}}\n"
        f"clips: {{splitter: {{clip_len_s: {CLIP_S}, clip_stride_s: {arguments.stride_s}}}}}\n"
        f"embeddings: {{models: [{arguments.model}], batch_size: {arguments.batch_size}, target_fps: 4}}\n"
        "frame_sets: {sets: {embeddings: {purpose: embeddings, target_fps: 4}}}\n"
    )
    select = [word for stage in ("raw_videos", "clips", "frame_sets") for word in ("--select", stage)]
    command = [sys.executable, "-m", "curation_assets.cli", "--config", str(settings), "run", *select]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=place, env={**os.environ, "DAGSTER_HOME": "", "CURATION_CONFIG": ""})
    return settings


def bare_loop(model: LoadedModel, spec: EmbedderSpec, *, num_clips: int, size: int) -> float:
    """Seconds that the model alone takes for so many clips, from batches that are where it wants them."""
    random = np.random.default_rng(0)
    shape = (size, spec.frames, spec.height_px, spec.width_px, 3)
    ready: list[Any] = [random.integers(0, 256, shape, np.uint8) for _ in range(READY_BATCHES)]
    if model.gpu:
        import torch

        ready = [torch.from_numpy(batch).to(model.gpu.device) for batch in ready]
    embed: Callable[[Any], Any] = model.gpu or model.embedder.embed_frames
    embed(ready[0])
    start_s = time.perf_counter()
    for number, at in enumerate(range(0, num_clips, size)):
        embed(ready[number % READY_BATCHES][: num_clips - at])
    return time.perf_counter() - start_s


def stage(run: SourceRun, spec: EmbedderSpec) -> float:
    """Seconds that the stage takes for all clips, from an empty table."""
    table = run.table(embeddings_table(spec.name, spec.dim))
    table.delete_videos(run.headers(embeddings_table(spec.name, spec.dim)))
    start_s = time.perf_counter()
    update_embeddings(run, spec.name)
    return time.perf_counter() - start_s


def on_a_gpu(model: LoadedModel, spec: EmbedderSpec, *, rate: float) -> dict[str, Any]:
    """Compare with one clip per call, and with what the card does in bfloat16 matrix products."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    gpu = model.gpu
    assert gpu is not None
    size, gpu.at_once = gpu.at_once, 1
    alone = 64 / bare_loop(model, spec, num_clips=64, size=1)
    with FlopCounterMode(display=False) as counter:
        gpu(np.zeros((1, spec.frames, spec.height_px, spec.width_px, 3), np.uint8))
    gpu.at_once = size
    left, right = (torch.randn(MATMUL_SIDE, MATMUL_SIDE, device=gpu.device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        left @ right
    torch.cuda.synchronize()
    start_s = time.perf_counter()
    for _ in range(MATMUL_REPEATS):
        left @ right
    torch.cuda.synchronize()
    matmul = 2 * MATMUL_SIDE**3 * MATMUL_REPEATS / (time.perf_counter() - start_s)
    return {
        "gpu": torch.cuda.get_device_name(gpu.device),
        "one_clip_per_call_clips_per_s": round(alone, 1),
        "speedup_of_the_stage_over_one_clip_per_call": round(rate / alone, 2),
        "tflop_per_clip": round(counter.get_total_flops() / 1e12, 3),
        "bf16_matmul_tflops": round(matmul / 1e12, 1),
        "stage_share_of_bf16_matmul": round(rate * counter.get_total_flops() / matmul, 3),
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=Path, required=True, help="folder for the made videos")
    parser.add_argument("--model", choices=("siglip2", "internvideo2"), default="siglip2")
    parser.add_argument("--tiny", action="store_true", help="a small siglip2, for the CPU")
    parser.add_argument("--num-videos", type=int, default=1, help=f"videos of {SECONDS} s")
    parser.add_argument("--stride-s", type=float, default=1.0, help=f"a clip of {CLIP_S} s begins every so many seconds")
    parser.add_argument("--batch-size", default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="torch's threads on the CPU; 1 leaves the other cores to reading, as beside a GPU")
    parser.add_argument("--output", type=Path, help="file to write the JSON to")
    arguments = parser.parse_args()
    if arguments.tiny and arguments.model != "siglip2":
        parser.error("--tiny is siglip2")
    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(prefix="embedding_") as folder:
        place = Path(folder)
        spec = install(arguments.model, place, is_tiny=arguments.tiny)
        config = load_config(make_frames(arguments.inputs, place, arguments))
        with source_run(config, next(iter(source_records(config)))) as run:
            model, clips_at_once = load_model(run.settings, spec, log=lambda text: print(text, file=sys.stderr))
            size = clips_at_once()
            stage(run, spec)  # warms up
            table = embeddings_table(spec.name, spec.dim)
            num_clips = run.read(table, ["clip_id"], where="scope = 'clip' AND outcome = 'ok'").num_rows
            seconds: dict[str, list[float]] = {"stage": [], "loop": []}
            for _ in range(arguments.repeats):  # in turn, so that a change of the machine's speed meets both
                seconds["loop"].append(bare_loop(model, spec, num_clips=num_clips, size=size))
                seconds["stage"].append(stage(run, spec))
            rates = {name: num_clips / statistics.median(values) for name, values in seconds.items()}
            measured: dict[str, Any] = {
                "model": f"{spec.name}{', tiny' if arguments.tiny else ''}, random weights",
                "num_clips": num_clips,
                "frames_per_clip": spec.frames,
                "clips_at_once": size,
                "device": "cuda" if model.gpu else "cpu",
                "torch_threads": arguments.threads,
                "seconds": {name: [round(value, 2) for value in values] for name, values in seconds.items()},
                "loop_clips_per_s": round(rates["loop"], 2),
                "stage_clips_per_s": round(rates["stage"], 2),
                "stage_share_of_loop": round(rates["stage"] / rates["loop"], 3),
                "stage_share_of_loop_in_the_best_runs": round(min(seconds["loop"]) / min(seconds["stage"]), 3),
                **(on_a_gpu(model, spec, rate=rates["stage"]) if model.gpu else {}),
            }
    measured["is_claim_met"] = measured["stage_share_of_loop"] >= LEAST_SHARE
    claim = f"embedding from stored frame sets takes at least {LEAST_SHARE} of the clips per second of a bare loop of the model over ready batches"
    write_report(claim, measured, output=arguments.output)


if __name__ == "__main__":
    main()
