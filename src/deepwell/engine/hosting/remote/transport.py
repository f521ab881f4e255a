"""HTTP to one server from one event loop: a request's answer as events, with limits on time and size."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Final

import msgspec

from deepwell.engine.hosting.remote.events import EventReader
from deepwell.engine.hosting.remote.faults import (
    TOO_MANY,
    Retry,
    bad_answer,
    broken,
    refused,
    unreachable,
)
from deepwell.errors import DeepwellError

if TYPE_CHECKING:
    import httpx

    from deepwell.engine.hosting.remote.address import RemoteOptions

__all__ = ["MOST_BODY_BYTES", "Transport", "body_of", "bounded_answer", "client_options"]

MOST_BODY_BYTES: Final = 256 << 20  # log probabilities of a long prompt with alternatives
_MOST_ANSWER_BYTES: Final = 1 << 20  # of what is asked about a server
_MOST_ERROR_BYTES: Final = 64 << 10
_CONNECT_S: Final = 5.0
_LOOK_S: Final = 5.0
_LONGEST_PAUSE_S: Final = 30.0
_encode = msgspec.json.Encoder().encode


def client_options(options: RemoteOptions) -> dict[str, Any]:
    """Returns the arguments of an httpx client. Proxies of the environment have no business here; nothing is redirected."""
    import httpx

    # No compression: a small answer could unfold into gigabytes.
    headers = {"accept-encoding": "identity"}
    if options.key is not None:
        headers["authorization"] = f"Bearer {options.key.get_secret_value()}"
    return {
        "headers": headers,
        "timeout": httpx.Timeout(options.first_s, connect=_CONNECT_S, write=options.idle_s, pool=None),
        # Certificates are read for https alone: they take 50 ms, and plain http is never redirected.
        "verify": options.address.url.startswith("https:"),
        "trust_env": False,
        "follow_redirects": False,
    }


def body_of(body: Any) -> bytes:
    """Returns a body as JSON."""
    return _encode(body)


def bounded_answer(
    http: httpx.Client, method: str, place: str, url: str, seconds: float, **options: Any
) -> tuple[int, bytes]:
    """Returns the status and the body of an answer as it comes over the wire: what is compressed is not unfolded.

    Raises:
        EngineUnavailable: the answer is longer than any to such a question, or has not ended in time.
    """
    parts, until = bytearray(), time.monotonic() + seconds
    with http.stream(method, place, **options) as answer:
        for piece in answer.iter_raw():
            parts += piece
            if len(parts) > _MOST_ANSWER_BYTES:
                raise bad_answer(url, f"more than {_MOST_ANSWER_BYTES} bytes")
            if time.monotonic() > until:
                raise unreachable(url, f"an answer that has not ended after {seconds:g} seconds")
        return answer.status_code, bytes(parts)


class Transport:
    """The connections of one event loop to the server."""

    def __init__(self, options: RemoteOptions) -> None:
        import httpx

        self.url = options.address.url
        self._key = b"" if options.key is None else options.key.get_secret_value().encode()
        self._first_s = options.first_s
        self._idle_s = options.idle_s
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        self._http = httpx.AsyncClient(limits=limits, **client_options(options))

    async def close(self) -> None:
        """Closes the connections, which ends what the server still computes for them."""
        with contextlib.suppress(RuntimeError):  # the loop is closing
            await self._http.aclose()

    async def events(self, path: str, body: dict[str, Any]) -> AsyncGenerator[bytes]:
        """Posts a body and yields the data of the events of its answer. Closing the generator closes the connection.

        Raises:
            Retry: no event had come, so the request may be sent again.
            EngineRestarted: the stream ended in the middle.
            EngineUnavailable: the answer breaks the bounds.
            DeepwellError: the server refuses the request.
        """
        import httpx

        reader = EventReader(self.url)
        begun = False
        clock = asyncio.get_running_loop().time
        until = clock() + self._first_s  # for the next event: comments alone keep no request open
        try:
            async with contextlib.AsyncExitStack() as stack:
                sent = self._http.stream("POST", self.url + path, **_content(body))
                async with asyncio.timeout_at(
                    until
                ):  # of the head too, and of an error that comes byte by byte
                    response = await stack.enter_async_context(sent)
                    if response.status_code != 200:
                        raise await self._refusal(response)
                pieces = response.aiter_raw()
                while not reader.done:
                    silence_s = self._idle_s if begun else self._first_s
                    async with asyncio.timeout_at(min(until, clock() + silence_s)):
                        piece = await anext(pieces, None)
                    if piece is None:
                        break
                    for event in reader.feed(piece):
                        begun = True
                        yield self._without_key(event)
                        until = clock() + self._first_s
                if not reader.done and (event := reader.end()) is not None:
                    begun = True
                    yield self._without_key(event)
        except (httpx.HTTPError, TimeoutError) as error:
            raise self._lost(error, begun=begun) from None
        if not begun:
            raise Retry(unreachable(self.url, "an empty answer"), sent=True)

    async def whole(self, path: str, body: dict[str, Any], most_bytes: int = MOST_BODY_BYTES) -> bytes:
        """Posts a body and returns the answer's, of at most `most_bytes`.

        Raises:
            Retry: nothing was answered, so the request may be sent again.
            EngineUnavailable: the answer breaks the bounds.
            DeepwellError: the server refuses the request.
        """
        import httpx

        parts = bytearray()
        try:
            async with (
                asyncio.timeout(self._first_s),
                self._http.stream("POST", self.url + path, **_content(body)) as response,
            ):
                if response.status_code != 200:
                    raise await self._refusal(response)
                async for piece in response.aiter_raw():
                    parts += piece
                    if len(parts) > most_bytes:
                        raise bad_answer(self.url, f"more than {most_bytes} bytes")
        except (httpx.HTTPError, TimeoutError) as error:
            raise self._lost(error, begun=bool(parts)) from None
        return self._without_key(bytes(parts))

    def _without_key(self, said: bytes) -> bytes:
        """Returns what the server said without the key that it was given: errors that quote it go to clients."""
        return said.replace(self._key, b"...") if self._key else said

    async def look(self, path: str) -> bytes | None:
        """Returns the body of a small answer, empty if the server is busy; None: it is away, or says anything else."""
        import httpx

        parts = bytearray()
        try:
            async with asyncio.timeout(_LOOK_S), self._http.stream("GET", self.url + path) as response:
                async for piece in response.aiter_raw():
                    parts += piece
                    if len(parts) > MOST_BODY_BYTES >> 8:
                        return None
                said = {200: bytes(parts), TOO_MANY: b""}  # who is busy is there
                return said.get(response.status_code)
        except (httpx.HTTPError, TimeoutError):
            return None

    def _lost(self, error: Exception, *, begun: bool) -> Exception:
        """Returns what a broken connection means for its request."""
        import httpx

        why = f"{type(error).__name__}: {error}".rstrip(": ")
        if begun:
            return broken(self.url, why)
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return Retry(unreachable(self.url, why), sent=False)
        if isinstance(error, TimeoutError | httpx.TimeoutException):
            return unreachable(self.url, f"no token within {self._first_s:g} seconds")
        return Retry(unreachable(self.url, why), sent=True)

    async def _refusal(self, response: httpx.Response) -> DeepwellError | Retry:
        said = bytearray()
        async for piece in response.aiter_raw():
            said += piece
            if len(said) > _MOST_ERROR_BYTES:
                break
        after = response.headers.get("retry-after", "")
        wait_s = float(after) if after.isascii() and after.isdigit() and len(after) < 6 else 0.0
        return refused(
            self.url,
            response.status_code,
            self._without_key(bytes(said))[:_MOST_ERROR_BYTES],
            min(wait_s, _LONGEST_PAUSE_S),
        )


def _content(body: dict[str, Any]) -> dict[str, Any]:
    return {"content": body_of(body), "headers": {"content-type": "application/json"}}
