"""The embeddings stage on a GPU: batches by trial, a memory limit that holds, copies beside the model's work."""

import numpy as np
import pytest

pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

from curation_assets.curation.embeddings import update_embeddings  # noqa: E402
from curation_assets.curation.loaded_models import load_model  # noqa: E402
from curation_assets.models import shared  # noqa: E402
from curation_assets.models.batching import ClipRunner, Uploader  # noqa: E402
from curation_assets.models.devices import limit_gpu_memory  # noqa: E402
from curation_assets.models.registry import MODELS  # noqa: E402
from curation_assets.settings import SettingsError  # noqa: E402
from curation_assets_tests.curation.conftest import project, sample_videos  # noqa: E402, F401 - fixtures
from curation_assets_tests.curation.test_embeddings import TABLE, checkpoint, of_embeddings, rows, tiny  # noqa: E402, F401 - fixtures

pytestmark = pytest.mark.usefixtures("gpu")


@pytest.fixture(autouse=True)
def whole_card(gpu):
    """Give the whole card back after a test that limits it."""
    yield
    shared.release()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.0)


def on_gpu(**settings):
    return of_embeddings(device="cuda", **settings)


@pytest.mark.parametrize("settings", [{}, {"dtype": "float32"}, {"compile": True}, {"batch_size": 3, "num_gpus_per_worker": 0.5}])
def test_the_stage_gives_nearly_the_vectors_of_the_cpu(tiny, settings):  # noqa: F811
    update_embeddings(tiny.source(), "siglip2")
    expected = rows(tiny)
    tiny.source().table(TABLE).delete_videos({row["video_id"] for row in expected.values()})
    lines = []
    update_embeddings(tiny.source(on_gpu(**settings), log=lines.append), "siglip2")
    found = rows(tiny)
    assert found.keys() == expected.keys()
    least = 0.9999 if settings.get("dtype") == "float32" else 0.99
    assert all(np.dot(found[identity]["embedding"], expected[identity]["embedding"]) > least for identity in found)
    size = "3 clips at a time" if "batch_size" in settings else "clips at a time, measured"
    assert lines[0].startswith("test: siglip2 runs on the GPU, ")
    assert lines[0].endswith(size)


def test_batches_are_measured_once_and_fit(tiny):  # noqa: F811
    settings = tiny.source(on_gpu(gpu_memory_gb=4)).settings
    model, clips_at_once = load_model(settings, MODELS["siglip2"].spec, log=lambda _: None)
    assert clips_at_once() > 1
    assert list(model.batch_sizes.values()) == [clips_at_once()]
    again, _ = load_model(settings, MODELS["siglip2"].spec, log=lambda _: None)
    assert again is model
    torch.cuda.reset_peak_memory_stats()
    clips = np.random.default_rng(1).integers(0, 256, (clips_at_once(), 8, 224, 224, 3), np.uint8)
    assert np.isfinite(model.gpu(clips)).all()
    assert torch.cuda.max_memory_reserved() < 4e9


def test_a_batch_beyond_the_limit_is_halved():
    device = torch.device("cuda")
    allowed = limit_gpu_memory(device, most_gb=1.5)
    assert allowed <= 1_000_000_000

    def forward(part):
        large = torch.ones((len(part), 50_000_000), device=device)  # 200 MB per clip
        return part.float().mean((1, 2, 3)) * large[:, :1]

    clips = np.random.default_rng(1).integers(1, 256, (16, 2, 4, 4, 3), dtype=np.uint8)
    runner = ClipRunner(forward, device=device, dim=3, at_once_on_gpu=16)
    vectors = runner(clips)
    assert runner.at_once in (2, 4)
    assert torch.cuda.max_memory_reserved() <= 1_000_000_000
    means = clips.astype(np.float64).mean((1, 2, 3))
    np.testing.assert_allclose(vectors, means / np.linalg.norm(means, axis=1, keepdims=True), rtol=1e-5)
    assert 1 <= runner.measure_batch((2, 4, 4, 3), allowed_bytes=allowed) <= 4


def test_a_clip_that_does_not_fit_is_a_matter_of_settings(tiny):  # noqa: F811
    with pytest.raises(SettingsError, match=r"raise embeddings\.gpu_memory_gb"):
        update_embeddings(tiny.source(on_gpu(gpu_memory_gb=0.505)), "siglip2")
    with pytest.raises(SettingsError, match="leave nothing for a model"):
        update_embeddings(tiny.source(on_gpu(gpu_memory_gb=0.4)), "siglip2")


def test_copies_come_from_pinned_memory_beside_the_default_stream():
    uploader = Uploader(torch.device("cuda"))
    frames = uploader.allocate((6, 32, 32, 3))
    assert torch.from_numpy(frames).is_pinned()
    frames[:] = np.random.default_rng(2).integers(0, 256, frames.shape, np.uint8)
    # the default stream is busy for long: a copy on it would wait, and with it this thread
    busy = torch.randn(8192, 8192, device="cuda")
    end = torch.cuda.Event()
    for _ in range(200):
        busy = busy @ busy / busy.abs().max()
    end.record()
    found = uploader.upload(frames)
    assert not end.query()
    np.testing.assert_array_equal(found.cpu().numpy(), frames)
