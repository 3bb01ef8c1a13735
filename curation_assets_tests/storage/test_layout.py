from __future__ import annotations

import unicodedata
import uuid
from pathlib import Path

import pytest

from curation_assets.storage.layout import Layout, check_source_name, clip_id, header_row_id, item_row_id, video_id


def test_ids_are_those_of_the_design():
    namespace = uuid.uuid5(uuid.NAMESPACE_URL, "curation-assets")
    expected = str(uuid.uuid5(namespace, "src\0a/é.mp4"))
    assert video_id("src", "a/é.mp4") == expected
    assert video_id("src", unicodedata.normalize("NFD", "a/é.mp4")) == expected
    assert clip_id(expected, 0, 10_000_000_000) == str(uuid.uuid5(uuid.UUID(expected), "0:10000000000"))
    assert len(expected) == 36
    assert video_id("src", "a%2Fé.mp4") != expected


def test_row_ids_differ():
    video, clip = video_id("s", "k"), clip_id(video_id("s", "k"), 0, 1)
    assert (
        len({header_row_id(video), clip, item_row_id(video, clip, "a"), item_row_id(video, None, "a"), item_row_id(video, None, "b")}) == 5
    )


@pytest.mark.parametrize("name", ["a", "Road-trips_2024.v1", "x" * 120, "0", "name--003-of-8", "-x"])
def test_good_source_names(name: str):
    assert check_source_name(name) == name


@pytest.mark.parametrize("name", ["", ".a", "a..b", "a/b", "a b", "é", "x" * 121, "a\n", "a%", "..", "a,b"])
def test_bad_source_names(name: str):
    with pytest.raises(ValueError, match="letters"):
        check_source_name(name)


def test_keys():
    layout = Layout("s3://bucket/pre fix/")
    assert layout.table_key("clip_scores/pixels", "s") == "tables/clip_scores/pixels/s.lance"
    assert layout.table_key("duplicates/m") == "tables/duplicates/m.lance"
    assert layout.table_uri("clips", "s") == "s3://bucket/pre fix/tables/clips/s.lance"
    assert layout.source_key("s") == "sources/s.json"
    assert layout.lease_prefix("clips", "s") == "leases/clips/s/"
    assert (
        layout.media_key("previews/256", "s", clip_id="c", fingerprint="0123456789", ext=".webp") == "media/previews/256/s/c-01234567.webp"
    )


def test_a_local_root_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert Layout("./warehouse/").root_uri == Layout("warehouse").root_uri == str(tmp_path / "warehouse")
