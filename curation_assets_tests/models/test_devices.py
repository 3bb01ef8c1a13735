"""Devices and number formats by name."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from curation_assets.models.devices import choose_device, choose_dtype, memory_limit_bytes  # noqa: E402


def test_devices() -> None:
    has_gpu = torch.cuda.is_available()
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if has_gpu else "cpu")
    if not has_gpu:
        with pytest.raises(ValueError, match="no CUDA device"):
            choose_device("cuda")
    with pytest.raises(ValueError, match="'tpu'"):
        choose_device("tpu")


def test_dtypes() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_dtype("auto", cpu) is torch.float32
    assert choose_dtype("auto", cuda) is torch.bfloat16
    assert [choose_dtype(name, cpu) for name in ("float32", "bfloat16", "float16")] == [torch.float32, torch.bfloat16, torch.float16]
    with pytest.raises(ValueError, match="'int8'"):
        choose_dtype("int8", cpu)


def test_memory_limits() -> None:
    total = 80_000_000_000
    assert memory_limit_bytes(total, share=1, most_gb=None) == total
    assert memory_limit_bytes(total, share=0.25, most_gb=None) == 19_500_000_000  # less what CUDA takes itself
    assert memory_limit_bytes(total, share=0.25, most_gb=12) == 11_500_000_000
    assert memory_limit_bytes(total, share=1, most_gb=500) == 79_500_000_000
    with pytest.raises(ValueError, match="leave nothing for a model"):
        memory_limit_bytes(total, share=1, most_gb=0.5)
