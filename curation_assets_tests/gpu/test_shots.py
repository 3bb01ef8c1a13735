"""Shots on a GPU: the same timeline, probabilities and cuts near those of the CPU."""

import numpy as np
import pytest

from curation_assets.media.packets import index_packets
from curation_assets.media.shots import shots_from_probabilities
from curation_assets.media.small_frames import Stretch

PROBABILITY_TOLERANCE = 0.05  # H.264 decoding is bit-exact; NV12 chroma goes through swscale in another order
BOUNDARY_TOLERANCE_FRAMES = 1


def decoded(path, decoder):
    index = index_packets(str(path))
    stretch = Stretch(str(path), index, 0, len(index.display_pts), output_hw=(27, 48), decoder=decoder)
    return np.stack([frame.pixels for frame in stretch]), stretch


@pytest.mark.usefixtures("nvdec")
@pytest.mark.parametrize("name", ["cuts", "vfr", "b_frames", "open_gop", "edit_list", "late_start"])
def test_nvdec_gives_the_frames_of_the_cpu(name, made):
    (cpu, _), (gpu, stretch) = decoded(made(name), "cpu"), decoded(made(name), "nvdec")
    assert cpu.shape == gpu.shape
    assert stretch.num_filled == 0
    assert np.abs(cpu.astype(int) - gpu.astype(int)).mean() < 2


@pytest.mark.usefixtures("gpu")
def test_the_network_gives_the_probabilities_of_the_cpu(made):
    from curation_assets.models.transnetv2 import Network, predict_frames

    frames, _ = decoded(made("cuts"), "cpu")
    cpu, gpu = (predict_frames(Network(device=device), [frames])[0] for device in ("cpu", "cuda"))
    assert np.abs(cpu - gpu).max() <= 1e-3  # TF32 in convolutions


@pytest.mark.usefixtures("gpu", "nvdec")
def test_cuts_through_nvdec(made):
    from curation_assets.models.transnetv2 import Network, predict_frames

    network = Network(device="cuda")
    cpu, gpu = (predict_frames(network, [decoded(made("cuts"), decoder)[0]])[0] for decoder in ("cpu", "nvdec"))
    assert np.abs(cpu - gpu).max() <= PROBABILITY_TOLERANCE
    bounds = [[shot.first for shot in shots_from_probabilities(found, threshold=0.4)] for found in (cpu, gpu)]
    assert len(bounds[0]) == len(bounds[1])
    assert np.abs(np.subtract(*bounds)).max() <= BOUNDARY_TOLERANCE_FRAMES
