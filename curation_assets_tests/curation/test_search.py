"""search: the same as NumPy over all vectors, with and without an index, whatever changed since the index was made."""

import datetime as dt
import hashlib
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

import curation_assets
from curation_assets.configuration import load_config
from curation_assets.curation.corpus import CorpusRun
from curation_assets.curation.corpus_status import corpus_status
from curation_assets.curation.nearest import NearestRows
from curation_assets.curation.query_vectors import Query, choose_model, query_vector, source_of
from curation_assets.curation.search import Searcher, clock, search
from curation_assets.curation.search_index import COLUMNS, update_search_index
from curation_assets.models import registry
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.embeddings import embeddings_table
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.schemas.search_index import search_index_table
from curation_assets.settings import SettingsError
from curation_assets.storage.layout import clip_id, video_id
from curation_assets.storage.tables import VideoWrite
from curation_assets.storage.vector_index import has_index
from curation_assets_tests import makevideo
from curation_assets_tests.curation.test_corpus import Corpus

MODEL = "fingerprint"
DIM = registry.spec(MODEL).dim
EMBEDDINGS = embeddings_table(MODEL, DIM)
NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
CLIP_NS = 10_000_000_000


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


class Library:
    """Two sources whose tables hold any vectors, written as the stages write them; `vectors` says what a search should find."""

    def __init__(self, folder, *, index_from=1000):
        (folder / "curation.yaml").write_text(
            f"sources: {{a: {{uri: videos/a}}, b: {{uri: videos/b}}}}\ntranscoded_clips: {{enabled: false}}\npreviews: {{}}\n"
            f"search: {{index_from: {index_from}}}\n"
        )
        self.config = load_config(folder / "curation.yaml")
        self.run.warehouse.registry.sync(self.config)
        self.vectors = {}
        self.videos = {}

    @property
    def run(self):
        return CorpusRun(self.config)

    def put(self, source, key, vectors, *, etag="1", outcome="ok"):
        """Write a video with one clip per vector, in place of the one before."""
        video = video_id(source, key)
        self.forget(source, key)
        common = {"source": source, "video_id": video, "video_etag": etag, "written_at": NOW}
        content = hashlib.sha256(vectors.tobytes() + etag.encode()).hexdigest()
        header = {**common, "row_id": video, "is_header": True, "outcome": "ok", "fingerprint": etag, "content_hash": content}
        ids = [clip_id(video, number * CLIP_NS, (number + 1) * CLIP_NS) for number in range(len(vectors))]
        spans = [{"start_ns": number * CLIP_NS, "end_ns": (number + 1) * CLIP_NS} for number in range(len(vectors))]
        items = [{**common, "is_header": False, "outcome": "ok", "fingerprint": etag, "clip_id": clip} for clip in ids]
        self._commit(RAW_VIDEOS, source, [{**header, "key": key, "uri": f"/{key}", "etag": etag, "num_rows": 0}], video, etag)
        clips = [{**item, **span, "row_id": clip, "method": "fixed_stride"} for item, span, clip in zip(items, spans, ids, strict=True)]
        self._commit(CLIPS, source, [{**header, "num_rows": len(ids)}, *clips], video, etag)
        rows = [
            {**item, **span, "row_id": f"{clip}:clip", "scope": "clip", "outcome": outcome, "embedding": vector}
            for item, span, clip, vector in zip(items, spans, ids, vectors, strict=True)
        ]
        whole = {**items[0], "clip_id": None, "row_id": f"{video}:video", "scope": "video", "embedding": unit(vectors.mean(0))}
        self._commit(EMBEDDINGS, source, [{**header, "num_rows": len(ids) + 1}, *rows, whole], video, etag)
        if outcome == "ok":
            self.vectors |= dict(zip(ids, vectors, strict=True))
        self.videos[source, key] = ids
        return ids

    def forget(self, source, key):
        for clip in self.videos.pop((source, key), []):
            self.vectors.pop(clip, None)

    def delete(self, source, key, specs=(RAW_VIDEOS, CLIPS, EMBEDDINGS)):
        for spec in specs:
            self.run.warehouse.table(spec, source).delete_videos([video_id(source, key)])
        self.forget(source, key)

    def _commit(self, spec, source, rows, video, etag):
        names = list(dict.fromkeys(name for row in rows for name in row))
        table = pa.Table.from_pylist(rows, schema=pa.schema([spec.schema.field(name) for name in names]))
        self.run.warehouse.table(spec, source).commit(table, replace=[VideoWrite(video, etag)])

    def exact(self, query, k, *, among=None, without=None):
        """What NumPy finds: cosines to six decimals, equal ones by clip_id."""
        ids = [clip for clip in self.vectors if (among is None or clip in among) and clip != without]
        scores = {clip: round(float(np.dot(self.vectors[clip].astype(np.float64), query.astype(np.float64))), 6) for clip in ids}
        return sorted(ids, key=lambda clip: (-scores[clip], clip))[:k], scores

    def check(self, query, k=10, *, where=None, among=None):
        hits = Searcher(self.run, MODEL, where=where).nearest(query, k)
        ids, scores = self.exact(query, k, among=among)
        assert [hit.clip_id for hit in hits] == ids
        assert [hit.score for hit in hits] == pytest.approx([scores[clip] for clip in ids], abs=2e-6)
        return hits


def blobs(rng, num, *, centres):
    """Vectors around centres, so that each has near neighbours, as clips of one video have."""
    return unit(centres[rng.integers(0, len(centres), num)] + 0.5 / DIM**0.5 * rng.standard_normal((num, DIM)))


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """1,600 vectors in two sources, indexed; used by copies."""
    folder = tmp_path_factory.mktemp("library")
    library = Library(folder)
    rng = np.random.default_rng(0)
    centres = unit(rng.standard_normal((60, DIM)))
    library.put("a", "one.mp4", blobs(rng, 500, centres=centres))
    library.put("a", "two.mp4", blobs(rng, 500, centres=centres))
    library.put("b", "three.mp4", blobs(rng, 600, centres=centres))
    report = update_search_index(library.run, MODEL)
    assert (report.num_rows, report.facts["is_indexed"], report.is_unchanged) == (1600, 1, False)
    return folder, library, centres


@pytest.fixture
def indexed(filled, tmp_path):
    folder, library, centres = filled
    shutil.copytree(folder, tmp_path / "library")
    copy = Library(tmp_path / "library")
    copy.vectors, copy.videos = dict(library.vectors), {key: list(ids) for key, ids in library.videos.items()}
    return copy, centres


def queries(centres, num=12):
    return blobs(np.random.default_rng(1), num, centres=centres)


def test_the_index_finds_what_numpy_finds(indexed):
    library, centres = indexed
    searcher = Searcher(library.run, MODEL)
    assert searcher.exact_sources == []
    shared = 0
    for query in queries(centres):
        hits = searcher.nearest(query, 10)
        ids, scores = library.exact(query, 10)
        assert [hit.clip_id for hit in hits] == sorted((hit.clip_id for hit in hits), key=lambda clip: (-scores[clip], clip))
        assert all(hit.score == pytest.approx(scores[hit.clip_id], abs=2e-6) for hit in hits)
        shared += len(set(ids) & {hit.clip_id for hit in hits})
    assert shared >= 0.95 * 120
    hit = hits[0]
    assert (hit.source, hit.key) in library.videos
    assert hit.clip_id == clip_id(hit.video_id, hit.start_ns, hit.end_ns)


def test_the_index_is_used(indexed):
    """Other vectors under the same ids, in the index alone, change the answer."""
    library, centres = indexed
    query = queries(centres, 1)[0]
    table = library.run.table(search_index_table(MODEL, DIM))
    facts, print_of = table.facts(), table.fingerprint()
    rows = table.read(table.spec.schema.names)
    turned = pa.FixedSizeListArray.from_arrays(pa.array(-rows["embedding"].combine_chunks().flatten().to_numpy()), DIM)
    rows = rows.set_column(rows.schema.get_field_index("embedding"), table.spec.schema.field("embedding"), turned)
    table.replace(rows.to_batches(), fingerprint=print_of, facts=facts)
    assert {hit.clip_id for hit in Searcher(library.run, MODEL).nearest(query, 10)}.isdisjoint(library.exact(query, 10)[0])


def test_what_changed_since_is_seen_exactly(indexed):
    library, centres = indexed
    rng = np.random.default_rng(2)
    query = queries(centres, 1)[0]
    (added,) = library.put("b", "new.mp4", query[None])
    hits = Searcher(library.run, MODEL).nearest(query, 5)
    assert (hits[0].clip_id, hits[0].score) == (added, 1.0)
    # a replaced video has the clip ids of the old one
    old = library.videos["b", "three.mp4"]
    assert library.put("b", "three.mp4", blobs(rng, 600, centres=-centres), etag="2") == old
    library.delete("a", "one.mp4")
    for query in queries(centres):
        library.check(query)
    assert Searcher(library.run, MODEL).exact_sources == ["a", "b"]
    assert corpus_status(library.run)["search_index_fingerprint"] == {"outcomes": {"indexed": 1600}, "pending": 1}
    report = update_search_index(library.run, MODEL)
    assert report.num_rows == len(library.vectors) == 1101
    assert Searcher(library.run, MODEL).exact_sources == []
    assert update_search_index(library.run, MODEL).is_unchanged
    assert corpus_status(library.run)["search_index_fingerprint"]["pending"] == 0


def test_one_changed_source_leaves_the_index_to_the_other(indexed):
    library, centres = indexed
    library.delete("a", "one.mp4")
    searcher = Searcher(library.run, MODEL)
    assert searcher.exact_sources == ["a"]
    gone = set()
    shared = 0
    for query in queries(centres):
        ids, _ = library.exact(query, 10)
        found = [hit.clip_id for hit in searcher.nearest(query, 10)]
        gone |= set(found) - library.vectors.keys()
        shared += len(set(ids) & set(found))
    assert not gone
    assert shared >= 0.95 * 120


@pytest.mark.parametrize("specs", [(RAW_VIDEOS,), (CLIPS,)], ids=lambda specs: specs[0].asset)
def test_a_clip_whose_vector_is_left_over_is_no_hit(indexed, specs):
    """A run that was stopped after its first stages leaves vectors of videos that are gone, in the table and in the index."""
    library, centres = indexed
    library.delete("a", "two.mp4", specs)
    for query in queries(centres, 4):
        library.check(query, where="source = 'a'", among=set(library.videos["a", "one.mp4"]))
        assert {hit.clip_id for hit in Searcher(library.run, MODEL).nearest(query, 20)} <= library.vectors.keys()


def test_a_source_that_was_removed_is_gone_at_once(indexed):
    library, centres = indexed
    library.run.warehouse.registry.remove("b")
    for query in queries(centres, 4):
        assert {hit.source for hit in Searcher(library.run, MODEL).nearest(query, 20)} == {"a"}


def test_a_killed_build_is_finished(indexed):
    library, _ = indexed
    table = library.run.table(search_index_table(MODEL, DIM))
    table.snapshot().dataset.drop_index("embedding_ivf")
    assert not has_index(table.snapshot())
    assert not update_search_index(library.run, MODEL).is_unchanged
    assert has_index(table.snapshot())


def test_a_filter_loses_no_hit(indexed):
    library, centres = indexed
    rng = np.random.default_rng(3)
    far = library.put("b", "far.mp4", unit(-centres[:3] + 0.01 * rng.standard_normal((3, DIM))))
    update_search_index(library.run, MODEL)
    for query in queries(centres, 3):
        # the ones that fit lie on the other side of everything that the index would look at
        hits = library.check(query, 3, where="key = 'far.mp4' and start_ns >= 0", among=set(far))
        assert len(hits) == 3
    first = set(library.videos["a", "one.mp4"][:7])
    library.check(query, 10, where="source = 'a' and key like 'one%' and start_ns < 70e9 -- the first seven", among=first)
    assert Searcher(library.run, MODEL, where="is_selected").nearest(query, 5) == []


def test_more_than_there_is_gives_what_there_is(indexed):
    """Lance would make room for each of them, and end the process."""
    library, centres = indexed
    searcher = Searcher(library.run, MODEL)
    assert searcher.exact_sources == []
    for k in (1601, 10**10, 2**63 - 1):
        hits = searcher.nearest(queries(centres, 1)[0], k)
        assert len(hits) == len({hit.clip_id for hit in hits}) == 1600
    table = library.run.table(search_index_table(MODEL, DIM))
    table.replace([], fingerprint="x", facts=table.facts())
    assert Searcher(library.run, MODEL).nearest(queries(centres, 1)[0], 10) == []


@pytest.mark.parametrize(
    "where",
    [
        "true)\n) ; copy (select 42) to '{file}'; select source, clip_id from clips; -- ",
        "true)\n; copy (select 42) to '{file}'; select (true",
        "true) union all select 'a','b' where (true",
        "true) or (true",
        "true) group by all having (true",
        "true); create table t(i int); select (true",
        "true] + [true",
        "true /* the rest",
        "true; select 1",
    ],
)
def test_a_filter_is_one_condition(indexed, tmp_path, where):
    library, _ = indexed
    clip = library.videos["a", "one.mp4"][0]
    with pytest.raises(SettingsError, match="the filter"):
        search(library.run, Query(clip_id=clip), where=where.format(file=tmp_path / "written.csv"))
    assert not (tmp_path / "written.csv").exists()


def test_filters_of_many_forms(indexed):
    library, centres = indexed
    query = queries(centres, 1)[0]
    for where in (
        "clip_id in (select clip_id from clips where source = 'b')",
        "(source = 'b') and (true) -- ) ; ]",
        "key in ('three.mp4', ')', '];') /* ) */",
        "list_contains(['b', 'c'], source)",
        "source = ['a', 'b'][2]",
        "exists (select 1 from raw_videos r where r.key = 'three.mp4') and source = 'b'",
    ):
        library.check(query, 5, where=where, among=set(library.videos["b", "three.mp4"]))


def test_few_vectors_have_no_index(tmp_path):
    library = Library(tmp_path, index_from=2000)
    rng = np.random.default_rng(4)
    library.put("a", "one.mp4", unit(rng.standard_normal((300, DIM))))
    library.put("b", "two.mp4", unit(rng.standard_normal((40, DIM))))
    library.put("b", "cut.mp4", unit(rng.standard_normal((40, DIM))), outcome="truncated")
    assert corpus_status(library.run)["search_index_fingerprint"]["pending"] == 1
    report = update_search_index(library.run, MODEL)
    assert (report.num_rows, report.facts["num_vectors"], report.facts["is_indexed"]) == (0, 340, 0)
    assert library.run.table(search_index_table(MODEL, DIM)).num_rows() == 0
    assert update_search_index(library.run, MODEL).is_unchanged
    for query in unit(rng.standard_normal((5, DIM))):
        library.check(query, 10)
        library.check(query, 1000)
    with library.run.connect() as connection:
        assert connection.execute("select count(*) from search_index_fingerprint").fetchall() == [(0,)]


def test_equal_scores_are_in_the_order_of_the_ids(tmp_path):
    library = Library(tmp_path)
    same = unit(np.random.default_rng(5).standard_normal((1, DIM)))
    library.put("a", "one.mp4", np.repeat(same, 1500, axis=0))
    library.put("b", "two.mp4", np.repeat(same, 700, axis=0))
    hits = library.check(same[0], 12)
    assert [hit.clip_id for hit in hits] == sorted(library.vectors)[:12]
    update_search_index(library.run, MODEL)
    hits = Searcher(library.run, MODEL).nearest(same[0], 12)
    assert [hit.clip_id for hit in hits] == sorted(hit.clip_id for hit in hits)


@pytest.mark.parametrize("batch_rows", [1, 7, 1000])
def test_batches_do_not_matter(batch_rows):
    rng = np.random.default_rng(6)
    vectors, query = unit(rng.standard_normal((1000, 16))), unit(rng.standard_normal(16))
    vectors[500:530] = vectors[3]
    ids = [f"{number:036d}" for number in rng.permutation(1000)]
    columns = [ids, ["a"] * 1000, ["v"] * 1000, list(range(1000)), list(range(1, 1001)), list(vectors)]
    types = [pa.string(), pa.string(), pa.string(), pa.int64(), pa.int64(), pa.list_(pa.float32(), 16)]
    table = pa.table([pa.array(column, kind) for column, kind in zip(columns, types, strict=True)], names=COLUMNS)
    scores = np.round(vectors.astype(np.float64) @ query.astype(np.float64), 6)
    best = sorted(range(1000), key=lambda place: (-scores[place], ids[place]))
    nearest = NearestRows(query, 40, without=ids[best[0]])
    for batch in table.to_batches(max_chunksize=batch_rows):
        nearest.add(batch)
    assert [row.clip_id for row in nearest.rows()] == [ids[place] for place in best[1:41]]


def test_a_clip_is_not_its_own_hit(indexed):
    library, _ = indexed
    clip = library.videos["a", "one.mp4"][17]
    found = search(library.run, Query(clip_id=clip), k=10)
    ids, _ = library.exact(library.vectors[clip], 10, without=clip)
    assert len({hit.clip_id for hit in found.hits} & set(ids)) >= 9
    assert len(found.hits) == 10
    assert clip not in {hit.clip_id for hit in found.hits}
    exact = search(library.run, Query(clip_id=clip[:13]), k=10, where="true")
    assert [hit.clip_id for hit in exact.hits] == ids
    assert found.model == MODEL


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "name one thing"),
        ({"text": "dog", "clip_id": "x"}, "name one thing"),
        ({"text": " \n"}, "is empty"),
        ({"clip_id": ""}, "is empty"),
        ({"text": "dog", "start_s": 1.0}, "belong to a video"),
        ({"video": "/x.mp4", "start_s": 3.0, "end_s": 3.0}, "is empty"),
        ({"video": "/x.mp4", "start_s": -1.0}, "before zero"),
        ({"video": "/x.mp4", "end_s": float("nan")}, "is empty"),
    ],
)
def test_queries_that_ask_for_nothing(asked, said):
    with pytest.raises(SettingsError, match=said):
        Query(**asked)


@pytest.mark.parametrize(
    ("asked", "options", "said"),
    [
        ({"text": "dog"}, {}, r"no model of embeddings.models \(fingerprint\) embeds texts.*models download clip-vit-b32"),
        ({"text": "dog"}, {"model": MODEL}, "fingerprint does not embed texts; models that do: clip-vit-b32"),
        ({"text": "dog"}, {"model": "siglip2"}, r"no vectors of siglip2 yet.*embeddings.models=\[fingerprint, siglip2\]"),
        ({"text": "dog"}, {"model": "siglip"}, "Did you mean 'siglip2'"),
        ({"clip_id": "nothing"}, {}, "no clip 'nothing'"),
        ({"clip_id": ""}, {}, "is empty"),
        ({"clip_id": "x"}, {"where": "motion > 1"}, 'filter.*column "motion" not found'),
        ({"clip_id": "x"}, {"where": "is_selected and"}, "filter.*[Ss]yntax error"),
        ({"clip_id": "x"}, {"where": " "}, "filter is empty"),
        ({"clip_id": "x"}, {"k": 0}, "at least 1"),
        ({"clip_id": "x"}, {"k": 2**64}, "at most 9223372036854775807"),
        ({"video": "/nowhere/x.mp4"}, {}, "vanished: /nowhere/x.mp4: does not exist"),
    ],
)
def test_what_cannot_be_searched_is_said(indexed, asked, options, said):
    with pytest.raises(SettingsError, match=said):
        search(indexed[0].run, Query(**asked), **options)


def test_a_warehouse_without_vectors(tmp_path):
    library = Library(tmp_path)
    with pytest.raises(SettingsError, match="no vectors of fingerprint yet; make them: curation-assets run"):
        choose_model(library.run, Query(clip_id="x"), None)


def test_of_columns_of_one_name_one_counts(curated):
    """As the README says."""
    run, vector = curated.run, stored(curated, "cuts.mp4")[0]

    def found(where):
        return {hit.clip_id for hit in Searcher(run, MODEL, where=where).nearest(vector, 100)}

    assert found("outcome = 'ok' and detail is null and end_ns > start_ns")
    files = {clip for (clip,) in curated.sql("select clip_id from curated_clips where uri is not null")}
    assert found("uri is not null and uri like '%/warehouse/%'") == files
    assert files


def test_rows_that_all_failed_are_no_vectors(tmp_path):
    library = Library(tmp_path)
    vectors = unit(np.random.default_rng(7).standard_normal((3, DIM)))
    library.put("a", "one.mp4", vectors, outcome="invalid_vector")
    for wanted in (None, MODEL):
        with pytest.raises(SettingsError, match="no clip has a vector of it: all failed; curation-assets failures says why"):
            choose_model(library.run, Query(clip_id="x"), wanted)
    library.put("b", "two.mp4", vectors)
    assert choose_model(library.run, Query(clip_id="x"), None) == MODEL


@pytest.mark.parametrize(("time_ns", "text"), [(0, "0:00:00.000"), (59_999_600_000, "0:01:00.000"), (36_061_001_499_999, "10:01:01.001")])
def test_clock(time_ns, text):
    assert clock(time_ns) == text


@pytest.fixture(scope="module")
def curated(tmp_path_factory, made):
    """Two sources of real videos with vectors, kept clips as files, and previews."""
    folder = tmp_path_factory.mktemp("real")
    for name in "ab":
        (folder / "videos" / name).mkdir(parents=True)
    makevideo.make_cuts(folder / "videos" / "a" / "cuts.mp4", seconds=2, scenes=3)
    makevideo.make_vfr(folder / "videos" / "a" / "vfr.mkv", seconds=4)
    makevideo.make_cuts(folder / "videos" / "b" / "<b>.mp4", seconds=2, scenes=2, seed=51)
    makevideo.make_truncated(folder / "videos" / "b" / "short.mp4", whole=made("faststart"))
    corpus = Corpus(folder, with_media=True)
    corpus.curate("a", "b")
    corpus.update()
    return corpus


def stored(corpus, key):
    """The vectors of a video's clips, in their order."""
    rows = corpus.sql(
        "select embedding from embeddings_fingerprint join raw_videos using (source, video_id) "
        f"where key = '{key}' and scope = 'clip' and embedding is not null order by start_ns"
    )
    return np.asarray([row[0] for row in rows], np.float32)


@pytest.mark.parametrize(("source", "key"), [("a", "cuts.mp4"), ("a", "vfr.mkv"), ("b", "short.mp4")])
def test_a_video_has_the_vectors_that_a_run_gives_it(curated, tmp_path, source, key):
    shutil.copyfile(curated.folder / "videos" / source / key, tmp_path / "any name")
    found = query_vector(curated.run, Query(video=str(tmp_path / "any name")), MODEL)
    mean = stored(curated, key).astype(np.float64).mean(0)
    assert np.array_equal(found.values, (mean / np.linalg.norm(mean)).astype(np.float32))
    assert bool(found.notes) == (key == "short.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["any name"]


def test_a_part_of_a_video_is_one_clip(curated):
    path = curated.folder / "videos" / "a" / "cuts.mp4"
    for number, (start_s, end_s) in enumerate([(None, 2.0), (2.0, 4.0), (4.0, None)]):
        found = query_vector(curated.run, Query(video=str(path), start_s=start_s, end_s=end_s), MODEL)
        assert np.allclose(found.values, stored(curated, "cuts.mp4")[number], atol=1e-6)
    long = query_vector(curated.run, Query(video=str(path), start_s=0.5, end_s=5.5), MODEL)
    assert not np.allclose(long.values, found.values, atol=0.1)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("text", "not_a_video"),
        ("zero_bytes", "empty_object"),
        ("audio_only", "no_video_stream"),
        ("image", "not_a_video"),
    ],
)
def test_awkward_files_end_as_in_a_run(curated, made, name, said):
    with pytest.raises(SettingsError, match=f"{made(name)}: {said}: ."):
        query_vector(curated.run, Query(video=str(made(name))), MODEL)
    past = Query(video=str(curated.folder / "videos" / "a" / "cuts.mp4"), start_s=60.0)
    with pytest.raises(SettingsError, match=r"too_short: .*first region begins at 60\.000 s"):
        query_vector(curated.run, past, MODEL)


def test_python_gives_the_rows_of_the_command_line(curated):
    config = str(curated.folder / "curation.yaml")
    path = curated.folder / "videos" / "b" / "<b>.mp4"
    rows = curation_assets.search(video=str(path), start_s=0, end_s=2, k=2, where="kept and source = 'b' and is_selected", config=config)
    assert list(rows[0]) == ["clip_id", "video_id", "source", "key", "start_ns", "end_ns", "score"]
    assert (rows[0]["key"], rows[0]["start_ns"], rows[0]["score"]) == ("<b>.mp4", 0, 1.0)
    assert json.loads(json.dumps(rows)) == rows
    assert rows == curation_assets.search(video=path.as_uri(), end_s=2, k=2, where="source = 'b'", config=config)


def test_limits_are_not_for_the_video_of_a_query(curated, tmp_path):
    """What the settings leave out of the sources may still be searched with; one that is shorter than a clip is one clip."""
    short = tmp_path / "short.mp4"
    makevideo.make_cuts(short, seconds=2, scenes=1)
    free = query_vector(curated.run, Query(video=str(short)), MODEL)
    (tmp_path / "curation.yaml").write_text(
        "raw_videos: {limits: {min_side_px: 4000, max_size_bytes: 10}}\nclips: {splitter: {clip_len_s: 60, min_clip_len_s: 30}}\n"
    )
    strict = query_vector(CorpusRun(load_config(tmp_path / "curation.yaml")), Query(video=str(short)), MODEL)
    assert np.array_equal(strict.values, free.values)
    assert not strict.notes


def test_a_video_below_a_source_takes_its_settings(curated, tmp_path):
    """A source's own splitter and frame set are those of a query that lies below its root; elsewhere a note says which sources differ."""
    shutil.copytree(curated.folder / "videos", tmp_path / "videos")
    corpus = Corpus(tmp_path)
    corpus.write(
        "sources:\n  a: {uri: videos/a}\n  b: {uri: videos/b, settings: {clips: {splitter: {clip_len_s: 3}}, frame_sets: "
        "{sets: {own: {purpose: embeddings, target_fps: 1, target_res: 224, quality: 20}}}, embeddings: {selection: curator}}}"
    )
    corpus.curate("a", "b")
    inside = tmp_path / "videos" / "b" / "<b>.mp4"
    outside = shutil.copyfile(inside, tmp_path / "elsewhere.mp4")
    mean = stored(corpus, "<b>.mp4").astype(np.float64).mean(0)
    for video in (str(inside), inside.as_uri()):
        found = query_vector(corpus.run, Query(video=video), MODEL)
        assert np.array_equal(found.values, (mean / np.linalg.norm(mean)).astype(np.float32))
        assert [note.partition(":")[0] for note in found.notes] == ["a"]
    found = query_vector(corpus.run, Query(video=str(outside)), MODEL)
    assert not np.array_equal(found.values, (mean / np.linalg.norm(mean)).astype(np.float32))
    assert [note.partition(":")[0] for note in found.notes] == ["b"]


def test_the_source_of_a_video(tmp_path):
    (tmp_path / "curation.yaml").write_text(
        "sources: {a: {uri: videos}, b: {uri: videos/b}, c: {uri: lists/c.csv}, d: {uri: 's3://bucket/x/', storage_options: {region: r}}}\n"
    )
    run = CorpusRun(load_config(tmp_path / "curation.yaml"))
    run.warehouse.registry.sync(run.config)
    places = {"videos/x.mp4": "a", "videos/b/x.mp4": "b", "videos/bb/x.mp4": "a", "lists/x.mp4": "c", "x.mp4": None}
    for place, name in places.items():
        found = source_of(run, str(tmp_path / place))
        assert (found and found[0].name) == name, place
    assert source_of(run, "s3://bucket/x/y.mp4")[0].storage_options == {"region": "r"}
    assert source_of(run, "s3://bucket/xy.mp4") is None
    assert source_of(run, "ftp://bucket/xy.mp4") is None
