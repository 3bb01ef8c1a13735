"""Weights: found, checked and downloaded from a real HTTP server that speaks as the Hub does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")

from curation_assets.models.download import download_weights
from curation_assets.models.weights import (
    WeightFile,
    WeightsError,
    WeightsSpec,
    check_weights,
    find_problems,
    find_weights,
    snapshot_folder,
)
from curation_assets_tests.hubserver import REVISION, Hub, serve

LARGE = bytes(range(256)) * 10_240  # 2.6 MB
MEND = "curation-assets models download tiny"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve(Hub("owner/tiny", {"config.json": b'{"a": 1}', "model.safetensors": LARGE, "other.txt": b"not needed"})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


@pytest.fixture
def spec(hub: Hub) -> WeightsSpec:
    whole = hub.spec()
    return WeightsSpec(whole.repo, whole.revision, whole.files[:2], whole.licence)


def download(spec: WeightsSpec, cache: Path, **options: bool) -> Path:
    return download_weights(spec, model="tiny", cache_dir=cache, **options)[0]


def test_download_then_nothing_more_to_fetch(hub: Hub, spec: WeightsSpec, tmp_path: Path) -> None:
    folder = download(spec, tmp_path)
    assert folder == tmp_path / "models--owner--tiny" / "snapshots" / REVISION
    assert (folder / "model.safetensors").read_bytes() == LARGE
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    asked = len(hub.requests)
    assert download(spec, tmp_path) == folder
    assert download(spec, tmp_path, is_offline=True) == folder
    assert len(hub.requests) == asked
    assert find_weights(spec, tmp_path, model="tiny") == folder  # the cache named in place of the default one


def test_a_cut_connection_goes_on_where_it_broke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.constants import DOWNLOAD_CHUNK_SIZE

    content = LARGE * (2 * DOWNLOAD_CHUNK_SIZE // len(LARGE) + 1)
    with serve(Hub("owner/tiny", {"model.safetensors": content}, cut_at={"model.safetensors": DOWNLOAD_CHUNK_SIZE + 1000})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        folder = download(hub.spec(), tmp_path)
        assert (folder / "model.safetensors").read_bytes() == content
        assert hub.downloads("model.safetensors") == [None, f"bytes={DOWNLOAD_CHUNK_SIZE}-"]  # the library writes whole chunks


def test_an_interrupted_download_keeps_whole_files(hub: Hub, spec: WeightsSpec, tmp_path: Path) -> None:
    download(WeightsSpec(spec.repo, spec.revision, spec.files[:1], "MIT"), tmp_path)
    assert [problem.state for problem in find_problems(spec, tmp_path)] == ["missing"]
    download(spec, tmp_path)
    assert len(hub.downloads("config.json")) == 1


def test_gated(hub: Hub, spec: WeightsSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_right"
    with pytest.raises(WeightsError, match=rf"owner/tiny refuses the download \(401\), HF_TOKEN is not set; accept its terms at .*{MEND}"):
        download(spec, tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(WeightsError, match=r"\(403\), the account of HF_TOKEN has no access"):
        download(spec, tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert (download(spec, tmp_path) / "model.safetensors").read_bytes() == LARGE
    assert {token for *_, token in hub.requests} == {None, "hf_wrong", "hf_right"}


def test_other_content_than_published_is_not_kept(hub: Hub, spec: WeightsSpec, tmp_path: Path) -> None:
    hub.sent["model.safetensors"] = b"x" + LARGE[1:]
    with pytest.raises(WeightsError, match=r"not what owner/tiny published at 01234567: model.safetensors has the hash .*it was not kept"):
        download(spec, tmp_path)
    assert [problem.state for problem in find_problems(spec, tmp_path)] == ["missing"]
    hub.sent.clear()
    assert (download(spec, tmp_path) / "model.safetensors").read_bytes() == LARGE


def test_a_file_without_a_pinned_hash_is_checked_too(hub: Hub, spec: WeightsSpec, tmp_path: Path) -> None:
    hub.sent["config.json"] = b'{"a": 2}'
    with pytest.raises(WeightsError, match=r"config.json has the hash"):
        download(spec, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "state", "said"),
    [
        ("model.safetensors", None, "missing", "model.safetensors is missing"),
        ("model.safetensors", LARGE[:-1], "incomplete", "has 2,621,439 bytes, published with 2,621,440"),
        ("model.safetensors", LARGE + b"x", "tampered", "has 2,621,441 bytes"),
        ("model.safetensors", LARGE[:-1] + b"x", "tampered", "has the hash"),
        ("config.json", b'{"a": 2}', "tampered", "has the hash"),
    ],
)
def test_damage_is_named_and_mended(spec: WeightsSpec, tmp_path: Path, name: str, content: bytes | None, state: str, said: str) -> None:
    path = (download(spec, tmp_path) / name).resolve()
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert [(problem.name, problem.state) for problem in find_problems(spec, tmp_path)] == [(name, state)]
    for check in (
        lambda: check_weights(spec, model="tiny", cache_dir=tmp_path),
        lambda: find_weights(spec, tmp_path, model="tiny"),
        lambda: download(spec, tmp_path, is_offline=True),
    ):
        with pytest.raises(WeightsError) as caught:
            check()
        assert said in str(caught.value)
        assert "owner/tiny" in str(caught.value)
    with pytest.raises(WeightsError, match=f"mend it: {MEND}"):
        check_weights(spec, model="tiny", cache_dir=tmp_path)
    download(spec, tmp_path)
    assert find_problems(spec, tmp_path) == []


def test_a_plain_file_that_nothing_pins_is_refused(spec: WeightsSpec, tmp_path: Path) -> None:
    folder = download(WeightsSpec(spec.repo, spec.revision, spec.files, "MIT"), tmp_path)
    path = folder / "config.json"
    path.unlink()
    path.write_bytes(b'{"a": 1}')  # the very same content; but nothing says so
    assert [(problem.name, problem.state) for problem in find_problems(spec, tmp_path)] == [("config.json", "not checked")]
    with pytest.raises(WeightsError, match=rf"config.json has no published hash here .*{MEND}"):
        find_weights(spec, tmp_path, model="tiny")
    assert find_weights(spec, folder, model="tiny") == folder  # a folder that the user names
    elsewhere = tmp_path / "mine.json"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert [problem.state for problem in find_problems(spec, tmp_path)] == ["not checked"]
    download(spec, tmp_path)
    assert find_problems(spec, tmp_path) == []
    assert elsewhere.is_file(), "only the cache's own content is deleted"


def test_what_cannot_be_read_is_named(spec: WeightsSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = download(spec, tmp_path)

    def refuse(*_: object) -> str:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:  # for root every file is readable
        patch.setattr("curation_assets.models.weights._sha256", refuse)
        assert [(problem.state, problem.detail) for problem in find_problems(spec, tmp_path)] == [
            ("unreadable", "cannot be read: Permission denied")
        ]
        with pytest.raises(WeightsError, match=rf"model.safetensors cannot be read: Permission denied .*{MEND}"):
            check_weights(spec, model="tiny", cache_dir=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", refuse)
        with pytest.raises(WeightsError, match="none cannot be read: Permission denied"):
            find_weights(spec, tmp_path / "none", model="tiny")
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    with pytest.raises(WeightsError, match=r"config.json is a folder, not a file"):
        check_weights(spec, model="tiny", cache_dir=tmp_path)
    with pytest.raises(WeightsError, match=rf"config.json is a folder; remove it, then: {MEND}"):
        download(spec, tmp_path)


def test_a_cache_that_is_a_file(spec: WeightsSpec, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.write_text("")
    with pytest.raises(WeightsError, match="cache is a file, not a folder"):
        download(spec, cache)
    (tmp_path / "models--owner--tiny").write_text("")
    with pytest.raises(WeightsError, match=r"config.json cannot be replaced \(Not a directory\); remove it, then"):
        download(spec, tmp_path)


def test_offline(hub: Hub, spec: WeightsSpec, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"config.json is missing, model.safetensors is missing .*models.offline is true"):
        download(spec, tmp_path, is_offline=True)
    assert hub.requests == []


def test_no_repository_no_commit_no_file(spec: WeightsSpec, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no repository owner/none"):
        download(WeightsSpec("owner/none", REVISION, spec.files, "MIT"), tmp_path)
    with pytest.raises(WeightsError, match="has no commit ffff"):
        download(WeightsSpec("owner/tiny", "f" * 40, spec.files, "MIT"), tmp_path)
    with pytest.raises(WeightsError, match=r"gone.bin is missing"):
        download(WeightsSpec("owner/tiny", REVISION, (WeightFile("gone.bin", None, None),), "MIT"), tmp_path)


@pytest.mark.slow
def test_no_server(spec: WeightsSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there; the library tries for 20 s
    with pytest.raises(WeightsError, match=rf"from http://127.0.0.1:9 failed: .*{MEND}"):
        download(spec, tmp_path)


def test_own_files(spec: WeightsSpec, tmp_path: Path) -> None:
    second = WeightsSpec("owner/words", REVISION, (WeightFile("vocab.txt", 5, "0" * 64),), "MIT")
    with pytest.raises(WeightsError, match="there is no file or folder"):
        find_weights(spec, tmp_path / "none", model="tiny")
    with pytest.raises(WeightsError, match=r"lacks config.json, model.safetensors, of owner/tiny"):
        find_weights(spec, tmp_path, model="tiny")
    for name in ("config.json", "model.safetensors", "vocab.txt"):
        (tmp_path / name).write_text("mine")
    assert find_weights(spec, tmp_path, model="tiny") == tmp_path
    assert find_weights(spec, str(tmp_path / "model.safetensors"), model="tiny") == tmp_path
    assert find_weights((spec, second), tmp_path, model="tiny") == [tmp_path, tmp_path]
    (tmp_path / "words").mkdir()
    (tmp_path / "vocab.txt").rename(tmp_path / "words" / "vocab.txt")
    assert find_weights([spec, second], tmp_path, model="tiny") == [tmp_path, tmp_path / "words"]
    (tmp_path / "mine.pt").touch()
    with pytest.raises(WeightsError, match=r"mine.pt is none of config.json, model.safetensors"):
        find_weights(spec, tmp_path / "mine.pt", model="tiny")


def test_specs_check_themselves() -> None:
    with pytest.raises(ValueError, match="full commit hash"):
        WeightsSpec("owner/tiny", "main", (WeightFile("a", None, None),), "MIT")
    with pytest.raises(ValueError, match="empty"):
        WeightsSpec("owner/tiny", REVISION, (), "MIT")


def test_the_default_cache_is_the_library_s(spec: WeightsSpec) -> None:
    from huggingface_hub.constants import HF_HUB_CACHE

    assert snapshot_folder(spec, None) == Path(HF_HUB_CACHE) / "models--owner--tiny" / "snapshots" / REVISION
