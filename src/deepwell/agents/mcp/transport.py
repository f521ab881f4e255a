"""`guarded_client`: the HTTP client of MCP, which reaches allowed hosts alone and reads bounded answers.

The rules for addresses are those of the sources of knowledge (`knowledge.sources.web.guard`): a host is resolved once, every
address of it is checked, and the connection goes to one that was checked. A redirect is a request like any other.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.knowledge.sources.web.addresses import AllowList, parse_address
from deepwell.knowledge.sources.web.guard import Guard, GuardedTransport, Resolver, resolve
from deepwell.version import deepwell_version

if TYPE_CHECKING:
    import httpx2

    from deepwell.agents.mcp.config import RemoteServer

__all__ = ["MOST_BYTES", "check_headers", "check_host", "guarded_client"]

MOST_BYTES: Final = 4 << 20
"""Bytes of one answer of a server of others."""

# Lies in no network but that of all: a name is allowed by its name alone.
_UNSET: Final = ip_address("0.0.0.0")  # noqa: S104 - nothing is bound to it
_TAKEN: Final = (
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
    "trailer",
    "cookie",
)
_TAKEN_PREFIXES: Final = ("mcp-", "proxy-")
_MOST_HEADERS: Final = 32
_MOST_HEADER: Final = 8192


def check_host(url: str, hosts: Sequence[str], param: str = "") -> None:
    """Checks that a request may name this address as an MCP server. Nothing is resolved.

    Args:
        hosts: see `AllowList`; no host is allowed that is not in it.
        param: parameter of the request that names the address.

    Raises:
        InvalidRequest: it may not, or the address is malformed.
    """
    try:
        parsed = Guard(hosts).check_url(url)
        host = parsed.host
        if not AllowList(hosts).opens(host, parse_address(host) or _UNSET):
            raise InvalidRequest.of("mcp_host_closed", host=host, param=param)
    except InvalidRequest:
        raise
    except DeepwellError as error:
        raise InvalidRequest(error.message, fix=error.fix, param=param) from None


def check_headers(headers: dict[str, str], param: str) -> None:
    """Checks headers that a request wants sent to an MCP server.

    Raises:
        InvalidRequest: a name or value is not one of HTTP, or the name belongs to the connection.
    """
    if len(headers) > _MOST_HEADERS:
        raise InvalidRequest(f"there are more than {_MOST_HEADERS} headers", fix="send fewer", param=param)
    for name, value in headers.items():
        plain = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
        if not plain or name.lower() in _TAKEN or name.lower().startswith(_TAKEN_PREFIXES):
            raise InvalidRequest.of("mcp_header_refused", name=name[:80], param=param)
        if len(value) > _MOST_HEADER or not value.isascii() or not value.isprintable():
            raise InvalidRequest.of("mcp_header_value", name=name, most=_MOST_HEADER, param=param)


def guarded_client(
    server: RemoteServer, hosts: Sequence[str], timeout_s: float, resolver: Resolver = resolve
) -> httpx2.AsyncClient:
    """Returns an HTTP client for one server. Redirects leave its origin never (`mcp` sees to it).

    Args:
        hosts: private hosts that may be reached; that of a server which the operator named may be too.
    """
    import httpx
    import httpx2

    allowed = list(hosts)
    if server.trusted:
        allowed.append(httpx.URL(server.url).host)

    class Body(httpx2.AsyncByteStream):
        def __init__(self, stream: httpx.AsyncByteStream) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            count = 0
            try:
                async for part in self._stream:
                    count += len(part)
                    if count > MOST_BYTES:
                        raise httpx2.ReadError(f"an answer is larger than {MOST_BYTES >> 20} MiB")
                    yield part
            except httpx.TransportError as error:
                raise httpx2.ReadError(str(error) or type(error).__name__) from error

        async def aclose(self) -> None:
            await self._stream.aclose()

    class Transport(httpx2.AsyncBaseTransport):
        def __init__(self) -> None:
            self._guard = Guard(allowed, resolver)
            self._inner = GuardedTransport(self._guard)

        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            try:
                url = self._guard.check_url(str(request.url))
                sent = httpx.Request(
                    request.method, url, headers=request.headers.raw, content=await request.aread()
                )
                answer = await self._inner.handle_async_request(sent)
            except DeepwellError as error:
                raise httpx2.ConnectError(error.message) from error
            except httpx.TransportError as error:
                kind = getattr(httpx2, type(error).__name__, httpx2.TransportError)
                raise kind(str(error) or type(error).__name__) from error
            stream = answer.stream
            assert isinstance(stream, httpx.AsyncByteStream)
            coding = answer.headers.get("content-encoding", "identity")
            if coding.strip().lower() not in ("", "identity"):  # it would grow behind the bound
                await stream.aclose()
                raise httpx2.ReadError(f"an answer is compressed ({coding[:40]}), which was not asked for")
            return httpx2.Response(
                answer.status_code,
                headers=answer.headers.raw,
                stream=Body(stream),
                extensions=answer.extensions,
            )

        async def aclose(self) -> None:
            await self._inner.aclose()

    return httpx2.AsyncClient(
        transport=Transport(),
        headers={
            "user-agent": f"Deepwell/{deepwell_version()}",
            "accept-encoding": "identity",
            **server.headers,
        },
        timeout=httpx2.Timeout(timeout_s),
        follow_redirects=False,
        trust_env=False,
    )
