"""`models list`, `download` and `verify`, and a run with a downloaded model: the real command line, a real server, real networks with tiny weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from curation_assets.models import image_text
from curation_assets.models.registry import MODELS, ModelEntry
from curation_assets_tests import makevideo
from curation_assets_tests.checkpoints import write_siglip2
from curation_assets_tests.hubserver import Hub, serve
from curation_assets_tests.test_cli import call, place  # noqa: F401 - fixtures

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = write_siglip2(tmp_path_factory.mktemp("checkpoint"))
    return {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors", "tokenizer.json")}


@pytest.fixture
def hub(checkpoint: dict[str, bytes], place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:  # noqa: F811
    """Serve a tiny siglip2, known to the registry under its own name, with the cache in the working folder."""
    with serve(Hub("google/tiny", dict(checkpoint))) as hub:
        spec = replace(image_text.SIGLIP2, weights=hub.spec(is_gated=True))
        monkeypatch.setattr(image_text, "SIGLIP2", spec)
        monkeypatch.setitem(MODELS, "siglip2", ModelEntry(spec, image_text.build_siglip2))
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        (place / "curation.yaml").write_text(f"models: {{cache_dir: {place}/cache}}\n")
        yield hub


def row(call: Call, name: str = "siglip2") -> dict[str, object]:  # noqa: F811
    code, out, _ = call("models", "list", "--json")
    assert code == 0
    return next(item for item in json.loads(out) if item["name"] == name)


def test_list_download_verify(call: Call, hub: Hub, place: Path) -> None:  # noqa: F811
    before = row(call)
    assert before["state"] == "missing"
    assert (before["dim"], before["frames"], before["licence"], before["is_gated"]) == (768, 8, "MIT", True)
    assert row(call, "fingerprint")["state"] == "no weights needed"
    code, out, _ = call("models", "list")
    assert code == 0
    assert "siglip2" in out
    assert "missing" in out
    assert call("models", "verify")[:2] == (0, "no weights here; curation-assets models download NAME fetches some\n")
    code, out, _ = call("models", "verify", "siglip2")
    assert code == 1
    assert "config.json is missing" in out
    assert "mend it: curation-assets models download siglip2" in out

    code, out, _ = call("models", "download", "siglip2", "fingerprint")
    assert code == 0
    lines = out.splitlines()
    megabytes = len(hub.files["model.safetensors"]) / 1e6
    assert lines[0].startswith(f"siglip2: google/tiny at 01234567, {megabytes:,.1f} MB, licence MIT, gated: accept its terms at")
    assert lines[1] == "fingerprint: no weights needed"
    folder = f"{place}/cache/models--google--tiny/snapshots/0123456789abcdef0123456789abcdef01234567"
    assert lines[2] == f"siglip2: ready in {folder}"
    after = row(call)
    assert after["state"] == "ready"
    assert after["repositories"] == [
        {
            "repo": "google/tiny",
            "revision": "0123456789abcdef0123456789abcdef01234567",
            "size_bytes": len(hub.files["model.safetensors"]),
            "licence": "MIT",
            "is_gated": True,
            "folder": folder,
            "problems": [],
        }
    ]
    assert call("models", "verify", "--json", "siglip2")[0] == 0
    asked = len(hub.requests)
    assert call("models", "download", "siglip2", "--yes")[:2] == (0, "siglip2: ready\n")
    assert len(hub.requests) == asked

    weights = Path(folder, "model.safetensors").resolve()
    weights.write_bytes(weights.read_bytes()[:-1])
    assert row(call)["state"] == "incomplete"
    weights.write_bytes(hub.files["model.safetensors"][:-1] + b"x")
    assert row(call)["state"] == "tampered"
    code, out, _ = call("models", "verify")
    assert code == 1
    assert "model.safetensors has the hash" in out
    assert call("models", "download", "siglip2")[0] == 0
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == hashlib.sha256(hub.files["model.safetensors"]).hexdigest()


def test_unreadable_files_hide_no_other_model(call: Call, hub: Hub, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    assert call("models", "download", "siglip2")[0] == 0
    folder = Path(row(call)["repositories"][0]["folder"])  # type: ignore[index]
    (folder / "config.json").unlink()
    (folder / "config.json").write_bytes(hub.files["config.json"])
    assert row(call)["state"] == "not checked"

    def refuse(*_: object) -> str:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:  # for root every file is readable
        patch.setattr("curation_assets.models.weights._sha256", refuse)
        code, out, err = call("models", "verify")
        assert code == 1
        assert "siglip2: not checked" in out
        assert "config.json has no published hash here" in out
        assert "model.safetensors cannot be read: Permission denied" in out
        assert err == ""
        assert row(call, "fingerprint")["state"] == "no weights needed"
    assert call("models", "download", "siglip2")[0] == 0
    assert row(call)["state"] == "ready"
    (place / "curation.yaml").write_text(f"models: {{cache_dir: {place}/curation.yaml}}\n")
    code, _, err = call("models", "download", "siglip2")
    assert code == 3
    assert "is a file, not a folder" in err
    assert "Traceback" not in err


def test_downloads_that_fail_are_one_message_and_exit_3(call: Call, hub: Hub, place: Path) -> None:  # noqa: F811
    hub.token = "hf_right"
    code, _, err = call("models", "download", "siglip2")
    assert code == 3
    assert "refuses the download (401), HF_TOKEN is not set" in err
    assert "Traceback" not in err
    hub.token = None
    hub.sent["model.safetensors"] = b"\0" + hub.files["model.safetensors"][1:]
    code, _, err = call("models", "download", "siglip2")
    assert code == 3
    assert "it was not kept" in err
    with (place / "curation.yaml").open("w") as file:
        file.write(f"models: {{cache_dir: {place}/cache, offline: true}}\n")
    asked = len(hub.requests)
    code, _, err = call("models", "download", "siglip2")
    assert code == 3
    assert "models.offline is true" in err
    assert len(hub.requests) == asked
    code, _, err = call("models", "download", "siglip")
    assert code == 2
    assert "Did you mean 'siglip2'" in err


def test_a_run_names_missing_weights_before_any_work_and_then_uses_them(call: Call, hub: Hub, place: Path) -> None:  # noqa: F811
    (place / "videos").mkdir()
    makevideo.make_cuts(place / "videos" / "cuts.mp4", seconds=2, scenes=2)
    with (place / "curation.yaml").open("a") as file:
        file.write("embeddings: {models: [fingerprint, siglip2]}\n")
    words = ["run", "--source", "mine=videos", "--set", "engine.workers=0"]
    words += ["--set", "clips.splitter.clip_len_s=2", "--set", "transcoded_clips.enabled=false", "--set", "previews={}"]
    code, _, err = call(*words)
    assert code == 2
    assert "the weights of siglip2 are not ready: config.json is missing" in err
    assert "it is gated: accept its terms at https://huggingface.co/google/tiny and set HF_TOKEN" in err
    assert err.strip().endswith("mend it: curation-assets models download siglip2")
    assert not (place / "warehouse" / "tables").exists()
    assert call(*words, "--select", "clips*")[0] == 2  # what follows from clips has the model in it
    assert call(*words, "--select", "clips")[0] == 0  # what needs no weights runs without

    assert call("models", "download", "siglip2")[0] == 0
    code, _, err = call(*words)
    assert code == 0, err
    query = "select scope, outcome, list_dot_product(embedding::float[], embedding::float[]) as norm from embeddings_siglip2"
    code, out, _ = call("sql", "--json", query)
    assert code == 0
    rows = json.loads(out)
    assert sorted(item["scope"] for item in rows) == ["clip", "clip", "video"]
    assert all(item["outcome"] == "ok" and item["norm"] == pytest.approx(1, abs=1e-5) for item in rows)


def test_scorers_are_listed_beside_the_models_and_named_when_missing(call: Call, place: Path) -> None:  # noqa: F811
    (place / "curation.yaml").write_text(f"models: {{cache_dir: {place}/cache}}\nclip_scores: {{scorers: [pixels, aesthetic]}}\n")
    found = row(call, "aesthetic")
    assert (found["kind"], found["dim"], found["frames"], found["has_text"], found["state"]) == ("scorer", None, 1, False, "missing")
    repositories = [repository["repo"] for repository in found["repositories"]]  # type: ignore[attr-defined]
    assert repositories == ["openai/clip-vit-large-patch14", "ttj/sac-logos-ava1-l14-linearMSE"]
    assert row(call, "siglip2")["kind"] == "embedder"
    assert "score" in call("models", "list")[1]
    code, out, _ = call("models", "verify", "aesthetic")
    assert code == 1
    assert "mend it: curation-assets models download aesthetic" in out
    (place / "videos").mkdir()
    makevideo.make_cuts(place / "videos" / "cuts.mp4", seconds=2, scenes=2)
    code, _, err = call("run", "--source", "mine=videos", "--set", "engine.workers=0")
    assert code == 2
    assert err.strip().endswith("mend it: curation-assets models download aesthetic")
    assert not (place / "warehouse" / "tables").exists()
    code, _, err = call("run", "--set", "embeddings.models=[aesthetic]", "--set", "clip_scores.scorers=[pixels]")
    assert code == 2
    assert "no model is named 'aesthetic'" in err
