"""embeddings.allow_remote_code: a model that brings code is refused without it, and works with it, from the settings to the table."""

import numpy as np
import pytest

from curation_assets import models
from curation_assets.curation.embeddings import update_embeddings
from curation_assets.models.weights import WeightsError
from curation_assets_tests.checkpoints import link_as_cached
from curation_assets_tests.models.cosmos_snapshot import write_snapshot

pytest.importorskip("transformers")
huggingface_hub = pytest.importorskip("huggingface_hub")

NAME = "cosmos-embed1-336p"


def test_the_setting_reaches_the_model(project, tmp_path, monkeypatch):
    spec = models.spec(NAME)
    snapshot = tmp_path / "hub" / "models--nvidia--Cosmos-Embed1-336p" / "snapshots" / spec.weights.revision
    write_snapshot(snapshot, dim=spec.dim, size_px=spec.height_px)
    link_as_cached(snapshot)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for key in ("web.webm", "vfr.mkv"):
        (project.videos / key).unlink()
    settings = {"embeddings": {"models": [NAME]}, "frame_sets": {"sets": {"embeddings": {"purpose": "embeddings", "target_res": 336}}}}
    project.run(settings, stages=("raw_videos", "clips", "frame_sets"))
    with pytest.raises(WeightsError, match=r"embeddings\.allow_remote_code: \[cosmos-embed1-336p\]"):
        update_embeddings(project.source(settings), NAME)
    settings["embeddings"]["allow_remote_code"] = ["another", NAME]
    assert update_embeddings(project.source(settings), NAME).num_work == 1
    rows = project.rows(f"embeddings/{NAME}", ["scope", "outcome", "embedding"], settings)
    assert {(row["scope"], row["outcome"]) for row in rows} == {("clip", "ok"), ("video", "ok")}
    assert all(np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-5) for row in rows)
    # a permission changes no vector, so taking it back makes nothing stale
    del settings["embeddings"]["allow_remote_code"]
    assert update_embeddings(project.source(settings), NAME).num_work == 0
