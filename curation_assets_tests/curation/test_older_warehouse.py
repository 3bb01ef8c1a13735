"""Tables that an older version has written: read, maintained and gone on with by this one.

`data/older_warehouse.tar.xz` was written by the code of commit 7562abd, before `video_etag` and `text_scores`, from two small videos:
`curation-assets run` with that `curation.yaml`, then `tar cJf older_warehouse.tar.xz videos warehouse curation.yaml` without the leases.
"""

from __future__ import annotations

import tarfile
from datetime import timedelta
from pathlib import Path

import lance
import pyarrow as pa
import pytest

from curation_assets.configuration import load_config
from curation_assets.curation.corpus import CorpusRun
from curation_assets.curation.maintain import MaintainOptions, maintain
from curation_assets.curation.query import connect_config
from curation_assets.curation.status import source_status
from curation_assets.curation.warehouse import Warehouse, table_specs
from curation_assets.schemas.clips import CLIPS
from curation_assets.storage.errors import StoreError
from curation_assets_tests.curation.test_maintain import curate

ARCHIVE = Path(__file__).parent.parent / "data" / "older_warehouse.tar.xz"


@pytest.fixture
def config(tmp_path):
    assert ARCHIVE.stat().st_size < 200_000
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return load_config(tmp_path / "curation.yaml")


def ids(config, view: str) -> list[str]:
    with connect_config(config) as connection:
        return [row[0] for row in connection.execute(f"SELECT clip_id FROM {view} ORDER BY ALL").fetchall()]


def columns(config, asset: str) -> list[str]:
    return lance.dataset(f"{config.warehouse}/tables/{asset}/mine.lance").schema.names


def test_everything_goes_on(config):
    source = CorpusRun(config).source_run("mine")
    specs = {spec.asset: spec for spec in table_specs(source.settings)}
    lacking = [asset for asset, spec in specs.items() if set(spec.schema.names) - set(columns(config, asset))]
    assert lacking == list(specs)  # the fixture is older than every table's newest column
    with connect_config(config) as connection:
        counts = {view: connection.execute(f"SELECT * FROM {view}").fetchall() for view in connection.views}
    assert {view: len(rows) for view, rows in counts.items() if rows} == {
        "raw_videos": 2, "clips": 2, "frame_sets": 4, "clip_scores": 2, "embeddings_fingerprint": 3, "transcoded_clips": 2, "previews_240p": 2,
        "curated_clips": 2,
    }  # fmt: skip
    assert source_status(source)["clips"]["outcomes"] == {"ok": 2}
    done = maintain(config, MaintainOptions(timedelta(0), is_alone=True))
    assert {table.state for table in done.tables} == {"done"}
    clips = ids(config, "clips")

    curate(config)
    source = CorpusRun(config).source_run("mine")
    assert {view: status["pending"] for view, status in source_status(source).items()} == dict.fromkeys(source_status(source), 0)
    assert ids(config, "clips") == clips == ids(config, "curated_clips")
    for asset, spec in specs.items():  # what was written anew has the new columns
        written = {row["video_etag"] for batch in source.table(spec).scan(["video_etag"], rows="headers") for row in batch.to_pylist()}
        assert set(columns(config, asset)) >= set(spec.schema.names) or written == {None}, asset
    assert "video_etag" in columns(config, "raw_videos")  # the folder was moved, so the rows were written anew
    versions = {spec.asset: source.table(spec).data_version() for spec in specs.values()}
    curate(config)
    assert {spec.asset: source.table(spec).data_version() for spec in specs.values()} == versions


def test_rows_beside_older_rows_have_the_new_columns(config):
    """A new video in a table of an older version: its rows have the columns, the older rows have NULL there."""
    import shutil

    videos = Path(config.sources["mine"].uri)
    shutil.copy(videos / "cuts.mp4", videos / "new.mp4")
    before = ids(config, "clips")
    curate(config)
    assert set(before) < set(ids(config, "clips"))
    assert len(ids(config, "clips")) == 4


def test_columns_of_a_newer_version_stay(config):
    """Of two versions on one warehouse, the older one writes NULL into the columns that it does not know, and takes nothing away."""
    uri = f"{config.warehouse}/tables/clips/mine.lance"
    dataset = lance.dataset(uri)
    dataset.add_columns({"of_next_year": "start_ns + 1"})
    curate(config)
    assert "of_next_year" in lance.dataset(uri).schema.names
    assert ids(config, "clips")


def test_another_type_is_one_error_with_a_remedy(config):
    uri = f"{config.warehouse}/tables/clips/mine.lance"
    dataset = lance.dataset(uri)
    dataset.alter_columns({"path": "start_ns", "data_type": pa.int32()})
    message = r"clips/mine\.lance: column start_ns is int32, this version of curation_assets needs int64\. .*move this table away"
    with pytest.raises(StoreError, match=message):
        CorpusRun(config).source_run("mine").headers(CLIPS)
    with connect_config(config) as connection, pytest.raises(StoreError, match=message):
        connection.execute("SELECT * FROM clips")
    report = maintain(config, MaintainOptions(timedelta(days=1)))
    assert [table.table for table in report.of_state("failed")] == ["tables/clips/mine.lance"]
    Path(uri).rename(Path(config.warehouse).parent / "moved.lance")  # the remedy
    curate(config)
    assert len(ids(config, "clips")) == 2
    assert Warehouse.of(config).registry.names() == ["mine"]
