"""Model frames: every model reads frames of its own shape, from one decode, and a set beside it recomputes nothing."""

import io

import pytest
from PIL import Image

from curation_assets.curation.embeddings import expected_embeddings
from curation_assets.curation.model_frames import deciding_frame_set, frame_set_of, frame_sets
from curation_assets.settings import Config, SettingsError


def settings_of(**embeddings):
    sets = embeddings.pop("sets", None)
    return Config.model_validate({"previews": {}, "embeddings": embeddings, **({"frame_sets": {"sets": sets}} if sets else {})})


def test_models_of_the_shape_of_a_configured_set_read_it():
    settings = settings_of(models=["fingerprint", "internvideo2", "siglip2"])
    assert set(frame_sets(settings)) == {"embeddings"}
    assert {frame_set_of(settings, name) for name in settings.embeddings.models} == {"embeddings"}


def test_a_set_is_added_for_each_other_shape():
    settings = settings_of(models=["fingerprint", "clip-vit-b32", "videoprism", "cosmos-embed1-336p"], target_fps=4)
    sets = frame_sets(settings)
    assert list(sets) == ["embeddings", "crop-224x224", "squash-288x288", "squash-336x336"]
    assert (sets["crop-224x224"].fit, sets["crop-224x224"].size, sets["crop-224x224"].least_frames) == ("crop", (224, 224), 8)
    assert sets["squash-288x288"].least_frames == 16  # what the model takes
    assert {name: item.fps for name, item in sets.items()} == {
        "embeddings": 2, "crop-224x224": 4, "squash-288x288": 4, "squash-336x336": 4,
    }  # fmt: skip
    assert frame_set_of(settings, "clip-vit-b32") == "crop-224x224"
    assert deciding_frame_set(settings, None) == "embeddings"
    assert deciding_frame_set(settings, "videoprism") == "squash-288x288"
    assert deciding_frame_set(settings_of(models=["clip-vit-b32"]), "videoprism") == "crop-224x224"  # of a source without that model


def test_sets_of_the_settings_come_first():
    own = {"mine": {"purpose": "embeddings", "fit": "crop"}, "squash-288x288": {"target_res": 300}}
    settings = settings_of(models=["clip-vit-b32", "videoprism"], sets=own)
    assert list(frame_sets(settings)) == ["mine", "squash-288x288"]
    assert frame_set_of(settings, "clip-vit-b32") == "mine"
    assert frame_set_of(settings, "videoprism") == "squash-288x288"
    named = settings_of(models=["videoprism"], frame_set="mine", sets=own)
    assert list(frame_sets(named)) == ["mine", "squash-288x288"]
    assert frame_set_of(named, "videoprism") == "mine"


def test_a_set_holds_enough_for_every_model_of_its_shape():
    """Else switching one on would make the others' frames stale."""
    alone, together = settings_of(models=["cosmos-embed1-336p"]), settings_of(models=["cosmos-embed1-336p", "pe-video"])
    assert frame_sets(alone)["squash-336x336"] == frame_sets(together)["squash-336x336"]
    assert frame_sets(alone)["squash-336x336"].least_frames == 16


def test_a_set_of_whole_videos_is_no_models():
    settings = settings_of(models=["clip-vit-b32"], sets={"crop-224x224": {"scope": "video"}})
    with pytest.raises(SettingsError, match="crop-224x224 is what clip-vit-b32 reads, and has scope 'video'"):
        frame_sets(settings)


def test_few_frames_are_enough_where_the_settings_allow_no_more():
    settings = settings_of(models=["fingerprint", "videoprism"], sets={"embeddings": {"purpose": "embeddings", "max_frames": 4}})
    assert frame_sets(settings)["embeddings"].least_frames == 4


@pytest.mark.parametrize("target_res", [None, [224, -1]])
def test_crop_needs_both_sides(target_res):
    with pytest.raises(ValueError, match="fit crop needs both sides of target_res"):
        settings_of(models=[], sets={"mine": {"fit": "crop", "target_res": target_res}})


def test_added_sets_are_stored_and_recompute_nothing_else(project):
    for key in ("web.webm", "vfr.mkv"):
        (project.videos / key).unlink()
    project.run({}, stages=("raw_videos", "clips", "frame_sets"))
    before = expected_embeddings(project.source({}), "fingerprint").fingerprints
    two = {"embeddings": {"models": ["fingerprint", "clip-vit-b32"]}}
    project.run(two, stages=("raw_videos", "clips", "frame_sets"))
    assert expected_embeddings(project.source(two), "fingerprint").fingerprints == before
    assert expected_embeddings(project.source(two), "clip-vit-b32").fingerprints != before
    rows = project.rows("frame_sets", ["name", "clip_id", "height_px", "width_px", "num_frames", "frames"], two)
    names = {row["name"] for row in rows}
    assert names == {"embeddings", "crop-224x224"}
    assert all((row["height_px"], row["width_px"]) == (224, 224) for row in rows)
    squashed, cut = (next(row for row in rows if row["name"] == name) for name in ("embeddings", "crop-224x224"))
    pictures = [Image.open(io.BytesIO(row["frames"][0])).convert("L") for row in (squashed, cut)]
    assert pictures[0].tobytes() != pictures[1].tobytes()
