"""A PostgreSQL server and an S3 server on localhost, for the deployment tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from moto.server import ThreadedMotoServer

from curation_assets_tests.deploy.processes import Database, Stack, postgres


@pytest.fixture(scope="session")
def database() -> Iterator[Database]:
    with postgres() as found:
        yield found


@pytest.fixture
def s3_endpoint() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def stack(tmp_path, database, s3_endpoint) -> Iterator[Stack]:
    found = Stack(tmp_path, database, {"http://s3:8333": s3_endpoint})
    yield found
    found.stop()
