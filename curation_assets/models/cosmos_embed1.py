"""cosmos-embed1-224p, -336p, -448p: NVIDIA's joint embedding of videos and texts; 8 frames of a clip, 256, 768 and 768 numbers.

The network is Python in the checkpoint itself, written for transformers 4. It runs only where the settings allow it (`embeddings.allow_remote_code`), from the
pinned files, and is built without `from_pretrained`, which under transformers 5 leaves buffers uninitialised, skips the hook that resizes the position
embedding and fails where `post_init` was not called. Here the class is constructed on the CPU with its own initialisation, in float32, and `load_state_dict`,
whose hooks run, fills it from the shards. Every key must fit.

Preprocessing is the checkpoint's own, read off its processor: it is asked for black, white and mixed frames once, must answer with one scale and offset per
channel, and those are applied on the device. Texts go through the same processor, which pads and cuts them to 128 tokens.

Published: huggingface.co/nvidia/Cosmos-Embed1-224p and its siblings. Hashes of the 224p files: model_manifest.json of NVIDIA's cosmos-dataset-search.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from curation_assets.models.batching import ClipRunner, embed_in_parts
from curation_assets.models.devices import choose_device, choose_dtype
from curation_assets.models.embedder import EmbedderSpec
from curation_assets.models.pretrained import check_values, check_vocabulary
from curation_assets.models.weights import WeightFile, WeightsError, WeightsSpec, find_weights, listed

if TYPE_CHECKING:
    import torch

    from curation_assets.models.remote_code import RemotePackage

# Changing how vectors are made from the same checkpoint changes this number.
_LOADER_VERSION = 1

_NUM_FRAMES = 8
_MAX_TOKENS = 128
_CLIPS_AT_ONCE_ON_GPU = 8  # 64 frames fill it, and 448p stays within the memory that the spec reserves
_TEXTS_PER_CALL = 64
_PROCESSOR = "preprocessing_embed1.CosmosEmbed1Processor"  # where no auto_map names it
_LICENCE = "LicenseRef-NVIDIA-Open-Model-License"
_INDEX = "model.safetensors.index.json"
_TOKENIZER_FILES = ("vocab.txt", "added_tokens.json", "special_tokens_map.json", "tokenizer_config.json")

_HASHES_224P = {
    "added_tokens.json": "f62bb3d9726a553158ae4c0ab64e5b4ece7c4439108d60352722c4cb7af78b44",
    "config.json": "e743a553c42c8dfdfab523ebfb2a2731dce10204fb52ae47968a66366b63cfc2",
    "configuration_embed1.py": "28b2b7220eff2334a984b8719c147e1ebe34cadd497b4ec0664f55710607fddb",
    "model-00001-of-00005.safetensors": "95d087b31593acfc8fe1fe0f655a97e45431218852eaea228f12503396b0d15e",
    "model-00002-of-00005.safetensors": "311d7844f5f01c51d49b9fef03469582cac8f2257904634e9fc7a87dc894c45f",
    "model-00003-of-00005.safetensors": "a4b39f5d9ff3fdbf1fbafd5ac31663be581d0917ebb2152acec5cdf9a9fd7820",
    "model-00004-of-00005.safetensors": "ed32f4d48984a6a52043a7eb30671cc4816a8bec36ac9d4bb268d49fa8110ad2",
    "model-00005-of-00005.safetensors": "2af664d97d8d73f4c91ee5a19556b76873b9264fdbc7778919e392e7ff7e12f1",
    _INDEX: "5dab0fcbd05d0f03f09ac74843e4fdfa791fa5bd0fe9e2534bdc0c827304ee55",
    "modeling_embed1.py": "6da9cca3b8b3432e9137440985f94f8b66fce005cffbc2c78e202b677f540644",
    "modeling_outputs.py": "aa0517eded364e26a0272285ac856074872990cbc322659ad5158e805605556f",
    "modeling_qformer.py": "05498a61aa8a459153770474973e1739b23f1571f0e66fb36e18156103d624ea",
    "modeling_utils.py": "d56f3857ab66943276eeb5c1253e04300958bba87b084be4309e16e10b599a6b",
    "modeling_vit.py": "8225681e7946066eae08e6cafa695bd76bdcad1724edc2828134e077bcecba1b",
    "preprocessing_embed1.py": "e5b6bdc0f2de529edb58e3b5b7d856077f2473e8a81f3a43a89394939f23804c",
    "processor_config.json": "b16edd8ed3dae8b6db1d08580f33b781286f1358f28ede835800c98a54495ca9",
    "special_tokens_map.json": "1d8f6c4a10208c351c229d1d7b017ac26354c2ee51580f1d75bc3112a5745ce8",
    "tokenizer_config.json": "eff5d18b71c09817683e2ec5dcabb9de1249288fda799d5ab7eb69c47e127792",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
"""Of the 224p files at its revision. No hashes are published for the other two: there the files, code among them, are checked against the cache's own names alone."""


def _spec(size_px: int, *, revision: str, dim: int, gpu_memory_gb: float, hashes: Mapping[str, str]) -> EmbedderSpec:
    return EmbedderSpec(
        name=f"cosmos-embed1-{size_px}p",
        dim=dim,
        frames=_NUM_FRAMES,
        height_px=size_px,
        width_px=size_px,
        resize="squash",
        selection="uniform",
        has_text=True,
        revision=f"{revision}+{_LOADER_VERSION}",
        licence=_LICENCE,
        gpu_memory_gb=gpu_memory_gb,
        weights=WeightsSpec(
            repo=f"nvidia/Cosmos-Embed1-{size_px}p",
            revision=revision,
            files=tuple(WeightFile(name, None, hashes.get(name)) for name in _HASHES_224P),
            licence=_LICENCE,
        ),
    )


SPECS = (
    _spec(224, revision="787e0b996f5260a71ad474a283c90539a2e12986", dim=256, gpu_memory_gb=6.0, hashes=_HASHES_224P),
    _spec(336, revision="0e8a28f7bf370f2dcb3b9b61d23e167d0d6b0e6f", dim=768, gpu_memory_gb=8.0, hashes={}),
    _spec(448, revision="f60ec73636eb7c9cc25267367713b7b1b0cffaf3", dim=768, gpu_memory_gb=12.0, hashes={}),
)


class BuildRemote(Protocol):
    """`registry.Build` for a model whose checkpoint brings code."""

    def __call__(self, *, weights: str | Path | None, device: str, dtype: str, allow_remote_code: bool = False) -> CosmosEmbed1:
        """Build the model."""


def builder(spec: EmbedderSpec) -> BuildRemote:
    """Give the `build` of one size."""

    def build(*, weights: str | Path | None, device: str, dtype: str, allow_remote_code: bool = False) -> CosmosEmbed1:
        return build_model(spec, weights=weights, device=device, dtype=dtype, allow_remote_code=allow_remote_code)

    return build


def build_model(spec: EmbedderSpec, *, weights: str | Path | None, device: str, dtype: str, allow_remote_code: bool) -> CosmosEmbed1:
    """Build one size from its checkpoint.

    Args:
        spec: one of `SPECS`.
        weights: a folder with the published files, None for the Hugging Face cache.
        device: `auto`, `cuda` or `cpu`.
        dtype: `auto` (bfloat16 on a GPU, float32 on the CPU), or the format by name.
        allow_remote_code: whether the checkpoint's Python may run.

    Raises:
        WeightsError: the code may not run; a file is missing, cut short or not the pinned one; keys or the config do not fit; the code does not run here.
        ValueError: no such device or dtype.
    """
    assert isinstance(spec.weights, WeightsSpec)
    if not allow_remote_code:
        raise WeightsError(
            f"{spec.name} runs Python code that comes with its checkpoint ({spec.weights.repo} at {spec.weights.revision[:12]}), with all the rights of "
            f"this process, and nothing allows it. To allow it, add it to the settings: embeddings.allow_remote_code: [{spec.name}]"
        )
    place = choose_device(device)
    number_format = choose_dtype(dtype, place)
    folder = find_weights(spec.weights, weights, model=spec.name)
    assert isinstance(folder, Path)
    config = _read_json(folder / "config.json")
    processor_config = _read_json(folder / "processor_config.json")
    state = _read_state(folder, {file.name for file in spec.weights.files})

    from curation_assets.models.legacy_transformers import build_stand_ins
    from curation_assets.models.remote_code import RemotePackage

    package = RemotePackage(folder, spec.weights.files, stand_ins=build_stand_ins())
    auto_map = _read_auto_map(folder, config, processor_config)
    # The processor first: it is small, and what does not fit is known before the network is built.
    tokenizer = _read_tokenizer(folder)
    processor = _build_processor(spec, package, folder, auto_map["AutoProcessor"], processor_config, tokenizer)
    scale, offset = _read_normalisation(spec, processor)
    model = _build_network(spec, package, folder, auto_map, config)
    check_vocabulary(tokenizer.get_vocab(), folder / "vocab.txt", name=spec.name, num_rows=_num_token_rows(model))
    _load_state(model, state, folder, name=spec.name)
    model.eval().requires_grad_(False).to(place, number_format)
    return CosmosEmbed1(spec, model=model, processor=processor, scale=scale.to(place), offset=offset.to(place), dtype=number_format)


class CosmosEmbed1:
    """A Cosmos-Embed1 model on one device. On the CPU a vector does not depend on the batch at all, on a GPU up to rounding."""

    def __init__(
        self, spec: EmbedderSpec, *, model: Any, processor: Any, scale: torch.Tensor, offset: torch.Tensor, dtype: torch.dtype
    ) -> None:
        self.spec = spec
        self._model = model
        self._processor = processor
        self._scale = scale
        self._offset = offset
        self._dtype = dtype
        self.clips = ClipRunner(self._clips, device=scale.device, dim=spec.dim, at_once_on_gpu=_CLIPS_AT_ONCE_ON_GPU)

    def embed_frames(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Embed clips; see `Embedder.embed_frames`."""
        self.spec.check_frames(frames)
        return self.clips(frames)

    def _clips(self, frames: torch.Tensor) -> torch.Tensor:
        """Turn uint8 (B, T, H, W, 3) into vectors (B, D)."""
        videos = frames.permute(0, 1, 4, 2, 3) * self._scale + self._offset  # (B, T, 3, H, W)
        return self._checked(self._model.get_video_embeddings(videos=videos.to(self._dtype)).visual_proj)

    def embed_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embed texts into the space of the clips.

        Args:
            texts: may be empty; what goes beyond 128 tokens is cut off.

        Returns:
            float32 (N, D), rows L2 = 1, input order.

        Raises:
            TypeError: a string in place of a sequence of strings, or an item that is no string.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"{self.spec.name} takes a sequence of texts")

        def embed(part: Sequence[str]) -> torch.Tensor:
            tokens = self._processor(text=list(part), return_tensors="pt")
            place = self._scale.device
            found = self._model.get_text_embeddings(
                input_ids=tokens["input_ids"].to(place), attention_mask=tokens["attention_mask"].to(place)
            )
            return self._checked(found.text_proj)

        return embed_in_parts(texts, at_once=_TEXTS_PER_CALL, dim=self.spec.dim, forward=embed)

    def _checked(self, found: torch.Tensor) -> torch.Tensor:
        if found.ndim != 2 or found.shape[1] != self.spec.dim:
            raise WeightsError(f"{self.spec.name} gave vectors of shape {tuple(found.shape)}; they should be (N, {self.spec.dim})")
        return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{path} holds a {type(found).__name__}, not an object")
    return found


def _read_auto_map(folder: Path, *configs: Mapping[str, Any]) -> dict[str, str]:
    """Find which classes make the configuration, the network and the processor; the first file that names one decides."""
    found = {"AutoProcessor": _PROCESSOR}
    for config in reversed(configs):
        named = config.get("auto_map")
        found.update({key: name for key, name in (named.items() if isinstance(named, dict) else ()) if isinstance(name, str)})
    if lacking := sorted({"AutoConfig", "AutoModel"} - found.keys()):
        raise WeightsError(f"{folder / 'config.json'} names no {' and no '.join(lacking)} in auto_map")
    return found


def _read_state(folder: Path, names: set[str]) -> dict[str, torch.Tensor]:
    """Read the tensors of all shards, which must be those of the index and among the model's files."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weight_map = _read_json(folder / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise WeightsError(f"{folder / _INDEX} has no weight_map")
    state: dict[str, torch.Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        path = folder / shard
        if shard not in names:
            raise WeightsError(f"{folder / _INDEX} names {shard!r}, which is none of the model's files")
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path} is damaged or cut short: {error}; download it again") from error
        misplaced = sorted(tensors.keys() ^ {key for key, place in weight_map.items() if place == shard})
        if misplaced:
            raise WeightsError(f"{path} and {_INDEX} differ in {listed(misplaced)}")
        state.update(tensors)
    return state


def _read_tokenizer(folder: Path) -> Any:
    """Make the tokenizer of the model's own files, copied to where no others are: where the library finds a tokenizer.json it leaves vocab.txt alone."""
    from transformers import BertTokenizer

    with TemporaryDirectory() as place:
        try:
            for name in _TOKENIZER_FILES:
                shutil.copyfile(folder / name, Path(place, name))
            return BertTokenizer.from_pretrained(place, local_files_only=True)
        except Exception as error:  # besides OSError, the library raises many kinds for files that it cannot read
            raise WeightsError(f"{folder}: no tokenizer in {listed(_TOKENIZER_FILES)}: {type(error).__name__}: {error}") from error


def _build_processor(
    spec: EmbedderSpec, package: RemotePackage, folder: Path, reference: str, config: Mapping[str, Any], tokenizer: Any
) -> Any:
    """Construct the checkpoint's processor."""
    expected = {"resolution": spec.height_px, "num_video_frames": spec.frames, "max_txt_len": _MAX_TOKENS}
    _check_numbers(folder / "processor_config.json", config.get, expected)
    processor_class = package.load(reference)
    try:
        return processor_class(tokenizer=tokenizer, **expected)
    except Exception as error:  # code of others may raise anything
        raise WeightsError(f"{folder}: {reference} cannot be constructed: {type(error).__name__}: {error}") from error


def _read_normalisation(spec: EmbedderSpec, processor: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Read off what the processor does to pixels of the model's size: scale and offset per channel, float32 (3, 1, 1)."""
    import torch

    shape = (1, spec.frames, 3, spec.height_px, spec.width_px)
    black, white, mixed = (
        np.zeros(shape, np.uint8),
        np.full(shape, 255, np.uint8),
        np.random.default_rng(0).integers(0, 256, shape, np.uint8),
    )
    try:
        answers = [torch.as_tensor(processor(videos=video, return_tensors="pt")["videos"]).float() for video in (black, white, mixed)]
    except Exception as error:  # code of others may raise anything
        raise WeightsError(f"{spec.name}: the checkpoint's processor fails on frames: {type(error).__name__}: {error}") from error
    if any(tuple(answer.shape) != shape for answer in answers):
        raise WeightsError(f"{spec.name}: the checkpoint's processor turns frames of {shape} into {tuple(answers[0].shape)}")
    offset = answers[0][0, 0, :, :1, :1]
    scale = (answers[1][0, 0, :, :1, :1] - offset) / 255
    difference = (torch.from_numpy(mixed) * scale + offset - answers[2]).abs().max()
    if not difference <= 1e-4 * 255 * scale.abs().min():  # also true for NaN
        raise WeightsError(f"{spec.name}: the checkpoint's processor does more to frames of {spec.height_px} px than scale and shift")
    return scale, offset


def _build_network(spec: EmbedderSpec, package: RemotePackage, folder: Path, auto_map: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    """Construct the network on the CPU, initialised as its classes do it; the caller's random numbers stay as they were."""
    import torch

    config_class, model_class = package.load(auto_map["AutoConfig"]), package.load(auto_map["AutoModel"])
    if not issubclass(model_class, torch.nn.Module):
        raise WeightsError(f"{folder}: {auto_map['AutoModel']} is no torch module")
    try:
        filled = config_class.from_dict(dict(config))
    except Exception as error:  # code of others may raise anything
        raise WeightsError(f"{folder / 'config.json'} does not fit {auto_map['AutoConfig']}: {type(error).__name__}: {error}") from error
    expected = {"embed_dim": spec.dim, "num_video_frames": spec.frames, "resolution": spec.height_px}
    _check_numbers(folder / "config.json", lambda name: getattr(filled, name, None), expected)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            return model_class(filled)
    except Exception as error:  # code of others may raise anything
        raise WeightsError(f"{folder}: {auto_map['AutoModel']} cannot be constructed: {type(error).__name__}: {error}") from error


def _check_numbers(path: Path, read: Any, expected: Mapping[str, int]) -> None:
    wrong = [f"{name} {found} (expected {number})" for name, number in expected.items() if (found := read(name)) != number]
    if wrong:
        raise WeightsError(f"{path} is of another model: {', '.join(wrong)}")


def _num_token_rows(model: torch.nn.Module) -> int:
    """Count the tokens that the network has a vector for. Of its tables, of tokens, of places in a text and of kinds of text, that of tokens is the largest."""
    import torch

    return max((module.num_embeddings for module in model.modules() if isinstance(module, torch.nn.Embedding)), default=0)


def _load_state(model: torch.nn.Module, state: Mapping[str, torch.Tensor], folder: Path, *, name: str) -> None:
    """Fill the network. Hooks of its modules run and may resize; afterwards every key must fit, and what was read into floats must be finite ones."""
    try:
        result = model.load_state_dict(state, strict=False)
        missing, unknown, misshapen = set(result.missing_keys), set(result.unexpected_keys), []
    except RuntimeError as error:  # what torch raises for other shapes, with one line for each
        own = model.state_dict().keys()
        missing, unknown = set(own - state.keys()), set(state.keys() - own)
        misshapen = re.findall(r"size mismatch for (\S+?):", str(error)) or [str(error)]
    missing -= _filled_otherwise(model, missing, state)
    unknown -= _declared(model, "_keys_to_ignore_on_load_unexpected", unknown)
    parts = (("missing", sorted(missing)), ("unknown", sorted(unknown)), ("of another shape", misshapen))
    problems = [f"{what} {listed(names)}" for what, names in parts if names]
    if problems:
        raise WeightsError(f"the weights in {folder} do not fit the network: {'; '.join(problems)}")
    floats = {key for key, value in model.state_dict().items() if value.is_floating_point()}
    check_values(((key, value) for key, value in state.items() if key in floats), folder, name=name)


def _filled_otherwise(model: torch.nn.Module, missing: set[str], state: Mapping[str, torch.Tensor]) -> set[str]:
    """Give the keys that a file may lack: of a tensor that has another key too, and of a buffer that its class computes and declares as not saved."""
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
    filled = {id(tensor) for name, tensor in tensors.items() if name in state}
    computed = _declared(
        model, "_keys_to_ignore_on_load_missing", missing & {name for name, _ in model.named_buffers(remove_duplicate=False)}
    )
    return computed | {name for name in missing if id(tensors.get(name)) in filled}


def _declared(model: torch.nn.Module, attribute: str, names: set[str]) -> set[str]:
    """Give the names that fit one of the patterns which the network's classes declare in the way of transformers."""
    patterns = {pattern for module in model.modules() for pattern in getattr(module, attribute, None) or ()}
    return {name for name in names if any(re.search(pattern, name) for pattern in patterns)}
