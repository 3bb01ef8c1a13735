"""A server on localhost that speaks S3's ListObjectsV2, fast enough to list a hundred thousand objects, and fails when it is told to."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, urlsplit
from xml.sax.saxutils import escape

MODIFIED = "2026-01-02T03:04:05.000Z"


class ListServer:
    """Objects by key; every bucket has the same ones.

    Attributes:
        keys: sorted by their UTF-8 bytes.
        etags: by key.
        answer: called with the number of the request and its Authorization header; (status, code) of an error to answer with, or None.
    """

    def __init__(self, etags: dict[str, str]) -> None:
        self.etags = etags
        self.keys = sorted(etags)
        self.answer: Callable[[int, str], tuple[int, str] | None] = lambda number, who: None
        self.num_requests = 0
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.port = self._server.server_port
        self.options = {"aws_endpoint": f"http://127.0.0.1:{self.port}", "aws_region": "us-east-1"}

    def put(self, key: str, etag: str) -> None:
        """Add or replace one object."""
        self.etags[key] = etag
        self.keys = sorted(self.etags)

    def __enter__(self) -> ListServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def page(self, query: dict[str, str]) -> str:
        """Answer one ListObjectsV2 request."""
        prefix, size = query.get("prefix", ""), int(query.get("max-keys", 1000))
        after = query.get("continuation-token") or query.get("start-after") or ""
        start = max(bisect_right(self.keys, after) if after else 0, bisect_left(self.keys, prefix))
        end = bisect_left(self.keys, prefix + "\U0010ffff", lo=start) if prefix else len(self.keys)
        page = self.keys[start : min(end, start + size)]
        is_cut = start + size < end
        spelled = quote if query.get("encoding-type") == "url" else escape
        items = "".join(
            f"<Contents><Key>{spelled(key)}</Key><LastModified>{MODIFIED}</LastModified><ETag>&quot;{self.etags[key]}&quot;</ETag><Size>1</Size></Contents>"
            for key in page
        )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if is_cut else ""
        coding = "<EncodingType>url</EncodingType>" if spelled is quote else ""
        return (
            f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>{coding}'
            f"<IsTruncated>{str(is_cut).lower()}</IsTruncated>{token}{items}</ListBucketResult>"
        )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    owner: ListServer

    def do_GET(self) -> None:
        self.owner.num_requests += 1
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query, keep_blank_values=True).items()}
        failure = self.owner.answer(self.owner.num_requests, self.headers.get("Authorization", ""))
        if failure:
            status, body = failure[0], f"<Error><Code>{failure[1]}</Code><Message>{failure[1]}</Message></Error>"
        else:
            status, body = 200, self.owner.page(query)
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass
