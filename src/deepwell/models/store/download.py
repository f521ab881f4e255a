"""Downloads files over HTTP: resumed, counted, hashed, and given their final name only when complete."""

from __future__ import annotations

import hashlib
import json
import queue
import re
import shutil
import socket
import threading
import time
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from deepwell.errors import DownloadError

if TYPE_CHECKING:
    import httpx

__all__ = ["Digest", "Downloader", "Progress", "hash_file", "silent"]

CHUNK_BYTES: Final = 1 << 20
ATTEMPTS: Final = 5
REACH_SECONDS: Final = 4.0  # to find a host and connect to it: the other side of the world takes one
ANSWER_SECONDS: Final = 30.0  # between two reads
HASTY_ANSWER_SECONDS: Final = 8.0  # the same where another source can be asked instead
JSON_SECONDS: Final = 60.0  # for a whole JSON document
MAX_JSON_BYTES: Final = 32 << 20
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class Progress(Protocol):
    """Callback that is told about every step of a download."""

    def __call__(self, label: str, done_bytes: int, total_bytes: int | None) -> None:
        """Reports that `done_bytes` of `total_bytes` (None: unknown) of `label` have arrived."""
        ...


def silent(label: str, done_bytes: int, total_bytes: int | None) -> None:
    """A `Progress` that shows nothing."""


@dataclass(frozen=True, slots=True)
class Digest:
    """The expected hash of a file. `algorithm` is "sha256" or "git" (SHA-1 of git's blob)."""

    algorithm: str
    value: str


def hash_file(path: Path, algorithm: str = "sha256") -> str:
    """Returns the hex digest of a file, which is read in pieces."""
    if algorithm == "git":
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    else:
        digest = hashlib.new(algorithm)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


class Downloader:
    """An HTTP client for downloads.

    Args:
        headers: sent with every request.
        retry_wait_s: wait before the second attempt; doubles with each attempt.
        attempts: number of times a JSON document is asked for. With one, a server that does not answer is given up after
            seconds; files are always resumed as often as `ATTEMPTS` says.
    """

    def __init__(
        self, *, headers: Mapping[str, str] | None = None, retry_wait_s: float = 1.0, attempts: int = ATTEMPTS
    ) -> None:
        import httpx  # imported late: it takes 70 ms, too long for a warm start

        self._client = httpx.Client(
            headers={"user-agent": "deepwell", "accept-encoding": "identity", **(headers or {})},
            follow_redirects=True,
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=10.0),
        )
        self._retry_wait_s = retry_wait_s
        self._attempts = attempts
        hasty = HASTY_ANSWER_SECONDS if attempts == 1 else ANSWER_SECONDS
        self._json_timeout = httpx.Timeout(hasty, connect=REACH_SECONDS)
        self._reached: set[tuple[str, int]] = set()

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Downloader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get_json(
        self, url: str, params: Mapping[str, str] | None = None, *, accept: str = ""
    ) -> tuple[Any, str]:
        """Returns the JSON document at `url`, and the address of the next page (empty on the last one).

        Args:
            accept: media type to ask for; empty: any.

        Raises:
            DownloadError: the server is unreachable or refuses, or its answer is not JSON.
        """
        self._check_reachable(url)
        headers = {"accept": accept} if accept else {}
        for attempt in range(self._attempts):
            try:
                body, following = self._get(url, params, headers, MAX_JSON_BYTES)
                return json.loads(body), following
            except _Interrupted as error:
                if attempt + 1 == self._attempts:
                    raise DownloadError(error.message, fix=error.fix) from error
                time.sleep(self._retry_wait_s * 2**attempt)
            except (ValueError, RecursionError) as error:
                raise DownloadError(f"{url} does not answer with JSON: {error}") from error
        raise AssertionError("unreachable")

    def get_small(self, url: str, most_bytes: int) -> bytes:
        """Returns the bytes at `url`, asking once.

        Raises:
            DownloadError: the server is unreachable or refuses, or there are more than `most_bytes`.
        """
        self._check_reachable(url)
        try:
            return self._get(url, None, {}, most_bytes)[0]
        except _Interrupted as error:
            raise DownloadError(error.message, fix=error.fix) from error

    def get_headers(self, url: str) -> Mapping[str, str]:
        """Returns what a server says of the file at `url`, by lower-case names, without fetching the file.

        A server that knows no HEAD is asked for the first byte, and the connection is closed before a body is read.

        Raises:
            DownloadError: the server is unreachable or refuses.
        """
        self._check_reachable(url)
        try:
            with _explained(url):
                response = self._client.head(url, timeout=self._json_timeout)
                if response.status_code in (403, 405, 501):
                    first = {"range": "bytes=0-0"}
                    with self._client.stream(
                        "GET", url, headers=first, timeout=self._json_timeout
                    ) as response:
                        _check_status(response)
                        return _whole(response.headers)
            _check_status(response)
            return _whole(response.headers)
        except _Interrupted as error:
            raise DownloadError(error.message, fix=error.fix) from error

    def _check_reachable(self, url: str) -> None:
        """Connects to a host once, to find out in seconds that the network is closed.

        A resolver may take half a minute to give up, and a connection tries every address of a host in turn. Behind a proxy
        only the proxy is reached, which has the client's own time limit.
        """
        parts = urlsplit(url)
        host = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        if host in self._reached or urllib.request.getproxies().keys() & {parts.scheme, "all"}:
            return
        outcome: queue.SimpleQueue[OSError | None] = queue.SimpleQueue()

        def connect() -> None:
            try:
                socket.create_connection(host, timeout=REACH_SECONDS).close()
                outcome.put(None)
            except (OSError, UnicodeError) as error:
                outcome.put(error if isinstance(error, OSError) else OSError(str(error)))

        threading.Thread(target=connect, daemon=True).start()
        try:
            problem = outcome.get(timeout=REACH_SECONDS)
        except queue.Empty:
            problem = TimeoutError(f"no answer within {REACH_SECONDS:g} s")
        if problem is not None:
            raise DownloadError.of("hub_unreachable", host=host[0], reason=problem)
        self._reached.add(host)

    def _get(
        self, url: str, params: Mapping[str, str] | None, headers: Mapping[str, str], most_bytes: int
    ) -> tuple[bytes, str]:
        until = time.monotonic() + JSON_SECONDS
        stream = self._client.stream("GET", url, params=params, headers=headers, timeout=self._json_timeout)
        with _explained(url), stream as response:
            _check_status(response)
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > most_bytes or time.monotonic() > until:
                    raise DownloadError(
                        f"{url} answers with more than {most_bytes} bytes, or for over {JSON_SECONDS:g} s"
                    )
            link = response.links.get("next", {}).get("url")
            return bytes(body), str(response.url.join(link)) if link else ""

    def fetch(
        self,
        url: str,
        path: Path,
        *,
        size_bytes: int | None = None,
        digest: Digest | None = None,
        progress: Progress = silent,
    ) -> str:
        """Downloads `url` to `path`. An earlier attempt's `path`.part is resumed.

        Returns the entity tag that the server gave the file; empty if it gave none.

        Raises:
            DownloadError: the server is unreachable or refuses, the transfer is cut off repeatedly, or the bytes are wrong.
        """
        part = path.with_name(path.name + ".part")
        tag = path.with_name(path.name + ".etag")
        part.parent.mkdir(parents=True, exist_ok=True)
        if not (digest or tag.is_file()):
            part.unlink(missing_ok=True)  # nothing proves that the remainder would belong to this beginning
        version = ""
        for attempt in range(ATTEMPTS):
            before = _size(part)
            try:
                version = self._continue(url, part, tag, size_bytes, path.name, progress)
                break
            except _Interrupted as error:
                if attempt + 1 == ATTEMPTS or not error.retry:
                    raise DownloadError(error.message, fix=error.fix) from error
                if _size(part) == before:
                    time.sleep(self._retry_wait_s * 2**attempt)
        if digest and (found := hash_file(part, digest.algorithm)) != digest.value:
            part.unlink()
            tag.unlink(missing_ok=True)
            raise DownloadError(
                f"{path.name} from {urlsplit(url).hostname} has {digest.algorithm} {found}, not {digest.value}",
                fix="try again; if it stays so, the source has changed: do not use it",
            )
        tag.unlink(missing_ok=True)
        part.replace(path)
        return version

    def _continue(
        self, url: str, part: Path, tag: Path, size_bytes: int | None, label: str, progress: Progress
    ) -> str:
        """Fetches what is missing, and returns the entity tag of the whole."""
        have = _size(part)
        if size_bytes is not None and have >= size_bytes:
            if have == size_bytes:
                return ""
            part.unlink()
            have = 0
        headers: dict[str, str] = {}
        if have:
            headers["range"] = f"bytes={have}-"
            if tag.is_file():
                headers["if-range"] = tag.read_text(encoding="ascii")
        with _explained(url), self._client.stream("GET", url, headers=headers) as response:
            if response.status_code == 416 and have:
                part.unlink()
                raise _Interrupted(f"{url} has fewer than the {have} bytes already here", retry=True)
            _check_status(response)
            resumed = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
            if response.status_code == 206 and not (resumed and int(resumed[1]) == have):
                raise _Interrupted(f"{url} continues at another byte than asked", retry=False)
            start = have if response.status_code == 206 else 0
            length = response.headers.get("content-length", "")
            total = start + int(length) if length.isdecimal() else None
            if size_bytes is not None and total not in (None, size_bytes):
                raise _Interrupted(f"{url} has {total} bytes, not {size_bytes}", retry=False)
            expected = size_bytes if size_bytes is not None else total
            _check_space(part.parent, (expected or 0) - start)
            etag = response.headers.get("etag", "")
            if etag and not etag.startswith("W/"):
                tag.write_text(etag, encoding="ascii", errors="ignore")
            done = start
            progress(label, done, expected)
            with part.open("ab" if start else "wb") as file:
                for chunk in response.iter_raw():
                    done += len(chunk)
                    if expected is not None and done > expected:
                        raise _Interrupted(f"{url} sends more than {expected} bytes", retry=False)
                    file.write(chunk)
                    progress(label, done, expected)
        if expected is not None and done < expected:
            raise _Interrupted(f"{url} was cut off at {done} of {expected} bytes", retry=True)
        return etag


class _Interrupted(Exception):
    def __init__(self, message: str, *, retry: bool, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.retry = retry
        self.fix = fix or "run the same command again: it continues where it stopped"


@contextmanager
def _explained(url: str) -> Generator[None]:
    import httpx

    host = urlsplit(url).hostname
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
        raise DownloadError.of("hub_unreachable", host=host, reason=error) from error
    except httpx.TransportError as error:
        raise _Interrupted(f"the connection to {host} broke: {error}", retry=True) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _as_download_error(f"{url}: {error}", "") from error


def _as_download_error(message: str, fix: str) -> DownloadError:
    return DownloadError(message, fix=fix)


def _check_status(response: httpx.Response) -> None:
    status = response.status_code
    if status in (200, 206):
        return
    url = f"{response.url.scheme}://{response.url.host}{response.url.path}"
    if status in (408, 425, 429) or status >= 500:
        raise _Interrupted(f"{url} answers {status}", retry=True, fix="try again later")
    fixes = {
        401: "set HF_TOKEN to a token that may read this model",
        403: "accept the model's licence on its page, and set HF_TOKEN",
        404: "check the spelling of the name and the file",
    }
    raise DownloadError(f"{url} answers {status}", fix=fixes.get(status, ""))


def _check_space(directory: Path, need_bytes: int) -> None:
    free = shutil.disk_usage(directory).free
    if need_bytes > free:
        need, have = f"{need_bytes / 1e9:.1f} GB", f"{free / 1e9:.1f} GB"
        raise DownloadError.of("disk_short", need=need, path=directory, free=have)


def _whole(headers: Mapping[str, str]) -> dict[str, str]:
    """Returns headers with the length of the whole file, which an answer with its first byte has behind a slash."""
    found = {name.lower(): value for name, value in headers.items()}
    if part := _CONTENT_RANGE.fullmatch(found.get("content-range", "")):
        found["content-length"] = "" if part[2] == "*" else part[2]
    return found


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
