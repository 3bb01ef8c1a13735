"""curated_clips and the files of its clips: every one that it names plays, and why the others have none."""

import shutil
from pathlib import Path

import av
import pytest

from curation_assets.curation.corpus_status import corpus_status
from curation_assets.curation.query import clip_story
from curation_assets.curation.recut import CutError, cut_clip
from curation_assets.curation.sheet import render_sheet
from curation_assets.curation.warehouse import Warehouse
from curation_assets.schemas.duplicates import duplicates_table
from curation_assets.settings import SettingsError
from curation_assets_tests import makevideo
from curation_assets_tests.curation.test_corpus import Corpus

A_FIRST = "dedup: {which_to_keep: [source]}\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name in ("a", "b"):
        (folder / "videos" / name).mkdir(parents=True)
    makevideo.make_cuts(folder / "videos" / "a" / "cuts.mp4", seconds=2, scenes=3)
    shutil.copyfile(folder / "videos" / "a" / "cuts.mp4", folder / "videos" / "b" / "copy.mp4")
    makevideo.make_cuts(folder / "videos" / "b" / "other.mp4", seconds=2, scenes=1, seed=51)
    corpus = Corpus(folder, with_media=True)
    corpus.write(A_FIRST)
    corpus.curate("a", "b")
    corpus.update()
    return folder


@pytest.fixture
def corpus(made, tmp_path):
    shutil.copytree(made, tmp_path / "corpus")
    corpus = Corpus(tmp_path / "corpus", with_media=True)
    corpus.write(A_FIRST)
    return corpus


def num_frames(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def curated(corpus):
    return corpus.sql("select key, is_selected, reject_reasons, uri is not null from curated_clips order by key, start_ns")


def test_every_file_that_is_named_plays(corpus, made):
    """Also in a warehouse that was corpus."""
    rows = corpus.sql("select key, uri, num_frames from curated_clips join clips using (clip_id) where is_selected")
    assert sorted(key for key, *_ in rows) == ["cuts.mp4"] * 3 + ["other.mp4"]
    assert all(num_frames(uri) == number and uri.startswith(str(corpus.folder)) for _, uri, number in rows)


def test_the_sheet_moves_and_opens_clips(corpus):
    page = render_sheet(corpus.run)
    assert page.count("data:image/webp;base64,") == page.count("<figure") == 7
    assert page.count("<a href='file:///") == 7


def test_the_story_tells_of_files(corpus):
    ((clip,),) = corpus.sql("select clip_id from curated_clips where key = 'other.mp4'")
    files = clip_story(corpus.config, clip)["files"]
    assert set(files) == {"transcoded_clips", "previews_240p"}
    assert Path(files["transcoded_clips"]["uri"]).exists()


def test_a_clip_is_cut_again(corpus, tmp_path):
    clip, start_ns = corpus.sql("select clip_id, start_ns from curated_clips where key = 'copy.mp4' order by start_ns limit 1 offset 1")[0]
    made = cut_clip(corpus.run, clip[:13], tmp_path / "again.mp4")
    assert start_ns == 2_000_000_000
    assert made.file.num_frames == num_frames(tmp_path / "again.mp4") == 50
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["again.mp4"]
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(SettingsError, match="no clip 'zzz'"):
        cut_clip(corpus.run, "zzz", tmp_path / "no.mp4")
    with pytest.raises(FileNotFoundError):
        cut_clip(corpus.run, clip, tmp_path / "no" / "no.mp4")


def test_a_changed_video_is_not_cut(corpus, tmp_path):
    corpus.curate("b")
    ((clip,),) = corpus.sql("select clip_id from curated_clips where key = 'other.mp4'")
    video = corpus.folder / "videos" / "b" / "other.mp4"
    makevideo.make_cuts(video, seconds=2, scenes=2, seed=7)
    with pytest.raises(CutError, match="changed"):
        cut_clip(corpus.run, clip, tmp_path / "no.mp4")
    video.unlink()
    with pytest.raises(CutError, match="vanished"):
        cut_clip(corpus.run, clip, tmp_path / "no.mp4")
    assert not (tmp_path / "no.mp4").exists()


def test_a_clip_without_its_file_yet_is_not_selected(corpus):
    shutil.rmtree(corpus.folder / "warehouse" / "tables" / "transcoded_clips" / "b.lance")
    corpus.update()
    assert curated(corpus)[-1] == ("other.mp4", False, ["not_transcoded"], False)
    assert curated(corpus)[0] == ("copy.mp4", False, ["duplicate"], False)
    corpus.curate("b")
    corpus.update()
    assert curated(corpus)[-1] == ("other.mp4", True, [], True)


def test_nothing_is_left_out_for_a_clip_whose_file_cannot_be_made(corpus):
    assert curated(corpus)[0] == ("copy.mp4", False, ["duplicate"], True)
    cannot = "sources: {a: {uri: videos/a, settings: {transcoded_clips: {way: copy, max_side_px: 16}}}, b: {uri: videos/b}}\n"
    corpus.write(cannot + A_FIRST)
    corpus.curate("a", "b")
    assert [table["pending"] for table in corpus_status(corpus.run).values()] == [1, 0, 1]  # the same vectors
    corpus.update()
    rows = curated(corpus)
    assert rows[0] == ("copy.mp4", True, [], True)
    assert rows[3] == ("cuts.mp4", False, ["unsupported"], False)
    assert [report.is_unchanged for report in corpus.update()] == [True, True]


def test_duplicates_need_not_be_made(corpus):
    files = corpus.folder / "warehouse" / "media" / "transcoded_clips" / "b"
    assert len(list(files.iterdir())) == 4
    corpus.write(A_FIRST + "transcoded_clips: {skip_duplicates: true}\n")
    before = next(
        path.stat().st_mtime_ns
        for path in files.iterdir()
        if path.name[:36] in str(corpus.sql("select uri from curated_clips where is_selected"))
    )
    corpus.curate("a", "b")
    corpus.update()
    (left,) = files.iterdir()
    assert left.stat().st_mtime_ns == before
    assert [row[1:] for row in curated(corpus)] == [(False, ["duplicate"], False)] * 3 + [(True, [], True)] * 4
    assert [report.is_unchanged for report in corpus.update()] == [True, True]
    corpus.write(A_FIRST)
    corpus.curate("a", "b")
    assert len(list(files.iterdir())) == 4


def test_what_is_left_of_a_replaced_video_counts_for_nothing(corpus):
    """Its clips have the ids of the old ones."""
    makevideo.make_cuts(corpus.folder / "videos" / "b" / "other.mp4", seconds=2, scenes=1, seed=99)
    corpus.curate("b", stages=("raw_videos", "clips"))
    corpus.update()
    assert curated(corpus)[-1] == ("other.mp4", False, ["not_scored"], False)
    assert corpus.run.table(duplicates_table("fingerprint")).facts()["num_clips"] == 6
    corpus.curate("b")
    corpus.update()
    assert curated(corpus)[-1] == ("other.mp4", True, [], True)


def test_files_that_were_made_anew_are_named_at_once(corpus):
    corpus.write(A_FIRST + "transcoded_clips: {way: encode, quality: 40}\n")
    corpus.curate("a", "b", stages=("transcoded_clips",))
    assert all(Path(uri).exists() for (uri,) in corpus.sql("select uri from curated_clips"))


def test_a_source_that_is_gone_has_no_pictures_on_the_sheet(corpus):
    Warehouse.of(corpus.config).registry.remove("b")
    assert render_sheet(corpus.run).count("<figure") == 7


def test_a_project_that_was_moved_goes_on(corpus, tmp_path):
    corpus.folder.rename(tmp_path / "elsewhere")
    corpus.folder = tmp_path / "elsewhere"
    files = {path: path.stat().st_mtime_ns for path in corpus.folder.rglob("*.mp4")}
    corpus.curate("a", "b")
    corpus.update()
    assert {path: path.stat().st_mtime_ns for path in corpus.folder.rglob("*.mp4")} == files
    corpus.write(A_FIRST + "transcoded_clips: {way: encode}\nframe_sets: {sets: {embeddings: {target_fps: 3}}}\n")
    corpus.curate("a", "b")
    corpus.update()
    assert [row[1] for row in curated(corpus)] == [False] * 3 + [True] * 4
    assert corpus.sql("select distinct how from transcoded_clips") == [("encode",)]


def test_without_files(corpus):
    corpus.write(A_FIRST + "transcoded_clips: {enabled: false}\n")
    corpus.update()
    assert [row[1:] for row in curated(corpus)] == [(False, ["duplicate"], False)] * 3 + [(True, [], False)] * 4
