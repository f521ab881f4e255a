"""`Fetcher`: one document from the web, through the guard, with robots.txt, manners and limits."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Self

import httpx

from deepwell.errors import SourceError
from deepwell.knowledge.sources.options import PageOptions
from deepwell.knowledge.sources.source import masked
from deepwell.knowledge.sources.web.guard import Guard, GuardedTransport
from deepwell.knowledge.sources.web.robots import EVERYTHING, MAX_BYTES, NOTHING, Robots, parse_robots
from deepwell.version import deepwell_version

__all__ = ["Answer", "Fetcher", "Forbidden", "Manners", "Version", "gunzip", "read_body"]

AGENT = "Deepwell"

_MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_LONGEST_WAIT_S = 30.0  # of a Retry-After that is obeyed at once
_ROBOTS_TTL_S = 3600.0
_NO_TEXT = ("image/", "audio/", "video/", "font/")


class Forbidden(SourceError):
    """Raised for a page that robots.txt forbids."""

    status = 403


@dataclass(frozen=True, slots=True)
class Version:
    """The version of a page: validators of the server, hash of the bytes, `lastmod` of the list it stands in."""

    etag: str = ""
    modified: str = ""
    digest: str = ""
    listed: str = ""

    @classmethod
    def parse(cls, text: str) -> Version:
        """Returns the version of a token; an empty one if the token is none."""
        try:
            parts = json.loads(text)
            return cls(*parts) if len(parts) == 4 and all(isinstance(part, str) for part in parts) else cls()
        except (ValueError, TypeError):
            return cls()

    def __str__(self) -> str:
        return json.dumps([self.etag, self.modified, self.digest, self.listed], separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a server, after redirects.

    Attributes:
        url: the address that was asked first.
        final_url: the address that answered.
        status: 200, 304 (nothing new), 404 or 410 (gone).
        media_type: the Content-Type header as it is, such as `text/html; charset=gbk`.
        body: the bytes, decompressed.
        version: validators and hash.
    """

    url: str
    final_url: str
    status: int
    media_type: str = ""
    body: bytes = b""
    version: Version = field(default_factory=Version)

    @property
    def is_gone(self) -> bool:
        """True if the server says that there is no such document."""
        return self.status in (404, 410)


class Manners:
    """Waits between requests to one host.

    Args:
        clock, sleep: the time in seconds, and a way to let it pass.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._free_at: dict[str, float] = {}
        self.sleep = sleep

    async def turn(self, host: str, delay_s: float) -> None:
        """Waits until `delay_s` seconds have passed since the last request to a host."""
        now = self._clock()
        at = max(now, self._free_at.get(host, now))
        self._free_at[host] = at + delay_s
        if at > now:
            await self.sleep(at - now)


class Fetcher:
    """Reads documents from the web. Connections are open within `async with`; what robots.txt said is kept for an hour.

    Args:
        guard: decides which addresses may be reached.
        options: time-outs, manners, headers.
        max_bytes: largest document, after decompression.
        home: address whose host gets the headers of the options; no other host does.
        manners: waits between requests.
    """

    def __init__(
        self, guard: Guard, options: PageOptions, *, max_bytes: int, home: str, manners: Manners | None = None
    ) -> None:
        self._guard = guard
        self._options = options
        self._max_bytes = max_bytes
        self._home = home
        self._manners = manners or Manners()
        self._robots: dict[str, tuple[Robots, float]] = {}
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        headers = {"user-agent": f"{AGENT}/{deepwell_version()}", "accept-encoding": "gzip"}
        self._client = httpx.AsyncClient(
            transport=GuardedTransport(self._guard),
            headers=headers,
            follow_redirects=False,
            trust_env=False,
            timeout=self._options.timeout_s,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def get(
        self, url: str, known: Version | None = None, *, accept: str = "*/*", max_bytes: int | None = None
    ) -> Answer:
        """Returns the document of an address.

        Args:
            known: version that the caller has: a server that still has it answers 304.
            accept: the Accept header.
            max_bytes: largest document, in place of the fetcher's.

        Raises:
            RefusedAddress: the guard refuses the address, or one that it redirects to.
            Forbidden: robots.txt forbids it.
            SourceError: the server does not answer in time, answers with an error, or the document is too large.
        """
        headers = {"accept": accept}
        if known and known.etag:
            headers["if-none-match"] = known.etag
        if known and known.modified:
            headers["if-modified-since"] = known.modified
        return await self._follow(url, headers, max_bytes or self._max_bytes, robots=self._options.robots)

    async def _follow(self, url: str, headers: Mapping[str, str], max_bytes: int, *, robots: bool) -> Answer:
        here = self._guard.check_url(url)
        retried = False
        hops = 0
        while hops <= _MOST_REDIRECTS:
            delay_s = self._options.delay_s
            if robots:
                rules = await self._rules(here)
                if not rules.allow(here.raw_path.decode("ascii")):
                    raise Forbidden(
                        f"robots.txt of {here.host} forbids {shown(here)}",
                        fix="robots=false, for a site of your own",
                    )
                delay_s = max(delay_s, rules.delay_s)
            await self._manners.turn(here.netloc.decode("ascii"), delay_s)
            answer = await self._exchange(here, headers, max_bytes)
            if isinstance(answer, Answer):
                return replace(answer, url=url, final_url=str(here))
            if answer.status_code in _REDIRECTS and (location := answer.headers.get("location")):
                here = self._redirected(here, location)
                hops += 1
                continue
            wait_s = _retry_after(answer)
            if answer.status_code in (429, 503) and not retried and wait_s is not None:
                retried = True
                await self._manners.sleep(wait_s)
                continue
            raise _refusal(here, answer)
        raise SourceError(
            f"{masked(url)} redirects more than {_MOST_REDIRECTS} times", fix="give the final address"
        )

    def _redirected(self, here: httpx.URL, location: str) -> httpx.URL:
        try:
            target = str(here.join(location))
        except (httpx.InvalidURL, ValueError) as error:
            raise SourceError(
                f"{shown(here)} redirects to no address: {error}", fix="give the final address"
            ) from None
        there = self._guard.check_url(target)
        if here.scheme == "https" and there.scheme == "http":
            raise SourceError(
                f"{shown(here)} redirects from https to http", fix="give the http address, if it is meant"
            )
        return there

    async def _exchange(
        self, url: httpx.URL, headers: Mapping[str, str], max_bytes: int
    ) -> Answer | httpx.Response:
        """Returns the document; the response without its body, where it is a redirect or an error."""
        if self._client is None:
            raise RuntimeError("a Fetcher works within `async with`")
        sent = dict(headers)
        if _origin(url) == _origin(httpx.URL(self._home)):
            sent |= self._options.headers
        try:
            async with asyncio.timeout(self._options.timeout_s):
                async with self._client.stream("GET", url, headers=sent) as response:
                    status = response.status_code
                    conditional = "if-none-match" in sent or "if-modified-since" in sent
                    if status in (404, 410) or (status == 304 and conditional):
                        return Answer("", "", status)
                    if not 200 <= status < 300:
                        return response
                    body = await read_body(response, shown(url), max_bytes)
        except (TimeoutError, httpx.TimeoutException):
            raise SourceError(
                f"{shown(url)} did not answer within {self._options.timeout_s:g} s",
                fix="try later, or raise timeout_s",
            ) from None
        except (httpx.TransportError, httpx.StreamError) as error:
            reason = str(error) or type(error).__name__
            raise SourceError(f"{shown(url)} cannot be read: {reason}", fix="check the address") from None
        etag, modified = response.headers.get("etag", ""), response.headers.get("last-modified", "")
        digest = hashlib.sha256(body).hexdigest()
        version = Version(etag=etag, modified=modified, digest=digest)
        return Answer("", "", 200, response.headers.get("content-type", ""), body, version)

    async def _rules(self, url: httpx.URL) -> Robots:
        origin = _origin(url)
        rules, until = self._robots.get(origin, (EVERYTHING, 0.0))
        if time.monotonic() < until:
            return rules
        try:
            answer = await self._follow(
                f"{origin}/robots.txt", {"accept": "text/plain"}, MAX_BYTES, robots=False
            )
            rules = (
                EVERYTHING if answer.is_gone else parse_robots(answer.body.decode("utf-8", "replace"), AGENT)
            )
        except _Refused as error:
            # RFC 9309, section 2.3.1: a client error forbids nothing, a server error everything.
            rules = EVERYTHING if 400 <= error.answered < 500 and error.answered != 429 else NOTHING
        self._robots[origin] = (rules, time.monotonic() + _ROBOTS_TTL_S)
        return rules


class _Refused(SourceError):
    """Raised for a status that is neither a document nor a redirect."""

    answered = 0


def shown(url: httpx.URL) -> str:
    """Returns a URL for people, without what looks like a key."""
    return masked(str(url))


def _refusal(url: httpx.URL, response: httpx.Response) -> _Refused:
    status = response.status_code
    fix = "check the address"
    if status in (401, 403):
        fix = "give what the server asks for: headers.Authorization='Bearer ${TOKEN}'"
    elif status == 429 or status >= 500:
        fix = "try later"
    error = _Refused(f"{shown(url)} answers {status} {response.reason_phrase}".rstrip(), fix=fix)
    error.answered = status
    return error


def _origin(url: httpx.URL) -> str:
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def _retry_after(response: httpx.Response) -> float | None:
    """Returns the seconds that a server asks to wait, if they are few."""
    text = response.headers.get("retry-after", "")
    try:
        wait_s = float(text) if text.isdecimal() else parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, wait_s) if wait_s <= _LONGEST_WAIT_S else None


async def read_body(response: httpx.Response, name: str, max_bytes: int) -> bytes:
    """Returns the body of a response, decompressed.

    Args:
        name: its address, for errors.

    Raises:
        SourceError: it is larger than `max_bytes`, has no text, or is compressed in another way than gzip, or broken.
    """
    media_type = response.headers.get("content-type", "").strip().lower()
    if media_type.startswith(_NO_TEXT):
        raise SourceError(f"{name} is {media_type.partition(';')[0]}, which has no text", fix="exclude it")
    length = response.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise _too_large(name, max_bytes)
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "x-gzip"):
        raise SourceError(f"{name} comes as {encoding}, which was not asked for", fix="give another address")
    unpack = _Unpacker(max_bytes) if "gzip" in encoding else None
    parts: list[bytes] = []
    size = 0
    async for raw in response.aiter_raw():
        try:
            part = unpack.feed(raw) if unpack else raw
        except zlib.error as error:
            raise SourceError(f"{name} is broken gzip: {error}", fix="try later") from None
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            raise _too_large(name, max_bytes)
    if unpack and not unpack.whole:
        raise SourceError(f"{name} is gzip that breaks off", fix="try later")
    return b"".join(parts)


def _too_large(name: str, max_bytes: int) -> SourceError:
    return SourceError(
        f"{name} is larger than {max_bytes / 1e6:.1f} MB", fix="exclude it, or raise the limit"
    )


class _Unpacker:
    """Decompresses gzip, and stops one byte behind `max_bytes` however much a small input would grow."""

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes + 1
        self._stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._fed = False

    @property
    def whole(self) -> bool:
        """True if the last member came to its end, or nothing came at all."""
        return self._stream.eof or not self._fed

    def feed(self, raw: bytes) -> bytes:
        """Returns the next bytes."""
        self._fed = self._fed or bool(raw)
        out = bytearray()
        while raw and self._left:
            piece = self._stream.decompress(raw, self._left)
            self._left -= len(piece)
            out += piece
            raw = self._stream.unconsumed_tail
            if self._stream.eof and self._stream.unused_data:  # another member follows
                raw = self._stream.unused_data
                self._stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
        return bytes(out)


def gunzip(data: bytes, max_bytes: int) -> bytes:
    """Returns the contents of a gzip file.

    Raises:
        SourceError: it is broken, or larger than `max_bytes`.
    """
    try:
        unpack = _Unpacker(max_bytes)
        out = unpack.feed(data)
    except zlib.error as error:
        raise SourceError(f"this is broken gzip: {error}", fix="try later") from None
    if len(out) > max_bytes:
        raise SourceError(f"this is larger than {max_bytes / 1e6:.1f} MB", fix="raise the limit")
    if not unpack.whole:
        raise SourceError("this is gzip that breaks off", fix="try later")
    return out
