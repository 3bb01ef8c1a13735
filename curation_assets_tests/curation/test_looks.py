"""Looks: small pictures that a browser can show, for any data."""

import base64
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from curation_assets.curation import looks
from curation_assets.models import registry
from curation_assets.schemas.embeddings import embeddings_table


@pytest.mark.parametrize("values", [[1.0], [1.0] * 50, [0.99999994, 1.0, 1.0000001], [-3.0, 5.0], [0.0] * 3, list(np.linspace(0, 1, 500))])
def test_histogram_of_anything(values):
    markdown = looks.histogram("a <score>", np.array(values))
    svg = ET.fromstring(base64.b64decode(re.search(r"base64,([^)]+)\)", markdown).group(1)))
    bars = [element for element in svg.iter() if element.get("fill") == "#4f43dd"]
    assert len(bars) == 20
    assert f"{len(values):,} values" in "".join(svg.itertext())


def test_histogram_of_nothing():
    assert "no values" in looks.histogram("score", np.array([]))


def test_every_look_of_a_project(project):
    source = project.source()
    project.run(stages=("raw_videos", "clips"))
    decoded = looks.look_at_clips(source)
    project.run()
    stored = looks.look_at_clips(source)
    sizes = []
    for markdown in (decoded, stored, looks.look_at_frames(source)):
        data = base64.b64decode(re.search(r"jpeg;base64,([^)]+)\)", markdown).group(1))
        sizes.append(Image.open(io.BytesIO(data)).size)
        assert len(data) < 70_000
    assert len(set(sizes)) == 1
    assert "h264" in looks.look_at_videos(source)
    assert looks.look_at_scores(source).count("svg+xml") == 6
    spec = embeddings_table("fingerprint", registry.spec("fingerprint").dim)
    assert "cosine" in looks.look_at_embeddings(source, spec=spec)


def test_looks_of_an_empty_source(tmp_path, project):
    for path in project.videos.iterdir():
        path.unlink()
    project.run()
    source = project.source()
    assert "No objects" in looks.look_at_videos(source)
    assert looks.look_at_clips(source) is None
    assert looks.look_at_frames(source) is None
    assert looks.look_at_scores(source) is None
