"""InternVideo2 on a GPU: vectors near the description's, small random weights."""

import numpy as np
import pytest

from curation_assets_tests.models import test_internvideo2 as small


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_vectors_equal_the_description(dtype, tmp_path):
    weights, clips = small.random_weights(), small.random_clips(3)
    model = small.load(small.save_model(tmp_path, weights), dtype, device="cuda")
    reference = small.Reference(weights)
    small.compare(model.embed_frames(clips), np.stack([reference.clip(clip) for clip in clips]), dtype)
    small.compare(model.embed_texts(list(small.TEXTS)), np.stack([reference.text(ids) for ids in small.TEXTS.values()]), dtype)
