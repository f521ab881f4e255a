"""A small web server on loopback whose answers the test writes, and that remembers what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOST = "site.test"


@dataclass
class Reply:
    """An answer. `parts` are sent one by one, each after `gate` was passed."""

    body: bytes | str = b""
    status: int = 200
    type: str = "text/html; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)
    parts: Callable[[], Iterator[bytes]] | None = None


@dataclass
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


class Site:
    """Answers by path. An answer with an ETag is 304 for who has it."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply | Callable[[Asked], Reply]] = {}
        self.asked: list[Asked] = []
        self.port = 0
        self.closing = threading.Event()

    def url(self, path: str, host: str = HOST) -> str:
        return f"http://{host}:{self.port}{path}"

    def paths(self) -> list[str]:
        """The paths that were asked for, but for robots.txt; the list begins anew."""
        paths = [asked.path for asked in self.asked if asked.path != "/robots.txt"]
        self.asked.clear()
        return paths

    def answer(self, asked: Asked) -> Reply:
        self.asked.append(asked)
        reply = self.replies.get(asked.path, Reply("nothing here", 404))
        if callable(reply):
            reply = reply(asked)
        etag = reply.headers.get("ETag")
        since = reply.headers.get("Last-Modified")
        if (etag and asked.headers.get("if-none-match") == etag) or (
            since and not etag and asked.headers.get("if-modified-since") == since
        ):
            return Reply(status=304, headers=reply.headers)
        return reply


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # headers and body in one packet: a second one waits 40 ms for the first one's ACK

        def do_GET(self) -> None:
            size = int(self.headers.get("content-length") or 0)
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, self.path, headers, self.rfile.read(size))
            reply = site.answer(asked)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.parts is None:
                body = reply.body.encode() if isinstance(reply.body, str) else reply.body
                if reply.status != 304:
                    self.send_header("Content-Type", reply.type)
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                return
            self.send_header("Content-Type", reply.type)
            self.send_header("Connection", "close")
            self.end_headers()
            try:
                for part in reply.parts():
                    self.wfile.write(part)
                    self.wfile.flush()
            except OSError:
                pass  # the client went away
            self.close_connection = True

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients of these tests go away in the middle


@contextmanager
def serving() -> Iterator[Site]:
    """A site that answers as long as the block lasts."""
    site = Site()
    server = _Server(("127.0.0.1", 0), _handler(site))
    site.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


async def to_loopback(_host: str, _port: int) -> list[str]:
    """Resolves every name to the test's server."""
    return ["127.0.0.1"]
