"""Settings: one tree, merged level by level; a typo or a wrong value is one message that names the key."""

from pathlib import Path

import pytest
import yaml
from dagster._utils.schedules import is_valid_cron_schedule
from pydantic import ValidationError

from curation_assets.configuration import (
    absolute_uri,
    check_overrides_are_taken,
    find_config,
    load_config,
    merge,
    parse_assignments,
    resolve_settings,
)
from curation_assets.schemas.clips import CLIPS
from curation_assets.schemas.curated_clips import SCORES
from curation_assets.schemas.ranks import RANK_COLUMNS
from curation_assets.schemas.raw_videos import RAW_VIDEOS
from curation_assets.settings import Config, SettingsError, SourceSettings
from curation_assets.settings.automation import AutomationSettings


def write(path, tree):
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree), encoding="utf-8")
    return path


def test_later_levels_win_and_leave_the_rest(tmp_path):
    path = write(
        tmp_path / "curation.yaml",
        {
            "clips": {"splitter": {"clip_len_s": 8, "min_clip_len_s": 1}},
            "sources": {"a": {"uri": "videos", "settings": {"clips": {"splitter": {"clip_len_s": 6}}}}},
        },
    )
    overrides = {"engine": {"workers": 0}}
    config = load_config(path, overrides)
    assert config.engine.workers == 0
    source = resolve_settings(config.processing(), config.sources["a"].settings, overrides)
    assert (source.clips.splitter.clip_len_s, source.clips.splitter.min_clip_len_s, source.engine.workers) == (6, 1, 0)
    run = resolve_settings(config.processing(), config.sources["a"].settings, parse_assignments(["clips.splitter.clip_len_s=4"]))
    assert (run.clips.splitter.clip_len_s, run.clips.splitter.min_clip_len_s) == (4, 1)
    assert config.clips.splitter.clip_len_s == 8
    assert (config.warehouse, config.sources["a"].uri) == (str(tmp_path / "warehouse"), str(tmp_path / "videos"))


def test_merge():
    base = {"a": {"b": 1, "c": [1]}, "d": 2}
    assert merge(base, {"a": {"c": [2]}}, {"d": None}) == {"a": {"b": 1, "c": [2]}, "d": None}
    assert base == {"a": {"b": 1, "c": [1]}, "d": 2}


def test_assignments():
    assert parse_assignments(["a.b=1", "a.c=[1, x]", "d=null", "e=", "f=a=b"]) == {
        "a": {"b": 1, "c": [1, "x"]}, "d": None, "e": None, "f": "a=b",
    }  # fmt: skip
    for text in ("a", "=1", "a..b=1", ".=1"):
        with pytest.raises(SettingsError, match="KEY=VALUE"):
            parse_assignments([text])
    with pytest.raises(SettingsError, match="not YAML"):
        parse_assignments(["a=[1"])


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"clip": {}}, "unknown key 'clip'; did you mean 'clips'?"),
        ({"clips": {"splitter": {"clip_length_s": 3}}}, "unknown key 'clips.splitter.clip_length_s'; did you mean 'clip_len_s'?"),
        ({"frame_sets": {"sets": {"x": {"fps": 3}}}}, "unknown key 'frame_sets.sets.x.fps'; known here: .*target_fps"),
        ({"engine": {"zzzzqq": 3}}, "known here: cache_bytes"),
        ({"clips": {"splitter": {"clip_len_s": 0}}}, "clips.splitter.clip_len_s: .*greater than or equal to 0.1"),
        ({"clips": {"splitter": {"clip_len_s": "ten"}}}, "clips.splitter.clip_len_s: .*'ten'"),
        ({"clips": {"splitter": {"clip_len_s": 1}}}, "min_clip_len_s 2.0 is above clip_len_s 1.0"),
        ({"clips": {"on_truncated": "drop"}}, "clips.on_truncated: .*'keep' or 'refuse'"),
        ({"embeddings": {"frame_set": "none"}}, r"frame_sets.sets has \['embeddings'\]"),
        ({"embeddings": {"frame_set": "embeddings"}, "frame_sets": {"sets": {"embeddings": {"scope": "video"}}}}, "has scope 'video'"),
        ({"frame_sets": {"sets": {"A b": {}}}}, "frame set name 'A b'"),
        ({"frame_sets": {"sets": {"x": {"min_frames": 8, "max_frames": 4}}}}, "min_frames 8 is above max_frames 4"),
        ({"frame_sets": {"sets": {"x": {"target_res": 0}}}}, "frame_sets.sets.x.target_res: is 0; sides are 1 to 16384 pixels"),
        ({"frame_sets": {"sets": {"x": {"target_res": [-1, -1]}}}}, "one of two may be -1"),
        ({"embeddings": {"models": ["fingerprint", "fingerprint"]}}, "embeddings.models: fingerprint is named twice"),
        ({"embeddings": {"texts_to_verify": ["a dog"]}}, "at least two texts"),
        ({"embeddings": {"texts_to_verify": ["a dog", "a dog"]}}, "each different"),
        ({"previews": {"a-b": {}, "a_b": {}}}, "previews 'a-b' and 'a_b' would have one SQL view, previews_a_b"),
        ({"dedup": {"which_to_keep": ["-aesthetic_score"]}}, "ranks by aesthetic_score, but the scorer aesthetic does not run"),
        ({"storage_options": {"aws_secret_access_key": "x"}}, "credentials come from the environment"),
        ({"sources": {"a": {"uri": "x", "storage_options": {"token": "x"}}}}, "credentials come from the environment"),
        ({"sources": {"a": {"uri": ""}}}, "sources.a.uri"),
        (
            {"watch": {"a": {"uri": "x", "storage_options": {"token": "x"}}}},
            "watch.a.storage_options: .*credentials come from the environment",
        ),
        ({"watch": {"A": {"uri": "x"}}}, "watch name 'A': use up to 40 lower-case letters"),
        ({"watch": {"a": {"uri": "x"}, "a-b": {"uri": "y"}}}, "watches 'a' and 'a-b' could make sources of one name"),
        ({"watch": {"a": {"uri": "x", "dept": 2}}}, "unknown key 'watch.a.dept'; did you mean 'depth'?"),
        ({"watch": {"a": {"uri": "x", "settings": {"clips": {"spliter": {}}}}}}, "watch.a.settings: unknown key 'clips.spliter'"),
        ({"watch": {"a": {"uri": "x", "settings": {"dedup": {"eps": 0.1}}}}}, "watch.a.settings: dedup is for the whole project"),
        ({"sensors": {"max_tick_s": 60}}, "sensors.max_tick_s: .*less than or equal to 45"),
        (
            {"sources": {"a": {"uri": "x", "settings": {"clips": {"spliter": {}}}}}},
            "sources.a.settings: unknown key 'clips.spliter'; did you mean 'splitter'?",
        ),
        ("clips: [", "cannot be read"),
        ("- 1", "expected a mapping"),
        ("max_failed_fraction: 1.5", "max_failed_fraction"),
        ("\x00", "cannot be read"),
    ],
)
def test_wrong_settings_name_the_key_and_the_file(tmp_path, tree, message):
    path = write(tmp_path / "curation.yaml", tree)
    with pytest.raises(SettingsError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ("clips: {splitter: {method: content, crop_s: .inf}}", r"clips.splitter.crop_s: expected a finite number \(got inf\)"),
        ("clips: {splitter: {method: content, max_clip_len_s: .inf}}", "clips.splitter.max_clip_len_s: .* null means no limit"),
        ("clips: {splitter: {start_offset_s: .inf}}", "clips.splitter.start_offset_s: expected a finite number"),
        ("clips: {splitter: {clip_stride_s: .inf}}", r"clips.splitter.clip_stride_s: expected a finite number; or null"),
        ("clips: {splitter: {start_offset_s: 1.0e+300}}", "clips.splitter.start_offset_s: .*less than or equal to 1"),
        ("clip_scores: {thresholds: {min_sharpness: .inf}}", "clip_scores.thresholds.min_sharpness: expected a finite number"),
        ("raw_videos: {limits: {max_duration_s: .inf}}", "raw_videos.limits.max_duration_s: .* null means no limit"),
        ("previews: {240p: {seconds: .nan}}", "previews.240p.seconds: expected a finite number; or null"),
        (
            "sources: {a: {uri: x, settings: {clips: {splitter: {end_offset_s: -.inf}}}}}",
            "settings: clips.splitter.end_offset_s: expected a finite",
        ),
    ],
)
def test_numbers_are_finite(tmp_path, tree, message):
    with pytest.raises(SettingsError, match=message):
        load_config(write(tmp_path / "c.yaml", tree))


def test_several_mistakes_are_told_at_once(tmp_path):
    with pytest.raises(SettingsError) as caught:
        load_config(write(tmp_path / "c.yaml", {"clip": {}, "engine": {"workers": -1}}))
    assert len(str(caught.value).splitlines()) == 2


def test_finding_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CURATION_CONFIG", raising=False)
    assert find_config() is None
    here, named = write(tmp_path / "curation.yaml", ""), write(tmp_path / "other.yaml", "")
    assert find_config() == here
    monkeypatch.setenv("CURATION_CONFIG", str(named))
    assert find_config() == named
    assert find_config(here) == here
    with pytest.raises(SettingsError, match=r"missing\.yaml does not exist"):
        find_config("missing.yaml")


def test_locations_are_absolute_and_urls_stay():
    base = Path("/somewhere")
    assert absolute_uri("./a/../b c%20", base) == "/somewhere/b c%20"
    assert absolute_uri("/x", base) == "/x"
    assert absolute_uri("s3://b/p//q", base) == "s3://b/p//q"


def test_purposes_set_what_is_not_given():
    sets = Config(
        storage_options={},
        frame_sets={"sets": {"embeddings": {"purpose": "embeddings"}, "b": {"purpose": "aesthetics", "target_fps": 3}, "c": {}}},
    )
    values = {name: (item.fps, item.least_frames) for name, item in sets.frame_sets.sets.items()}
    assert values == {"embeddings": (2, 8), "b": (3, 1), "c": (2, 1)}


def test_the_example_and_the_schema_say_the_same():
    example = Path(__file__).resolve().parents[1] / "curation.example.yaml"
    if example.is_file():
        load_config(example)
    assert set(Config.model_json_schema()["properties"]) == set(Config.model_fields)
    assert SourceSettings(uri="x", storage_options={}).kind == "auto"


def test_a_splitter_without_a_method_is_fixed_stride():
    base = Config(storage_options={}).processing()
    assert resolve_settings(base, {"clips": {"splitter": {"clip_len_s": 5}}}).clips.splitter.method == "fixed_stride"


@pytest.mark.parametrize("order", [1, -1])
def test_another_method_replaces_the_splitter(order):
    base = Config(storage_options={}).processing()
    tree = parse_assignments(["clips.splitter.method=content", "clips.splitter.threshold=30"][::order])
    splitter = resolve_settings(base, {"clips": {"splitter": {"clip_len_s": 5, "min_clip_len_s": 1}}}, tree).clips.splitter
    assert (splitter.method, splitter.threshold, splitter.min_clip_len_s) == ("content", 30, 2.0)
    same = resolve_settings(base, tree, {"clips": {"splitter": {"method": "content", "crop_s": 0.5}}}).clips.splitter
    assert (same.threshold, same.crop_s) == (30, 0.5)


@pytest.mark.parametrize(("alias", "decoder"), [("pynvc", "nvdec"), ("ffmpeg_gpu", "nvdec"), ("ffmpeg_cpu", "cpu"), ("auto", "auto")])
def test_decoder_aliases(alias, decoder):
    tree = parse_assignments(["clips.splitter.method=transnetv2", f"clips.splitter.decoder={alias}"])
    assert resolve_settings(Config(storage_options={}).processing(), tree).clips.splitter.decoder == decoder


@pytest.mark.parametrize(
    ("splitter", "message"),
    [
        ({"method": "transnet"}, "clips.splitter: .*'transnet'.*'transnetv2'"),
        ({"method": "transnetv2", "treshold": 0.5}, "unknown key 'clips.splitter.treshold'; did you mean 'threshold'?"),
        ({"method": "transnetv2", "output_hw": [48, 27]}, "clips.splitter.output_hw: .*end at 3 x 6"),
        ({"method": "transnetv2", "min_clip_len_s": 5, "max_clip_len_s": 4}, "min_clip_len_s 5.0 is above max_clip_len_s 4.0"),
        ({"method": "content", "detector": "hash", "bins": 8}, "the detector hash takes .*'lowpass', 'size', 'threshold'.*, not .*'bins'"),
        ({"method": "content", "decoder": "gpu"}, "clips.splitter.decoder: .*'auto', 'cpu' or 'nvdec'"),
        ("transnet", "^settings: clips.splitter: no method is named 'transnet'; did you mean 'transnetv2'\\?$"),
        ("zzz", "no method is named 'zzz'; there are: content, fixed_stride, transnetv2$"),
        (
            {"max_clip_len_s": 10},
            "clips.splitter.max_clip_len_s belongs to method transnetv2 or content, and the method here is fixed_stride$",
        ),
        (
            {"method": "content", "clip_len_s": 5},
            "clips.splitter.clip_len_s belongs to method fixed_stride, and the method here is content$",
        ),
        (None, r"clips.splitter: expected a mapping of settings \(got None\)"),
    ],
)
def test_wrong_splitters_are_named(splitter, message):
    with pytest.raises(SettingsError, match=message):
        resolve_settings(Config(storage_options={}).processing(), {"clips": {"splitter": splitter}})


def test_presets_lie_under_the_tree_that_names_them(tmp_path):
    path = write(
        tmp_path / "curation.yaml",
        {
            "presets": ["scene_segments"],
            "clips": {"splitter": {"max_clip_len_s": 8}},
            "sources": {"a": {"uri": "videos"}, "b": {"uri": "others", "settings": {"clips": {"splitter": {"method": "fixed_stride"}}}}},
        },
    )
    config = load_config(path)
    splitter = config.clips.splitter
    assert (splitter.method, splitter.min_clip_len_s, splitter.max_clip_len_s) == ("transnetv2", 2, 8)
    assert resolve_settings(config.processing(), config.sources["b"].settings).clips.splitter == Config(storage_options={}).clips.splitter
    run = resolve_settings(config.processing(), parse_assignments(["presets=[scene_segments]"]))
    assert run.clips.splitter.max_clip_len_s == 10, "a preset of the run wins over the file"
    assert load_config(path, parse_assignments(["presets=[scene_segments]"])).clips.splitter.max_clip_len_s == 10
    for names, message in ((["scene_segment"], "did you mean 'scene_segments'"), ("scene_segments", "expected a list")):
        with pytest.raises(SettingsError, match=message):
            load_config(write(tmp_path / "wrong.yaml", {"presets": names}))


def test_a_bare_name_is_a_splitters_method(tmp_path):
    path = write(tmp_path / "c.yaml", {"presets": ["scene_segments"], "clips": {"splitter": "transnetv2"}, "sources": {"a": {"uri": "x"}}})
    splitter = load_config(path).clips.splitter
    assert (splitter.method, splitter.max_clip_len_s) == ("transnetv2", 10), "of the same method, the preset's other keys stay"
    for words in (["clips.splitter=content", "clips.splitter.threshold=30"], ["clips.splitter=content"]):
        config = load_config(path, parse_assignments(words))
        assert (config.clips.splitter.method, config.clips.splitter.max_clip_len_s) == ("content", 60)
        assert config.clips.splitter.threshold == (30 if len(words) > 1 else None)


def rates(text, words=(), tmp_path=None):
    overrides = parse_assignments(words)
    config = load_config(write(tmp_path / "c.yaml", text), overrides)
    found = resolve_settings(config.processing(), config.sources["a"].settings, overrides).transcoded_clips
    return found.way, found.quality, found.bit_rate_bps


@pytest.mark.parametrize(
    ("project", "source", "words", "expected"),
    [
        ("presets: [peers_4mbps]\ntranscoded_clips: {quality: 20}", "{}", [], ("encode", 20, None)),
        ("presets: [peers_4mbps]", "{transcoded_clips: {quality: 20}}", [], ("encode", 20, None)),
        ("presets: [peers_4mbps]", "{}", ["transcoded_clips.quality=20"], ("encode", 20, None)),
        ("", "{presets: [peers_4mbps], transcoded_clips: {quality: 20}}", [], ("encode", 20, None)),
        ("transcoded_clips: {quality: 20}", "{presets: [peers_4mbps]}", [], ("encode", None, 4_000_000)),
        ("transcoded_clips: {quality: 20}", "{}", ["presets=[peers_4mbps]"], ("encode", None, 4_000_000)),
        ("", "{presets: [peers_4mbps]}", ["transcoded_clips.quality=20"], ("encode", 20, None)),
        ("presets: [peers_4mbps]", "{transcoded_clips: {quality: null}}", [], ("encode", None, 4_000_000)),
    ],
)
def test_one_rate_takes_the_place_of_the_other(tmp_path, project, source, words, expected):
    assert rates(f"{project}\nsources: {{a: {{uri: x, settings: {source}}}}}\n", words, tmp_path) == expected


def test_two_rates_of_one_level_are_refused(tmp_path):
    both = {"quality": 20, "bit_rate_bps": 4_000_000}
    for tree in ({"transcoded_clips": both}, {"sources": {"a": {"uri": "x", "settings": {"transcoded_clips": both}}}}):
        with pytest.raises(SettingsError, match=r"transcoded_clips: quality and bit_rate_bps are both given; leave one out$"):
            load_config(write(tmp_path / "c.yaml", tree))
    with pytest.raises(SettingsError, match="both given"):
        load_config(None, parse_assignments(["transcoded_clips.quality=20", "transcoded_clips.bit_rate_bps=4000000"]))


@pytest.mark.parametrize("names", [[["a"]], [{"x": 1}], [None], "scene_segments", None])
def test_wrong_presets_are_named(tmp_path, names):
    for tree in ({"presets": names}, {"sources": {"a": {"uri": "x", "settings": {"presets": names}}}}):
        with pytest.raises(SettingsError, match=r"presets: .*scene_segments"):
            load_config(write(tmp_path / "c.yaml", tree))


def test_no_presets_take_nothing_away(tmp_path):
    path = write(tmp_path / "c.yaml", {"presets": ["scene_segments"], "sources": {"a": {"uri": "x", "settings": {"presets": []}}}})
    with pytest.raises(SettingsError, match=r"sources.a.settings: presets: \[\] takes nothing away"):
        load_config(path)
    with pytest.raises(SettingsError, match=r"--set: presets: \[\] takes nothing away"):
        load_config(write(path, {"presets": ["scene_segments"]}), parse_assignments(["presets=[]"]))
    assert load_config(write(path, {"presets": []})).presets == []


def splitter_of(tree, words, tmp_path):
    overrides = parse_assignments(words)
    config = load_config(write(tmp_path / "c.yaml", {"sources": {"a": {"uri": "x", "settings": tree}}}), overrides)
    return resolve_settings(config.processing(), config.sources["a"].settings, overrides).clips.splitter


def test_overrides_are_judged_where_they_apply(tmp_path):
    scenes = {"presets": ["scene_segments"]}
    assert splitter_of(scenes, ["clips.splitter.max_clip_len_s=4"], tmp_path).max_clip_len_s == 4
    assert splitter_of(scenes, ["clips.splitter.min_clip_len_s=15", "clips.splitter.max_clip_len_s=30"], tmp_path).min_clip_len_s == 15
    assert splitter_of(scenes, ["clips.splitter.clip_len_s=4"], tmp_path) == splitter_of(scenes, [], tmp_path)
    grid = {"clips": {"splitter": {"clip_len_s": 5}}}
    assert splitter_of(grid, ["presets=[scene_segments]"], tmp_path).max_clip_len_s == 10
    for words, message in (
        (["clips.splitter.max_clp_len_s=4"], "--set.*unknown key 'clips.splitter.max_clp_len_s'; did you mean 'max_clip_len_s'"),
        (["clips.splitter.min_clip_len_s=15"], "--set, for source 'a': clips.splitter: min_clip_len_s 15.0 is above max_clip_len_s 10.0"),
        (["clips.splitter=3"], "clips.splitter: expected a mapping"),
        (["clips=3"], "clips: expected a mapping"),
    ):
        with pytest.raises(SettingsError, match=message):
            splitter_of(scenes, words, tmp_path)


def test_a_key_that_no_source_takes_is_named(tmp_path):
    grid, scenes = splitter_of({}, [], tmp_path), splitter_of({"presets": ["scene_segments"]}, [], tmp_path)
    overrides = parse_assignments(["clips.splitter.max_clip_len_s=4", "clips.splitter.min_clip_len_s=1"])
    check_overrides_are_taken(overrides, [grid, scenes])
    check_overrides_are_taken(parse_assignments(["clips.splitter.method=content", "clips.splitter.threshold=9"]), [grid])
    with pytest.raises(
        SettingsError, match=r"--set: clips.splitter.max_clip_len_s belongs to method transnetv2 or content, and .* have fixed_stride"
    ):
        check_overrides_are_taken(overrides, [grid, grid])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("biggest", r"^.*dedup.which_to_keep: expected hard, easy, random, or a list of columns .* \(got 'biggest'\)$"),
        ([], "expected hard, easy, random"),
        (3, "expected hard, easy, random"),
        (["-num_pixel"], "dedup.which_to_keep: no column '-num_pixel'; there are .*num_pixels"),
        (["--num_pixels"], "no column '--num_pixels'"),
        ([3], "no column 3"),
    ],
)
def test_ways_to_keep_are_checked_when_they_are_read(tmp_path, value, message):
    with pytest.raises(SettingsError, match=message) as caught:
        load_config(write(tmp_path / "c.yaml", {"dedup": {"which_to_keep": value}}))
    assert len(str(caught.value).splitlines()) == 1


def test_columns_that_rank_are_those_of_the_views():
    specs = {"raw_videos": RAW_VIDEOS, "clips": CLIPS}
    for view, spec in specs.items():
        assert set(RANK_COLUMNS[view]) - {"num_pixels"} <= set(spec.view_columns)
    assert RANK_COLUMNS["clip_scores"] == tuple(score.name for score in SCORES)


def test_dedup_is_for_all_sources(tmp_path):
    with pytest.raises(SettingsError, match=r"sources.a.settings: dedup is for the whole project"):
        load_config(write(tmp_path / "c.yaml", {"sources": {"a": {"uri": "x", "settings": {"dedup": {"eps": 0.1}}}}}))
    assert load_config(None, {"dedup": {"eps": 0.1}}).dedup.eps == 0.1


def test_a_source_names_some_of_the_models_of_the_project(tmp_path):
    own = {"embeddings": {"models": ["clip-vit-b32"]}}
    tree = {"embeddings": {"models": ["fingerprint", "clip-vit-b32"]}, "sources": {"a": {"uri": "x", "settings": own}, "b": {"uri": "y"}}}
    config = load_config(write(tmp_path / "c.yaml", tree))

    def settings(name, *assignments):
        given = parse_assignments(assignments)
        loaded = load_config(tmp_path / "c.yaml", given)
        return resolve_settings(loaded.processing(), loaded.sources[name].settings, given)

    assert config.embeddings.models == ["fingerprint", "clip-vit-b32"]
    assert settings("a").embeddings.models == ["clip-vit-b32"]
    assert settings("b").embeddings.models == ["fingerprint", "clip-vit-b32"]
    # a run's list is the project's
    assert settings("a", "embeddings.models=[siglip2]").embeddings.models == ["clip-vit-b32"]
    assert settings("b", "embeddings.models=[siglip2]").embeddings.models == ["siglip2"]
    # what decides about duplicates is the project's first, not the source's
    assert [settings(name).dedup.model for name in "ab"] == ["none", "auto"]
    assert settings("a", "dedup.model=clip-vit-b32").dedup.model == "clip-vit-b32"
    assert settings("a", "dedup.model=fingerprint").dedup.model == "none"
    assert settings("a", "embeddings.models=[clip-vit-b32, fingerprint]").dedup.model == "clip-vit-b32"
    tree["embeddings"]["models"].pop()
    lacks = r"sources.a.settings: embeddings.models: clip-vit-b32 is not among the project's; put embeddings: {models: \[fingerprint, clip-vit-b32\]} at the top"
    with pytest.raises(SettingsError, match=lacks):
        load_config(write(tmp_path / "c.yaml", tree))
    own["embeddings"]["models"] = "fingerprint"
    with pytest.raises(SettingsError, match=r"sources.a.settings: embeddings.models: "):
        load_config(write(tmp_path / "c.yaml", tree))


@pytest.mark.parametrize("cron", ["99 3 * * *", "0 3 0 * *", "0 3 * 13 *", "0 24 * * *", "*/0 * * * *", "x * * * *", "0,, * * * *"])
def test_a_cron_that_dagster_refuses_is_a_wrong_setting(cron):
    """Else `config check` says fine, and every command that loads the definitions ends in a traceback."""
    assert not is_valid_cron_schedule(cron)
    with pytest.raises(ValidationError, match="cron takes"):
        AutomationSettings(nightly_cron=cron)


@pytest.mark.parametrize("cron", ["*/10 1-5 * * *", "0 3 * * 7", "0 22-2 * * *", "0 3 * jan MON-FRI", "0,30 3-23/2 1 1-6 0"])
def test_crons(cron):
    assert is_valid_cron_schedule(cron)
    assert AutomationSettings(nightly_cron=cron).nightly_cron == cron
