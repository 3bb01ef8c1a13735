"""What the documents say is what the code does."""

import re
from pathlib import Path

import yaml

from curation_assets.cli import cli
from curation_assets.configuration import load_config
from curation_assets.curation.document import render

ROOT = Path(__file__).parent.parent


def test_tables_page_is_current():
    assert (ROOT / "docs" / "tables.md").read_text() == render(), "run: python -m curation_assets.curation.document > docs/tables.md"


def test_example_settings_are_valid(monkeypatch):
    config = load_config(ROOT / "curation.example.yaml")
    assert set(config.sources) == {"holidays", "uploads"}
    assert config.frame_sets.sets["overview"].scope == "video"


def test_readme_names_commands_and_targets_that_exist():
    text = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z]+)\b", text)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for command in set(re.findall(r"curation-assets ([a-z]+)", text)):
        assert command in cli.commands, command
    for command in ("make demo", "make test", "make ui"):
        assert command in text


def test_readme_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target


def test_readme_settings_are_valid(tmp_path):
    for block in re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
        (tmp_path / "curation.yaml").write_text(block)
        assert isinstance(yaml.safe_load(block), dict)
        load_config(tmp_path / "curation.yaml")


def test_constraints_pin_every_dependency():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    wanted = [*project["dependencies"], *(item for extra in project["optional-dependencies"].values() for item in extra)]
    for requirement in wanted:
        assert re.split(r"[<>=\[~!]", requirement)[0].lower() in pinned, requirement


def test_instance_has_no_telemetry_and_the_image_no_root():
    assert yaml.safe_load((ROOT / "dagster.yaml").read_text())["telemetry"] == {"enabled": False}
    assert "USER curator" in (ROOT / "Dockerfile").read_text()
    location = yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"][0]["python_module"]
    assert location == {"module_name": "curation_assets.definitions", "attribute": "defs", "location_name": "curation"}
