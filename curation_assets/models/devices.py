"""Devices: where a model runs and in which number format. torch is imported where it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")


def choose_device(device: str) -> torch.device:
    """Resolve `auto` to cuda where there is one, else cpu.

    Args:
        device: `auto`, `cuda` or `cpu`.

    Raises:
        ValueError: another word, or `cuda` is demanded and there is none.
    """
    import torch

    if device not in ("auto", "cuda", "cpu"):
        raise ValueError(f"device is {device!r}; it must be 'auto', 'cuda' or 'cpu'")
    if device == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if device == "cuda":
        raise ValueError("device is cuda, and torch finds no CUDA device here; use auto or cpu")
    return torch.device("cpu")


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Resolve `auto` to bfloat16 on a GPU and float32 on the CPU.

    Args:
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        device: where the model runs.

    Raises:
        ValueError: another word.
    """
    import torch

    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; it must be 'auto' or one of {', '.join(DTYPES)}")
    chosen = getattr(torch, dtype)
    assert isinstance(chosen, torch.dtype)
    return chosen
