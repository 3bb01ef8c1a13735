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


_CONTEXT_BYTES = 500_000_000  # what CUDA itself holds for a process, about; torch does not count it


def limit_gpu_memory(device: torch.device, *, share: float = 1.0, most_gb: float | None = None) -> int:
    """Have torch take no more of a GPU's memory than this; what goes beyond is an out-of-memory error.

    Args:
        device: a GPU.
        share: of the whole memory, 0 to 1.
        most_gb: in GB of 1e9 bytes, CUDA's own part included; None for no other limit.

    Returns:
        Bytes that torch may use: the limit, or what is free on the card and its own already, whichever is less.

    Raises:
        ValueError: the limit leaves nothing.
    """
    import torch

    free, total = torch.cuda.mem_get_info(device)
    limit = memory_limit_bytes(total, share=share, most_gb=most_gb)
    torch.cuda.set_per_process_memory_fraction(limit / total, device)
    return min(limit, free + torch.cuda.memory_reserved(device))


def memory_limit_bytes(total_bytes: int, *, share: float, most_gb: float | None) -> int:
    """Compute what torch may take of a card's memory; arguments and errors as of `limit_gpu_memory`."""
    limit = share * total_bytes
    if most_gb is not None:
        limit = min(limit, most_gb * 1e9)
    if share < 1 or most_gb is not None:
        limit = min(limit, total_bytes) - _CONTEXT_BYTES
    if limit <= 0:
        raise ValueError(
            f"{share:g} of a GPU of {total_bytes / 1e9:.1f} GB and at most {most_gb} GB of it leave nothing for a model: CUDA takes 0.5 GB itself"
        )
    return int(limit)
