"""`Forward`: passes requests for what lives in one HTTP process on to that process, where `Forwarded` receives them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import httpx
import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from deepwell.errors import EngineUnavailable
from deepwell.server.http.errors import error_response

__all__ = ["Forward", "Forwarded"]

_RETRY_S = 0.1
_ADDRESSES = (
    b"x-deepwell-addresses"  # of the server and the client, as the process has them that the client reached
)
_addresses = msgspec.json.Decoder(tuple[tuple[str, int | None] | None, tuple[str, int | None] | None])
_HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"trailer"))


class Forward:
    """ASGI middleware around everything else. It sends requests under `prefixes` to the process behind a Unix socket.

    It checks nothing: the other process has the same keys and limits, and counts the request once.
    """

    def __init__(
        self, app: ASGIApp, *, prefixes: tuple[str, ...], address: str, wait_s: float = 30.0
    ) -> None:
        self._app = app
        self._wait_s = wait_s
        self._prefixes = prefixes
        # An answer may take any time. The client's hang-up ends it.
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=address, limits=httpx.Limits(max_connections=None)),
            timeout=None,  # noqa: S113
            trust_env=False,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(self._prefixes):
            await self._app(scope, receive, send)
            return
        whole = asyncio.Event()  # set when the request has been read
        try:
            response = await self._send(scope, receive, whole)
        except httpx.HTTPError:
            error = EngineUnavailable(
                "the process that answers such requests is being restarted", fix="send the request again"
            )
            await error_response(error)(scope, receive, send)
            return
        left = asyncio.Event()
        leaving = asyncio.create_task(_hang_up(receive, whole, response, left))
        try:
            headers = [pair for pair in response.headers.raw if pair[0].lower() not in _HOP_BY_HOP]
            await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
            async for data in response.aiter_raw():
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except httpx.HTTPError:
            if not left.is_set():  # the other process is gone: a cut connection tells the client
                raise
        finally:
            leaving.cancel()
            await response.aclose()

    async def _send(self, scope: Scope, receive: Receive, whole: asyncio.Event) -> httpx.Response:
        """Returns the beginning of the answer. Retries for `wait_s` if the process is not up; until it is, nothing is read."""
        query: bytes = scope["query_string"]
        path: bytes = scope["raw_path"].partition(b"?")[0]
        url = httpx.URL("http://worker").copy_with(raw_path=path + (b"?" + query if query else b""))
        dropped = {*_HOP_BY_HOP, _ADDRESSES}
        headers = [(name, value) for name, value in scope["headers"] if name not in dropped]
        headers.append((_ADDRESSES, msgspec.json.encode((scope.get("server"), scope.get("client")))))
        until = asyncio.get_running_loop().time() + self._wait_s
        while True:
            request = self._client.build_request(
                scope["method"], url, headers=headers, content=_body(receive, whole)
            )
            try:
                return await self._client.send(request, stream=True)
            except httpx.ConnectError:
                if asyncio.get_running_loop().time() >= until:
                    raise
            await asyncio.sleep(_RETRY_S)


class Forwarded:
    """ASGI middleware around everything else. It gives a request that was passed on the addresses of its client's connection.

    Without the server's, its own address would not be among the names that `Host` may have. Only connections without a
    port, which are those of the private Unix socket, are believed.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and ((server := scope.get("server")) is None or server[1] is None):
            told = [value for name, value in scope["headers"] if name == _ADDRESSES]
            if told:
                scope["server"], scope["client"] = _addresses.decode(told[0])
                scope["headers"] = [pair for pair in scope["headers"] if pair[0] != _ADDRESSES]
        await self._app(scope, receive, send)


async def _body(receive: Receive, whole: asyncio.Event) -> AsyncGenerator[bytes, None]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise httpx.ReadError("the client left")
        if data := message.get("body", b""):
            yield data
        more = message.get("more_body", False)
    whole.set()


async def _hang_up(
    receive: Receive, whole: asyncio.Event, response: httpx.Response, left: asyncio.Event
) -> None:
    """Closes the response when the client leaves."""
    await whole.wait()
    while (await receive())["type"] != "http.disconnect":
        pass
    left.set()
    await response.aclose()
