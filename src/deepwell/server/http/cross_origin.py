"""`CrossOriginGuard`: which names requests may call the server by, and which web pages may call it.

A server that asks for no key trusts whoever reaches its address. A web page reaches it through its visitor's browser: under
a name of the page's own that resolves to this machine (DNS rebinding), or with a request that needs no permission, such as
a form (CSRF). The first is told by `Host`, the second by `Origin` and `Sec-Fetch-Site`, which pages cannot forge.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.server.http.errors import error_response
from deepwell.server.options import OriginOptions

__all__ = ["CrossOriginGuard"]

_HOST = re.compile(rb"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+?)\.?(?::(\d{0,5}))?")
_TOKENS = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+(\s*,\s*[A-Za-z0-9!#$%&'*+.^_`|~-]+)*")
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_SAFE = frozenset(("GET", "HEAD", "OPTIONS"))
_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE"
_PREFLIGHT_S = 600
_MOST_HEADER_BYTES = 4096  # of the names that a preflight asks for
# What pages may read of an answer besides the few headers that browsers always show.
_EXPOSED = ", ".join(
    (
        "x-request-id",
        "retry-after",
        "traceparent",
        "x-deepwell-cache",
        "x-aigc-label",
        "x-context-policy",
        "x-context-mechanism",
        "x-context-adapter",
        "x-context-tokens-original",
        "x-context-tokens-prompt",
        "x-context-tokens-kept",
        "x-context-tokens-compressed",
        "x-context-tokens-recalled",
        "x-context-tokens-dropped",
        "x-context-tokens-forgotten",
        "x-context-tokens-added",
        *(
            f"x-ratelimit-{part}-{what}"
            for what in ("requests", "tokens")
            for part in ("limit", "remaining", "reset")
        ),
    )
).encode()


class HostNotAllowed(DeepwellError):
    """Raised for a name that is not the server's."""

    status = 421
    type = "invalid_request_error"
    code = "host_not_allowed"


class OriginNotAllowed(DeepwellError):
    """Raised for a request of another origin's web page."""

    status = 403
    type = "invalid_request_error"
    code = "origin_not_allowed"


class CrossOriginGuard:
    """ASGI middleware that checks `Host` and `Origin`, and answers cross-origin requests of listed origins (CORS).

    Without `allowed_hosts`, names are checked only while no key is needed: behind a proxy a server has any name, and a page
    that reaches it has no key. Requests without `Origin` and `Sec-Fetch-Site` do not come from a web page, and pass.

    Args:
        keys_needed: returns whether a request needs a key.
    """

    def __init__(
        self, app: ASGIApp, options: OriginOptions, keys_needed: Callable[[], Awaitable[bool]]
    ) -> None:
        self._app = app
        self._keys_needed = keys_needed
        own = {*_LOOPBACK, _bracketed(options.host.lower()), *options.allowed_hosts}
        self._hosts = frozenset(name.encode() for name in own if not name.startswith("*."))
        self._suffixes = tuple(name[1:].encode() for name in own if name.startswith("*."))
        self._closed = bool(options.allowed_hosts)
        self._origins = frozenset(origin.encode() for origin in options.cors_origins)
        self._any = b"*" in self._origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        host = origin = site = asked = None
        hosts = 0
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
                hosts += 1
            elif name == b"origin":
                origin = value if origin is None else b"null"
            elif name == b"sec-fetch-site":
                site = value
            elif name == b"access-control-request-method":
                asked = value
        try:
            await self._check_host(scope, host, hosts)
            if origin is None and site is None:
                await self._app(scope, receive, send)
                return
            shared = await self._shared_with(origin)
            if shared is None:
                self._check_origin(scope["method"], host, origin, site, preflight=asked is not None)
        except DeepwellError as error:
            await error_response(error)(scope, receive, send)
            return
        if shared is None:
            await self._app(scope, receive, send)
        elif scope["method"] == "OPTIONS" and asked is not None:
            await _permit(scope, shared, send)
        else:
            scope.setdefault("state", {})["answer_headers"] = _shared_headers(shared)  # `Envelope` sends them
            await self._app(scope, receive, send)

    async def _check_host(self, scope: Scope, host: bytes | None, count: int) -> None:
        if host is None and scope["http_version"] == "1.0":
            return  # such clients may leave it out; no browser is among them
        found = None if host is None else _HOST.fullmatch(host)
        if found is None or count != 1:
            raise InvalidRequest(
                "the request needs one Host header, with the name of a host",
                fix=f"send it as in `Host: {_LOOPBACK[0]}:8000`",
            )
        name: bytes = found[1].lower()
        if name in self._hosts or (self._suffixes and name.endswith(self._suffixes)):
            return
        if (server := scope.get("server")) is not None and name == _bracketed(server[0]).encode():
            return
        if self._closed or not await self._keys_needed():
            raise HostNotAllowed(
                f"this server is not called {name.decode()!r}",
                fix=f"start it with --allowed-host {name.decode()} if that is its name, or use http://{_LOOPBACK[0]}",
            )

    async def _shared_with(self, origin: bytes | None) -> bytes | None:
        """Returns the value of `access-control-allow-origin` for a listed origin, or None."""
        if origin is None or not self._origins:
            return None
        if origin.lower() in self._origins:
            return origin
        return b"*" if self._any and origin != b"null" and await self._keys_needed() else None

    def _check_origin(
        self, method: str, host: bytes | None, origin: bytes | None, site: bytes | None, *, preflight: bool
    ) -> None:
        if method in _SAFE and not preflight:
            return  # answered without permission, the page cannot read the answer
        own = site in (b"same-origin", b"none") or (origin is not None and _is_own(origin, host))
        if own or (origin is None and site != b"cross-site"):
            return
        shown = "another site" if origin is None else repr(origin[:200].decode("latin-1"))
        fix = "send it without a browser, or from a page with an origin of its own"
        if origin is not None and b"://" in origin:
            fix = f"start the server with --cors-origin {origin[:200].decode('latin-1')} if its pages may use it"
        raise OriginNotAllowed(f"web pages of {shown} may not use this server", fix=fix)


def _bracketed(host: str) -> str:
    """Returns an address as `Host` has it."""
    return f"[{host}]" if ":" in host else host


def _is_own(origin: bytes, host: bytes | None) -> bool:
    """Returns whether an origin is the server itself, by the name that the request has for it.

    The scheme is not compared, because a proxy in front may end TLS.
    """
    scheme, mark, name = origin.lower().partition(b"://")
    if not mark or host is None:
        return False
    default = {b"http": b":80", b"https": b":443"}.get(scheme, b"")
    return host.lower().removesuffix(default) == name.removesuffix(default)


def _shared_headers(shared: bytes) -> list[tuple[bytes, bytes]]:
    headers = [(b"access-control-allow-origin", shared), (b"access-control-expose-headers", _EXPOSED)]
    return headers if shared == b"*" else [*headers, (b"vary", b"Origin")]


async def _permit(scope: Scope, shared: bytes, send: Send) -> None:
    """Answers a preflight (Fetch standard, 3.2.2): what the page asks for, it may do."""
    headers = [
        (b"access-control-allow-origin", shared),
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-max-age", str(_PREFLIGHT_S).encode()),
        (b"vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
    ]
    for name, value in scope["headers"]:
        if name == b"access-control-request-headers":
            if len(value) <= _MOST_HEADER_BYTES and _TOKENS.fullmatch(value):
                headers.append((b"access-control-allow-headers", value))
        elif name == b"access-control-request-private-network" and value == b"true":
            headers.append((b"access-control-allow-private-network", b"true"))
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
