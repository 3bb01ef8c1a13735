"""Files of kept clips: made once, carried over when only the choice changes, cleaned up, and never named by a row without being there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest
from PIL import Image

from curation_assets.curation import media_files, media_workers
from curation_assets.curation.checks import media_exists, referential_integrity
from curation_assets.curation.incremental import Writer
from curation_assets.curation.media_looks import look_at_previews, look_at_transcoded_clips
from curation_assets.engine.local import LocalEngine
from curation_assets.schemas.previews import previews_table
from curation_assets.schemas.transcoded_clips import TRANSCODED_CLIPS
from curation_assets.settings import SettingsError
from curation_assets.storage.errors import StoreError
from curation_assets.storage.leases import Lease
from curation_assets.storage.views import connect
from curation_assets_tests import makevideo
from curation_assets_tests.curation.project import WITH_MEDIA, Project
from curation_assets_tests.storage.conftest import (  # noqa: F401 - fixtures
    file_size_limit,
    public_folder,
    s3_options,
    s3_root,
    unprivileged,
)

SPLIT = {"clips": {"splitter": {"clip_len_s": 2, "min_clip_len_s": 0.5}}}
STRICT = {"clip_scores": {"thresholds": {"min_motion_mean": 0.05}}}
NONE_KEPT = {"clip_scores": {"thresholds": {"min_motion_mean": 1.0}}}
NOTHING = {
    "raw_videos": 1,
    "clips": 0,
    "frame_sets": 0,
    "embeddings": 0,
    "transcoded_clips": 0,
    "previews": 0,
}  # the empty file is looked at again
PREVIEW = "previews/240p"


@pytest.fixture
def project(tmp_path, sample_videos):
    shutil.copytree(sample_videos, tmp_path / "videos")
    return Project(tmp_path / "videos", str(tmp_path / "warehouse"), SPLIT, config=WITH_MEDIA)


def fresh(project, tmp_path, settings=None):
    """The same in another warehouse, undisturbed."""
    whole = Project(project.videos, str(tmp_path / "undisturbed"), project.settings, config=WITH_MEDIA)
    whole.run(settings)
    return whole


def files(project, asset="transcoded_clips"):
    folder = Path(project.warehouse_uri) / "media" / asset
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} if folder.exists() else {}


def rows(project, asset="transcoded_clips"):
    found = project.rows(asset, ["clip_id", "outcome", "detail", "uri"])
    return [{**row, "uri": row["uri"] and project.warehouse.layout.uri(row["uri"])} for row in found]


def check_whole(project):
    """Rows and files are one to one, and every file plays."""
    for asset in ("transcoded_clips", PREVIEW):
        named = {Path(row["uri"]) for row in rows(project, asset) if row["uri"]}
        assert named == set(files(project, asset))
    for path in files(project):
        with av.open(str(path)) as container:
            assert sum(1 for _ in container.decode(video=0)) > 0


def spread_thresholds(project):
    """A threshold that keeps some clips of a video and not the others."""
    scores = sorted(row["motion_mean"] for row in project.rows("clip_scores/pixels", ["motion_mean"]))
    return {"clip_scores": {"thresholds": {"min_motion_mean": (scores[2] + scores[3]) / 2}}}


def test_first_run_then_nothing(project, tmp_path):
    project.run()
    check_whole(project)
    assert len(files(project)) == len(files(project, PREVIEW)) == 7
    before = files(project)
    assert project.work() == NOTHING
    assert files(project) == before
    assert project.versions() == fresh(project, tmp_path).versions()
    source = project.source()
    for spec in (TRANSCODED_CLIPS, previews_table("240p")):
        assert media_exists(source, spec).passed
        assert referential_integrity(source, spec).passed
    looks = [look_at_transcoded_clips(source), look_at_previews(source, name="240p")]
    assert "| encode | h264 | 96x64 | no |" in looks[0]
    assert "data:image/webp" in looks[1]
    assert all(len(look) < 300_000 for look in looks)


def test_a_threshold_makes_and_removes_only_what_it_moves(project, tmp_path):
    project.run()
    before = files(project)
    some = spread_thresholds(project)
    assert project.work(some)["transcoded_clips"] > 0
    kept = files(project)
    assert 0 < len(kept) < len(before)
    assert all(before[path] == made for path, made in kept.items())  # carried over, not made again
    assert {row["uri"] for row in rows(project)} == {str(path) for path in kept}
    assert project.versions(some) == fresh(project, tmp_path, some).versions(some)
    assert project.work(some) == NOTHING
    project.run(NONE_KEPT)
    assert files(project) == files(project, PREVIEW) == {}
    assert project.status(NONE_KEPT)["transcoded_clips"] == {"outcomes": {}, "pending": 0}
    project.run(some)
    project.run()
    check_whole(project)
    now = files(project)
    assert set(now) == set(before)
    assert all(now[path] == made for path, made in files(project).items() if path in kept)


def test_what_is_kept_is_what_the_view_says(project):
    project.run()
    some = spread_thresholds(project)
    project.run(some)
    source = project.source(some)
    from curation_assets.curation.select import reject_reason_sql
    from curation_assets.curation.warehouse import table_specs

    reject = {"test": reject_reason_sql(source.settings.clip_scores.thresholds)}
    with connect(source.warehouse.layout, table_specs(source.settings), ["test"], reject_sql=reject) as db:
        kept = {row[0] for row in db.sql("select clip_id from clip_scores where kept").fetchall()}
        found = {row[0] for row in db.sql("select clip_id from transcoded_clips where outcome = 'ok'").fetchall()}
        shown = {row[0] for row in db.sql("select clip_id from previews_240p where outcome = 'ok'").fetchall()}
    assert kept == found == shown


def test_settings_make_again_what_they_change(project):
    project.run()
    first = files(project)
    assert project.work({"transcoded_clips": {"encoder_threads": 2}})["transcoded_clips"] == 0
    assert project.work({"transcoded_clips": {"quality": 30}}) == NOTHING | {"transcoded_clips": 3}
    assert not set(first) & set(files(project))  # other names, and the old ones are gone
    check_whole(project)
    assert project.work({"transcoded_clips": {"quality": 30}, "previews": {"240p": {"from": "clip"}}}) == NOTHING | {"previews": 3}
    check_whole(project)


def test_new_changed_and_deleted_videos(project, tmp_path):
    project.run()
    before = files(project)
    makevideo.make_cfr(project.videos / "new.mp4", seconds=2, seed=5)
    (project.videos / "vfr.mkv").unlink()
    shutil.copy(project.videos / "cuts.mp4", project.videos / "cuts2.mp4")
    makevideo.make_cuts(project.videos / "cuts.mp4", seconds=2, scenes=2, seed=9)
    assert project.work()["transcoded_clips"] == 3
    check_whole(project)
    untouched = {path for path in before if files(project).get(path) == before[path]}
    assert len(untouched) == 2  # of web.webm
    assert project.versions() == fresh(project, tmp_path).versions()


def test_a_deleted_file_is_told_and_made_again(project):
    project.run()
    victim = sorted(files(project))[0]
    victim.unlink()
    check = media_exists(project.source(), TRANSCODED_CLIPS)
    assert not check.passed
    assert victim.name in check.description
    assert project.work()["transcoded_clips"] == 0
    others = files(project)
    assert project.work(retry_failed=True)["transcoded_clips"] == 1
    assert set(files(project)) == {*others, victim}
    assert all(files(project)[path] == made for path, made in others.items())


def test_a_damaged_file_is_told_and_made_again(project):
    project.run()
    before = files(project), files(project, PREVIEW)
    clip, preview = next(iter(files(project))), next(iter(files(project, PREVIEW)))
    for path in (clip, preview):
        os.truncate(path, 60)
    source = project.source()
    assert "7 files" in look_at_transcoded_clips(source)
    assert "7 previews" in look_at_previews(source, name="240p")
    for spec, path in ((TRANSCODED_CLIPS, clip), (previews_table("240p"), preview)):
        check = media_exists(source, spec)
        assert not check.passed
        assert path.name in check.description
    project.run(retry_failed=True)
    check_whole(project)
    assert (files(project).keys(), files(project, PREVIEW).keys()) == tuple(found.keys() for found in before)
    assert media_exists(source, TRANSCODED_CLIPS).passed


def test_orphans_go_when_they_are_old(project):
    project.run()
    folder = next(iter(files(project))).parent
    young, old = folder / "young-12345678.mp4", folder / "old-12345678.mp4"
    for path in (young, old):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 7200,) * 2)
    project.run()  # changes nothing, so looks at nothing
    assert old.exists()
    makevideo.make_cfr(project.videos / "new.mp4", seconds=1)
    project.run()
    assert not old.exists()
    assert young.exists()
    assert media_files.sweep_media(project.source(), TRANSCODED_CLIPS, older_than=media_files.ORPHAN_AGE * 0) == 1
    check_whole(project)


def test_an_interrupted_video_goes_on(project, tmp_path, monkeypatch):
    """Pieces of one clip; the run is cut after some; the next makes the others only."""
    makevideo.make_cuts(project.videos / "long.mp4", seconds=2, scenes=6, seed=3)
    one = {"engine": {"clips_per_chunk": 1}}
    made = []
    transcode = media_workers.transcode_clips

    def counted(*args, **kwargs):
        if len(made) == limit:
            raise KeyboardInterrupt
        made.append(kwargs["spans"])
        return transcode(*args, **kwargs)

    monkeypatch.setattr(media_workers, "transcode_clips", counted)
    limit = 4
    with pytest.raises(KeyboardInterrupt):
        project.run(one)
    assert len(made) == 4
    limit = None
    project.run(one)
    assert len(made) == 13
    check_whole(project)
    assert project.versions() == fresh(project, tmp_path).versions()


KILLED = """
import sys
from curation_assets.engine.local import LocalEngine
from curation_assets_tests.curation.project import Project, WITH_MEDIA
from pathlib import Path

if __name__ == "__main__":
    engine = LocalEngine(workers=2)
    Project(Path(sys.argv[1]), sys.argv[2], {"clips": {"splitter": {"clip_len_s": 2, "min_clip_len_s": 0.5}}, "engine": {"clips_per_chunk": 1}},
            engine=engine, config=WITH_MEDIA).run(stages=("transcoded_clips",))
"""


def test_killed_in_the_middle(project, tmp_path, monkeypatch):
    """kill -9 at several moments: the next run ends as an undisturbed one, with no row without a file and no file without a row."""
    makevideo.make_cuts(project.videos / "long.mp4", seconds=2, scenes=8, size=(640, 360), seed=3)
    whole = fresh(project, tmp_path)
    project.run(stages=("raw_videos", "clips", "frame_sets", "embeddings"))
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    root = str(Path(__file__).parents[2])
    killed_at_work = 0
    for wanted in (1, 3, 6):
        process = subprocess.Popen(
            [sys.executable, str(script), str(project.videos), project.warehouse_uri],
            env={**os.environ, "PYTHONPATH": root},
            start_new_session=True,
        )
        deadline = time.monotonic() + 60
        while len(files(project)) < wanted and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        killed_at_work += process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        named = {Path(row["uri"]) for row in rows(project) if row["uri"]}
        assert named <= set(files(project))
    assert killed_at_work >= 1
    monkeypatch.setattr("curation_assets.curation.media_files.ORPHAN_AGE", media_files.ORPHAN_AGE * 0)
    project.run()
    media_files.sweep_media(project.source(), TRANSCODED_CLIPS, older_than=media_files.ORPHAN_AGE * 0)
    check_whole(project)
    assert project.versions() == whole.versions()
    assert project.work() == NOTHING
    left = list(Path(media_files.work_folder(project.source().settings.engine)).glob("*-*"))
    assert not [folder for folder in left if folder.name.partition("-")[0] == str(process.pid)]


def test_workers_are_processes_and_give_the_same(project, tmp_path):
    whole = fresh(project, tmp_path)
    with_workers = Project(project.videos, project.warehouse_uri, SPLIT, engine=LocalEngine(workers=2), config=WITH_MEDIA)
    try:
        with_workers.run()
    finally:
        with_workers.engine.close()
    assert with_workers.versions() == whole.versions()
    check_whole(project)


@pytest.mark.parametrize("limit_bytes", [900, 2500])
def test_a_full_disk_in_the_middle_of_an_encode(project, tmp_path, file_size_limit, limit_bytes):  # noqa: F811
    project.run(stages=("raw_videos", "clips", "frame_sets", "embeddings"))
    for stage in ("transcoded_clips", "previews"):
        with file_size_limit(limit_bytes), pytest.raises(StoreError) as caught:
            project.run(stages=(stage,))
        assert "\n" not in str(caught.value)
        assert any(word in str(caught.value) for word in ("room", "space", "File too large"))
    project.status()
    project.run()
    media_files.sweep_media(project.source(), TRANSCODED_CLIPS, older_than=media_files.ORPHAN_AGE * 0)
    check_whole(project)
    assert project.versions() == fresh(project, tmp_path).versions()


def test_a_media_folder_that_may_not_be_written(project, public_folder):  # noqa: F811
    shutil.copytree(project.videos, public_folder / "videos")
    closed = Project(public_folder / "videos", str(public_folder / "wh"), project.settings, config=WITH_MEDIA)
    closed.run(stages=("raw_videos", "clips", "frame_sets"))
    (public_folder / "wh/media").mkdir()
    for folder in public_folder.rglob("*"):
        folder.chmod(0o777 if folder.is_dir() else 0o666)
    (public_folder / "wh/media").chmod(0o555)
    with unprivileged(), pytest.raises(StoreError, match=r"[Pp]ermission denied"):
        closed.run(stages=("transcoded_clips",))
    assert rows(closed) == []


def test_a_bucket(sample_videos, s3_root, tmp_path):  # noqa: F811
    shutil.copytree(sample_videos, tmp_path / "videos")
    store = s3_root.store()
    for path in (tmp_path / "videos").iterdir():
        store.put(f"in/{path.name}", path.read_bytes())
    project = Project(
        tmp_path / "videos",
        f"{s3_root.uri}/warehouse",
        SPLIT,
        uri=f"{s3_root.uri}/in",
        storage_options=s3_root.options,
        config=WITH_MEDIA,
    )
    project.run()
    keys = {info.key for page in store.list_pages("warehouse/media/") for info in page}
    named = {row["uri"].removeprefix(f"{s3_root.uri}/") for asset in ("transcoded_clips", PREVIEW) for row in rows(project, asset)}
    assert keys == named
    assert len(keys) == 14
    project.run(NONE_KEPT)
    assert [info.key for page in store.list_pages("warehouse/media/") for info in page] == []


def test_a_missing_encoder_is_named_before_work(project, monkeypatch):
    project.run(stages=("raw_videos", "clips", "frame_sets"))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SettingsError, match=r"libopenh264 cannot be used here: it needs an ffmpeg program.*Available: libx264"):
        project.run({"transcoded_clips": {"encoder": "libopenh264"}}, stages=("transcoded_clips",))
    with pytest.raises(SettingsError, match="takes none: it has no constant quality"):
        project.run({"transcoded_clips": {"encoder": "libopenh264", "quality": 20}}, stages=("transcoded_clips",))
    assert files(project) == {}


def test_clips_that_cannot_be_copied_are_rows(project):
    project.run({"transcoded_clips": {"way": "copy"}})
    found = rows(project)
    assert {row["outcome"] for row in found} == {"ok", "unsupported"}
    assert all((row["uri"] is None) == (row["outcome"] == "unsupported") for row in found)
    assert all("cannot be copied" in row["detail"] for row in found if row["uri"] is None)
    check_whole(project)
    assert project.work({"transcoded_clips": {"way": "copy"}})["transcoded_clips"] == 0
    assert project.work({"transcoded_clips": {"way": "copy"}}, retry_failed=True)["transcoded_clips"] == 3


def test_damage_that_an_earlier_stage_saw_is_not_copied(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    path = makevideo.make_cfr(videos / "x.mp4", seconds=6, g="25", keyint_min="25", sc_threshold="0")
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    data[places[55] + 8 : places[60]] = bytes(places[60] - places[55] - 8)  # in the second clip
    path.write_bytes(data)
    project = Project(videos, str(tmp_path / "warehouse"), SPLIT, config=WITH_MEDIA)
    project.run()
    made = sorted(project.rows("transcoded_clips", ["how", "outcome", "detail", "num_frames", "uri"]), key=lambda row: row["num_frames"])
    assert [(row["how"], row["outcome"]) for row in made] == [("encode", "truncated"), ("copy", "ok"), ("copy", "ok")]
    assert "of 50 frames could not be decoded" in made[0]["detail"]
    for row in made:
        with av.open(project.warehouse.layout.uri(row["uri"])) as container:
            assert sum(1 for _ in container.decode(video=0)) == row["num_frames"]
    assert set(project.work().values()) == {0}


def test_previews_have_the_pictures_proportions(project):
    (project.videos / "text.mp4").unlink()
    makevideo.make_cfr(project.videos / "wide.mp4", seconds=3, size=(320, 160))
    makevideo.make_rotated(project.videos / "tall.mp4", seconds=3, size=(320, 160))
    for origin in ("frames", "clip"):
        override = {"previews": {"240p": {"height_px": 80, "fps": 1, "seconds": 1.9, "from": origin}}}
        project.run(override)
        sizes = set()
        for path in files(project, PREVIEW):
            with Image.open(path) as image:
                sizes.add(image.size)
                assert image.n_frames in (1, 2)
                assert image.n_frames == 1 or image.info["loop"] == 0
        assert {(160, 80), (40, 80), (96, 64)} == sizes
        check_whole(project)


def test_no_commit_without_the_lease(project, monkeypatch):
    """A run that lost its lease stops before it writes rows."""
    checked = []
    check = Lease.check
    monkeypatch.setattr(Lease, "check", lambda self: [checked.append(self), check(self)][1])
    flushed = []
    flush = Writer.flush
    monkeypatch.setattr(Writer, "flush", lambda self: [flushed.append(self), flush(self)][1])
    project.run()
    assert checked
    assert flushed
