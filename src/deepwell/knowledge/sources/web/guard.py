"""`Guard`: keeps requests of sources out of private networks (server-side request forgery).

A host is resolved once, every address of it is checked, and the connection goes to an address that was checked: a name
that means another address a moment later (DNS rebinding) has no effect. Redirects are requests like any other.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import cache
from ipaddress import ip_address
from typing import Any, cast

import httpcore
import httpx

from deepwell.errors import SourceError
from deepwell.knowledge.sources.web.addresses import Address, AllowList, parse_address, reach

__all__ = ["Guard", "GuardedTransport", "RefusedAddress", "Resolver"]

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host for a port."""

_ODD = re.compile(r"[\x00-\x20\x7f\\]")
_NUMBER = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)", re.IGNORECASE)


class RefusedAddress(SourceError):
    """Raised for an address that a source must not reach."""

    status = 400


async def resolve(host: str, port: int) -> list[str]:
    """Returns the addresses of a host, by the system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Guard:
    """The rules for addresses that sources may reach.

    Args:
        allowed: private hosts, addresses and networks that may be reached; see `AllowList`.
        resolver: returns the addresses of a host.

    Raises:
        RefusedAddress: an entry of `allowed` is no host, address or network.
    """

    def __init__(self, allowed: Sequence[str] = (), resolver: Resolver = resolve) -> None:
        try:
            self._allowed = AllowList(allowed)
        except ValueError as error:
            raise RefusedAddress(
                f"the list of allowed hosts does not fit: {error}", fix="correct the entry"
            ) from None
        self._resolver = resolver

    def check_url(self, url: str) -> httpx.URL:
        """Returns a URL whose form is harmless. Nothing is resolved.

        Raises:
            RefusedAddress: the scheme is not http or https, it holds credentials, or its host is written oddly.
        """
        if _ODD.search(url):
            raise RefusedAddress(
                "a URL of a source holds spaces, control characters or backslashes", fix="percent-encode them"
            )
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, UnicodeError) as error:
            raise RefusedAddress(f"a URL of a source is malformed: {error}", fix="correct it") from None
        if parsed.scheme not in ("http", "https"):
            raise RefusedAddress(
                f"a source cannot be read by {parsed.scheme or 'no'}: scheme", fix="use http:// or https://"
            )
        if parsed.userinfo:
            raise RefusedAddress(
                f"the URL of {parsed.host} holds a user or a password",
                fix="send a header instead: headers.Authorization='Basic ${CREDENTIALS}'",
            )
        host = parsed.raw_host.decode("ascii", "replace")
        if not host:
            raise RefusedAddress("a URL of a source has no host", fix="write https://host/path")
        if parse_address(host) is None and _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
            # 2130706433, 0x7f.1 and 0177.0.0.1 are 127.0.0.1 for some resolvers, and something else for others.
            raise RefusedAddress(
                f"the host {host} is a number in an unusual form", fix="write a name or four decimal numbers"
            )
        return parsed

    async def addresses(self, host: str, port: int) -> list[Address]:
        """Returns the addresses of a host, all of them checked.

        Raises:
            RefusedAddress: one of them must not be reached.
            SourceError: the host cannot be resolved.
        """
        literal = parse_address(host)
        if literal is not None:
            found = [literal]
        else:
            try:
                found = [ip_address(text) for text in await self._resolver(host, port)]
            except (OSError, UnicodeError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                raise SourceError(
                    f"the host {host} cannot be resolved: {reason}", fix="check the spelling, and the network"
                ) from None
        if not found:
            raise SourceError(f"the host {host} has no address", fix="check the spelling, and the network")
        for address in found:
            self._check(host, address)
        return found

    def _check(self, host: str, address: Address) -> None:
        kind = reach(address)
        if kind == "public" or (kind == "private" and self._allowed.opens(host, address)):
            return
        if kind == "never":
            raise RefusedAddress.of("address_reserved", named=_named(host, address))
        raise RefusedAddress.of("address_private", named=_named(host, address), host=host)


def _named(host: str, address: Address) -> str:
    return f"{host} ({address})" if host.strip("[]") != str(address) else host


class _GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Opens connections to addresses that the guard checked. TLS and the Host header keep the name of the URL."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._network = cast(httpcore.AsyncNetworkBackend, httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature of httpcore
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failed: Exception | None = None
        for address in await self._guard.addresses(host, port):
            try:
                return await self._network.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed or httpcore.ConnectError(f"{host} has no address")

    async def connect_unix_socket(self, *_args: Any, **_options: Any) -> httpcore.AsyncNetworkStream:
        raise httpcore.ConnectError("sources use no Unix sockets")

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)


@cache
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()  # takes some 20 ms


class _Body(httpx.AsyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._stream:
                yield part
        except _FAILURES as error:
            raise _translated(error) from error

    async def aclose(self) -> None:
        await self._stream.aclose()


class GuardedTransport(httpx.AsyncBaseTransport):
    """A transport of httpx whose every connection passes a guard. Proxies of the environment are not used.

    Args:
        context: the certificates that servers are verified by; None: those of httpx, or of `SSL_CERT_FILE`.
        connections: most connections at once.
    """

    def __init__(self, guard: Guard, context: ssl.SSLContext | None = None, connections: int = 8) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context or _certificates(),
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=5.0,
            network_backend=_GuardedNetwork(guard),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends one request.

        Raises:
            RefusedAddress: the host must not be reached.
            SourceError: the host cannot be resolved.
            httpx.TransportError: the exchange failed.
        """
        url = request.url
        outgoing = httpcore.Request(
            method=request.method,
            url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        try:
            answer = await self._pool.handle_async_request(outgoing)
        except _FAILURES as error:
            raise _translated(error) from error
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Body(answer.stream), extensions=answer.extensions
        )

    async def aclose(self) -> None:
        await self._pool.aclose()


_FAILURES = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)


def _translated(error: Exception) -> httpx.TransportError:
    """Returns the error of httpx with the name of httpcore's."""
    kind = getattr(httpx, type(error).__name__, httpx.TransportError)
    return kind(str(error))
