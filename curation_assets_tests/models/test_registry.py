"""Names, specs without models, and messages for wrong arguments."""

from __future__ import annotations

import subprocess
import sys

import pytest

from curation_assets import models
from curation_assets.models.registry import MODELS


def test_entries_are_keyed_by_their_own_names() -> None:
    assert models.names() == list(MODELS)
    assert models.names()[0] == "fingerprint"
    for name, entry in MODELS.items():
        assert entry.spec.name == name == models.spec(name).name


@pytest.mark.parametrize("name", ["fingerprnt", "Fingerprint", "finger_print"])
def test_unknown_name_is_answered_with_the_nearest(name: str) -> None:
    for use in (models.spec, models.load):
        with pytest.raises(ValueError, match="Did you mean 'fingerprint'"):
            use(name)


def test_name_like_no_other_is_answered_with_the_list() -> None:
    with pytest.raises(ValueError, match="Registered: fingerprint") as caught:
        models.load("zzz")
    assert "Did you mean" not in str(caught.value)


def test_specs_need_no_torch_and_no_video_library() -> None:
    script = (
        "import sys; from curation_assets import models; [models.spec(n) for n in models.names()];"
        "print([m for m in ('torch', 'av', 'dagster', 'PIL') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.strip() == "[]"
