"""embeddings/<model>: what its settings do, what is computed once, and what becomes of bad input and of a GPU that fails; with a tiny siglip2."""

import hashlib
import io
import json
import weakref
from dataclasses import replace

import lance
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from curation_assets.curation import loaded_models
from curation_assets.curation.checks import frames_ready
from curation_assets.curation.embeddings import expected_embeddings, text_scores, update_embeddings
from curation_assets.curation.model_files import check_models
from curation_assets.curation.model_stage import DeviceError
from curation_assets.models import image_text, shared
from curation_assets.models.batching import ClipRunner
from curation_assets.models.registry import MODELS, ModelEntry
from curation_assets.models.weights import WeightFile, WeightsSpec, snapshot_folder
from curation_assets.schemas.embeddings import embeddings_table
from curation_assets.schemas.frame_sets import FRAME_SETS
from curation_assets.settings import Config, SettingsError
from curation_assets_tests import makevideo
from curation_assets_tests.checkpoints import write_siglip2

pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

UPSTREAM = ("raw_videos", "clips", "frame_sets")
TABLE = embeddings_table("siglip2", 768)
TEXTS = ["a red dog", "the blue cat"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = write_siglip2(tmp_path_factory.mktemp("checkpoint"))
    return {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors", "tokenizer.json")}


@pytest.fixture
def tiny(project, checkpoint, tmp_path, monkeypatch):
    """The project with the tiny siglip2 in a cache of its own, and frames that are there."""
    files = tuple(WeightFile(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in checkpoint.items())
    weights = WeightsSpec(repo="google/tiny", revision="0123456789" * 4, files=files, licence="MIT")
    spec = replace(image_text.SIGLIP2, weights=weights)
    monkeypatch.setattr(image_text, "SIGLIP2", spec)
    monkeypatch.setitem(MODELS, "siglip2", ModelEntry(spec, image_text.build_siglip2))
    folder = snapshot_folder(weights, tmp_path / "cache")
    folder.mkdir(parents=True)
    for name, data in checkpoint.items():
        (folder / name).write_bytes(data)
    project.settings |= {"models": {"cache_dir": str(tmp_path / "cache")}, "embeddings": {"models": ["siglip2"], "device": "cpu"}}
    project.run(stages=UPSTREAM)
    yield project
    shared.release()


def embed(project, settings=None, **extra):
    return update_embeddings(project.source(settings, **extra), "siglip2")


def of_embeddings(**settings):
    return {"embeddings": settings}


def rows(project, settings=None):
    columns = ["row_id", "video_id", "clip_id", "scope", "outcome", "detail", "embedding", "text_scores"]
    return {row["row_id"]: row for row in project.rows("embeddings/siglip2", columns, settings)}


@pytest.fixture
def calls(monkeypatch):
    """Number of clips of each call of the model."""
    seen = []
    real = ClipRunner.__call__

    def spy(self, clips):
        seen.append(len(clips))
        return real(self, clips)

    monkeypatch.setattr(ClipRunner, "__call__", spy)
    return seen


def test_weights_are_loaded_once_for_all_sources(tiny, monkeypatch):
    loads = []
    real = loaded_models.load

    def load(name, **arguments):
        loads.append(arguments["dtype"])
        return real(name, **arguments)

    monkeypatch.setattr(loaded_models, "load", load)
    embed(tiny)
    held, _ = loaded_models.load_model(tiny.source().settings, MODELS["siglip2"].spec, log=lambda _: None)
    (tiny.videos / "more.webm").write_bytes((tiny.videos / "web.webm").read_bytes())
    tiny.run(stages=UPSTREAM)
    assert embed(tiny).num_work == 1
    assert embed(tiny, of_embeddings(batch_size=3, gpu_memory_gb=8, scopes=["clip"])).num_work == 4  # what is no part of the model
    assert loads == ["auto"]
    gone = weakref.ref(held.embedder)
    del held
    embed(tiny, of_embeddings(dtype="bfloat16"))
    assert loads == ["auto", "bfloat16"]
    assert gone() is None  # never two at once
    shared.release()
    tiny.run(of_embeddings(models=["siglip2", "fingerprint"]), stages=("embeddings",))
    assert loads == ["auto", "bfloat16", "auto"]


def test_batches_span_clips_and_videos(tiny, calls):
    embed(tiny, of_embeddings(batch_size=4))
    before = rows(tiny)
    num_clips = sum(row["scope"] == "clip" for row in before.values())
    assert calls == [4] * (num_clips // 4) + ([num_clips % 4] if num_clips % 4 else [])
    assert len({row["video_id"] for row in before.values()}) == 3
    del calls[:]
    # how it runs recomputes nothing, and changes nothing when it is computed
    for settings in (of_embeddings(batch_size=1), of_embeddings(device="auto"), of_embeddings(compile=True, num_gpus_per_worker=0.5)):
        assert embed(tiny, settings).num_work == 0
    tiny.source().table(TABLE).delete_videos({row["video_id"] for row in before.values()})
    embed(tiny, of_embeddings(batch_size=1))
    assert set(calls) == {1}
    assert rows(tiny) == before


def test_formats_and_choices_that_are_named_recompute(tiny):
    def fingerprints(**settings):
        return expected_embeddings(tiny.source(of_embeddings(**settings)), "siglip2").fingerprints

    plain = fingerprints()
    assert plain == fingerprints(dtype="auto", batch_size=7, device="cuda", too_few_frames="re_extract")
    others = [fingerprints(dtype="float32"), fingerprints(dtype="bfloat16"), fingerprints(selection="curator")]
    for identity, own in plain.items():
        assert len({own, *(other[identity] for other in others)}) == 4


def test_curator_takes_every_kth_frame_from_the_first(tiny):
    settings = of_embeddings(selection="curator", scopes=["clip"])
    # 5 per second: 10 or so of a clip of 2 s, where the two ways differ
    settings["frame_sets"] = {"sets": {"embeddings": {"purpose": "embeddings", "target_fps": 8, "codec": "png"}}}
    tiny.run(settings, stages=UPSTREAM)
    embed(tiny, settings)
    stored = {row["clip_id"]: row["frames"] for row in tiny.rows("frame_sets", ["clip_id", "frames"], settings)}
    model, _ = loaded_models.load_model(tiny.source(settings).settings, MODELS["siglip2"].spec, log=lambda _: None)
    differ = 0
    for row in rows(tiny, settings).values():
        pictures = stored[row["clip_id"]]
        chosen = pictures[:: len(pictures) // 8][:8]
        frames = np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in chosen])
        np.testing.assert_allclose(row["embedding"], model.embedder.embed_frames(frames[None])[0], atol=1e-5)
        differ += len(pictures) > 8
    assert differ


def test_texts_are_scored_and_other_texts_recompute_no_vector(tiny, calls):
    embed(tiny)
    plain = rows(tiny)
    assert all(row["text_scores"] is None for row in plain.values())
    del calls[:]
    assert embed(tiny, of_embeddings(texts_to_verify=TEXTS)).num_work == 3
    scored = rows(tiny)
    assert calls == []
    model, _ = loaded_models.load_model(tiny.source().settings, MODELS["siglip2"].spec, log=lambda _: None)
    vectors = model.embedder.embed_texts(TEXTS).astype(np.float64)
    assert scored.keys() == plain.keys()
    for identity, row in scored.items():
        assert {**row, "text_scores": None} == plain[identity]
        weights = [np.exp(100 * np.dot(row["embedding"], vector)) for vector in vectors]
        assert [item["text"] for item in row["text_scores"]] == TEXTS
        assert [item["score"] for item in row["text_scores"]] == pytest.approx([weight / sum(weights) for weight in weights], abs=1e-5)
    assert embed(tiny, of_embeddings(texts_to_verify=TEXTS)).num_work == 0
    # a new video gets both at once; the others get the new order
    (tiny.videos / "more.webm").write_bytes((tiny.videos / "web.webm").read_bytes())
    tiny.run(stages=UPSTREAM)
    assert embed(tiny, of_embeddings(texts_to_verify=TEXTS[::-1])).num_work == 4
    num_new = sum(row["scope"] == "clip" and row["row_id"] not in plain for row in rows(tiny).values())
    assert sum(calls) == num_new > 0
    assert all([item["text"] for item in row["text_scores"]] == TEXTS[::-1] for row in rows(tiny).values())
    assert embed(tiny).num_work == 4
    assert sum(calls) == num_new
    assert {identity: row for identity, row in rows(tiny).items() if identity in plain} == plain


def test_models_without_texts_leave_them_alone(tiny):
    both = {"models": ["siglip2", "fingerprint"]}
    tiny.run(of_embeddings(**both), stages=("embeddings",))
    report = tiny.run(of_embeddings(**both, texts_to_verify=TEXTS), stages=("embeddings",))["embeddings"]
    assert (report.num_work, report.num_unchanged) == (0, 3)


def test_scores_of_like_vectors_stay_finite():
    scores = text_scores(np.array([[1, 0], [0, 1]], np.float32), np.array([[1, 0], [-1, 0], [0, 1]], np.float32))
    np.testing.assert_allclose(scores, [[1, 0, 0], [0, 0, 1]], atol=1e-30)


@pytest.mark.parametrize(
    ("policy", "num_frames", "outcome"), [("re_extract", 8, "ok"), ("repeat", 2, "ok"), ("refuse", 2, "too_few_frames")]
)
def test_policies_for_too_few_frames(tiny, policy, num_frames, outcome):
    for path in tiny.videos.iterdir():
        path.unlink()
    makevideo.make_cfr(tiny.videos / "short.mp4", seconds=1)
    settings = of_embeddings(too_few_frames=policy)
    tiny.run(settings, stages=UPSTREAM)
    embed(tiny, settings)
    counts = [row["num_frames"] for row in tiny.rows("frame_sets", ["num_frames"], settings)]
    assert len(counts) == 1
    assert counts[0] >= num_frames if policy == "re_extract" else counts[0] == num_frames
    found = list(rows(tiny, settings).values())
    assert {row["outcome"] for row in found} == {outcome}
    assert all((row["embedding"] is None) == (outcome != "ok") for row in found)
    if outcome != "ok":
        assert found[0]["detail"] == "2 frames, the model takes 8; embeddings.too_few_frames is refuse"


def test_re_extract_repeats_where_the_video_has_no_more(tiny):
    for path in tiny.videos.iterdir():
        path.unlink()
    makevideo.make_cfr(tiny.videos / "slow.mp4", seconds=2, fps=2)
    tiny.run(stages=UPSTREAM)
    embed(tiny)
    assert [row["num_frames"] for row in tiny.rows("frame_sets", ["num_frames"])] == [4]
    assert {row["outcome"] for row in rows(tiny).values()} == {"ok"}


def test_vectors_that_are_none_are_rows(tiny, monkeypatch):
    real = ClipRunner.__call__
    bad = iter([np.nan, 0.0])

    def spoilt(self, clips):
        vectors = real(self, clips)
        for row, value in zip(range(len(vectors)), bad, strict=False):
            vectors[row] = value
        return vectors

    monkeypatch.setattr(ClipRunner, "__call__", spoilt)
    embed(tiny)
    found = list(rows(tiny).values())
    invalid = [row for row in found if row["outcome"] == "invalid_vector"]
    assert [row["embedding"] for row in invalid if row["scope"] == "clip"] == [None, None]
    assert {row["detail"] for row in invalid} >= {"the model gave a vector of norm nan", "the model gave a vector of norm 0.0"}
    good = [row for row in found if row["outcome"] == "ok"]
    assert good
    assert all(np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-5) for row in good)


def test_damaged_stored_frames_are_rows(tiny):
    dataset = lance.dataset(tiny.source().table(FRAME_SETS).uri)
    data = dataset.to_table()
    frames = data.column("frames").to_pylist()
    spoilt = next(place for place, pictures in enumerate(frames) if pictures)
    frames[spoilt] = [picture[:60] for picture in frames[spoilt]]
    column = data.schema.get_field_index("frames")
    lance.write_dataset(
        data.set_column(column, data.schema.field("frames"), pa.array(frames, data.schema.field("frames").type)),
        dataset.uri,
        mode="overwrite",
    )
    clip_id = data.column("clip_id").to_pylist()[spoilt]
    embed(tiny)
    found = {row["clip_id"]: row for row in rows(tiny).values() if row["scope"] == "clip"}
    assert found[clip_id]["outcome"] == "corrupt"
    assert found[clip_id]["detail"].startswith("stored frame: not a jpeg picture")
    assert found[clip_id]["embedding"] is None
    others = [row for identity, row in found.items() if identity != clip_id]
    spoilt_batch = {row["clip_id"]: row["embedding"] for row in others}
    assert {row["outcome"] for row in others} == {"ok"}
    # the others of its batch have their own vectors, none another's
    lance.write_dataset(data, dataset.uri, mode="overwrite")
    tiny.source().table(TABLE).delete_videos({row["video_id"] for row in found.values()})
    embed(tiny)
    whole = {row["clip_id"]: row["embedding"] for row in rows(tiny).values() if row["scope"] == "clip"}
    assert {identity: whole[identity] for identity in spoilt_batch} == spoilt_batch


def test_a_gpu_that_fails_ends_the_run_and_what_is_committed_stays(tiny, monkeypatch):
    embed(tiny)
    whole = rows(tiny)
    tiny.source().table(TABLE).delete_videos({row["video_id"] for row in whole.values()})
    real = ClipRunner.__call__
    taken = []

    def fails(self, clips):
        taken.append(len(clips))
        if sum(taken) > 5:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA")
        return real(self, clips)

    words = r"the GPU failed while siglip2 ran \(CUDA error: unspecified launch failure\).* run again"
    with monkeypatch.context() as patch:
        patch.setattr(ClipRunner, "__call__", fails)
        patch.setattr("curation_assets.curation.frame_batches._ROWS_PER_READ", (1, 1))  # as if there were hundreds
        with pytest.raises(DeviceError, match=words) as raised:
            embed(tiny, of_embeddings(batch_size=1))
    assert isinstance(raised.value.__cause__, torch.AcceleratorError)
    left = rows(tiny)
    assert left
    assert left.items() <= whole.items()
    num_left = len({row["video_id"] for row in left.values()})
    assert embed(tiny).num_work == 3 - num_left
    assert rows(tiny) == whole


def test_stale_frames_are_named_with_the_remedy(tiny):
    embed(tiny)
    before = rows(tiny)
    other = {"frame_sets": {"sets": {"embeddings": {"purpose": "embeddings", "quality": 50}}}}
    lines = []
    assert embed(tiny, other, log=lines.append).num_work == 0
    assert lines == [
        "test: embeddings/siglip2: 3 videos wait and keep what they have: of 3 the stored frames were made with other settings, from other clips or from an older "
        "upload; add --select frame_sets to the run"
    ]
    assert rows(tiny) == before
    check = frames_ready(tiny.source(other), TABLE)
    assert (check.passed, check.is_warning, check.metadata["num_waiting"]) == (False, True, 3)
    assert "add --select frame_sets" in check.description
    assert frames_ready(tiny.source(), TABLE).passed
    (tiny.videos / "more.webm").write_bytes((tiny.videos / "web.webm").read_bytes())
    tiny.run(stages=("raw_videos",))
    assert "1 have no frames yet; run without --select: clips are to be made first" in frames_ready(tiny.source(), TABLE).description
    assert frames_ready(tiny.source(limit=1), TABLE).passed  # the limit leaves videos for later on purpose


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_cuda_without_a_gpu_is_named_before_any_work(tiny):
    settings = tiny.source(of_embeddings(device="cuda")).settings
    with pytest.raises(SettingsError, match=r"embeddings\.device, for siglip2: device is cuda, and torch finds no CUDA device"):
        check_models([settings], selected={("embeddings", "siglip2")})
    check_models([settings], selected={("clips",)})
    with pytest.raises(ValueError, match="no CUDA device"):
        embed(tiny, of_embeddings(device="cuda"))
    # fingerprint runs on the CPU whatever is said
    assert (
        tiny.run(of_embeddings(models=["fingerprint"], device="cuda", dtype="float16"), stages=("embeddings",))["embeddings"].num_work == 3
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"batch_size": "many"},
        {"gpu_memory_gb": 0},
        {"num_gpus_per_worker": 1.5},
        {"dtype": "int8"},
        {"selection": "first"},
    ],
)
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Config.model_validate(of_embeddings(**wrong))


def test_every_setting_is_described():
    described = Config.model_json_schema()["$defs"]["EmbeddingsSettings"]["properties"]
    assert [name for name, item in described.items() if not item.get("description")] == []
    json.dumps(described)
