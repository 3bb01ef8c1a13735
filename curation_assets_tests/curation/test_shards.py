"""A source that is split: what its shards hold together is what it holds unsplit, and every command takes its plain name."""

import json
import shutil
import unicodedata
from collections import Counter
from datetime import timedelta

import dagster as dg
import numpy as np
import pytest

import curation_assets
from curation_assets.configuration import load_config
from curation_assets.curation.maintain import MaintainOptions, maintain
from curation_assets.curation.query import clip_story
from curation_assets.curation.query_vectors import Query
from curation_assets.curation.recut import cut_clip
from curation_assets.curation.search import Searcher, search
from curation_assets.curation.search_index import update_search_index
from curation_assets.curation.shards import partition_names, with_shards
from curation_assets.curation.sheet import render_sheet
from curation_assets.curation.sources import SourceRecord, list_objects
from curation_assets.curation.warehouse import table_specs
from curation_assets.curation.watched_names import watched_source_name
from curation_assets.definitions import build_defs
from curation_assets.defs.partitions import RANGE_END, RANGE_START, sync_partitions
from curation_assets.settings import Config, SettingsError, SourceSettings, WatchSettings
from curation_assets.storage.layout import plain_name, shard_of, video_id
from curation_assets_tests import makevideo
from curation_assets_tests.curation.test_corpus import Corpus
from curation_assets_tests.curation.test_search import DIM, MODEL, Library, unit
from curation_assets_tests.test_cli import call, place  # noqa: F401 - fixtures

SHARDS = ["big--000-of-003", "big--001-of-003", "big--002-of-003"]
NAMES = ["a.mp4", "b.mp4", "c.mp4", "d/e.mp4", unicodedata.normalize("NFD", "é.mp4"), "text.mp4"]
RUN_COLUMNS = {"run_id", "written_at", "work_s"}
FILE_COLUMNS = {"content_hash", "sha256", "size_bytes"}  # x264 writes other bytes on a busy machine, also of one source twice


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards") / "videos"
    (folder / "d").mkdir(parents=True)
    for seed, name in enumerate(NAMES[:-1]):
        makevideo.make_cuts(folder / name, seconds=1, scenes=3, seed=1 + 20 * seed)
    shutil.copyfile(folder / "a.mp4", folder / "c.mp4")  # a duplicate
    makevideo.make_text(folder / "text.mp4")
    return folder


def corpus_of(folder, videos, shards, *, with_media=False):
    folder.mkdir(exist_ok=True)
    corpus = Corpus(folder, with_media=with_media)
    corpus.write(f"sources: {{big: {{uri: '{videos}', shards: {shards}}}}}")
    return corpus


@pytest.fixture(scope="module")
def both(videos, tmp_path_factory):
    """The same videos unsplit and in three shards, through every stage; nothing here is changed."""
    made = []
    for shards in (1, 3):
        corpus = corpus_of(tmp_path_factory.mktemp(f"in{shards}"), videos, shards, with_media=True)
        corpus.curate(*partition_names("big", shards))
        corpus.update()
        made.append(corpus)
    return made


def rows(corpus, spec):
    """All that a table says, headers included and frames left out, whichever run and shard wrote it."""
    found = []
    for name in corpus.run.sources:
        dataset = corpus.run.warehouse.table(spec, name).snapshot().dataset
        without = RUN_COLUMNS | {*spec.blob_columns} | (FILE_COLUMNS if spec.asset == "transcoded_clips" else set())
        columns = [column for column in dataset.schema.names if column not in without]
        found += json.loads(json.dumps(dataset.to_table(columns=columns).to_pylist(), default=repr).replace(f"/{name}/", "/big/"))
    return sorted(found, key=lambda row: row["row_id"])


def test_ids_and_rows_are_those_of_the_unsplit_source(both):
    whole, split = both
    for spec in table_specs(whole.config):
        expected = rows(whole, spec)
        assert len(expected) > 4, spec.asset
        assert rows(split, spec) == expected, spec.asset
    frames = [sorted(row["frames"][0] for batch in _scan_frames(corpus) for row in batch.to_pylist() if row["frames"]) for corpus in both]
    assert frames[0] == frames[1] != []
    for query in (
        "select * exclude (uri) from curated_clips order by clip_id",
        "select source, clip_id, kept, reject_reason from clip_scores order by clip_id",
        "select clip_id, kept_id, round(similarity, 5) from duplicates_fingerprint order by clip_id",
    ):
        assert whole.sql(query) == split.sql(query) != []
    assert split.sql("select count(*), count(distinct clip_id), count(duplicate_of), count(uri) from curated_clips") == whole.sql(
        "select count(*), count(distinct clip_id), count(duplicate_of), count(uri) from curated_clips"
    )
    assert split.sql("select distinct source from curated_clips") == [("big",)]
    assert split.sql("select count(duplicate_of) > 0 from curated_clips") == [(True,)]


def _scan_frames(corpus):
    spec = next(spec for spec in table_specs(corpus.config) if spec.asset == "frame_sets")
    for name in corpus.run.sources:
        yield from corpus.run.warehouse.table(spec, name).scan_blobs(["frames"])


def test_every_object_is_in_exactly_one_shard(both, videos, tmp_path):
    split = both[1]
    tables = {name: corpus_keys(split, name) for name in SHARDS}
    assert all(tables.values())
    keys = Counter(key for found in tables.values() for key in found)
    assert keys == {unicodedata.normalize("NFC", name): 1 for name in NAMES}
    manifest = tmp_path / "list.csv"
    manifest.write_text("uri\n" + "".join(f"{videos / name}\n" for name in [*NAMES, "gone.mp4"]))
    settings = SourceSettings(uri=str(manifest), shards=3)
    records = SourceRecord.all_from_settings("big", settings)
    found = [item.key for record in records for page in list_objects(record) for item in page]
    assert sorted(found) == sorted(unicodedata.normalize("NFC", str(videos / name)) for name in [*NAMES, "gone.mp4"])
    assert [record.name for record in records] == SHARDS


def corpus_keys(corpus, name):
    headers = corpus.run.warehouse.table(table_specs(corpus.config)[0], name).headers(["key", "video_id"])
    assert [video_id("big", key) for key in headers["key"].to_pylist()] == headers["video_id"].to_pylist()
    return set(headers["key"].to_pylist())


def test_the_plain_name_finds_the_shard(both, tmp_path):
    split = both[1]
    clips = [clip for (clip,) in split.sql("select clip_id from clips where source = 'big' order by 1")]
    assert split.sql("select count(*) from clips where source like 'big--%'") == [(0,)]
    hits = search(split.run, Query(clip_id=clips[0]), k=100).hits
    assert sorted(hit.clip_id for hit in hits) == clips[1:]
    assert {hit.key for hit in hits} <= {unicodedata.normalize("NFC", name) for name in NAMES}
    assert {hit.source for hit in hits} == {"big"}
    filtered = search(split.run, Query(clip_id=clips[0]), k=100, where="source = 'big' and key = 'd/e.mp4'").hits
    assert {hit.key for hit in filtered} == {"d/e.mp4"}
    for number, clip in enumerate(clips):
        story = clip_story(split.config, clip)
        assert story["video"]["source"] == "big"
        assert len(story["embeddings"]) == 1
        if number % 4 == 0:
            cut_clip(split.run, clip, tmp_path / "cut.mp4")
            assert (tmp_path / "cut.mp4").stat().st_size > 1000
    assert render_sheet(split.run).count("<img") == len(clips)
    for name in SHARDS:
        assert curation_assets.open_table("clips", name, config=str(split.folder / "curation.yaml")).count_rows() > 0
    with pytest.raises(KeyError, match=r"'big' is split into shards.*big--000-of-003, big--001-of-003"):
        curation_assets.open_table("clips", "big", config=str(split.folder / "curation.yaml"))


def test_maintain_knows_the_shards(both):
    report = maintain(both[1].config, MaintainOptions(timedelta(days=1), is_dry_run=True))
    assert {table.state for table in report.tables} == {"done"}
    assert sum("big--001-of-003" in table.table for table in report.tables) == len(table_specs(both[1].config))
    assert sum(table.files_removed for table in report.tables) == 0
    only = maintain(both[1].config, MaintainOptions(timedelta(days=1), is_dry_run=True, sources=("big",)))
    assert len(only.tables) == 3 * len(table_specs(both[1].config))


def test_a_new_and_a_removed_object_touch_one_shard(videos, tmp_path):
    shutil.copytree(videos, tmp_path / "videos")
    corpus = corpus_of(tmp_path / "project", tmp_path / "videos", 3)
    corpus.curate(*SHARDS, stages=["raw_videos", "clips"])
    specs = table_specs(corpus.config)[:2]

    def changed(change):
        tables = [(name, corpus.run.warehouse.table(spec, name)) for name in SHARDS for spec in specs]
        before = [table.snapshot().dataset.version for _, table in tables]
        change()
        corpus.curate(*SHARDS, stages=["raw_videos", "clips"])
        return {name for (name, table), version in zip(tables, before, strict=True) if table.snapshot().dataset.version != version}

    (home,) = (name for name in SHARDS if "a.mp4" in corpus_keys(corpus, name))
    new = next(f"new{i}.mp4" for i in range(99) if shard_of(corpus.run.partition_of("big", video_id("big", f"new{i}.mp4")))[0] == 1)
    assert changed(lambda: None) == set()
    assert changed((tmp_path / "videos" / "a.mp4").unlink) == {home}
    assert changed(lambda: shutil.copyfile(videos / "a.mp4", tmp_path / "videos" / new)) == {SHARDS[1]}
    assert corpus.sql(f"select source, key from raw_videos where key in ('a.mp4', '{new}')") == [("big", new)]


@pytest.mark.parametrize(("first", "then"), [(1, 3), (3, 1), (3, 2)])
def test_another_number_is_refused_with_the_remedy(call, place, videos, first, then):  # noqa: F811
    settings = place / "curation.yaml"

    def write(shards):
        settings.write_text(f"sources: {{big: {{uri: '{videos}', shards: {shards}}}}}\nengine: {{workers: 0}}\n")

    def partitions():
        folder = place / "warehouse" / "tables" / "raw_videos"
        return sorted({path.relative_to(folder).parts[0].removesuffix(".lance") for path in folder.rglob("*") if path.is_file()})

    write(first)
    assert call("run", "--source", "big", "--select", "raw_videos")[0] == 0
    assert partitions() == partition_names("big", first)
    write(then)
    for words in (["run"], ["run", "--dry-run"], ["sources", "list"], ["maintain"]):
        code, _, said = call(*words)
        assert code == 2
        assert f"keep shards: {first}" in said
        assert "curation-assets sources remove big --delete-tables" in said
    assert partitions() == partition_names("big", first)
    assert call("sources", "remove", "big", "--delete-tables")[0] == 0
    assert partitions() == []
    assert call("run", "--select", "raw_videos")[0] == 0
    assert partitions() == partition_names("big", then)


def test_commands_take_the_plain_name(call, place, videos):  # noqa: F811
    (place / "curation.yaml").write_text("engine: {workers: 0}\nwatch: {up: {uri: ./up}}\n")
    code, out, _ = call("sources", "add", "big", videos, "--shards", "3", "--set", "raw_videos.limits.max_duration_s=99")
    assert code == 0
    assert "in 3 shards" in out
    assert call("sources", "add", "other", videos)[0] == 0
    for words in (["--source", "big"], ["--source", f"big={videos}"]):
        code, out, _ = call("run", *words, "--select", "raw_videos", "--json")
        assert code == 0
        assert [source["source"] for source in json.loads(out)["sources"]] == SHARDS
    code, out, _ = call("run", "--source", "big", "--dry-run", "--json")
    assert [source["source"] for source in json.loads(out)["sources"]] == SHARDS
    assert sum(source["num_objects"] for source in json.loads(out)["sources"]) == len(NAMES)
    assert sum(source["num_new"] for source in json.loads(out)["sources"]) == 0
    code, out, _ = call("status", "--source", "big", "--json")
    assert [source["source"] for source in json.loads(out)["sources"]] == SHARDS
    code, out, _ = call("failures", "--source", "big", "--json")
    assert [row["key"] for row in json.loads(out)] == ["text.mp4"]
    code, out, _ = call("sources", "list", "--json")
    assert [(row["name"], row["settings"] != {}) for row in json.loads(out)] == [*((name, True) for name in SHARDS), ("other", False)]
    for words, said in (
        (["add", "big", videos, "--shards", "2"], "is split into 3 shards"),
        (["add", "other", videos, "--shards", "2"], "is not split"),
        (["add", "up-x", videos, "--shards", "2"], "the watch 'up' could make another source"),
        (["add", "x--001-of-003", videos], "give that name, and shards"),
        (["add", "x", videos, "--shards", "0"], "shards: Input should be greater"),
        (["add", "x" * 115, videos, "--shards", "2"], "source name"),
        (["remove", SHARDS[0]], "is a shard: remove the whole source, big"),
    ):
        code, _, err = call("sources", *words)
        assert (code, said in err) == (2, True), err
    (place / "warehouse" / "sources" / f"{SHARDS[1]}.json").unlink()  # as a killed command leaves it
    code, _, err = call("run", "--select", "raw_videos")
    assert (code, "source 'big' has 2 of its 3 shards" in err) == (2, True), err
    assert call("sources", "add", "big", videos)[0] == 0  # as many as it has
    assert call("run", "--select", "raw_videos")[0] == 0
    code, out, _ = call("sources", "remove", "big", "--delete-tables")
    assert code == 0
    assert [path.name for path in (place / "warehouse" / "sources").iterdir()] == ["other.json"]
    assert not [path for path in (place / "warehouse" / "tables").glob("**/big--*/**/*") if path.is_file()]
    assert call("run", "--source", "big", "--select", "raw_videos")[0] == 2


def test_a_range_of_shards_in_one_run(videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.delenv("CURATION_CONFIG", raising=False)
    corpus = corpus_of(tmp_path, videos, 3)
    with dg.DagsterInstance.ephemeral() as instance:
        sync_partitions(instance, corpus.run.warehouse.registry.sync(corpus.config))
        job = build_defs(overrides={"engine": {"workers": 0}}).resolve_job_def("curate_source")
        result = job.execute_in_process(instance=instance, tags={RANGE_START: SHARDS[0], RANGE_END: SHARDS[-1]})
        assert result.success
        corpus_job = build_defs(overrides={"engine": {"workers": 0}}).resolve_job_def("curate_corpus")
        assert corpus_job.execute_in_process(instance=instance).success
        for key in ("raw_videos", "frame_sets", "embeddings/fingerprint"):
            assert instance.get_materialized_partitions(dg.AssetKey(key.split("/"))) == set(SHARDS)
    clips, curated = corpus.sql("select clip_id from clips order by 1"), corpus.sql("select clip_id from curated_clips order by 1")
    assert clips == curated != []


def test_more_shards_than_are_opened_at_once(videos, tmp_path):
    corpus = corpus_of(tmp_path, videos, 20)
    names = partition_names("big", 20)
    corpus.curate(*names, stages=["raw_videos"])
    assert corpus.sql("select count(*) from raw_videos where source = 'big'") == [(len(NAMES),)]
    assert corpus.sql("select count(*) from raw_videos where source = 'other'") == [(0,)]
    assert corpus.sql("select count(*) from raw_videos where source = 'big--003-of-020'") == [(0,)]


class SplitLibrary(Library):
    """A source in two shards, and one that is not split."""

    def __init__(self, folder):
        (folder / "curation.yaml").write_text(
            "sources: {big: {uri: videos/a, shards: 2}, b: {uri: videos/b}}\ntranscoded_clips: {enabled: false}\npreviews: {}\n"
            "search: {index_from: 1000}\n"
        )
        self.config = load_config(folder / "curation.yaml")
        self.run.warehouse.registry.sync(self.config)
        self.vectors, self.videos = {}, {}

    def _commit(self, spec, source, rows, video, etag):
        super()._commit(spec, self.run.partition_of(source, video), rows, video, etag)


def test_the_index_and_a_shard_that_changed_since(tmp_path):
    library = SplitLibrary(tmp_path)
    rng = np.random.default_rng(7)
    for name in ("one", "two", "three", "four"):
        library.put("big", f"{name}.mp4", unit(rng.standard_normal((200, DIM))))
    library.put("b", "five.mp4", unit(rng.standard_normal((400, DIM))))
    report = update_search_index(library.run, MODEL)
    assert (report.num_rows, report.facts["is_indexed"]) == (1200, 1)
    homes = {library.run.partition_of("big", video_id("big", f"{name}.mp4")) for name in ("one", "two", "three", "four")}
    assert homes == {"big--000-of-002", "big--001-of-002"}
    assert Searcher(library.run, MODEL).exact_sources == []
    query = unit(rng.standard_normal(DIM))
    library.put("big", "new.mp4", unit(query + 0.01 * rng.standard_normal((3, DIM))))
    assert Searcher(library.run, MODEL).exact_sources == ["big"]
    hits = library.check(query, 5)
    assert [hit.key for hit in hits[:3]] == ["new.mp4"] * 3
    assert [hit.clip_id for hit in library.check(query, 1200)] != []
    assert library.check(
        query, 5, where="source = 'big'", among={clip for (name, _), ids in library.videos.items() if name == "big" for clip in ids}
    )


def test_names():
    assert [shard_of(name) for name in SHARDS] == [(0, 3), (1, 3), (2, 3)]
    for name in ("big", "big--003-of-003", "big--3-of-8", "--000-of-003", "big-000-of-003"):
        assert (shard_of(name), plain_name(name)) == (None, name)
    assert with_shards(["big", "b", "gone", "big"], [*reversed(SHARDS), "b"]) == [*SHARDS, "b", "gone"]
    assert shard_of(watched_source_name("x-", "003-of-008")) is None
    with pytest.raises(ValueError, match="that of a shard"):
        Config(storage_options={}, watch={"x--001-of-002": WatchSettings(uri="/videos", storage_options={})})
    with pytest.raises(ValueError, match="'big' has shards, and the watch 'big'"):
        Config(storage_options={}, watch={"big": {"uri": "/v"}}, sources={"big": {"uri": "/w", "shards": 2}})
    with pytest.raises(SettingsError, match="give that name, and shards"):
        SourceRecord.from_settings("x--001-of-002", SourceSettings(uri="/v", storage_options={}))
