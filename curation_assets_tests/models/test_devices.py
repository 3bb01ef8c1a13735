"""Devices and number formats by name."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from curation_assets.models.devices import choose_device, choose_dtype  # noqa: E402


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
