from __future__ import annotations

import io
import os
import pickle
import shutil
import time
import unicodedata
from pathlib import Path

import av
import numpy as np
import pytest

from curation_assets.storage.errors import (
    AlreadyExists,
    Forbidden,
    NoSpace,
    NotFound,
    ObjectChanged,
    SourceNotFound,
    Unavailable,
)
from curation_assets.storage.objects import ObjectStore, clean_options, open_store, root_uri, split_uri
from curation_assets.storage.objects_remote import BLOCK_BYTES, RangeReader
from curation_assets_tests.storage.conftest import BUCKET, Root, client, unprivileged

NFC = unicodedata.normalize("NFC", "café.mp4")
NFD = unicodedata.normalize("NFD", "café.mp4")
ODD_KEYS = [
    "plain.mp4", "a b/c'd.mp4", 'q"q.mp4', "p%20q/é=ü.mp4", "p q/é=ü.mp4", "100% wow#?.mp4", "a+b&c;d.mp4", "a%2Fb.mp4", "a/b.mp4", NFC, NFD,
    "back\\slash.mp4", "日本/語.mp4", "~t*[a]{b}^`|<>.mp4", "deep/er/and/deeper/x.mp4", "-dash.mp4", "$HOME.mp4", "semi;colon.mp4", "a-b/c.mp4", "a.mp4",
]  # fmt: skip


def keys_of(store: ObjectStore, prefix: str = "", **settings) -> list[str]:
    return [info.key for page in store.list_pages(prefix, **settings) for info in page]


def make_video(path: Path, *, num_frames: int = 12) -> None:
    """MP4 with its index at the end, and noise so that the index is far from the head."""
    random = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.bit_rate, stream.pix_fmt = 320, 240, 20_000_000, "yuv420p"
        for _ in range(num_frames):
            frame = av.VideoFrame.from_ndarray(random.integers(0, 255, (240, 320, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_odd_keys_list_head_read_delete(root: Root):
    store = root.store()
    for key in ODD_KEYS:
        store.put(key, key.encode())
    assert keys_of(store) == sorted(ODD_KEYS, key=str.encode)
    for key in ODD_KEYS:
        info = store.head(key)
        assert (info.key, info.size_bytes) == (key, len(key.encode()))
        assert store.get(key) == key.encode()
        with store.open_reader(key, info=info) as reader:
            reader.seek(-4, io.SEEK_END)
            assert reader.read() == b".mp4"
    for key in ODD_KEYS[1:]:
        store.delete(key)
    assert keys_of(store) == ODD_KEYS[:1]
    store.delete(ODD_KEYS[1])  # once more is fine


def test_s3_keys_are_what_other_programs_see(s3_root: Root, s3_options: dict[str, str]):
    store = s3_root.store()
    prefix = s3_root.uri.removeprefix(f"s3://{BUCKET}/")
    for key in ODD_KEYS:
        client(s3_options).put_object(Bucket=BUCKET, Key=f"{prefix}/{key}", Body=key.encode())
    assert keys_of(store) == sorted(ODD_KEYS, key=str.encode)
    assert store.uri("a%2Fb c.mp4") == f"{s3_root.uri}/a%2Fb c.mp4"
    store.put("new %.mp4", b"x")
    assert client(s3_options).get_object(Bucket=BUCKET, Key=f"{prefix}/new %.mp4")["Body"].read() == b"x"


@pytest.mark.parametrize("key", ["a%2Fb #1?.mp4", NFD, "it's é/x y.mp4"])
def test_probe_through_the_reader(root: Root, key: str, tmp_path: Path):
    make_video(tmp_path / "v.mp4")
    store = root.store()
    store.put_file(key, tmp_path / "v.mp4")
    with store.open_reader(key) as reader, av.open(reader) as container:
        assert sum(1 for packet in container.demux(video=0) if packet.size) == 12


def test_probe_of_an_index_at_the_end_takes_few_requests(s3_root: Root, tmp_path: Path):
    make_video(tmp_path / "v.mp4", num_frames=60)
    data = (tmp_path / "v.mp4").read_bytes()
    assert len(data) > 5 * BLOCK_BYTES
    requests: list[tuple[int, int]] = []

    def fetch(start: int, end: int) -> bytes:
        requests.append((start, end))
        return data[start:end]

    with av.open(RangeReader(fetch, len(data))) as container:
        assert container.streams.video[0].frames == 60
    assert len(requests) <= 3
    assert sum(end - start for start, end in requests) <= 3 * BLOCK_BYTES


def test_range_reader_gives_the_bytes_of_the_object():
    data = np.random.default_rng(1).bytes(3 * BLOCK_BYTES + 17)
    reader, file = RangeReader(lambda start, end: data[start:end], len(data)), io.BytesIO(data)
    random = np.random.default_rng(2)
    for _ in range(200):
        offset, size = int(random.integers(0, len(data) + 10)), int(random.integers(0, BLOCK_BYTES * 2))
        assert (reader.seek(offset), reader.read(size)) == (file.seek(offset), file.read(size))
    assert (reader.seek(0), reader.read()) == (0, data)
    assert reader.seek(-5, os.SEEK_END) == len(data) - 5


def test_pages_prefix_and_start_after(root: Root):
    store = root.store()
    keys = sorted([f"d{i}/f{j}" for i in range(3) for j in range(4)] + ["d1.txt", "d10/x"], key=str.encode)
    for key in keys:
        store.put(key, b"x")
    pages = list(store.list_pages(page_size=5))
    assert [info.key for page in pages for info in page] == keys
    assert max(map(len, pages)) <= 5
    assert keys_of(store, "d1") == [f"d1/f{j}" for j in range(4)]  # a folder, so neither d1.txt nor d10
    assert keys_of(store, "nothing/here") == []
    for start_after in [*keys, "d1/f1x", "zzz"]:
        assert keys_of(store, start_after=start_after) == [key for key in keys if key.encode() > start_after.encode()]


def test_missing_things_are_clear(root: Root):
    store = root.store()
    for action in (
        lambda: store.head("nope"),
        lambda: store.get("a/nope"),
        lambda: store.open_reader("nope"),
        lambda: store.download("nope", Path("/dev/null")),
    ):
        with pytest.raises(NotFound, match="nope: does not exist"):
            action()
    assert not store.exists("nope")


def test_missing_roots(tmp_path: Path, s3_options: dict[str, str]):
    with pytest.raises(SourceNotFound, match="no such folder"):
        list(open_store(str(tmp_path / "nope")).list_pages())
    with pytest.raises(SourceNotFound, match="bucket does not exist"):
        list(open_store("s3://no-such-bucket-here", options=s3_options).list_pages())
    assert list(open_store(str(tmp_path)).list_pages()) == []


def test_create_only_and_overwrite(root: Root):
    store = root.store()
    store.put("x/k", b"1", create_only=True)
    with pytest.raises(AlreadyExists):
        store.put("x/k", b"2", create_only=True)
    assert store.get("x/k") == b"1"
    store.put("x/k", b"3")
    assert store.get("x/k") == b"3"
    assert store.delete_prefix("x") == 1
    assert keys_of(store) == []


def test_a_replaced_object_is_noticed(root: Root, tmp_path: Path):
    store = root.store()
    store.put("k", b"a" * 100)
    info = store.head("k")
    store.download("k", tmp_path / "copy", etag=info.etag)
    assert (tmp_path / "copy").read_bytes() == b"a" * 100
    store.put("k", b"b" * 90)
    assert store.head("k").etag != info.etag
    with pytest.raises(ObjectChanged), store.open_reader("k", info=info) as reader:
        reader.read(5)
    with pytest.raises(ObjectChanged):
        store.download("k", tmp_path / "copy2", etag=info.etag)


def test_av_lets_store_errors_through(s3_root: Root):
    store = s3_root.store()
    store.put("k", b"a" * 100)
    info = store.head("k")
    store.delete("k")
    with pytest.raises(NotFound), store.open_reader("k", info=info) as reader:
        av.open(reader)


def test_stores_pickle(root: Root):
    store = root.store()
    store.put("k", b"1")
    assert pickle.loads(pickle.dumps(store)).get("k") == b"1"


def test_local_etag_survives_a_copy(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/v.mp4").write_bytes(b"123")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first, second = (open_store(str(tmp_path / name)).head("v.mp4") for name in "ab")
    assert first == second
    os.utime(tmp_path / "b/v.mp4", ns=(0, 5))
    assert open_store(str(tmp_path / "b")).head("v.mp4").etag == "3-5"


def test_local_links_loops_pipes_and_names_that_are_not_utf8(tmp_path: Path):
    outside, root = tmp_path / "outside", tmp_path / "root"
    (outside / "sub").mkdir(parents=True)
    root.mkdir()
    (outside / "sub/linked.mp4").write_bytes(b"1")
    (root / "loop").symlink_to(root)
    (root / "link").symlink_to(outside)
    (root / "file.mp4").symlink_to(outside / "sub/linked.mp4")
    (root / "gone.mp4").symlink_to(tmp_path / "nowhere")
    os.mkfifo(root / "pipe.mp4")
    (root / "new\nline.mp4").write_bytes(b"22")
    Path(os.fsdecode(os.fsencode(root) + b"/latin\xe9.mp4")).write_bytes(b"333")
    store = open_store(str(root))
    found = {info.key: info.size_bytes for page in store.list_pages() for info in page}
    assert found == {"file.mp4": 1, "gone.mp4": 0, "link/sub/linked.mp4": 1, "new\nline.mp4": 2, "latin\uefe9.mp4": 3}
    assert store.get("latin\uefe9.mp4") == b"333"
    assert store.get("new\nline.mp4") == b"22"


def test_local_keys_cannot_leave_the_root(local_root: Root):
    store = local_root.store()
    for key in ("../x", "/etc/passwd", "a/../../x", "", "a\0b"):
        with pytest.raises(ValueError, match="is not a key"):
            store.get(key)


def test_an_unreadable_folder_is_an_error_not_a_gap(public_folder: Path):
    (public_folder / "a.mp4").write_bytes(b"1")
    (public_folder / "closed/sub").mkdir(parents=True)
    (public_folder / "closed").chmod(0)
    with unprivileged(), pytest.raises(Forbidden, match="closed: Permission denied"):
        keys_of(open_store(str(public_folder)))
    with unprivileged(), pytest.raises(Forbidden, match="closed/sub: Permission denied"):
        keys_of(open_store(str(public_folder / "closed/sub")))
    (public_folder / "closed").chmod(0o555)
    with unprivileged(), pytest.raises(Forbidden, match="Give the user"):
        open_store(str(public_folder / "closed")).put("k", b"1")
    (public_folder / "closed").chmod(0o777)


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path: Path, file_size_limit):
    store = open_store(str(tmp_path))
    with file_size_limit(1000), pytest.raises(NoSpace, match="Make room"):
        store.put("big", b"x" * 5000)
    assert keys_of(store) == []
    assert list(tmp_path.iterdir()) == []


def test_wrong_credentials_and_a_dead_endpoint(s3_options: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    start_s = time.monotonic()
    dead = open_store(f"s3://{BUCKET}", options={**s3_options, "aws_endpoint": "http://127.0.0.1:9"})
    with pytest.raises(Unavailable, match="cannot be reached"):
        dead.get("k")
    assert time.monotonic() - start_s < 10
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(Forbidden, match="AWS_ACCESS_KEY_ID"):
        open_store(f"s3://{BUCKET}", options=s3_options)
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = test\naws_secret_access_key = test\n")
    assert not open_store(f"s3://{BUCKET}", options=s3_options).exists("nope")


def test_s3_keys_that_obstore_refuses_are_read_all_the_same(s3_root: Root, s3_options: dict[str, str]):
    prefix = s3_root.uri.removeprefix(f"s3://{BUCKET}/")
    keys = ["a//b.mp4", "/lead.mp4", "//lead.mp4", "folder/", "c\x01\x7f.mp4", "tab\t.mp4", "./dot", "x/../y", "a/./b", "..", " "]
    for key in keys:
        client(s3_options).put_object(Bucket=BUCKET, Key=f"{prefix}/{key}", Body=key.encode())
    client(s3_options).put_object(Bucket=BUCKET, Key=f"{prefix}/", Body=b"")  # the root's own marker
    store = s3_root.store()
    assert keys_of(store) == sorted(keys, key=str.encode)
    for key in keys:
        assert (store.head(key).size_bytes, store.get(key)) == (len(key.encode()), key.encode())
        with store.open_reader(key) as reader:
            assert reader.read() == key.encode()
    assert store.delete_prefix("") == len(keys)
    assert keys_of(store) == []


def test_s3_downloads_come_in_ranges_of_one_version(s3_root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("curation_assets.storage.objects_s3._DOWNLOAD_BYTES", 1000)
    store, data = s3_root.store(), os.urandom(4321)
    store.put("k", data)
    etag = store.head("k").etag
    store.download("k", tmp_path / "copy", etag=etag)
    assert (tmp_path / "copy").read_bytes() == data
    store.put("empty", b"")
    store.download("empty", tmp_path / "none")
    assert (tmp_path / "none").read_bytes() == b""
    store.put("k", data[::-1])
    with pytest.raises(ObjectChanged):
        store.download("k", tmp_path / "copy", etag=etag)


def test_options():
    assert clean_options("s3://b", {"aws_endpoint": "http://h:1"})["allow_http"] == "true"
    assert "allow_http" not in clean_options("s3://b", {"aws_endpoint": "https://h"})
    with pytest.raises(ValueError, match="environment"):
        clean_options("s3://b", {"aws_secret_access_key": "s"})
    with pytest.raises(ValueError, match="unknown storage option"):
        open_store("s3://b", options={"aws_skip_signature": "true", "bogus": "1"})


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("s3://b/a b/%20#?é", ("s3", "b", "a b/%20#?é")),
        ("S3://b", ("s3", "b", "")),
        ("gs://b/k/", ("gs", "b", "k/")),
        ("az://c/k", ("az", "c", "k")),
        ("/data/a%20b", ("file", "", "/data/a%20b")),
        ("/data/x/../y/", ("file", "", "/data/y")),
        ("file:///data/a%20b", ("file", "", "/data/a b")),
    ],
)
def test_split_uri(uri: str, parts: tuple[str, str, str]):
    assert split_uri(uri) == parts


def test_bad_uris_and_relative_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    assert root_uri("./videos/") == str(tmp_path / "videos")
    assert root_uri("s3://b/p/") == "s3://b/p"
    for uri in ("ftp://h/x", "s3://", ""):
        with pytest.raises(ValueError, match="s3://"):
            split_uri(uri)
