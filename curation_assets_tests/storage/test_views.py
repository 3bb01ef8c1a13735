from __future__ import annotations

import datetime as dt
import decimal
import json
import math
import uuid
from dataclasses import replace

import lance
import numpy as np
import pyarrow as pa
import pytest

from curation_assets.schemas.clip_scores import CLIP_SCORES_AESTHETIC, CLIP_SCORES_PIXELS
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.embeddings import embeddings_table
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.schemas.table import TableSpec
from curation_assets.storage.errors import NotFound
from curation_assets.storage.layout import Layout
from curation_assets.storage.tables import VideoTable, VideoWrite
from curation_assets.storage.views import connect, json_rows, json_value
from curation_assets_tests.storage.conftest import Root
from curation_assets_tests.storage.rows import NOW, header, items, to_table, vid

EMBEDDINGS = embeddings_table("finger-print", 4)
SPECS = [RAW_VIDEOS, CLIPS, FRAME_SETS, CLIP_SCORES_PIXELS, EMBEDDINGS]
WITH_AESTHETIC = [*SPECS, CLIP_SCORES_AESTHETIC]


def table_of(root: Root, spec: TableSpec, source: str) -> VideoTable:
    return VideoTable(Layout(root.uri).table_uri(spec.asset, source), spec, source=source, storage_options=root.options)


def item(video: str, number: int, **values: object) -> dict[str, object]:
    base = items(video, "f", range(number, number + 1))[0]
    return {
        name: base[name] for name in ("row_id", "source", "video_id", "is_header", "outcome", "fingerprint", "written_at", "clip_id")
    } | values


def write(root: Root, spec: TableSpec, source: str, number: int, rows: list[dict[str, object]], **header_values: object) -> None:
    all_rows = [header(vid(number), "f", len(rows)) | header_values, *rows]
    for row in all_rows:
        row["source"] = source
    table_of(root, spec, source).commit(to_table(all_rows, spec), replace=[VideoWrite(vid(number), "f")])


def write_clips(root: Root, source: str, number: int, num_clips: int) -> None:
    rows = [
        item(vid(number), i, start_ns=i * 10, end_ns=i * 10 + 10, method="fixed_stride", num_frames=30 + i, is_vfr=i % 2 == 0)
        for i in range(num_clips)
    ]
    write(root, CLIPS, source, number, rows, packet_index=b"index" * 100)


@pytest.fixture
def warehouse(root: Root):
    """Two of three sources have clips; a long video of the second is half written."""
    write_clips(root, "one", 1, 3)
    write_clips(root, "two", 2, 4)
    write_clips(root, "two", 3, 0)
    half = [item(vid(4), i, source="two", start_ns=0, end_ns=1) for i in range(5)]
    table_of(root, CLIPS, "two").commit(to_table(half, CLIPS), replace=[VideoWrite(vid(4), "f", is_last=False)])
    with connect(Layout(root.uri), SPECS, ["one", "two", "three"], storage_options=root.options) as connection:
        yield connection


def rows_of(connection, query: str, params=None) -> list[tuple]:
    return connection.execute(query, params).fetchall()


def test_views_show_complete_items_of_all_sources(warehouse):
    assert rows_of(warehouse, "SELECT source, count(*) FROM clips GROUP BY source ORDER BY source") == [("one", 3), ("two", 4)]
    assert warehouse.sql('select * from "CLIPS"').columns == list(CLIPS.view_columns)
    assert rows_of(warehouse, "SELECT DISTINCT video_id FROM clips ORDER BY 1") == sorted([(vid(1),), (vid(2),)])


FILTERS = [
    "source = 'two'", "source IN ('two', 'x')", "start_ns > 10", "start_ns BETWEEN 10 AND 20", "start_ns IN (10, 30)", "start_ns <> 10", "is_vfr",
    "NOT is_vfr", "is_vfr IS NULL", "detail IS NULL", "detail IS NOT NULL", "method LIKE 'fixed%'", "method LIKE '%stride'", "shot_index IS NULL",
    "source = 'one' OR start_ns = 30", "start_ns + 1 = 11", "num_frames >= 31.5", "clip_id > 'a'", "starts_with(source, 't')", "method = ''",
    "start_ns = (SELECT max(start_ns) FROM clips)", "video_id IN (SELECT video_id FROM clips WHERE start_ns = 30)", "start_ns::VARCHAR = '10'",
    "lower(source) = 'one'", "source IN ('one', NULL)", "start_ns NOT IN (10)", "coalesce(shot_index, 5) = 5", "source ILIKE 'TW_'",
]  # fmt: skip


def test_every_kind_of_filter_gives_what_duckdb_gives(local_root: Root):
    write_clips(local_root, "one", 1, 3)
    write_clips(local_root, "two", 2, 4)
    with connect(Layout(local_root.uri), SPECS, ["one", "two"]) as connection:
        connection.execute("CREATE TABLE copied AS SELECT * FROM clips")
        for where in FILTERS:
            query = f"SELECT clip_id FROM clips WHERE {where} ORDER BY clip_id"
            assert rows_of(connection, query) == rows_of(connection, query.replace("clips", "copied")), where
        join = "SELECT a.clip_id, b.start_ns FROM clips a JOIN clips b USING (video_id) WHERE a.start_ns < b.start_ns ORDER BY ALL"
        assert rows_of(connection, join) == rows_of(connection, join.replace("clips", "copied"))
        top = "SELECT clip_id FROM clips ORDER BY start_ns DESC, clip_id LIMIT 2"
        assert rows_of(connection, top) == rows_of(connection, top.replace("clips", "copied"))
        assert rows_of(connection, "SELECT start_ns FROM clips WHERE source = ? AND start_ns > ?", ["two", 15]) == [(20,), (30,)]


def test_filters_on_other_types(local_root: Root):
    write(local_root, RAW_VIDEOS, "one", 1, [], key="a/é'x.mp4", size_bytes=5, last_modified=NOW, has_audio=True, num_rows=1)
    write(
        local_root,
        RAW_VIDEOS,
        "one",
        2,
        [],
        key="b.mp4",
        size_bytes=7,
        last_modified=NOW + dt.timedelta(days=1),
        num_rows=1,
        outcome="corrupt",
    )
    vectors = [item(vid(1), i, scope="clip", embedding=[float(i), 0.0, 0.0, 1.0]) for i in range(3)]
    write(local_root, EMBEDDINGS, "one", 1, [*vectors, item(vid(1), 9, scope="clip", embedding=None)])
    with connect(Layout(local_root.uri), SPECS, ["one"]) as connection:
        assert rows_of(connection, "SELECT key FROM raw_videos WHERE last_modified > '2026-01-02 12:00:00'") == [("b.mp4",)]
        assert rows_of(connection, "SELECT key FROM raw_videos WHERE last_modified = TIMESTAMPTZ '2026-01-02 03:04:05Z'") == [
            ("a/é'x.mp4",)
        ]
        assert rows_of(connection, "SELECT size_bytes FROM raw_videos WHERE key = 'a/é''x.mp4' AND has_audio") == [(5,)]
        assert rows_of(connection, "SELECT outcome, count(*) FROM raw_videos GROUP BY 1 ORDER BY 1") == [("corrupt", 1), ("ok", 1)]
        distances = (
            "SELECT array_distance(embedding, [1, 0, 0, 1]::FLOAT[4]) d FROM embeddings_finger_print WHERE embedding IS NOT NULL ORDER BY d"
        )
        assert rows_of(connection, distances) == [(0.0,), (1.0,), (1.0,)]


def test_projection_and_filter_reach_lance(local_root: Root, monkeypatch: pytest.MonkeyPatch):
    write_clips(local_root, "one", 1, 3)
    scans: list[tuple[list[str], str]] = []
    scanner = lance.LanceDataset.scanner

    def spy(self, columns=None, filter=None, **settings):  # noqa: A002
        scans.append((columns, str(filter)))
        return scanner(self, columns=columns, filter=filter, **settings)

    monkeypatch.setattr(lance.LanceDataset, "scanner", spy)
    with connect(Layout(local_root.uri), SPECS, ["one"]) as connection:
        assert rows_of(connection, "SELECT end_ns FROM clips WHERE start_ns = 10") == [(20,)]
    columns, where = scans[-1]
    assert columns == ["end_ns"]
    assert "start_ns == 10" in where
    assert all("packet_index" not in columns for columns, _ in scans)


def test_only_named_tables_are_opened(root: Root, monkeypatch: pytest.MonkeyPatch):
    write_clips(root, "one", 1, 1)
    opened: list[str] = []
    dataset = lance.dataset
    monkeypatch.setattr(lance, "dataset", lambda uri, **settings: (opened.append(uri), dataset(uri, **settings))[1])
    with connect(Layout(root.uri), SPECS, ["one"], storage_options=root.options) as connection:
        rows_of(connection, "SELECT 1 AS one")
        assert opened == []
        rows_of(connection, "SELECT count(*) FROM Clips")
    assert len(opened) == 1


def test_of_many_sources_only_those_are_opened_whose_rows_may_count(local_root: Root, monkeypatch: pytest.MonkeyPatch):
    names = ["it-s", *(f"s{number:02d}" for number in range(1, 40))]
    for number, name in enumerate(names[:38]):  # two have no table
        write_clips(local_root, name, number, number % 3)
    opened: set[str] = set()
    dataset = lance.dataset

    def spy(uri: str, **settings: object) -> lance.LanceDataset:
        opened.add(uri.rpartition("/")[2].removesuffix(".lance"))
        return dataset(uri, **settings)

    monkeypatch.setattr(lance, "dataset", spy)
    with connect(Layout(local_root.uri), SPECS, names) as connection:

        def ask(where: str) -> tuple[int, set[str]]:
            opened.clear()
            (found,) = rows_of(connection, f"SELECT count(*) FROM clips WHERE {where}")
            return found[0], set(opened)

        assert ask("source = 's05'") == (2, {"s05"})
        assert ask("source IN ('s05', 's04', 'it-s', 's39', 'none')") == (3, {"s05", "s04", "it-s", "s39"})
        assert ask("source = 's05' AND start_ns > 0") == (1, {"s05"})
        assert ask("source = 's05' OR source = 's08'") == (4, {"s05", "s08"})
        assert ask("source >= 's36'") == (1, {"s36", "s37", "s38", "s39"})
        assert ask("source = 's05' OR start_ns = 10") == (13, set(names))
        num_all = sum(number % 3 for number in range(38))
        assert ask("true") == (num_all, set(names))
        assert ask("source <> 's05'")[0] == num_all - 2
        assert ask("source LIKE 's0%'")[0] == sum(number % 3 for number in range(1, 10))
        assert ask("source IS NULL")[0] == 0
        opened.clear()
        twice = "SELECT count(*) FROM clips a JOIN clips b USING (source, clip_id) WHERE source = 's05'"
        assert rows_of(connection, twice) == [(2,)]
        with pytest.raises(ValueError, match="The views are"):
            rows_of(connection, "SELECT 1 FROM nowhere")


def test_tables_that_do_not_exist_yet_are_empty_with_types(local_root: Root):
    with connect(Layout(local_root.uri), SPECS, ["one"]) as connection:
        for spec in SPECS:
            assert rows_of(connection, f"SELECT count(*) FROM {spec.view}") == [(0,)]
            assert connection.sql(f"SELECT * FROM {spec.view}").columns == list(spec.view_columns)
        types = dict(rows_of(connection, "SELECT column_name, column_type FROM (DESCRIBE raw_videos)"))
        assert (types["size_bytes"], types["last_modified"], types["has_audio"]) == ("BIGINT", "TIMESTAMP WITH TIME ZONE", "BOOLEAN")
    with connect(Layout(local_root.uri), SPECS, []) as connection:
        assert rows_of(connection, "SELECT count(*) FROM clips") == [(0,)]


def test_each_query_sees_the_newest_version(local_root: Root):
    with connect(Layout(local_root.uri), SPECS, ["one"]) as connection:
        for number in range(3):
            assert rows_of(connection, "SELECT count(*) FROM clips") == [(number * 2,)]
            write_clips(local_root, "one", number, 2)


def test_an_unknown_table_lists_the_views(local_root: Root):
    with (
        connect(Layout(local_root.uri), SPECS, []) as connection,
        pytest.raises(ValueError, match=r"clip does not exist.*clip_scores, clips, embeddings"),
    ):
        connection.sql("SELECT * FROM clip")


def test_scores_apply_each_sources_thresholds(local_root: Root):
    for number, source in ((1, "one"), (2, "two"), (3, "free")):
        rows = [item(vid(number), i, motion_mean=i / 10, sharpness=0.5, black_share=None) for i in range(3)]
        write(local_root, CLIP_SCORES_PIXELS, source, number, rows)
    reject_sql = {
        "one": "CASE WHEN motion_mean < 0.05 THEN 'still' WHEN sharpness < 0.1 THEN 'blurred' END",
        "two": "CASE WHEN black_share > 0.5 THEN 'black' WHEN aesthetic_score < 4 THEN 'ugly' END",
    }
    layout, sources = Layout(local_root.uri), ["one", "two", "free"]
    query = "SELECT source, motion_mean, aesthetic_score, kept, reject_reason FROM clip_scores WHERE source <> 'free' ORDER BY 1, 2"
    with connect(layout, SPECS, sources, reject_sql=reject_sql) as connection:
        assert rows_of(connection, query) == [
            ("one", 0.0, None, False, "still"), ("one", 0.1, None, True, None), ("one", 0.2, None, True, None),
            ("two", 0.0, None, True, None), ("two", 0.1, None, True, None), ("two", 0.2, None, True, None),
        ]  # fmt: skip
        assert rows_of(connection, "SELECT count(*) FROM clip_scores WHERE kept AND source = 'free'") == [(3,)]
        assert connection.sql("SELECT * FROM clip_scores").columns == list(CLIP_SCORES_PIXELS.view_columns)
    write(local_root, CLIP_SCORES_AESTHETIC, "two", 2, [item(vid(2), i, aesthetic_score=3.0 + i) for i in range(2)])
    with connect(layout, WITH_AESTHETIC, sources, reject_sql=reject_sql) as connection:
        assert rows_of(connection, query)[3:] == [
            ("two", 0.0, 3.0, False, "ugly"),
            ("two", 0.1, 4.0, True, None),
            ("two", 0.2, None, True, None),
        ]
    with connect(layout, SPECS, sources, reject_sql=reject_sql) as connection:  # of whose tables that one is none
        assert rows_of(connection, query)[3] == ("two", 0.0, None, True, None)
    judged_by = {"one": [CLIP_SCORES_PIXELS], "two": [CLIP_SCORES_AESTHETIC, CLIP_SCORES_PIXELS]}
    with connect(layout, WITH_AESTHETIC, sources, reject_sql=reject_sql, judged_by=judged_by) as connection:
        assert rows_of(connection, query) == [
            ("one", 0.0, None, False, "still"), ("one", 0.1, None, True, None), ("one", 0.2, None, True, None),
            ("two", 0.0, 3.0, False, "ugly"), ("two", 0.1, 4.0, True, None), ("two", 0.2, None, None, "not_scored"),
        ]  # fmt: skip


def test_scores_are_joined_whichever_scorer_has_them(local_root: Root):
    """Pixels of clips 0 and 1, aesthetics of 1 and 2; a score of another version of the video is not there."""
    write(local_root, CLIP_SCORES_PIXELS, "one", 1, [item(vid(1), i, motion_mean=i / 10, video_etag="new") for i in (0, 1)])
    write(local_root, CLIP_SCORES_PIXELS, "one", 2, [item(vid(2), i, motion_mean=0.5, video_etag="new") for i in (0, 1)])
    write(local_root, CLIP_SCORES_AESTHETIC, "one", 1, [item(vid(1), i, aesthetic_score=4.0 + i, video_etag="new") for i in (1, 2)])
    write(
        local_root,
        CLIP_SCORES_AESTHETIC,
        "one",
        2,
        [item(vid(2), i, aesthetic_score=9.0, video_etag=etag) for i, etag in enumerate(("old", None))],
    )
    query = (
        f"SELECT video_id, motion_mean, aesthetic_score, kept FROM clip_scores ORDER BY video_id = '{vid(2)}', 2 NULLS LAST, 3 NULLS LAST"
    )
    with connect(Layout(local_root.uri), WITH_AESTHETIC, ["one"]) as connection:
        assert rows_of(connection, query) == [
            (vid(1), 0.0, None, True), (vid(1), 0.1, 5.0, True), (vid(1), None, 6.0, True),
            (vid(2), 0.5, 9.0, True), (vid(2), 0.5, None, True),
        ]  # fmt: skip
        scored = rows_of(
            connection, f"SELECT scored_by FROM _clip_scores_rows WHERE video_id = '{vid(1)}' ORDER BY len(scored_by), scored_by"
        )
        assert scored == [(["clip_scores/aesthetic"],), (["clip_scores/pixels"],), (["clip_scores/pixels", "clip_scores/aesthetic"],)]
    local_root.store().delete_prefix("tables/clip_scores/pixels")
    with connect(Layout(local_root.uri), WITH_AESTHETIC, ["one"]) as connection:
        assert rows_of(connection, "SELECT motion_mean, aesthetic_score, kept FROM clip_scores ORDER BY 2") == [
            (None, score, True) for score in (5.0, 6.0, 9.0, 9.0)
        ]


def test_extra_views(local_root: Root):
    write_clips(local_root, "one", 1, 3)
    with connect(
        Layout(local_root.uri), SPECS, ["one"], extra_view_sql={"late": "SELECT clip_id FROM clips WHERE start_ns > 5"}
    ) as connection:
        assert rows_of(connection, "SELECT count(*) FROM late") == [(2,)]
        assert "late" in connection.views


def test_copy_to_writes_a_file(local_root: Root, tmp_path):
    write_clips(local_root, "one", 1, 3)
    with connect(Layout(local_root.uri), SPECS, ["one"]) as connection:
        connection.execute(f"COPY (SELECT * FROM clips) TO '{tmp_path / 'clips.parquet'}'")
        assert rows_of(connection, f"SELECT count(*) FROM '{tmp_path / 'clips.parquet'}'") == [(3,)]


def test_a_broken_table_is_a_clear_error(local_root: Root):
    write_clips(local_root, "one", 1, 3)
    local_root.store().delete_prefix("tables/clips/one.lance/data")
    with (
        connect(Layout(local_root.uri), SPECS, ["one"]) as connection,
        pytest.raises(NotFound, match=r"one\.lance: a file of the table is gone"),
    ):
        rows_of(connection, "SELECT start_ns FROM clips")


def test_json_rows(local_root: Root):
    with connect(Layout(local_root.uri), SPECS, []) as connection:
        query = """SELECT 1 AS i, 'nan'::DOUBLE AS n, 'inf'::FLOAT AS f, TIMESTAMPTZ '2026-01-02 03:04:05+02' AS t, DATE '2026-01-02' AS d,
            '\\x00\\xff'::BLOB AS b, [1.5, 'nan'::DOUBLE] AS l, {'a': [TIMESTAMP '2026-01-01']} AS s, 1.50::DECIMAL(4, 2) AS m,
            170141183460469231731687303715884105727::HUGEINT AS h, sum(x) AS total, uuid_value AS u, NULL AS z, true AS y, 1 AS i
            FROM (SELECT 5 AS x, UUID '12345678-1234-5678-1234-567812345678' AS uuid_value) GROUP BY ALL"""
        expected = [{
            "i": 1, "n": None, "f": None, "t": "2026-01-02T01:04:05Z", "d": "2026-01-02", "b": {"bytes": 2}, "l": [1.5, None],
            "s": {"a": ["2026-01-01T00:00:00Z"]}, "m": 1.5, "h": 170141183460469231731687303715884105727, "total": 5,
            "u": "12345678-1234-5678-1234-567812345678", "z": None, "y": True, "i_2": 1,
        }]  # fmt: skip
        assert json_rows(connection.sql(query)) == json_rows(connection.execute(query)) == expected
        json.dumps(expected, allow_nan=False)
        assert json_rows(connection.sql("CREATE TABLE t (a INT)")) == []
        assert len(json_rows(connection.sql("SELECT * FROM range(5000)"))) == 5000


def test_json_values():
    assert json_value(decimal.Decimal("2.0")) == 2
    assert json_value({"a": (math.inf, np.bytes_(b"12"))}) == {"a": [None, {"bytes": 2}]}
    assert json_value(uuid.UUID(int=1)) == str(uuid.UUID(int=1))
    assert json_value(dt.timedelta(seconds=1.5)) == 1.5


def test_an_older_table_reads_with_newer_columns_null(local_root: Root):
    older = replace(CLIPS, columns=tuple(column for column in CLIPS.columns if column.name != "is_vfr"))
    rows = [item(vid(1), 0, start_ns=0, end_ns=1)]
    all_rows = [header(vid(1), "f", 1), *rows]
    table = VideoTable(Layout(local_root.uri).table_uri("clips", "src"), older)
    table.commit(to_table(all_rows, older), replace=[VideoWrite(vid(1), "f")])
    write_clips(local_root, "one", 2, 1)
    with connect(Layout(local_root.uri), SPECS, ["src", "one"]) as connection:
        assert rows_of(connection, "SELECT is_vfr FROM clips ORDER BY 1") == [(True,), (None,)]
        for where in ("is_vfr", "is_vfr = true", "is_vfr IS NOT NULL"):
            assert rows_of(connection, f"SELECT start_ns FROM clips WHERE {where}") == [(0,)]
        assert rows_of(connection, "SELECT source FROM clips WHERE is_vfr IS NULL") == [("src",)]
    assert isinstance(table.headers(), pa.Table)
