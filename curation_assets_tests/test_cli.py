"""The command line: documents, exit codes, messages."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

import curation_assets
from curation_assets import cli
from curation_assets.curation import splitters
from curation_assets.storage.leases import Lease
from curation_assets.storage.objects import open_store
from curation_assets_tests import makevideo

SPLIT = ["--set", "clips.splitter.clip_len_s=2"]
INLINE = ["--set", "engine.workers=0", *SPLIT]


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    (folder / "a b").mkdir()
    makevideo.make_cuts(folder / "a b" / "cuts é.mp4", seconds=2, scenes=2)
    makevideo.make_vfr(folder / "vfr.mkv", seconds=4)
    makevideo.make_text(folder / "text.mp4")
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.delenv("CURATION_CONFIG", raising=False)
    return tmp_path


@pytest.fixture
def call(place, monkeypatch, capsys):
    """Run the command line in this process; gives the exit code, stdout and stderr."""

    def run(*words):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["curation-assets", *map(str, words)])
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        code = 0
        try:
            cli.main()
        except SystemExit as error:
            code = error.code or 0
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_of_many_sources_the_sums_are_printed_and_those_with_something_to_do(call, place, samples):
    assert call("run", "--source", f"mine={samples}", "--select", "raw_videos", "--set", "engine.workers=0")[0] == 0
    entry = json.loads((place / "warehouse" / "sources" / "mine.json").read_text())
    for number in range(50):
        name = f"cam-{number:02d}"
        (place / "warehouse" / "sources" / f"{name}.json").write_text(json.dumps({**entry, "name": name}))
    code, out, _ = call("status")
    assert code == 0
    assert "51 sources" in out
    assert "mine" in out  # its clips are still to come
    assert "cam-" not in out
    assert "0 more have some" in out
    code, out, _ = call("status", "--source", "cam-07", "--source", "mine", "--json")
    assert [item["source"] for item in json.loads(out)["sources"]] == ["cam-07", "mine"]
    code, _, err = call("status", "--source", "cam-99")
    assert code == 2
    assert "no source named 'cam-99'; known: cam-00, cam-01" in err
    assert "and 31 more" in err


def test_run_then_everything_else(call, place, samples):
    code, out, err = call("run", "--source", f"mine={samples}", "--json", "--set", "engine.workers=0")
    assert code == 0, err
    document = json.loads(out)
    assert len(document["run_ids"]) == 2  # the source's, and that over all sources
    assert document["seconds"] > 0
    tables = document["sources"][0]["tables"]
    assert document["sources"][0]["source"] == "mine"
    assert list(tables) == [
        "raw_videos",
        "clips",
        "frame_sets",
        "clip_scores",
        "embeddings_fingerprint",
        "transcoded_clips",
        "previews_240p",
    ]
    assert tables["raw_videos"] == {"outcomes": {"not_a_video": 1, "ok": 2}, "pending": 0}
    assert tables["clips"]["pending"] == 0
    assert (place / "curation.yaml").exists()
    assert (place / "warehouse").is_dir()

    code, out, _ = call("status", "--json")
    assert code == 0
    assert json.loads(out)["sources"][0]["tables"] == tables
    assert json.loads(out)["corpus"] == document["corpus"]
    assert document["corpus"] == {
        "duplicates_fingerprint": {"outcomes": {}, "pending": 0},
        "search_index_fingerprint": {"outcomes": {}, "pending": 0},
        "curated_clips": {"outcomes": {"selected": 2}, "pending": 0},
    }

    code, out, _ = call("failures", "--json")
    (failure,) = json.loads(out)
    assert set(failure) == {"source", "table", "video_id", "clip_id", "key", "outcome", "detail"}
    assert (failure["table"], failure["key"], failure["outcome"]) == ("raw_videos", "text.mp4", "not_a_video")

    code, out, _ = call("sql", "--json", "select key, codec, last_modified from raw_videos where outcome = 'ok' order by key")
    rows = json.loads(out)
    assert [row["key"] for row in rows] == ["a b/cuts é.mp4", "vfr.mkv"]
    assert rows[0]["last_modified"].endswith(("Z", "+00:00"))

    code, out, _ = call("sql", "--json", "select clip_id, kept, reject_reason from clip_scores")
    clips = json.loads(out)
    assert all(row["kept"] and row["reject_reason"] is None for row in clips)

    code, out, _ = call("why", clips[0]["clip_id"], "--json")
    story = json.loads(out)
    assert story["clip"]["clip_id"] == clips[0]["clip_id"]
    assert story["scores"]["kept"] is True
    assert story["embeddings"]["embeddings_fingerprint"]["outcome"] == "ok"
    assert "clip_scores" in call("sql", "show tables")[1]
    code, out, _ = call("why", clips[0]["clip_id"][:10])
    assert "kept    yes" in out

    with curation_assets.connect() as connection:
        assert connection.sql("select count(*) from clips").fetchall()[0][0] == len(clips)
        shape = connection.sql("select distinct len(embedding) from embeddings_fingerprint").fetchall()
        assert len(shape) == 1
    frames = curation_assets.open_table("frame_sets", "mine").to_table(columns=["frames"], filter="NOT is_header").to_pylist()
    assert all(frame[:2] == b"\xff\xd8" for row in frames for frame in row["frames"])

    code, out, _ = call("run", "--json", "--set", "engine.workers=0")
    assert code == 0
    assert json.loads(out)["sources"][0]["tables"] == tables


def test_readme_queries_run(call, samples):
    call("run", "--source", f"mine={samples}", *INLINE)
    text = (Path(__file__).parent.parent / "README.md").read_text()
    queries = re.findall(r'curation-assets sql "([^"]+)"', text) + re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    assert len(queries) >= 2
    for query in queries:
        code, out, err = call("sql", "--json", query)
        assert code == 0, err
        assert isinstance(json.loads(out), list)
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    exec(code.replace('"holidays"', '"mine"'), {})


def test_demo(call, place):
    code, out, err = call("demo")
    assert code == 0, err
    assert "not_a_video" in out
    assert "truncated" in out
    assert "11 clips: 8 selected, 3 near-duplicates left out; 8 copied and 3 encoded as MP4" in out
    assert (place / "demo" / "contact_sheet.html").read_text().count("data:image/webp") == 11
    why = (
        next(line for line in out.splitlines() if "--config" in line and " why " in line).split("curation-assets ", 1)[1].split("  ", 1)[0]
    )
    code, story, err = call(*shlex.split(why))
    assert code == 0, err
    assert "curated left out: duplicate" in story
    recut = next(line for line in story.splitlines() if "re-cut" in line).split("curation-assets ", 1)[1]
    code, told, err = call(*shlex.split(recut), "--set", "transcoded_clips.way=encode", "-o", "again.mp4")
    assert code == 0, err
    assert "100 frames, 4.000 s, h264, encode" in told
    assert (place / "again.mp4").stat().st_size > 1000
    assert call(*shlex.split(recut), "-o", "missing/again.mp4")[0] == 2
    commands = [line.split("curation-assets ", 1)[1] for line in out.splitlines() if "curation-assets --config" in line and " sql " in line]
    code, out, err = call(*shlex.split(commands[0]), "--json")
    assert code == 0, err
    assert {row["key"] for row in json.loads(out)} >= {"hard_cuts.mp4", "phone rotated.mov", "truncated.mp4"}
    near = "select list_inner_product(a.embedding::float[], b.embedding::float[]) as similarity from embeddings_fingerprint a "
    near += "join raw_videos x using (video_id), embeddings_fingerprint b join raw_videos y using (video_id) "
    near += "where a.scope = 'video' and b.scope = 'video' and x.key = 'hard_cuts.mp4' and y.key = '{}'"
    option = ("--config", "demo/curation.yaml", "--json")
    (copy,) = json.loads(call("sql", near.format("hard_cuts_again.webm"), *option)[1])
    (other,) = json.loads(call("sql", near.format("phone rotated.mov"), *option)[1])
    assert copy["similarity"] > 0.9
    assert other["similarity"] < 0.7


def test_thresholds_are_applied_when_they_are_read(call, samples):
    call("run", "--source", f"mine={samples}", *INLINE)
    Path("curation.yaml").write_text("clip_scores: {thresholds: {min_motion_mean: 0.99}}\n")
    code, out, _ = call("sql", "--json", "select kept, reject_reason from clip_scores")
    assert code == 0
    assert {(row["kept"], row["reject_reason"]) for row in json.loads(out)} == {(False, "low_motion")}
    clip = json.loads(call("sql", "--json", "select clip_id from clips limit 1")[1])[0]["clip_id"]
    assert "no: low_motion" in call("why", clip)[1]


def test_dry_run_writes_nothing(call, place, samples):
    code, out, _ = call("run", "--source", f"mine={samples}", "--dry-run", "--json")
    assert code == 0
    (estimate,) = json.loads(out)["sources"]
    assert (estimate["num_objects"], estimate["num_new"]) == (3, 3)
    assert estimate["hours"] * 3600 == pytest.approx(8, rel=0.2)
    assert estimate["bytes_to_read"] == sum(path.stat().st_size for path in samples.rglob("*.m*"))
    assert estimate["seconds"] > 0
    assert list(place.iterdir()) == []


def test_limit_select_and_config_anywhere(call, place, samples):
    (place / "other.yaml").write_text(f"warehouse: ./elsewhere\nsources:\n  mine: {{uri: '{samples}'}}\n")
    code, out, err = call("run", "--json", "--limit", "1", "--select", "raw_videos", "--config", "other.yaml", *INLINE)
    assert code == 0, err
    tables = json.loads(out)["sources"][0]["tables"]
    assert sum(tables["raw_videos"]["outcomes"].values()) == 1
    assert tables["clips"]["outcomes"] == {}
    assert (place / "elsewhere").is_dir()
    assert not (place / "warehouse").exists()
    assert call("--config", "other.yaml", "status", "--json")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--set", "clips.spliter.x=1"], "did you mean 'splitter'"),
        (["run", "--set", "clips"], "write KEY=VALUE"),
        (["run", "--config", "nothing.yaml"], "does not exist"),
        (["run"], "there is no source yet"),
        (["run", "--source", "nowhere"], "no source named 'nowhere'"),
        (["run", "--source", "../up=."], "source name"),
        (["run", "--bogus"], "bogus"),
        (["why", "no-such-clip"], "no clip"),
        (["sql", "select * from clip"], "views: "),
        (["sql", "selec 1"], "syntax error"),
        (["run", "--dry-run", "--select", "clips"], "leave --select out"),
        (["failures", "--source", "nowhere"], "no source named 'nowhere'"),
        (["run", "--set", "embeddings.models=[fingerprin]", "--source", "x=."], "fingerprint"),
        (["run", "--set", "storage_options={aws_region: x}"], "settings file"),
        (["run", "--set", "warehouse=./x"], "settings file"),
        (["cut", "0123", "-o", "clip.avi"], "give it a name that ends with .mp4"),
        (["cut", "0123", "-o", "clip"], "give it a name that ends with .mp4"),
        (["cut", "0123", "--set", "clips.splitter.clip_len_s=3"], "settings of transcoded_clips alone, not of clips"),
        (["sources", "add", "x", ".", "--set", "dedup.eps=0.1"], "dedup is for the whole project"),
        (
            ["sources", "add", "x", ".", "--set", "embeddings.models=[siglip2]"],
            "put embeddings: {models: [fingerprint, siglip2]} at the top",
        ),
    ],
)
def test_wrong_use_is_one_message_and_exit_2(call, words, message):
    code, out, err = call(*words)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert out == ""


def test_a_missing_encoder_is_named_before_any_work(call, place, samples, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    code, _, err = call("run", "--source", f"mine={samples}", "--set", "transcoded_clips.encoder=libopenh264", *INLINE)
    assert code == 2
    assert "transcoded_clips.encoder: libopenh264 cannot be used here" in err
    assert "Available: libx264" in err
    assert not (place / "warehouse" / "tables").exists()
    code, _, err = call("run", "--source", f"mine={samples}", "--select", "clips*", "--set", "transcoded_clips.quality=60", *INLINE)
    assert code == 2
    assert "0 (best) to 51" in err
    # what needs no encoder runs without
    assert call("run", "--source", "mine", "--select", "raw_videos", "--set", "transcoded_clips.encoder=libopenh264", *INLINE)[0] == 0


@pytest.mark.parametrize("text", ["clipz", "raw_videos,clips", "clips and", "((", ""])
def test_select_that_matches_nothing(call, samples, text):
    code, _, err = call("run", "--source", f"mine={samples}", "--select", text)
    assert code == 2
    assert f"--select {text!r} matches no asset" in err
    assert "embeddings/fingerprint" in err
    assert "Traceback" not in err


def test_overrides_reach_the_splitter_of_each_source(call, place, samples):
    (place / "curation.yaml").write_text(
        f"""
sources:
  scenes: {{uri: '{samples}', settings: {{clips: {{splitter: {{method: content, min_clip_len_s: 0}}}}}}}}
  grid: {{uri: '{samples}'}}
engine: {{workers: 0}}
"""
    )
    for words, key, method in (
        (["--source", "grid", "--select", "*clips"], "max_clip_len_s", "fixed_stride"),
        (["--source", "scenes", "--dry-run"], "clip_len_s", "content"),
    ):
        code, _, err = call("run", *words, "--set", f"clips.splitter.{key}=4")
        assert code == 2
        assert f"clips.splitter.{key} belongs to method" in err
        assert f"the sources of this run have {method}" in err
    for words in (["--set", "clips.splitter.clip_len_s=3"], ["--source", "scenes", "--set", "clips.splitter.max_clip_len_s=1"]):
        code, _, err = call("run", "--select", "*clips", *words)
        assert code == 0, err
    rows = json.loads(call("sql", "--json", "select source, max(end_ns - start_ns) as longest from clips group by 1 order by 1")[1])
    assert rows == [{"source": "grid", "longest": 3_000_000_000}, {"source": "scenes", "longest": 1_000_000_000}]


@pytest.mark.parametrize(
    ("splitter", "message"),
    [
        ({"method": "transnetv2", "weights": "/nowhere/w.pth"}, "clips.splitter.weights: there is no file /nowhere/w.pth"),
        ({"method": "transnetv2", "device": "cuda"}, "clips.splitter: device is cuda, and torch finds no CUDA device here"),
        ({"method": "content", "decoder": "nvdec"}, "clips.splitter.decoder is nvdec, and FFmpeg finds no CUDA device"),
    ],
)
def test_what_a_splitter_demands_is_named_before_any_work(call, place, samples, splitter, message):
    if splitters.missing_packages(splitter["method"]):
        pytest.skip("extra shots")
    if "weights" not in splitter and splitters.nvdec.why_missing() is None:
        pytest.skip("there is a GPU")
    tree = {"sources": {"grid": {"uri": str(samples)}, "scenes": {"uri": str(samples), "settings": {"clips": {"splitter": splitter}}}}}
    (place / "curation.yaml").write_text(json.dumps(tree))
    for words in (["config", "check"], ["run", *INLINE[:2]]):
        code, _, err = call(*words)
        assert (code, err.count(message)) == (2, 1)
    assert not (place / "warehouse" / "tables").exists()
    if "weights" not in splitter:  # without weights nobody can say which clips are stale
        assert call("run", "--source", "scenes", "--select", "raw_videos", *INLINE[:2])[0] == 0, "what needs no splitter runs without"


def test_unreadable_source_is_exit_3(call, place):
    code, _, err = call("run", "--source", "gone=./not-there", *INLINE)
    assert code == 3
    assert "not-there: no such folder" in err
    assert "Traceback" not in err


def test_unwritable_warehouse_is_exit_3(call, place, samples):
    (place / "file").write_text("in the way")
    (place / "curation.yaml").write_text("warehouse: ./file/warehouse\n")
    code, _, err = call("run", "--source", f"mine={samples}", *INLINE)
    assert code == 3
    assert "file" in err
    assert "Traceback" not in err


def test_max_failed_fraction_is_exit_1(call, samples):
    code, _, err = call("run", "--source", f"mine={samples}", "--set", "max_failed_fraction=0.01", *INLINE)
    assert code == 1
    assert "max_failed_fraction" in err


def test_sources(call, place, samples):
    assert (
        call("sources", "add", "mine", samples, "--set", "clips.splitter.clip_len_s=1", "--set", "clips.splitter.min_clip_len_s=0.5")[0]
        == 0
    )
    (listed,) = json.loads(call("sources", "list", "--json")[1])
    assert (listed["name"], listed["uri"]) == ("mine", str(samples))
    assert call("sources", "add", "bad", samples, "--set", "clips.x=1")[0] == 2
    assert call("sources", "add", "bad", samples, "--option", "aws_session_token=x")[0] == 2
    _code, out, _ = call("run", "--json", "--set", "engine.workers=0")
    assert json.loads(out)["sources"][0]["tables"]["clips"]["outcomes"]["ok"] == 8
    assert len(list((place / "warehouse" / "media").rglob("*.mp4"))) == len(list((place / "warehouse" / "media").rglob("*.webp"))) == 8
    assert call("sources", "remove", "mine", "--delete-tables")[0] == 0
    assert json.loads(call("sources", "list", "--json")[1]) == []
    assert not [path for path in (place / "warehouse" / "tables").rglob("mine.lance/**/*") if path.is_file()]
    assert not [path for path in (place / "warehouse" / "media").rglob("*") if path.is_file()]
    assert call("sources", "remove", "mine", "--delete-tables")[0] == 2
    assert call("sources", "remove", "../mine")[0] == 2


def test_tables_of_a_source_that_is_gone_can_still_be_deleted(call, place, samples):
    call("run", "--source", f"mine={samples}", *INLINE)
    assert call("sources", "remove", "mine")[0] == 0
    assert call("sources", "remove", "mine")[0] == 2
    assert (place / "warehouse" / "tables" / "clips" / "mine.lance").exists()
    assert call("sources", "remove", "mine", "--delete-tables")[0] == 0
    assert not [path for path in (place / "warehouse" / "tables").rglob("mine.lance/**/*") if path.is_file()]
    assert not [path for path in (place / "warehouse" / "media").rglob("*") if path.is_file()]


def test_state_lies_beside_the_settings_file(call, place, samples):
    (place / "project").mkdir()
    (place / "project" / "curation.yaml").write_text(f"sources: {{mine: {{uri: '{samples}'}}}}\nclips: {{splitter: {{clip_len_s: 2}}}}\n")
    (place / "elsewhere").mkdir()
    os.chdir(place / "elsewhere")
    code, _, err = call("run", "--config", "../project/curation.yaml")
    assert code == 0, err
    assert not list((place / "elsewhere").iterdir())
    assert {path.name for path in (place / "project").iterdir()} == {"curation.yaml", "dagster.yaml", ".dagster_state", "warehouse"}
    os.chdir(place / "project")
    with dg.DagsterInstance.from_config(str(place / "project")) as instance:
        assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.SUCCESS] * 2
        assert instance.get_dynamic_partitions("video_source") == ["mine"]


def test_a_settings_file_that_is_a_link(call, place, samples):
    (place / "mounted").mkdir()
    (place / "project").mkdir()
    (place / "mounted" / "data.yaml").write_text(f"sources: {{mine: {{uri: '{samples}'}}}}\n")
    (place / "project" / "curation.yaml").symlink_to(place / "mounted" / "data.yaml")
    assert call("--config", "project/curation.yaml", "run", "--set", "engine.workers=0")[0] == 0
    assert (place / "project" / "warehouse").is_dir()
    assert [path.name for path in (place / "mounted").iterdir()] == ["data.yaml"]


def test_dagster_home_must_be_a_folder(call, place, samples, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(place / "missing"))
    code, _, err = call("run", "--source", f"mine={samples}", *INLINE)
    assert code == 2
    assert "DAGSTER_HOME" in err


def test_two_sources_and_not_neighbours(call, place, samples, tmp_path):
    for name in ("a", "b", "c"):
        call("sources", "add", name, samples)
    code, out, _ = call("run", "--source", "a", "--source", "c", "--json", *INLINE)
    assert code == 0
    done = {item["source"]: item["tables"] for item in json.loads(out)["sources"]}
    assert set(done) == {"a", "c"}
    assert all(tables["clips"]["outcomes"]["ok"] == 3 for tables in done.values())
    status = {item["source"]: item["tables"] for item in json.loads(call("status", "--json")[1])["sources"]}
    assert status["b"]["raw_videos"]["outcomes"] == {}


def test_the_settings_file_wins_over_no_one_in_silence(call, place, samples):
    (place / "curation.yaml").write_text(f"sources: {{mine: {{uri: '{samples}'}}}}\n")
    for words in (["run", "--source", "mine=./elsewhere"], ["sources", "add", "mine", "./elsewhere"]):
        code, _, err = call(*words)
        assert code == 2
        assert "the settings file says that mine is" in err


def test_a_run_sees_its_own_settings(call, place, samples):
    call("sources", "add", "mine", samples, "--set", "clips.splitter.clip_len_s=3")
    words = ["--set", "engine.workers=0", "--set", "clips.splitter.clip_len_s=2", "--set", "frame_sets.sets.embeddings.quality=80"]
    code, out, _ = call("run", "--json", *words)
    assert code == 0
    tables = json.loads(out)["sources"][0]["tables"]
    assert {table["pending"] for table in tables.values()} == {0}
    (estimate,) = json.loads(call("run", "--dry-run", "--json", *words)[1])["sources"]
    assert (estimate["num_new"], estimate["num_stale"]) == (0, 0)


@pytest.mark.parametrize("setting", ["clip_scores.scorers=[]", "previews={}", "max_failed_fraction=0.5"])
def test_what_is_of_the_project_is_refused_for_one_source(call, samples, setting):
    code, _, err = call("sources", "add", "mine", samples, "--set", setting)
    assert code == 2
    assert "whole project" in err


def test_a_removed_source_leaves_nothing_behind(call, place, samples):
    call("run", "--source", f"mine={samples}", *INLINE)
    (place / "curation.yaml").write_text("previews: {small: {height_px: 90}}\n")  # 240p is forgotten
    registry = call("sources", "list", "--json")[1]
    assert json.loads(registry)
    lease = Lease(open_store(str(place / "warehouse")), "leases/clips/mine/", run_id="r1")
    with lease:
        code, _, err = call("sources", "remove", "mine", "--delete-tables")
        assert code == 3
        assert "run r1" in err
    assert json.loads(call("sql", "select count(*) as n from curated_clips", "--json")[1]) == [{"n": 3}]
    assert call("sources", "remove", "mine", "--delete-tables")[0] == 0
    assert not [path for name in ("tables/previews", "media") for path in (place / "warehouse" / name).rglob("*") if path.is_file()]
    assert json.loads(call("sql", "select count(*) as n from curated_clips", "--json")[1]) == [{"n": 0}]
    assert call("status", "--html", "page.html")[0] == 0


def test_the_kept_one_of_skipped_duplicates_may_go(call, place, samples):
    videos = place / "videos"
    videos.mkdir()
    makevideo.make_cuts(videos / "a.mp4", seconds=3, scenes=1)
    shutil.copyfile(videos / "a.mp4", videos / "b.mp4")
    arguments = ("run", "--source", f"mine={videos}", *INLINE, "--set", "transcoded_clips.skip_duplicates=true", "--json")
    assert json.loads(call(*arguments)[1])["corpus"]["curated_clips"]["outcomes"] == {"duplicate": 1, "selected": 1}
    assert json.loads(call(*arguments)[1])["sources"][0]["tables"]["transcoded_clips"]["outcomes"] == {"ok": 1}
    (videos / "a.mp4").unlink()
    document = json.loads(call(*arguments)[1])
    assert document["corpus"]["curated_clips"]["outcomes"] == {"selected": 1}
    assert len(document["run_ids"]) == 4


def test_a_damaged_file_is_a_warning(call, place, samples):
    call("run", "--source", f"mine={samples}", *INLINE)
    path = next((place / "warehouse" / "media" / "transcoded_clips").rglob("*.mp4"))
    os.truncate(path, 100)
    code, _, err = call("run", *INLINE)
    assert code == 0
    assert "warning: transcoded_clips: 1 of 3 files are missing or damaged" in err
    assert "--retry-failed" in err
    assert call("status", "--html", "page.html")[0] == 0
    assert "warning" not in call("run", "--retry-failed", *INLINE)[2]
    assert path.stat().st_size > 100


def test_a_selection_that_can_do_nothing_yet(call, samples):
    code, _, err = call("run", "--source", f"mine={samples}", "--select", "clips", *INLINE)
    assert code == 0
    assert "nothing was listed yet" in err


def test_a_page_of_clips(call, place, samples):
    call("run", "--source", f"mine={samples}", *INLINE)
    assert call("status", "--html", "page.html")[0] == 0
    assert (place / "page.html").read_text().count("<figure") == 3
    code, _, err = call("status", "--html", "missing/page.html")
    assert code == 2
    assert "missing/page.html: No such file" in err


def test_brackets_in_names_are_no_markup(call, place):
    (place / "videos" / "a[").mkdir(parents=True)
    makevideo.make_text(place / "videos" / "a[" / "b].mp4")
    makevideo.make_text(place / "videos" / "x [bold].mp4")
    assert call("run", "--source", "mine=./videos", *INLINE)[0] == 0
    out = call("failures")[1]
    assert "a[/b].mp4" in out
    assert "x [bold].mp4" in out
    assert "a[/b].mp4" in call("sql", "select key from raw_videos")[1]


def test_a_damaged_table_is_one_message(call, place, samples):
    call("run", "--source", f"mine={samples}", *INLINE)
    for path in (place / "warehouse" / "tables" / "clips" / "mine.lance" / "data").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    code, _, err = call("status")
    assert code == 3
    assert "damaged" in err
    assert "Traceback" not in err


def test_config_schema_and_check(call, place):
    schema = json.loads(call("config", "schema")[1])
    assert "warehouse" in schema["properties"]
    assert call("config", "check")[0] == 0
    (place / "curation.yaml").write_text("clips: {splitter: {clip_len_s: -1}}\n")
    code, _, err = call("config", "check")
    assert code == 2
    assert "clips.splitter.clip_len_s" in err
    (place / "curation.yaml").write_text("sources: {a/b: {uri: .}}\n")
    code, _, err = call("config", "check")
    assert code == 2
    assert "a/b" in err
    (place / "curation.yaml").write_text("- a list\n")
    assert call("config", "check")[0] == 2


def test_doctor(call):
    code, out, _ = call("doctor", "--json")
    findings = {item["what"]: item for item in json.loads(out)}
    assert code == 0
    assert findings["warehouse"]["level"] == "ok"
    assert "libx264" in findings["FFmpeg"]["seen"]


COMMAND = [sys.executable, "-c", "from curation_assets.cli import main; main()"]


def start(place, *words):
    environment = {key: value for key, value in os.environ.items() if key not in ("DAGSTER_HOME", "CURATION_CONFIG")}
    return subprocess.Popen([*COMMAND, *words], cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def versions(place):
    with curation_assets.connect(config=str(place / "curation.yaml")) as connection:
        return {
            view: connection.sql(f"select * from {view} order by all").fetchall()
            for view in ("clips", "frame_sets", "clip_scores", "embeddings_fingerprint")
        }


@pytest.mark.slow
def test_killed_anywhere_the_next_run_ends_the_same(place, samples, tmp_path_factory):
    undisturbed = tmp_path_factory.mktemp("undisturbed")
    words = ("run", "--source", f"mine={samples}", "--set", "engine.clips_per_chunk=1", *SPLIT)
    with start(undisturbed, *words) as process:
        assert process.wait(120) == 0, process.stderr.read()
    for pause_s in (2.5, 3.5, 4.5, 5.5):
        with start(place, *words) as process:
            time.sleep(pause_s)
            process.kill()
    with start(place, *words) as process:
        _out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert versions(place) == versions(undisturbed)
    # no run of a killed command line is left as running in Dagster's own tables
    with dg.DagsterInstance.from_config(str(place)) as instance:
        statuses = {run.status for run in instance.get_runs()}
    assert statuses <= {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE}


@pytest.mark.slow
def test_two_runs_at_once(place, samples):
    words = ("run", "--source", f"mine={samples}", "--json", *SPLIT)
    first, second = start(place, *words), start(place, *words)
    for process in (first, second):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert json.loads(out)["sources"][0]["tables"]["clips"]["outcomes"] == {"ok": 3}
    rows = versions(place)
    assert len(rows["clips"]) == 3
    assert len(rows["embeddings_fingerprint"]) == 5


@pytest.mark.slow
def test_interrupt_is_exit_130_and_leaves_nothing_running(place, tmp_path):
    (place / "videos").mkdir()
    makevideo.make_cfr(place / "videos" / "0.mp4", seconds=30, size=(640, 360))
    for number in range(1, 12):
        os.link(place / "videos" / "0.mp4", place / "videos" / f"{number}.mp4")
    process = start(place, "run", "--source", "mine=./videos")
    while "clips 12 of 12" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(1)  # in the middle of the decoding
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert time.monotonic() - started < 8
    assert "Traceback" not in err
    with dg.DagsterInstance.from_config(str(place)) as instance:
        assert {run.status for run in instance.get_runs()} == {dg.DagsterRunStatus.CANCELED}
