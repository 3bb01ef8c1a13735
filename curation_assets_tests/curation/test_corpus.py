"""duplicates and curated_clips: over several sources, made anew only when what they are made from has changed."""

import shutil

import numpy as np
import pytest

from curation_assets.cli.show import read_statuses
from curation_assets.configuration import load_config, resolve_settings
from curation_assets.curation.corpus import CorpusRun
from curation_assets.curation.corpus_status import corpus_status
from curation_assets.curation.curated_clips import update_curated_clips
from curation_assets.curation.duplicates import update_duplicates
from curation_assets.curation.model_files import check_models
from curation_assets.curation.query import clip_story
from curation_assets.curation.query_vectors import Query
from curation_assets.curation.search import search
from curation_assets.curation.search_index import update_search_index
from curation_assets.curation.sheet import render_sheet
from curation_assets.curation.status import num_pending, source_status
from curation_assets.curation.warehouse import SourceRun, Warehouse, deciding_model, table_specs
from curation_assets.engine.local import LocalEngine
from curation_assets.models import registry
from curation_assets.schemas.curated_clips import CURATED_CLIPS
from curation_assets.schemas.duplicates import duplicates_table
from curation_assets.schemas.embeddings import embeddings_table
from curation_assets.settings import SettingsError
from curation_assets.storage.tables import VideoTable
from curation_assets_tests import makevideo
from curation_assets_tests.curation.project import MEDIA_STAGES, STAGES

MODEL = "fingerprint"


class Corpus:
    """Two sources with settings in a file."""

    def __init__(self, folder, *, with_media=False):
        self.folder = folder
        self.with_media = with_media
        self.write("")

    def write(self, more):
        sources = "" if "sources:" in more else "sources: {a: {uri: videos/a}, b: {uri: videos/b}}\n"
        media = "" if self.with_media else "transcoded_clips: {enabled: false}\npreviews: {}\n"
        (self.folder / "curation.yaml").write_text(f"{sources}{media}clips: {{splitter: {{clip_len_s: 2, min_clip_len_s: 0.5}}}}\n{more}\n")

    @property
    def config(self):
        return load_config(self.folder / "curation.yaml")

    def curate(self, *names, stages=None):
        config = self.config
        warehouse = Warehouse.of(config)
        warehouse.registry.sync(config)
        for name in names:
            record = warehouse.registry.get(name)
            settings = resolve_settings(config.processing(), record.settings)
            run = SourceRun(record, settings, warehouse, LocalEngine(workers=0))
            for stage, update in (MEDIA_STAGES if self.with_media else STAGES).items():
                if stages is None or stage in stages:
                    update(run)

    @property
    def run(self):
        return CorpusRun(self.config)

    def update(self):
        run = self.run
        duplicates = update_duplicates(run, MODEL)
        update_search_index(run, MODEL)
        curated = update_curated_clips(run, tables=table_specs(run.config), model=deciding_model(run.config))
        return duplicates, curated

    def sql(self, query):
        with self.run.connect() as connection:
            return connection.sql(query).fetchall()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "videos" / "a").mkdir(parents=True)
    (folder / "videos" / "b").mkdir()
    makevideo.make_cuts(folder / "videos" / "a" / "cuts.mp4", seconds=2, scenes=3)
    makevideo.make_cuts(folder / "videos" / "a" / "other.mp4", seconds=2, scenes=2, seed=51)
    shutil.copyfile(folder / "videos" / "a" / "cuts.mp4", folder / "videos" / "b" / "copy.mp4")
    makevideo.make_text(folder / "videos" / "b" / "text.mp4")
    corpus = Corpus(folder)
    corpus.curate("a", "b")
    return folder


@pytest.fixture
def corpus(made, tmp_path):
    shutil.copytree(made, tmp_path / "corpus")
    return Corpus(tmp_path / "corpus")


def test_a_copy_in_another_source_is_left_out(corpus):
    duplicates, curated = corpus.update()
    assert (duplicates.num_rows, duplicates.facts["num_clips"]) == (3, 8)
    assert curated.num_rows == 8
    rows = corpus.sql("select key, is_selected, reject_reasons, duplicate_of is not null from curated_clips order by key, start_ns")
    assert (
        rows == [("copy.mp4", False, ["duplicate"], True)] * 3 + [("cuts.mp4", True, [], False)] * 3 + [("other.mp4", True, [], False)] * 2
    )
    assert corpus.sql("select min(similarity) > 0.999 from duplicates_fingerprint") == [(True,)]
    ((clip, kept),) = corpus.sql("select clip_id, kept_id from duplicates_fingerprint limit 1")
    story = clip_story(corpus.config, clip)
    (other,) = story["duplicates"]["duplicates_fingerprint"]["duplicate_of"]
    assert other["clip_id"] == kept
    assert {other["key"], story["video"]["key"]} == {"copy.mp4", "cuts.mp4"}
    assert story["curated"]["reject_reasons"] == ["duplicate"]
    assert clip_story(corpus.config, kept)["duplicates"]["duplicates_fingerprint"]["kept_for"][0]["clip_id"] == clip


def test_the_sheet_shows_every_clip_and_why(corpus):
    (corpus.folder / "videos" / "a" / "cuts.mp4").rename(corpus.folder / "videos" / "a" / "<b>&.mp4")
    corpus.curate("a")
    corpus.update()
    page = render_sheet(corpus.run)
    assert page.count("<figure") == page.count("data:image/jpeg;base64,") == 8
    assert "8 of 8 clips shown, 5 of all selected" in page
    assert page.count("duplicate of &lt;b&gt;&amp;.mp4 0.0 s") + page.count("duplicate of copy.mp4 0.0 s") == 1
    assert "<b>&" not in page
    assert render_sheet(corpus.run, most_clips=3).count("<figure") == 3


def test_a_sheet_of_nothing(corpus):
    assert "0 of 0 clips shown" in render_sheet(corpus.run)


def test_only_what_changed_is_made_anew(corpus):
    assert [table["pending"] for table in corpus_status(corpus.run).values()] == [1, 1, 1]
    assert [report.is_unchanged for report in corpus.update()] == [False, False]
    assert [report.is_unchanged for report in corpus.update()] == [True, True]
    assert [table["pending"] for table in corpus_status(corpus.run).values()] == [0, 0, 0]
    corpus.write("dedup: {eps: 0.00001}")
    assert [table["pending"] for table in corpus_status(corpus.run).values()] == [1, 0, 0]
    assert [report.is_unchanged for report in corpus.update()] == [False, False]
    corpus.write("dedup: {eps: 0.00001, model: none}")
    assert [report.is_unchanged for report in corpus.update()] == [True, False]
    assert corpus.sql("select count(*) filter (where is_selected) from curated_clips") == [(8,)]
    corpus.write("")
    corpus.update()
    (corpus.folder / "videos" / "b" / "copy.mp4").unlink()
    corpus.curate("b")
    duplicates, curated = corpus.update()
    assert (duplicates.num_rows, curated.num_rows) == (0, 5)
    assert corpus.sql("select distinct is_selected from curated_clips") == [(True,)]


def test_what_the_thresholds_reject_is_not_what_others_are_kept_for(corpus):
    corpus.write("dedup: {which_to_keep: [source]}")
    corpus.update()
    assert corpus.sql("select distinct key from curated_clips where duplicate_of is not null") == [("copy.mp4",)]
    text = "sources: {a: {uri: videos/a, settings: {clip_scores: {thresholds: {max_motion_mean: 0, min_sharpness: 0.9}}}}, b: {uri: videos/b}}\n"
    corpus.write(text + "dedup: {which_to_keep: [source]}\n")
    corpus.curate("a", "b")
    corpus.update()
    rows = corpus.sql("select key, is_selected, reject_reasons from curated_clips where start_ns = 0 order by key")
    assert rows[0] == ("copy.mp4", True, [])
    assert rows[1] == ("cuts.mp4", False, ["high_motion", "blurred"])
    outcomes = corpus_status(corpus.run)["curated_clips"]["outcomes"]
    assert outcomes == {"high_motion": 5, "selected": 3}


@pytest.mark.parametrize("which", ["hard", "easy", "random", ["-num_pixels", "sharpness", "-last_modified", "num_frames"]])
def test_every_way_to_choose(corpus, which):
    corpus.write(f"dedup: {{which_to_keep: {which}}}")
    duplicates, _ = corpus.update()
    assert duplicates.num_rows == 3
    first = corpus.sql("select clip_id from duplicates_fingerprint order by 1")
    corpus.write(f"dedup: {{which_to_keep: {which}, exact_max_clips: 0, n_clusters: 2, n_probes: 2}}")
    corpus.update()
    assert corpus.sql("select clip_id from duplicates_fingerprint order by 1") == first


def test_wrong_settings_are_said(corpus):
    corpus.write("dedup: {which_to_keep: [nonsense]}")
    with pytest.raises(SettingsError, match="no column 'nonsense'"):
        corpus.update()
    corpus.write("dedup: {model: siglip9}")
    with pytest.raises(SettingsError, match="must be one of"):
        table_specs(corpus.config)


def test_a_source_without_the_models_table_and_no_sources_at_all(corpus):
    shutil.rmtree(corpus.folder / "warehouse" / "tables" / "embeddings" / "fingerprint" / "b.lance")
    duplicates, curated = corpus.update()
    assert (duplicates.num_rows, duplicates.facts["num_clips"], curated.num_rows) == (0, 5, 8)
    shutil.rmtree(corpus.folder / "warehouse")
    duplicates, curated = corpus.update()
    assert (duplicates.num_rows, curated.num_rows) == (0, 0)


WITHOUT = "sources: {a: {uri: videos/a}, b: {uri: videos/b, settings: {embeddings: {models: []}}}}"


def test_a_source_that_leaves_the_model_out_is_not_compared(corpus):
    corpus.update()
    corpus.write(WITHOUT)
    Warehouse.of(corpus.config).registry.sync(corpus.config)
    assert read_statuses(corpus.config)[0]["b"]["embeddings_fingerprint"]["pending"] == 1  # its rows are to go
    corpus.curate("b")
    assert read_statuses(corpus.config)[0]["b"]["embeddings_fingerprint"] == {"outcomes": {}, "pending": 0}
    run = corpus.run
    table = embeddings_table(MODEL, registry.spec(MODEL).dim)
    assert run.source_run("b").headers(table) == {}
    assert num_pending(run.source_run("b"), table) == 0
    assert {view: table["pending"] for view, table in source_status(run.source_run("b")).items()} == dict.fromkeys(
        ["raw_videos", "clips", "frame_sets", "clip_scores"], 0
    )
    duplicates, _ = corpus.update()
    assert (duplicates.num_rows, duplicates.facts["num_clips"]) == (0, 5)
    assert corpus.sql("select key, is_selected, reject_reasons from curated_clips where source = 'b'") == [("copy.mp4", True, [])] * 3
    (own,) = corpus.sql("select clip_id from clips where source = 'b' order by start_ns limit 1")
    assert clip_story(corpus.config, own[0])["curated"]["is_selected"]
    with pytest.raises(SettingsError, match=r"embeddings\.models of its source, b, leaves the model out"):
        search(run, Query(clip_id=own[0]))
    ((clip,),) = corpus.sql("select clip_id from clips where source = 'a' order by clip_id limit 1")
    assert {hit.source for hit in search(run, Query(clip_id=clip)).hits} == {"a"}
    corpus.write("sources: {b: {uri: videos/b, settings: {embeddings: {models: []}}}}")
    Warehouse.of(corpus.config).registry.remove("a")
    with pytest.raises(SettingsError, match="no source uses fingerprint"):
        search(corpus.run, Query(clip_id=own[0]))


def test_no_frames_are_made_for_a_model_that_a_source_leaves_out(corpus):
    both = "embeddings: {models: [clip-vit-b32, fingerprint]}\n"
    corpus.write(both + WITHOUT.replace("[]", "[fingerprint]"))
    config = corpus.config
    corpus.curate("a", "b", stages=["frame_sets"])
    assert corpus.sql("select source, name from frame_sets group by all order by all") == [
        ("a", "crop-224x224"), ("a", "embeddings"), ("b", "embeddings"),
    ]  # fmt: skip
    # weights are wanted where a source of the run uses the model
    keys = {tuple(embeddings_table(name, registry.spec(name).dim).asset_key) for name in config.embeddings.models}
    empty = {"models": {"cache_dir": str(corpus.folder / "none")}}
    of_run = {name: resolve_settings(config.processing(), config.sources[name].settings, empty) for name in config.sources}
    check_models([of_run["b"]], selected=keys)
    with pytest.raises(SettingsError, match=r"the weights of clip-vit-b32 are not ready"):
        check_models(list(of_run.values()), selected=keys)


def test_vectors_that_are_no_unit_vectors_are_counted(corpus):
    spec = embeddings_table(MODEL, 432)
    table = VideoTable(str(corpus.folder / "warehouse/tables/embeddings/fingerprint/a.lance"), spec)
    import lance

    data = lance.dataset(table.uri).to_table()
    vectors = [None if vector is None else np.full(432, np.nan, np.float32) for vector in data.column("embedding").to_pylist()]
    import pyarrow as pa

    column = pa.array(vectors, spec.schema.field("embedding").type)
    lance.write_dataset(
        data.set_column(data.schema.get_field_index("embedding"), spec.schema.field("embedding"), column), table.uri, mode="overwrite"
    )
    duplicates, _ = corpus.update()
    assert (duplicates.num_rows, duplicates.facts["num_invalid"]) == (0, 5)


def test_clips_that_are_not_scored_yet_are_not_selected(corpus):
    shutil.rmtree(corpus.folder / "warehouse" / "tables" / "clip_scores" / "pixels" / "a.lance")
    corpus.update()
    assert corpus.sql("select count(*) from curated_clips where source = 'a' and reject_reasons[1] = 'not_scored'") == [(5,)]


def test_the_tables_are_replaced_in_one_commit(corpus):
    corpus.update()
    table = corpus.run.table(duplicates_table(MODEL))
    before = table.read(["clip_id"]).to_pylist()

    def batches():
        yield table.snapshot().dataset.to_table().to_batches()[0]
        raise OSError("disk on fire")

    with pytest.raises(Exception, match="disk on fire"):
        table.replace(batches(), fingerprint="other")
    assert table.read(["clip_id"]).to_pylist() == before
    assert table.fingerprint() != "other"
    assert corpus.run.table(CURATED_CLIPS).fingerprint() is not None
