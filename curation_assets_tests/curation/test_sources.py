"""Sources: prefixes and manifests, on disk and on S3, with every name that people give to files; through all stages."""

import json
import unicodedata
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation_assets.curation.sources import SourceRecord, list_objects
from curation_assets.schemas.outcomes import Outcome
from curation_assets.settings import SettingsError, SourceSettings
from curation_assets.storage.errors import Forbidden, NotFound, Unavailable
from curation_assets.storage.objects_s3 import S3Objects
from curation_assets_tests import makevideo
from curation_assets_tests.curation.project import Project
from curation_assets_tests.storage.conftest import BUCKET, client, s3_options  # noqa: F401 - a fixture

NFC, NFD = unicodedata.normalize("NFC", "café.mp4"), unicodedata.normalize("NFD", "näive.mp4")
SHORT = {"clips": {"splitter": {"clip_len_s": 1, "min_clip_len_s": 0}}}
ODD_KEYS = [
    "a b.mp4", "it's \"q\".mp4", "100%.mp4", "a%20b.mp4", "k=v/x.MP4", "#h.mp4", "q?x=1&y.mp4", "+p.mp4", NFC, NFD, "日本/語.mp4", "deep/er/x.mp4",
    "a//b.mp4", "/lead.mp4", "//lead.mp4", "ctl\x01\x7f.mp4", "tab\t.mp4", "x/../y.mp4", "./dot.mp4", "trail /.mp4", "back\\slash.mp4", "~$*[{}].mp4",
]  # fmt: skip


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return makevideo.make_cfr(tmp_path_factory.mktemp("one") / "v.mp4", seconds=1, size=(48, 32)).read_bytes()


@pytest.fixture
def bucket(s3_options, request):  # noqa: F811
    """A prefix of the bucket for one test: its URI, its options, and a function that puts an object under it."""
    prefix = f"t %20 é/{request.node.name}"
    s3 = client(s3_options)

    def put(key, data):
        s3.put_object(Bucket=BUCKET, Key=f"{prefix}/{key}", Body=data)

    return f"s3://{BUCKET}/{prefix}", s3_options, put


def listed(uri, *, kind="auto", **settings):
    record = SourceRecord.from_settings("test", SourceSettings(uri=str(uri), kind=kind, **settings))
    return {item.key: item for page in list_objects(record) for item in page}


def keys(project):
    return {row["key"]: row["outcome"] for row in project.rows("raw_videos", ["key", "outcome"])}


def test_videos_and_warehouse_in_a_bucket(bucket, video, tmp_path, monkeypatch):
    uri, options, put = bucket
    for number, key in enumerate(ODD_KEYS):
        put(f"videos/{key}", video + bytes(number))  # each its own etag
    for marker in ("folder/", "x.mp4/"):
        put(f"videos/{marker}", b"")
    put("videos/.hidden.mp4", video + b"h")
    put("videos/up.mp4.part", b"abc")
    put("videos/empty.mp4", b"")
    project = Project(tmp_path, f"{uri}/wh", SHORT, uri=f"{uri}/videos", storage_options=options)
    project.settings = {**SHORT, "engine": {"cache_dir": str(tmp_path / "cache")}}
    downloads = Counter()
    download = S3Objects.download

    def counted(self, key, path, **wanted):
        downloads[key] += 1
        return download(self, key, path, **wanted)

    monkeypatch.setattr(S3Objects, "download", counted)
    reports = project.run()
    expected = dict.fromkeys((unicodedata.normalize("NFC", key) for key in [*ODD_KEYS, ".hidden.mp4"]), "ok")
    assert keys(project) == {**expected, "up.mp4.part": "partial_upload", "empty.mp4": "empty_object"}
    assert reports["embeddings"].num_work == len(expected)
    assert {row["outcome"] for row in project.rows("frame_sets", ["outcome"])} == {"ok"}
    assert len(downloads) == len(expected), downloads
    assert set(downloads.values()) == {1}  # clips and frames share the copy

    waiting = {"raw_videos": 2, "clips": 0, "frame_sets": 0, "embeddings": 0}
    assert project.work() == waiting
    assert sum(downloads.values()) == len(expected)
    put("videos/a b.mp4", video + b"changed")
    assert project.work() == {"raw_videos": 3, "clips": 1, "frame_sets": 1, "embeddings": 1}
    s3, prefix = client(options), uri.removeprefix(f"s3://{BUCKET}/")
    s3.delete_object(Bucket=BUCKET, Key=f"{prefix}/videos/a//b.mp4")
    put("videos/a/b.mp4", video)  # renamed
    s3.delete_object(Bucket=BUCKET, Key=f"{prefix}/videos//lead.mp4")
    reports = project.run()
    assert [report.num_removed for report in reports.values()] == [2, 2, 2, 2]
    assert reports["clips"].num_work == 1
    assert set(keys(project)) == (expected.keys() | {"a/b.mp4", "up.mp4.part", "empty.mp4"}) - {"a//b.mp4", "/lead.mp4"}
    assert project.status()["frame_sets"]["pending"] == 0


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl", "parquet"])
def test_manifests_of_every_kind_with_regions(tmp_path, ending):
    (tmp_path / "videos/sub dir").mkdir(parents=True)
    makevideo.make_cfr(tmp_path / "videos/sub dir/a.mp4", seconds=4)
    elsewhere = makevideo.make_cfr(tmp_path / "else.mp4", seconds=1)
    rows = [
        {"key": "sub dir/a.mp4", "start_s": 0, "end_s": 1},
        {"key": "sub dir/a.mp4", "start_s": 2.0, "end_s": 3},
        {"key": "sub dir/a.mp4", "start_s": 2.0, "end_s": 3},
        {"key": str(elsewhere), "start_s": None, "end_s": None},
        {"key": "gone.mp4", "start_s": None, "end_s": None},
        {"key": "http://example.com/x.mp4", "start_s": None, "end_s": None},
    ]
    manifest = tmp_path / f"videos/list.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), manifest)
    elif ending == "csv":
        manifest.write_text(
            "key,start_s,end_s\r\n" + "".join(",".join("" if v is None else str(v) for v in r.values()) + "\r\n" for r in rows)
        )
    else:
        manifest.write_text(json.dumps(rows) if ending == "json" else "\n".join(map(json.dumps, rows)) + "\n")
    project = Project(tmp_path, str(tmp_path / "wh"), SHORT, uri=str(manifest))
    project.run()
    rows = {row["key"]: row for row in project.rows("raw_videos", ["key", "outcome", "detail", "video_id", "regions_ns"])}
    assert {key: row["outcome"] for key, row in rows.items()} == {
        "sub dir/a.mp4": "ok", str(elsewhere): "ok", "gone.mp4": "vanished", "http://example.com/x.mp4": "unsupported",
    }  # fmt: skip
    assert "the manifest names it" in rows["gone.mp4"]["detail"]
    assert "unknown scheme 'http'" in rows["http://example.com/x.mp4"]["detail"]
    spans = {}
    for clip in project.rows("clips", ["video_id", "start_ns", "end_ns"]):
        spans.setdefault(clip["video_id"], []).append((clip["start_ns"] / 1e9, clip["end_ns"] / 1e9))
    assert sorted(spans[rows["sub dir/a.mp4"]["video_id"]]) == [(0, 1), (2, 3)]
    assert spans[rows[str(elsewhere)]["video_id"]] == [(0, 1)]
    assert project.work()["clips"] == 0


def test_a_manifest_on_s3_with_keys_beside_it_and_urls(bucket, video):
    uri, options, put = bucket
    for key in ("m/a//b.mp4", "other/x y.mp4"):
        put(key, video)
    put("m/list.csv", "uri\n" + "\n".join(["a//b.mp4", f"{uri}/other/x y.mp4", "s3://no-such-bucket-here/x.mp4"]))
    found = listed(f"{uri}/m/list.csv", storage_options=options)
    outcomes = {key: item.outcome for key, item in found.items()}
    assert outcomes == {"a//b.mp4": None, f"{uri}/other/x y.mp4": None, "s3://no-such-bucket-here/x.mp4": Outcome.VANISHED}


def test_a_manifest_may_spell_accents_otherwise(tmp_path):
    (tmp_path / NFD).write_bytes(b"1")
    (tmp_path / "list.json").write_text(json.dumps([unicodedata.normalize("NFC", NFD), {"key": NFD, "start_s": 1, "end_s": 2}]))
    found = listed(tmp_path / "list.json")
    assert [(item.outcome, item.uri, item.regions_ns) for item in found.values()] == [(None, str(tmp_path / NFD), None)]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("m.csv", b"", "no bytes"),
        ("m.csv", b"name,start\nx.mp4,0\n", "entry 1 has no key"),
        ("m.csv", b"\xff\xfe\x00x", "cannot be read"),
        ("m.csv", b'key\n"x.mp4\n', "cannot be read"),
        ("m.json", b"{", "cannot be read"),
        ("m.json", b'{"key": "x.mp4"}', "expected a JSON array"),
        ("m.json", b"[[1]]", "entry 1 is neither"),
        ("m.json", b'[{"key": 3}]', "entry 1 has no key"),
        ("m.jsonl", b'"x.mp4"\nx.mp4\n', "cannot be read"),
        ("m.parquet", b"PAR1 no", "cannot be read"),
        ("m.csv", b"key,start_s,end_s\nx.mp4,1e400,\n", "must be seconds"),
        ("m.csv", b"key,start_s,end_s\nx.mp4,5,4\n", "is empty"),
        ("m.csv", b"key,start_s,end_s\nx.mp4,-1,4\n", "starts before zero"),
    ],
)
def test_malformed_manifests_are_one_clear_error(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SettingsError, match=message) as caught:
        listed(tmp_path / name)
    assert name in str(caught.value)


def test_a_source_that_cannot_be_listed_removes_nothing(tmp_path, video):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/a.mp4").write_bytes(video)
    (tmp_path / "list.csv").write_text("key\nvideos/a.mp4\n")
    project = Project(tmp_path, str(tmp_path / "wh"), SHORT, uri=str(tmp_path / "list.csv"))
    project.run()
    before = project.versions()
    for data in (b"", b"oops"):
        (tmp_path / "list.csv").write_bytes(data + b"\n" * bool(data) + b"x.mp4\n" * bool(data))
        with pytest.raises(SettingsError):
            project.run()
    (tmp_path / "list.csv").unlink()
    with pytest.raises(NotFound, match=r"list\.csv: does not exist"):
        project.run()
    assert project.versions() == before


def test_a_store_that_is_away_is_no_vanished_object(tmp_path, s3_options):  # noqa: F811
    (tmp_path / "list.csv").write_text("key\ns3://bucket/x.mp4\n")
    dead = {**s3_options, "aws_endpoint": "http://127.0.0.1:9", "client_max_retries": "0"}
    with pytest.raises(Unavailable):
        listed(tmp_path / "list.csv", storage_options=dead)


def test_wrong_credentials_do_not_empty_a_manifest(tmp_path, monkeypatch):
    monkeypatch.setattr("curation_assets.storage.objects_local.LocalStore.head", _refuse)
    (tmp_path / "list.csv").write_text("key\nx.mp4\ny.mp4\n")
    with pytest.raises(Forbidden, match="none of its objects may be read"):
        listed(tmp_path / "list.csv")


def _refuse(self, key):
    raise Forbidden(f"{key}: access denied")


def test_a_key_that_is_refused_is_a_row_beside_others(tmp_path, monkeypatch):
    (tmp_path / "y.mp4").write_bytes(b"1")
    (tmp_path / "list.csv").write_text("key\nx.mp4\ny.mp4\n../../etc/x\n")
    from curation_assets.storage.objects_local import LocalStore

    head = LocalStore.head
    monkeypatch.setattr(LocalStore, "head", lambda self, key: _refuse(self, key) if key.endswith("x.mp4") else head(self, key))
    outcomes = {key: item.outcome for key, item in listed(tmp_path / "list.csv").items()}
    assert outcomes == {"x.mp4": Outcome.FORBIDDEN, "y.mp4": None, "../../etc/x": Outcome.VANISHED}
