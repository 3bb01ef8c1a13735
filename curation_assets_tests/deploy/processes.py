"""Programs that the deployment tests start: a PostgreSQL server of its own, and the services of the compose file without Docker."""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from curation_assets_tests.deploy.files import DEPLOY, load

HOME = "/opt/dagster"
PACKAGE = "no PostgreSQL server here: sudo apt-get install postgresql"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {seconds} s")


@dataclass(frozen=True)
class Database:
    """A running PostgreSQL server with an empty database."""

    port: int
    user: str
    password: str
    name: str


def _program(name: str) -> str:
    """Find a program of the newest PostgreSQL; Debian does not put them on the PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    found = shutil.which(name, path=os.pathsep.join([*map(str, folders), os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip(PACKAGE)
    return found


@contextmanager
def postgres() -> Iterator[Database]:
    """Run a server on localhost in a folder of its own; as root it runs as another user, since PostgreSQL refuses to be root."""
    initdb, server, client = _program("initdb"), _program("postgres"), _program("psql")
    database = Database(free_port(), "dagster", secrets.token_hex(8), "dagster")
    own: dict[str, Any] = {}
    folder = Path(tempfile.mkdtemp(prefix="curation-postgres-"))  # not below pytest's folders, which only their user may enter
    try:
        (folder / "password").write_text(database.password)
        if os.geteuid() == 0:
            known = {entry.pw_name: entry for entry in pwd.getpwall()}
            user = known.get("postgres") or known["nobody"]
            own = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            for path in (folder, folder / "password"):
                os.chown(path, user.pw_uid, user.pw_gid)
        words = [initdb, "-D", str(folder / "data"), "-U", database.user, "--auth=scram-sha-256", f"--pwfile={folder / 'password'}"]
        subprocess.run([*words, "--encoding=UTF8", "--locale=C", "--no-sync"], check=True, capture_output=True, cwd=folder, **own)
        words = [server, "-D", str(folder / "data"), "-p", str(database.port), "-h", "127.0.0.1", "-k", str(folder), "-c", "fsync=off"]
        with open(folder / "log", "w") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log, cwd=folder, **own)
        try:
            environment = {**os.environ, "PGPASSWORD": database.password}
            words = [client, "-h", "127.0.0.1", "-p", str(database.port), "-U", database.user, "-d", "postgres"]
            create = [*words, "-c", f"create database {database.name}"]
            ready = lambda: subprocess.run(create, env=environment, capture_output=True).returncode == 0  # noqa: E731
            wait_for(ready, 30, f"PostgreSQL: {(folder / 'log').read_text()}")
            yield database
        finally:
            process.send_signal(signal.SIGINT)  # fast shutdown
            process.wait(20)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Stack:
    """The services of docker-compose.yaml as processes: their commands, variables and files, with addresses of this machine.

    Attributes:
        folder: holds DAGSTER_HOME, the settings and the logs.
        addresses: what stands in the place of what the files name, such as the S3 server.
        extra: variables that the files do not set.
    """

    folder: Path
    database: Database
    addresses: Mapping[str, str]
    extra: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    code_port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home.mkdir()
        for name in ("dagster.yaml", "workspace.yaml", "create_buckets.py", "curation.yaml"):
            (self.home / name).write_text(self.here((DEPLOY / name).read_text()))

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def here(self, text: str) -> str:
        """Put this machine's addresses and paths into a text of the files."""
        changes = {
            HOME: str(self.home),
            "/etc/curation": str(self.home),
            "host: code": "host: 127.0.0.1",
            "port: 4000": f"port: {self.code_port}",
            **self.addresses,
        }
        for old, new in changes.items():
            text = text.replace(old, new)
        return text

    def service(self, name: str) -> dict[str, Any]:
        return load("docker-compose.yaml")["services"][name]

    def command(self, name: str) -> list[str]:
        ports = {"0.0.0.0": "127.0.0.1", "3000": str(self.port), "4000": str(self.code_port)}
        words = [ports.get(word, self.here(word)) for word in self.service(name)["command"]]
        return [str(Path(sys.executable).parent / words[0]), *words[1:]]

    def environment(self, name: str) -> dict[str, str]:
        """The variables of a service, those of .env among them, over what a process needs from here."""
        values = {
            "POSTGRES_PASSWORD": self.database.password,
            "AWS_ACCESS_KEY_ID": "uploader",
            "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        }
        own = {}
        for key, text in self.service(name)["environment"].items():
            found = text[2:].split(":")[0].rstrip("}") if text.startswith("${") else None
            own[key] = values[found] if found else self.here(text)
        own |= {"DAGSTER_POSTGRES_HOST": "127.0.0.1", "DAGSTER_POSTGRES_PORT": str(self.database.port)}
        passed = {key: os.environ[key] for key in ("PATH", "HOME", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "TMPDIR") if key in os.environ}
        return {**passed, "DAGSTER_DISABLE_TELEMETRY": "1", **own, **self.extra}

    def run(self, name: str, command: list[str] | None = None) -> str:
        """Run a command in a service's surroundings to its end; without one, the service's own."""
        words = command or self.command(name)
        done = subprocess.run(words, env=self.environment(name), cwd=self.folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def start(self, name: str) -> None:
        with open(self.folder / f"{name}.log", "w") as log:
            self.processes[name] = subprocess.Popen(self.command(name), env=self.environment(name), cwd=self.folder, stdout=log, stderr=log)

    def is_healthy(self, name: str) -> bool:
        """Run a service's own health check."""
        assert self.processes[name].poll() is None, self.log(name)
        words = [word if word != "4000" else str(self.code_port) for word in self.service(name)["healthcheck"]["test"][1:]]
        words[0] = str(Path(sys.executable).parent / words[0])
        return subprocess.run(words, env=self.environment(name), cwd=self.folder, capture_output=True).returncode == 0

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def ask(self, query: str, **variables: Any) -> Any:
        """Ask the webserver's GraphQL."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            document = json.load(answer)
        assert "errors" not in document, document
        return document["data"]

    def answers(self) -> bool:
        assert self.processes["webserver"].poll() is None, self.log("webserver")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/server_info", timeout=5):
                return True
        except OSError:
            return False

    def stop(self) -> None:
        for process in reversed(self.processes.values()):
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
