"""Secrets stay in the environment, keys stay below the warehouse, and nothing listens beyond this machine unless it is told to."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import lance
import psutil
import pytest
import yaml

from curation_assets.configuration import load_config
from curation_assets.curation.corpus import CorpusRun
from curation_assets.curation.query import connect_config
from curation_assets.curation.warehouse import Warehouse, table_specs
from curation_assets.settings import SettingsError
from curation_assets.storage.objects import open_store
from curation_assets_tests import makevideo
from curation_assets_tests.curation.test_maintain import config_of, curate
from curation_assets_tests.storage.conftest import BUCKET, Root, client, s3_options, s3_root  # noqa: F401 - fixtures

COMMAND = [sys.executable, "-c", "from curation_assets.cli import main; main()"]
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTED7KEYID",
    "AWS_SECRET_ACCESS_KEY": "planted/secret+key/0123456789abcdef",
    "AWS_SESSION_TOKEN": "planted-session-token-9876543210",
    "HF_TOKEN": "hf_plantedTokenOfTheHub0123456789",
    "CURATION_WEBHOOK_URL": "https://hooks.example.com/services/planted-webhook-path",
}
FORMS = [
    form
    for value in SECRETS.values()
    for form in (value.encode(), base64.b64encode(value.encode())[:-4], value.replace("/", "%2F").encode())
]


def found_in(data: bytes) -> list[bytes]:
    return [form for form in FORMS if form in data]


@pytest.fixture
def place(tmp_path, s3_root, s3_options):  # noqa: F811
    """A project on an S3 server, a Dagster home, and the environment with secrets."""
    store = s3_root.store()
    makevideo.make_cuts(tmp_path / "cuts.mp4", seconds=2, scenes=2)
    for name in ("cuts.mp4", "text.mp4"):
        store.put(f"in/{name}", (tmp_path / "cuts.mp4").read_bytes() if name == "cuts.mp4" else b"no video" * 200)
    options = {**s3_options}
    tree = {
        "warehouse": f"{s3_root.uri}/warehouse",
        "storage_options": options,
        "sources": {
            "mine": {"uri": f"{s3_root.uri}/in", "storage_options": options},
            "missing": {"uri": "s3://no-such-bucket/x", "storage_options": options},
        },
        "clips": {"splitter": {"clip_len_s": 2}},
        "engine": {"workers": 1, "cache_dir": str(tmp_path / "cache")},
    }
    (tmp_path / "curation.yaml").write_text(yaml.safe_dump(tree))
    (tmp_path / "home").mkdir()
    shutil.copy(Path(__file__).parent.parent / "dagster.yaml", tmp_path / "home")
    return tmp_path


def command(place: Path, *words: str, timeout: float = 240) -> subprocess.CompletedProcess[bytes]:
    environment = {
        **os.environ,
        **SECRETS,
        "DAGSTER_HOME": str(place / "home"),
        "HF_HOME": str(place / "hub"),
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }
    return subprocess.run([*COMMAND, *words], cwd=place, env=environment, capture_output=True, timeout=timeout)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_secrets_are_nowhere(place, s3_root, s3_options):  # noqa: F811
    """A run with two sources, one of which fails; then every other command; then each byte that any of it has left."""
    printed = {}
    for words in (
        "run --json",
        "status",
        "failures --json",
        "maintain --json",
        "doctor",
    ):
        done = command(place, *words.split())
        printed[words] = done
        assert not found_in(done.stdout + done.stderr), words
    assert b'"outcomes"' in printed["run --json"].stdout
    assert printed["run --json"].returncode == 3  # the missing bucket
    assert {words: done.returncode for words, done in printed.items() if words.split()[0] in ("status", "failures", "maintain")} == {
        "status": 0,
        "failures --json": 0,
        "maintain --json": 0,
    }
    assert b"no-such-bucket" in printed["run --json"].stderr
    files = [path for path in place.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"runs.db", "index.db"}  # the event log and the runs are among them
    for path in files:
        assert not found_in(path.read_bytes()), path
    store = s3_root.store()
    keys = [info.key for page in store.list_pages("warehouse/") for info in page]
    assert len(keys) > 40
    for key in keys:
        assert not found_in(store.get(key)), key
    # once more unpacked: Lance packs what it writes
    config = load_config(place / "curation.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_SESSION_TOKEN", raising=False)
        source = CorpusRun(config).source_run("mine")
        num_rows = 0
        for spec in table_specs(source.settings):
            dataset = source.table(spec).snapshot().dataset
            assert isinstance(dataset, lance.LanceDataset)
            rows = dataset.to_table(columns=[name for name in dataset.schema.names if name not in spec.blob_columns])
            assert not found_in(repr((rows.to_pylist(), dataset.schema.metadata)).encode()), spec.asset
            num_rows += rows.num_rows
    assert num_rows > 20


@pytest.mark.slow
def test_a_model_that_cannot_be_fetched_tells_no_token(place):
    environment = {**os.environ, **SECRETS, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(place / "hub")}
    words = ["models", "download", "clip-vit-b32"]
    done = subprocess.run([*COMMAND, *words], cwd=place, env=environment, capture_output=True, timeout=240)
    assert done.returncode != 0
    assert not found_in(done.stdout + done.stderr)


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ({"storage_options": {"aws_secret_access_key": "planted-in-the-file"}}, "credentials come from the environment"),
        ({"storage_options": {"aws_endpoint": "http://user:planted-in-the-file@localhost:9000"}}, "credentials come from the environment"),
        ({"warehouse": "s3://user:planted-in-the-file@bucket/x"}, "credentials come from the environment"),
        ({"sources": {"a": {"uri": "s3://planted-in-the-file@bucket/x"}}}, "credentials come from the environment"),
        ({"aws_secret_access_key": "planted-in-the-file"}, "unknown key"),
        (
            {"sources": {"a": {"uri": "x", "storage_options": {"sas_token": "planted-in-the-file"}}}},
            "credentials come from the environment",
        ),
        ({"warehouse": "az://container/x?sv=1&sig=planted-in-the-file"}, "credentials come from the environment"),
        ({"watch": {"a": {"uri": "https://a.blob.core.windows.net/x?sig=planted-in-the-file"}}}, "credentials come from the environment"),
        ({"automation": {"notify": {"webhook_url": "https://user:planted-in-the-file@host/x"}}}, "credentials come from the environment"),
        ({"automation": {"notify": {"webhook_url": "hooks.example.com/planted-in-the-file"}}}, "webhook_url"),
        ({"automation": {"notify": {"webhook_env": "https://hooks.example.com/planted-in-the-file"}}}, "webhook_env"),
        ({"automation": {"notify": "hooks.example.com/planted-in-the-file"}}, "expected a mapping"),
        ({"queues": {"main": {"url": "https://key:planted-in-the-file@sqs.eu-west-1.amazonaws.com/1/x"}}}, "queues.main.url"),
        ({"queues": {"main": "https://key:planted-in-the-file@sqs.eu-west-1.amazonaws.com/1/x"}}, "expected a mapping"),
    ],
)
def test_a_secret_in_the_settings_is_refused_and_not_repeated(tmp_path, tree, told):
    (tmp_path / "curation.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(SettingsError, match=told) as caught:
        load_config(tmp_path / "curation.yaml")
    error: BaseException | None = caught.value
    while error is not None:  # a run's log has the causes too
        assert "planted-in-the-file" not in str(error)
        error = error.__cause__


ESCAPING = [
    "../up.mp4",
    "../../../../../../tmp/planted-by-key.mp4",
    "/absolute.mp4",
    "a/../../b.mp4",
    "..\\back\\..\\slash.mp4",
    "%2e%2e/%2e%2e/percent.mp4",
    "..%2f..%2fpercent.mp4",
    "control\x01\x7f.mp4",
    ".hidden/../x.mp4",
    f"long/{'n' * 240}/{'m' * 240}.mp4",
    "<img src=x onerror=alert(1)>.mp4",
    "$(touch planted).mp4",
]


def tree_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def check_inside(config, place: Path, before: set[str], keys: list[str]) -> None:
    """Every key is a video with its files, all of them below the warehouse, and no other file is new."""
    outside = {path for path in tree_of(place) - before if not path.startswith(("warehouse", "cache"))}
    assert outside == set()
    root = Path(config.warehouse).resolve()
    assert all(path.resolve().is_relative_to(root) for path in root.rglob("*"))
    with connect_config(config) as connection:
        rows = connection.execute("SELECT key, outcome, uri FROM raw_videos ORDER BY key").fetchall()
        uris = [row[0] for row in connection.execute("SELECT uri FROM transcoded_clips").fetchall()]
    assert [row[0] for row in rows] == sorted(keys)
    assert len(uris) == sum(outcome == "ok" for _, outcome, _ in rows) > 0
    for uri in uris:
        assert Path(uri).resolve().is_relative_to(root / "media")
    assert not Path("/tmp/planted-by-key.mp4").exists()


def test_keys_of_a_bucket_stay_inside(tmp_path, s3_root, s3_options):  # noqa: F811
    makevideo.make_cuts(tmp_path / "cuts.mp4", seconds=2, scenes=1)
    prefix = s3_root.uri.removeprefix(f"s3://{BUCKET}/")
    for key in ESCAPING:
        client(s3_options).put_object(Bucket=BUCKET, Key=f"{prefix}/in/{key}", Body=(tmp_path / "cuts.mp4").read_bytes())
    config = config_of(
        Root(str(tmp_path)),
        sources={"mine": {"uri": f"{s3_root.uri}/in", "storage_options": s3_options}},
        engine={"workers": 0, "cache_dir": str(tmp_path / "cache")},
    )
    before = tree_of(tmp_path)
    curate(config)
    check_inside(config, tmp_path, before, ESCAPING)


def test_entries_of_a_manifest_stay_inside(tmp_path):
    """An entry may name a file anywhere, which is read; a name that is no file is a row that says so."""
    makevideo.make_cuts(tmp_path / "cuts.mp4", seconds=2, scenes=1)
    (tmp_path / "lists").mkdir()
    names = [
        "../cuts.mp4",
        str(tmp_path / "cuts.mp4"),
        "nul\0.mp4",
        "../../../../../../../../etc/none.mp4",
        "%2e%2e/cuts.mp4",
        "n" * 5000 + ".mp4",
        "\\..\\x.mp4",
    ]
    (tmp_path / "lists" / "list.json").write_text(json.dumps(names))
    config = config_of(Root(str(tmp_path)), sources={"mine": {"uri": str(tmp_path / "lists" / "list.json")}})
    before = tree_of(tmp_path)
    curate(config)
    check_inside(config, tmp_path, before, names)


def test_links_out_of_a_folder_are_read_and_never_written(tmp_path):
    """A link in a source is followed, as its owner made it; removing the source, its tables and its files touches nothing behind it."""
    from curation_assets.curation.removal import delete_source_tables

    (tmp_path / "elsewhere").mkdir()
    makevideo.make_cuts(tmp_path / "elsewhere" / "cuts.mp4", seconds=2, scenes=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "mine" / "up.mp4").symlink_to("../elsewhere/cuts.mp4")
    before, data = tree_of(tmp_path), (tmp_path / "elsewhere" / "cuts.mp4").read_bytes()
    config = config_of(Root(str(tmp_path)), tmp_path / "mine")
    curate(config)
    check_inside(config, tmp_path, before, ["link/cuts.mp4", "up.mp4"])
    delete_source_tables(config, "mine")
    assert tree_of(tmp_path) >= before
    assert (tmp_path / "elsewhere" / "cuts.mp4").read_bytes() == data


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "a\\b", "a\0b", "%2e%2e", "..", ".", "", ".x", "n" * 500, "a b", "a\nb", "é"])
def test_names_of_sources_and_models_stay_inside(tmp_path, name):
    from curation_assets.configuration import load_config as load

    warehouse = Warehouse(str(tmp_path / "warehouse"))
    with pytest.raises(SettingsError, match="source name"):
        warehouse.registry.get(name)
    for tree in ({"embeddings": {"models": [name]}}, {"previews": {name: {}}}):
        (tmp_path / "curation.yaml").write_text(yaml.safe_dump(tree))
        with pytest.raises(ValueError, match=r"."):
            table_specs(load(tmp_path / "curation.yaml"))
    store = open_store(str(tmp_path / "warehouse"))
    for key in (f"../{name}", f"media/../../{name}", f"/{name}", "media/a\0b"):
        for act in (store.get, store.delete, store.local_path, lambda key: store.put(key, b"x")):
            with pytest.raises(ValueError, match="is not a key"):
                act(key)
    assert tree_of(tmp_path) == {"curation.yaml"}


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_ui_listens_on_this_machine_alone(tmp_path):
    pytest.importorskip("dagster_webserver")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "curation.yaml").write_text("warehouse: ./warehouse\n")
    environment = {name: value for name, value in os.environ.items() if name not in ("DAGSTER_HOME", "CURATION_CONFIG")}
    with (tmp_path / "log").open("wb") as log:
        site = subprocess.Popen(
            [*COMMAND, "ui", "--port", str(port)],
            cwd=tmp_path,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        end_s = time.monotonic() + 90
        while not (ports := listening(site.pid)) or port not in {address.port for address in ports}:
            assert time.monotonic() < end_s, (tmp_path / "log").read_text()
            time.sleep(0.5)
        time.sleep(5)  # the daemon's and the code location's processes too
        assert {address.ip for address in listening(site.pid)} <= {"127.0.0.1", "::1"}
    finally:
        site.send_signal(signal.SIGINT)
        try:
            site.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(site.pid, signal.SIGKILL)
            site.wait()


def listening(pid: int):
    """Addresses that a process and its children listen on."""
    found = []
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            found += [each.laddr for each in process.net_connections(kind="inet") if each.status == psutil.CONN_LISTEN]
        except psutil.NoSuchProcess:
            continue
    return found
