"""A small HTTP server on the loopback interface that serves bytes, with ranges, and can misbehave."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What is served, and what was asked: `files` maps paths (without query) to bytes."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)  # each request takes one: bytes sent before hanging up
    failures: list[int] = field(default_factory=list)  # each request takes one: a status instead of the file
    links: dict[str, str] = field(default_factory=dict)  # path with query -> address of the next page
    ranges: list[str | None] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    held: threading.Event | None = None  # a connection that was to be cut waits for this first
    accepts_ranges: bool = True
    sends_etag: bool = True
    knows_head: bool = False
    modified: str = ""  # Last-Modified of every file
    sent_bytes: int = 0  # of bodies

    def put_json(self, path: str, value: object) -> None:
        self.files[path] = json.dumps(value).encode()


class _Handler(BaseHTTPRequestHandler):
    files: FileServer

    def do_GET(self) -> None:
        served = self.files
        served.ranges.append(self.headers["range"])
        served.tokens.append(self.headers["authorization"])
        if served.failures:
            self.send_error(served.failures.pop(0))
            return
        body = served.files.get(self.path, served.files.get(self.path.partition("?")[0]))
        if body is None:
            self.send_error(404)
            return
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        start = 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers["range"] or "")
        if wanted and served.accepts_ranges and self.headers["if-range"] in (None, etag):
            start = int(wanted[1])
            if start >= len(body):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("content-range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("content-length", str(len(body) - start))
        if served.sends_etag:
            self.send_header("etag", etag)
        if served.modified:
            self.send_header("last-modified", served.modified)
        if link := served.links.get(self.path):
            self.send_header("link", f'<{link}>; rel="next"')
        self.end_headers()
        end = start + served.cut_after.pop(0) if served.cut_after else len(body)
        self.wfile.write(body[start:end])
        served.sent_bytes += end - start
        if served.held is not None and end < len(body):
            self.wfile.flush()
            served.held.wait(60)
        self.close_connection = True

    def do_HEAD(self) -> None:
        served = self.files
        body = served.files.get(self.path)
        if not served.knows_head or body is None:
            self.send_error(404 if served.knows_head else 405)
            return
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        if served.sends_etag:
            self.send_header("etag", f'"{hashlib.md5(body).hexdigest()}"')
        if served.modified:
            self.send_header("last-modified", served.modified)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve_files() -> Generator[FileServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    files = FileServer(f"http://127.0.0.1:{server.server_address[1]}")
    server.RequestHandlerClass = type("Handler", (_Handler,), {"files": files})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
