"""An S3-compatible store for tests: moto's server, which emulates S3 in this process, and one that answers as it is told."""

import logging
import threading
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from deepwell.storage.blobs import BlobPlace

SECRET = "s3cret-of-the-tests"


def credentials_file(folder: Path) -> Path:
    path = folder / "credentials"
    path.write_text(f"[default]\naws_access_key_id = AKIATESTS\naws_secret_access_key = {SECRET}\n")
    return path


class ObjectStore:
    """The emulated store; each test makes a bucket of its own."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def place(self, folder: Path, **named) -> BlobPlace:
        """Returns the place of a new bucket, with credentials in the folder."""
        bucket = f"test-{uuid.uuid4().hex[:12]}"
        self._put(bucket)
        made = BlobPlace(bucket, "some/where", self.endpoint, "us-east-1", credentials_file(folder))
        return replace(made, **named)

    def _put(self, path: str) -> None:
        request = urllib.request.Request(f"{self.endpoint}/{path}", data=b"", method="PUT")
        with urllib.request.urlopen(request):
            pass

    def add(self, place: BlobPlace, name: str) -> None:
        """Adds an empty object."""
        self._put(f"{place.bucket}/{place.prefix}/{name}")

    def objects(self, place: BlobPlace) -> dict[str, bytes]:
        """Returns all objects of a bucket by their names below the prefix."""
        keys = _bucket(place).keys
        return {name.removeprefix(f"{place.prefix}/"): keys[name].value for name in keys}

    def age(self, place: BlobPlace) -> None:
        """Makes all objects of a bucket old."""
        for key in _bucket(place).keys.values():
            key.last_modified = datetime.fromtimestamp(1_000_000_000, UTC).replace(tzinfo=None)

    def remove(self, place: BlobPlace, name: str) -> None:
        """Removes an object, as somebody else may."""
        del _bucket(place).keys[f"{place.prefix}/{name}"]

    def change(self, place: BlobPlace, name: str, data: bytes) -> None:
        """Gives an object other bytes."""
        _bucket(place).keys[f"{place.prefix}/{name}"].value = data


def _bucket(place: BlobPlace):
    from moto.backends import get_backend

    return get_backend("s3")["123456789012"]["aws"].buckets[place.bucket]


@contextmanager
def running() -> Iterator[ObjectStore]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield ObjectStore(f"http://{host}:{port}")
    finally:
        server.stop()


Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """Runs a store that answers every request as it is told, and yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            self.rfile.read(length)
            answer(self)

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
