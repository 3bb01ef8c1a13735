"""Tests that need a GPU: skipped without one, unless REQUIRE_GPU=1 says that there must be one."""

import os

import pytest


@pytest.fixture
def gpu():
    """Say that a test needs an NVIDIA GPU that torch sees."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        if os.environ.get("REQUIRE_GPU") == "1":
            pytest.fail("REQUIRE_GPU=1, and torch finds no CUDA device")
        pytest.skip("needs a GPU")


@pytest.fixture
def nvdec():
    """Say that a test needs NVDEC."""
    from curation_assets.media import nvdec

    reason = nvdec.why_missing()
    if reason is not None:
        if os.environ.get("REQUIRE_GPU") == "1":
            pytest.fail(f"REQUIRE_GPU=1, and {reason}")
        pytest.skip(reason)
