"""A server of one Hugging Face repository over real HTTP, with faults on demand: as much of the Hub's interface as a download of a pinned commit uses."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from curation_assets.models.weights import WeightFile, WeightsSpec

REVISION = "0123456789abcdef0123456789abcdef01234567"


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Hub:
    """What is served, and what was asked for.

    Attributes:
        files: name -> content as published; of those that end with .safetensors or .bin the Hub gives a SHA-256, of the others git's hash.
        sent: name -> other content that is sent in place of it.
        cut_at: name -> place at which the connection breaks, once.
        token: when given, others are refused with 403, and those without one with 401.
        requests: method, path, Range header and token of every request.
    """

    repo: str
    files: dict[str, bytes]
    sent: dict[str, bytes] = field(default_factory=dict)
    cut_at: dict[str, int] = field(default_factory=dict)
    token: str | None = None
    requests: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)
    url: str = ""

    def spec(self, *, pinned: bool = True, is_gated: bool = False) -> WeightsSpec:
        """Give what a model would say of this repository; small files without hashes."""
        files = tuple(
            WeightFile(name, len(content), hashlib.sha256(content).hexdigest())
            if pinned and _is_large(name)
            else WeightFile(name, None, None)
            for name, content in self.files.items()
        )
        return WeightsSpec(self.repo, REVISION, files, "MIT", is_gated)

    def downloads(self, name: str) -> list[str | None]:
        """List the Range headers with which a file was fetched."""
        return [header for method, path, header, _ in self.requests if method == "GET" and path.endswith(f"/resolve/{REVISION}/{name}")]


def _is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = urlsplit(self.path).path
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
            hub.requests.append((self.command, path, self.headers.get("Range"), token))
            start = f"/{hub.repo}/resolve/{REVISION}/"
            if path == f"/api/models/{hub.repo}/tree/{REVISION}":
                entries = []
                for name, content in hub.files.items():
                    entry = {"type": "file", "oid": git_hash(content), "size": len(content), "path": name}
                    if _is_large(name):
                        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
                    entries.append(entry)
                self._send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})
            elif path.startswith(f"/api/models/{hub.repo}/tree/"):
                self._send(404, b"", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
            elif path.startswith(start) and path.removeprefix(start) in hub.files:
                self._file(path.removeprefix(start), token)
            else:
                self._send(404, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})

        def _file(self, name: str, token: str | None) -> None:
            if hub.token is not None and token != hub.token:
                message = {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to model {hub.repo} is restricted."}
                self._send(403 if token else 401, b"", message)
                return
            published, content = hub.files[name], hub.sent.get(name, hub.files[name])
            etag = hashlib.sha256(published).hexdigest() if _is_large(name) else git_hash(published)
            first = 0
            if wanted := self.headers.get("Range"):
                first = int(wanted.removeprefix("bytes=").partition("-")[0])
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": REVISION, "Accept-Ranges": "bytes"}
            if first:
                headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            cut_at = hub.cut_at.pop(name, None) if self.command == "GET" else None
            self._send(206 if first else 200, content[first:], headers, cut_at=cut_at)

        def _send(self, status: int, content: bytes, headers: dict[str, str], *, cut_at: int | None = None) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content[:cut_at])
            if cut_at is not None:
                self.wfile.flush()
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve a repository on a free port; `hub.url` says where."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
