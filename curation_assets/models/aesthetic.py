"""aesthetic: how much people like a picture, about 1 to 10: an affine map of CLIP ViT-L/14's unit vector of it.

The published head is five linear layers without activations between them, which is one affine map; it is folded in float64 when it is loaded. The stored frames
have their size already; here they are only normalised, on the device.

References: Radford et al. 2021, "Learning transferable visual models from natural language supervision"; Schuhmann et al. 2022, "LAION-5B", and its
"improved aesthetic predictor", trained on Simulacra Aesthetic Captions, LAION-Logos and AVA.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curation_assets.models.batching import ClipRunner
from curation_assets.models.devices import choose_device, choose_dtype
from curation_assets.models.image_text import CLIP_MEAN, CLIP_STD
from curation_assets.models.pretrained import check_size, check_values, load_pretrained, read_state
from curation_assets.models.scorer import ScorerSpec
from curation_assets.models.weights import WeightFile, WeightsError, WeightsSpec, find_weights, weights_file

if TYPE_CHECKING:
    import torch

TOWER = WeightsSpec(
    repo="openai/clip-vit-large-patch14",
    revision="32bd64288804d66eefd0ccbe215aa642df71cc41",
    files=(
        WeightFile("config.json", 4_519, "8a09b467700c58138c29d53c605b34ebc69beaadd13274a8a2af8ad2c2f4032a"),
        WeightFile("model.safetensors", 1_710_540_580, "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb"),
    ),
    licence="MIT",
)
HEAD = WeightsSpec(
    repo="ttj/sac-logos-ava1-l14-linearMSE",
    revision="1e77fa05081323d99725fc40a9bf9f88180490e7",
    # no published hash is known here: the commit pins it, and the cache's own name of the file is its hash
    files=(WeightFile("model.safetensors", None, None),),
    licence="Apache-2.0",
    about_bytes=3_700_000,
)
SPEC = ScorerSpec(
    name="aesthetic",
    height_px=224,
    width_px=224,
    resize="crop",
    revision="1-32bd6428-1e77fa05",
    licence="MIT, Apache-2.0",
    gpu_memory_gb=4.0,
    weights=(TOWER, HEAD),
)

DIM = 768
"""Length of the tower's vectors."""
_WIDTHS = {"layers.0": (1024, DIM), "layers.2": (128, 1024), "layers.4": (64, 128), "layers.6": (16, 64), "layers.7": (1, 16)}
"""The head's layers (out, in), in order; numbers 1, 3 and 5 are dropout, which is nothing here."""
_NOT_OF_THE_TOWER = (r"^text_model\.", r"^text_projection\.weight$", r"^logit_scale$")


class AestheticScorer:
    """The model with its weights on one device; one per process, not shared by threads.

    Args:
        weights: as for `find_weights`.
        device: `auto`, `cuda` or `cpu`.
        dtype: what the tower computes in; `auto` is float32. The head is float64.
        batch_size: most frames per call on a GPU, fewer when its memory does not hold so many; on the CPU it is one, so that a frame's score depends on it
            alone.

    Raises:
        WeightsError: files are missing, damaged or of another model.
        ValueError: no such device or dtype.
    """

    spec = SPEC

    def __init__(self, weights: str | Path | None = None, *, device: str = "auto", dtype: str = "auto", batch_size: int = 64) -> None:
        import torch
        from transformers import CLIPVisionModelWithProjection

        self._device = choose_device(device)
        self._dtype = choose_dtype("float32" if dtype == "auto" else dtype, self._device)
        tower, head = _folders(weights)
        self._weight, self._bias = load_head(head / "model.safetensors")
        self._model: Any = load_pretrained(
            CLIPVisionModelWithProjection,
            tower,
            weights_file(TOWER, tower),
            name=SPEC.name,
            device=self._device,
            dtype=self._dtype,
            ignored=_NOT_OF_THE_TOWER,
        )
        config = self._model.config
        check_size(SPEC.name, tower, dim=(config.projection_dim, DIM), image_size=(config.image_size, SPEC.height_px))
        # pixel / 255, less the mean, over the deviation: one factor and one term
        std = torch.tensor(CLIP_STD, device=self._device)
        self.frames = ClipRunner(self._features, device=self._device, dim=DIM, at_once_on_gpu=batch_size)
        self._scale = (1 / (255 * std)).reshape(3, 1, 1)
        self._shift = (torch.tensor(CLIP_MEAN, device=self._device) / std).reshape(3, 1, 1)

    def score_frames(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Score pictures.

        Args:
            frames: uint8 (N, H, W, 3), RGB; N = 0 is allowed.

        Returns:
            float32 (N,), about 1 to 10, input order; NaN where the tower's vector has one.

        Raises:
            TypeError: not a uint8 array.
            ValueError: the shape does not fit the spec.
        """
        SPEC.check_frames(frames)
        vectors = self.frames(frames[:, None])
        return (vectors.astype(np.float64) @ self._weight + self._bias).astype(np.float32)

    def _features(self, frames: torch.Tensor) -> torch.Tensor:
        """Turn uint8 (B, 1, H, W, 3) into features (B, D)."""
        pixels = frames[:, 0].permute(0, 3, 1, 2).float() * self._scale - self._shift  # (B, 3, H, W)
        return self._model(pixel_values=pixels.to(self._dtype)).image_embeds.float()  # type: ignore[no-any-return]


def load_head(path: Path) -> tuple[npt.NDArray[np.float64], float]:
    """Read the published head and fold its layers into one affine map.

    Returns:
        float64 (768,) and a number: the score of a unit vector v is v . weight + bias.

    Raises:
        WeightsError: the file cannot be read, or its keys, shapes or values are not those of the head; names all of them.
    """
    state = read_state(path, name=SPEC.name)
    wanted = {f"{layer}.weight": shape for layer, shape in _WIDTHS.items()} | {
        f"{layer}.bias": shape[:1] for layer, shape in _WIDTHS.items()
    }
    wrong = [f"{key} is missing" for key in wanted if key not in state]
    wrong += [f"{key} is unknown" for key in sorted(state) if key not in wanted]
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    wrong += [f"{key} has the shape {shapes[key]}, not {shape}" for key, shape in wanted.items() if shapes.get(key, shape) != shape]
    if wrong:
        raise WeightsError(f"weights of {SPEC.name}: {path} does not fit the head: {'; '.join(wrong)}")
    check_values(state.items(), path, name=SPEC.name)
    values = {key: value.double().numpy() for key, value in state.items()}
    weight, bias = np.eye(DIM), np.zeros(DIM)
    for layer in _WIDTHS:
        factor = values[f"{layer}.weight"]
        weight, bias = factor @ weight, factor @ bias + values[f"{layer}.bias"]
    return weight[0], float(bias[0])


def _folders(weights: str | Path | None) -> tuple[Path, Path]:
    """Find the folders of tower and head. Both have a file of one name, so that a folder of the user's has a folder for each of them."""
    place = None if weights is None else Path(weights).expanduser()
    if place is not None and place.is_dir() and (place / "model.safetensors").is_file():
        raise WeightsError(
            f"weights of {SPEC.name}: tower and head both have a model.safetensors; put them into the folders "
            f"{' and '.join(spec.repo.partition('/')[2] for spec in (TOWER, HEAD))} of {place}"
        )
    found = find_weights(SPEC.weights, weights, model=SPEC.name)
    assert isinstance(found, list)
    return found[0], found[1]
