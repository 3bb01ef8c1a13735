"""`search`: documents, tables, pages and exit codes; texts with a real network of tiny weights."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import curation_assets
from curation_assets_tests import makevideo
from curation_assets_tests.test_cli import INLINE, call, place  # noqa: F401 - fixtures


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    """A folder with settings and a curated warehouse of two sources."""
    folder = tmp_path_factory.mktemp("search")
    for name in "ab":
        (folder / "videos" / name).mkdir(parents=True)
    makevideo.make_cuts(folder / "videos" / "a" / "[red] <i>&.mp4", seconds=2, scenes=2)
    makevideo.make_vfr(folder / "videos" / "a" / "vfr.mkv", seconds=4)
    makevideo.make_cuts(folder / "videos" / "b" / "other.mp4", seconds=2, scenes=2, seed=51)
    (folder / "curation.yaml").write_text(
        "sources: {a: {uri: videos/a}, b: {uri: videos/b}}\nengine: {workers: 0}\nclips: {splitter: {clip_len_s: 2}}\n"
        "previews: {small: {height_px: 32}}\n"
    )
    command = [sys.executable, "-m", "curation_assets.cli", "run"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def library(curated, place):  # noqa: F811
    shutil.copytree(curated, place, dirs_exist_ok=True)
    return place


def clips_of(call, key):  # noqa: F811
    _, out, _ = call("sql", "--json", f"select clip_id from clips join raw_videos using (video_id) where key = '{key}' order by start_ns")
    return [row["clip_id"] for row in json.loads(out)]


def test_json_and_table(call, library):  # noqa: F811
    first, second = clips_of(call, "other.mp4")
    code, out, err = call("search", "--clip", first, "--json")
    assert (code, err) == (0, "")
    hits = json.loads(out)
    assert [list(hit) for hit in hits] == [["clip_id", "video_id", "source", "key", "start_ns", "end_ns", "score"]] * 4
    assert first not in {hit["clip_id"] for hit in hits}
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert hits == curation_assets.search(clip=first)

    with curation_assets.connect() as db:
        vectors = dict(db.sql("select clip_id, embedding from embeddings_fingerprint where scope = 'clip'").fetchall())
    for hit in hits:
        assert hit["score"] == pytest.approx(float(np.dot(vectors[first], vectors[hit["clip_id"]])), abs=2e-6)

    code, out, _ = call("search", "--clip", first[:20], "-k", "2", "--where", "source = 'b' or key like '[red]%' and kept")
    assert code == 0
    assert re.search(rf"│ +-?\d\.\d{{4}} │ b +│ other.mp4 +│ 0:00:02.000 │ 0:00:04.000 │ {second} │", out)
    assert out.count("\n│") == 2
    assert "[red] <i>&.mp4" in out
    assert call("search", "--clip", first, "--where", "motion_mean > 1")[1] == "no clip fits the filter\n"
    assert json.loads(call("search", "--clip", first, "--where", "motion_mean > 1", "--json")[1]) == []


def test_a_video_from_anywhere(call, library, tmp_path_factory):  # noqa: F811
    elsewhere = shutil.copyfile(library / "videos" / "b" / "other.mp4", tmp_path_factory.mktemp("elsewhere") / "copy")
    code, out, err = call("search", "--video", elsewhere, "--start", "2", "--end", "4", "-k", "1", "--json")
    assert (code, err) == (0, "")
    (hit,) = json.loads(out)
    assert (hit["key"], hit["start_ns"], hit["score"]) == ("other.mp4", 2_000_000_000, 1.0)
    code, _, err = call("search", "--video", makevideo.make_text(library / "text.mp4"))
    assert code == 2
    assert "text.mp4: not_a_video: the bytes are no video" in err
    assert sorted(path.name for path in (library / "warehouse" / "sources").iterdir()) == ["a.json", "b.json"]


def test_a_video_whose_name_is_no_text(call, library):  # noqa: F811
    name = os.fsdecode(b"bad\xffname.mp4")
    shutil.copyfile(library / "videos" / "b" / "other.mp4", library / name)
    code, out, err = call("search", "--video", name, "--end", "2", "-k", "1", "--json", "--html", "hits.html")
    assert (code, err) == (0, "wrote hits.html\n")
    assert json.loads(out)[0]["key"] == "other.mp4"
    (library / name).write_bytes(b"")
    code, _, err = call("search", "--video", name)
    assert (code, "empty_object" in err) == (2, True)


def test_a_clip_in_capital_letters(call, library):  # noqa: F811
    first, _ = clips_of(call, "other.mp4")
    assert call("search", "--clip", first.upper(), "--json") == call("search", "--clip", first, "--json")
    assert call("search", "--clip", first[:13].upper(), "--json") == call("search", "--clip", first, "--json")


class Page(HTMLParser):
    """What is on a page: pictures, links and words; fails on tags that are left open."""

    def __init__(self, text):
        super().__init__()
        self.pictures, self.links, self.words, self.open = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open in ([], ["html"]), self.open

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.pictures.append(dict(attributes)["src"])
        if tag == "a":
            self.links.append(dict(attributes)["href"])
        if tag not in ("img", "meta", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_a_page_of_the_hits(call, library):  # noqa: F811
    first, second = clips_of(call, "other.mp4")
    code, out, err = call("search", "--clip", first, "--html", "hits.html", "--json")
    assert code == 0
    assert err == "wrote hits.html\n"
    hits = json.loads(out)
    page = Page((library / "hits.html").read_text())
    said = " ".join(page.words)
    assert [word for word in page.words if re.fullmatch("[0-9a-f-]{36}", word)] == [hit["clip_id"] for hit in hits]
    assert f"Clips like clip {first}" in said
    assert "a/[red] <i>&.mp4" in said
    assert all(f"{hit['score']:.4f}" in said for hit in hits)
    assert len(page.pictures) == 4
    for picture in page.pictures:
        assert picture.startswith("data:image/webp;base64,")
        with Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))) as image:
            assert image.n_frames > 1
    assert len(page.links) == 4
    assert any(second in link for link in page.links)
    assert call("search", "--clip", first, "--html", "no/such/folder.html")[0] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name one thing to search for"),
        (["dog", "--clip", "x"], "name one thing to search for"),
        ([""], "is empty"),
        (["dog"], "curation-assets models download clip-vit-b32"),
        (["dog", "--model", "cliip-vit-b32"], "Did you mean 'clip-vit-b32'"),
        (["dog", "--model", "fingerprint"], "fingerprint does not embed texts"),
        (["--clip", "x", "--model", "siglip2"], "no vectors of siglip2 yet"),
        (["--clip", "nothing"], "no clip 'nothing'"),
        (["--clip", "x", "--where", "motion > 0.1"], 'Referenced column "motion" not found'),
        (["--clip", "x", "--start", "1"], "belong to a video"),
        (["--clip", "x", "-k", "0"], "0 is not in the range"),
        (["--clip", "x", "-k", str(2**64)], f"{2**64} is not in the range"),
        (["--video", "no.mp4"], "vanished"),
        (["--video", "no.mp4", "--end", "0.0000000001"], "from --start to --end, is empty"),
        (["a\udcff"], "error: the text is not UTF-8 at character 2: 'a\\udcff'"),
        (["--clip", "a\udcff"], "error: the clip's id is not UTF-8"),
        (["--clip", "x", "--where", "key = '\udcff'"], "error: the filter is not UTF-8"),
        (["--clip", "x", "--model", "\udcff"], "error: the model's name is not UTF-8"),
        (["--video", "\ud800.mp4"], "error: the video's name is not UTF-8"),
    ],
)
def test_what_cannot_be_searched(call, library, words, said):  # noqa: F811
    code, out, err = call("search", *words)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_without_torch(library):
    """Clips and videos with the model that needs nothing import neither torch nor transformers."""
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None\n"
        "import curation_assets\n"
        "hits = curation_assets.search(video='videos/b/other.mp4', k=3)\n"
        "assert [hit['key'] for hit in hits[:2]] == ['other.mp4'] * 2, hits\n"
        "assert len(curation_assets.search(clip=hits[0]['clip_id'], k=3)) == 3\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=library, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_texts(call, place, monkeypatch, tmp_path_factory):  # noqa: F811
    pytest.importorskip("transformers")
    from curation_assets.models import image_text, load
    from curation_assets.models.registry import MODELS, ModelEntry
    from curation_assets_tests.checkpoints import write_clip
    from curation_assets_tests.hubserver import Hub, serve

    name = "clip-vit-b32"
    folder = write_clip(tmp_path_factory.mktemp("checkpoint"))
    files = {file: (folder / file).read_bytes() for file in ("config.json", "pytorch_model.bin", "tokenizer.json")}
    (place / "videos").mkdir()
    makevideo.make_cuts(place / "videos" / "cuts.mp4", seconds=2, scenes=3)
    (place / "curation.yaml").write_text(
        f"models: {{cache_dir: {place}/cache}}\nembeddings: {{models: [fingerprint, {name}]}}\n"
        "transcoded_clips: {enabled: false}\npreviews: {}\n"
    )
    with serve(Hub("openai/tiny", files)) as hub:
        spec = replace(image_text.CLIP_VIT_B32, weights=hub.spec())
        monkeypatch.setattr(image_text, "CLIP_VIT_B32", spec)
        monkeypatch.setitem(MODELS, name, ModelEntry(spec, image_text.build_clip_vit_b32))
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        code, _, err = call("search", "a dog runs")
        assert code == 2
        assert f"there are no vectors of {name} yet; make them: curation-assets run" in err
        assert call("models", "download", name)[0] == 0
        assert call("run", "--source", "mine=videos", *INLINE)[0] == 0
        code, out, err = call("search", "a dog runs", "--json", "-k", "2")
        assert (code, err) == (0, "")
        hits = json.loads(out)
        (text,) = load(name, weights=folder, device="cpu").embed_texts(["a dog runs"])
        with curation_assets.connect() as db:
            view = "embeddings_clip_vit_b32"
            vectors = dict(db.sql(f"select clip_id, embedding from {view} where scope = 'clip'").fetchall())
        scores = {clip: float(np.dot(vector, text)) for clip, vector in vectors.items()}
        assert [hit["clip_id"] for hit in hits] == sorted(scores, key=lambda clip: -scores[clip])[:2]
        assert [hit["score"] for hit in hits] == pytest.approx(sorted(scores.values(), reverse=True)[:2], abs=1e-5)
        # by default a clip is compared by the first model, any other by its name
        first = hits[0]["clip_id"]
        near = json.loads(call("search", "--clip", first, "--model", name, "--json")[1])
        assert {hit["clip_id"] for hit in near} == vectors.keys() - {first}
        assert near[0]["score"] != json.loads(call("search", "--clip", first, "--json")[1])[0]["score"]
        video = json.loads(call("search", "--video", "videos/cuts.mp4", "--end", "2", "--model", name, "-k", "1", "--json")[1])
        assert (video[0]["start_ns"], video[0]["score"]) == (0, pytest.approx(1, abs=1e-5))
        (place / "cache").rename(place / "away")
        code, _, err = call("search", "a dog runs")
        assert code == 2
        assert "the weights of clip-vit-b32 are not ready" in err
        assert err.strip().endswith("mend it: curation-assets models download clip-vit-b32")
