"""The import law, read from the syntax tree: media, models and curation know nothing of Dagster, and each layer imports only those below it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import curation_assets

ROOT = Path(curation_assets.__file__).parent
# layer -> layers that it may import beside itself; "" is the package's own front, which imports inside its functions
ALLOWED = {
    "schemas": set(),
    "presets": set(),
    "settings": {"presets", "schemas"},
    "configuration": {"settings", "presets"},
    "media": {"schemas"},
    "storage": {"schemas"},
    "engine": {"schemas"},
    "models": {"media", "schemas"},
    "curation": {"models", "media", "engine", "storage", "schemas", "settings", "configuration"},
    "defs": {"definitions", "curation", "models", "media", "engine", "storage", "schemas", "settings", "configuration"},
    "definitions": {"defs", "curation", "models", "schemas", "settings", "configuration"},
    "demo": {"media"},
    "cli": {"demo", "defs", "definitions", "curation", "engine", "storage", "settings", "configuration"},
    "__init__": {"curation", "storage", "settings", "configuration"},
}
DAGSTER_LAYERS = {"defs", "definitions"}
MODULES = sorted(ROOT.rglob("*.py"))


def layer(path):
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            if node.module == "curation_assets":
                yield from (f"curation_assets.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_import_law(path):
    own = layer(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "dagster":
            assert own in DAGSTER_LAYERS, f"{path} imports {name}: only defs and definitions may"
        if parts[0] == "curation_assets" and len(parts) > 1 and parts[1] != own:
            assert parts[1] in ALLOWED[own], f"{path} imports {name}: {own} may import {sorted(ALLOWED[own])}"


@pytest.mark.parametrize("path", [path for path in MODULES if layer(path) == "defs"], ids=lambda path: path.name)
def test_dagster_reads_annotations_at_run_time(path):
    assert "\nfrom __future__ import annotations" not in path.read_text()


def test_modules_stay_small():
    long = {str(path.relative_to(ROOT)): count for path in MODULES if (count := len(path.read_text().splitlines())) > 450}
    assert not long


def test_definitions_load_without_models_or_decoders(tmp_path):
    script = (
        "import sys\nfrom curation_assets.definitions import build_defs\nbuild_defs().resolve_asset_graph()\n"
        "print([name for name in ('torch', 'transformers', 'duckdb', 'obstore._obstore') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


def test_workers_import_no_tables():
    script = (
        "import sys\nimport curation_assets.curation.workers, curation_assets.curation.media_workers\n"
        "print([n for n in ('lance', 'pyarrow', 'dagster', 'duckdb') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
