"""A folder with settings, two sources, and a Dagster instance."""

import shutil

import dagster as dg
import pytest
import yaml
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import create_run_for_test

from curation_assets.configuration import load_config
from curation_assets.curation.sources import SourceRegistry
from curation_assets.curation.warehouse import Warehouse
from curation_assets.defs.partitions import sync_partitions
from curation_assets_tests import makevideo


def put_in_queue(instance, job_name, name):
    """Record a run of one source that waits in the queue."""
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("here"), "__repository__")
    return create_run_for_test(
        instance,
        job_name=job_name,
        tags={"dagster/partition": name},
        status=dg.DagsterRunStatus.QUEUED,
        remote_job_origin=RemoteJobOrigin(repository, job_name),
        job_code_origin=JobPythonOrigin(
            job_name, RepositoryPythonOrigin("python", ModuleCodePointer("curation_assets.definitions", "defs"))
        ),
    )


@pytest.fixture(scope="session")
def two_videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    makevideo.make_cuts(folder / "cuts.mp4", seconds=2, scenes=2)
    makevideo.make_text(folder / "text.mp4")
    return folder


@pytest.fixture
def workplace(tmp_path, two_videos, monkeypatch):
    """Settings with the sources a, b and c, registered."""
    for name in ("a", "b", "c"):
        shutil.copytree(two_videos, tmp_path / "videos" / name)
    tree = {
        "warehouse": "warehouse",
        "sources": {name: {"uri": f"videos/{name}"} for name in ("a", "b", "c")},
        "clips": {"splitter": {"clip_len_s": 2}},
        "engine": {"workers": 0},
    }
    (tmp_path / "curation.yaml").write_text(yaml.safe_dump(tree))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.delenv("CURATION_CONFIG", raising=False)
    return tmp_path


@pytest.fixture
def registry(workplace) -> SourceRegistry:
    config = load_config(workplace / "curation.yaml")
    registry = Warehouse.of(config).registry
    registry.sync(config)
    return registry


@pytest.fixture
def instance(registry):
    with dg.DagsterInstance.ephemeral() as instance:
        sync_partitions(instance, registry.names())
        yield instance
