"""Fixtures of the storage tests: roots on disk and on an S3 server on localhost, and a small table with blobs."""

from __future__ import annotations

import logging
import os
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from curation_assets.storage.objects import ObjectStore, open_store

BUCKET = "test-bucket"


@dataclass(frozen=True)
class Root:
    """A place to store things: a URI and the options that open it."""

    uri: str
    options: dict[str, str] = field(default_factory=dict)

    def store(self) -> ObjectStore:
        return open_store(self.uri, options=self.options)


@pytest.fixture(scope="session")
def s3_options() -> Iterator[dict[str, str]]:
    """A moto server with one bucket; the credentials are in the environment for the session."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.delenv("AWS_PROFILE", raising=False)
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        options = {
            "aws_endpoint": f"http://{host}:{port}",
            "aws_region": "us-east-1",
            "client_retry_timeout": "3",
            "client_max_retries": "2",
        }
        client(options).create_bucket(Bucket=BUCKET)
        yield options
        server.stop()


def client(options: dict[str, str]):
    return boto3.client(
        "s3", endpoint_url=options["aws_endpoint"], region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
    )


@pytest.fixture
def local_root(tmp_path: Path) -> Root:
    """A local folder whose name has what breaks naive URI handling."""
    folder = tmp_path / 'it\'s a 100% "root" %20 #é?'
    folder.mkdir()
    return Root(str(folder))


@pytest.fixture
def s3_root(s3_options: dict[str, str], request: pytest.FixtureRequest) -> Root:
    """A prefix of the bucket, one per test."""
    name = request.node.name.replace("/", "_").replace("[", "-").replace("]", "")
    return Root(f"s3://{BUCKET}/it's %20 é/{name}", s3_options)


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest) -> Root:
    """Each kind of root in turn."""
    return request.getfixturevalue(f"{request.param}_root")


@pytest.fixture
def file_size_limit() -> Callable[[int], AbstractContextManager[None]]:
    """No file may grow past some bytes inside the `with` block: what a full disk does, without filling one."""

    @contextmanager
    def limited(num_bytes: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)

    return limited


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user can reach; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Run the `with` block without root's right to read and write everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
