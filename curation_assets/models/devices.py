"""Devices: what a model runs on and computes in, from the words of the settings. torch is imported where it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def choose_device(device: str) -> torch.device:
    """Resolve `auto` to cuda where there is one, else cpu.

    Raises:
        ValueError: another word than auto, cuda or cpu; or `cuda` is demanded and there is none.
    """
    import torch

    if device not in ("auto", "cuda", "cpu"):
        raise ValueError(f"device must be 'auto', 'cuda' or 'cpu', not {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, and torch finds no CUDA device here; use auto or cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Resolve `auto` to bfloat16 on a GPU and float32 on the CPU.

    Raises:
        ValueError: another word than auto, float32, bfloat16 or float16.
    """
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in known:
        raise ValueError(f"dtype must be 'auto', {', '.join(map(repr, known))}, not {dtype!r}")
    return known[dtype]
