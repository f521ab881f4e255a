"""`RouteCaller`: a client of Deepwell's own routes, over which the tools of the MCP server do their work.

A call passes the keys, scopes, limits, guard and tenant of the server like any other request: the tools have no other way.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from deepwell.errors import DeepwellError

if TYPE_CHECKING:
    from pydantic import SecretStr

__all__ = ["HttpRoutes", "RouteCaller", "RouteFailed", "RouteReply", "json_reply"]

_TIMEOUT_S: Final = 600.0
_CONNECT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class RouteReply:
    """The answer of a route."""

    status: int
    body: bytes


class RouteFailed(DeepwellError):
    """Raised for an answer that is an error. The message is the server's own."""

    type = "route_failed"


class RouteCaller(Protocol):
    """Calls routes of one Deepwell server, with one key."""

    async def __call__(self, method: str, path: str, body: bytes | None = None) -> RouteReply:
        """Sends a request.

        Args:
            path: with its query, percent-encoded.
            body: JSON; None: there is none.
        """
        ...


class HttpRoutes:
    """Routes of a server at a URL."""

    def __init__(self, url: str, key: SecretStr | None) -> None:
        self._url = url
        self._key = key

    async def __call__(self, method: str, path: str, body: bytes | None = None) -> RouteReply:
        import httpx

        headers = {"content-type": "application/json"}
        if self._key is not None:
            headers["authorization"] = f"Bearer {self._key.get_secret_value()}"
        timeout = httpx.Timeout(_TIMEOUT_S, connect=_CONNECT_S)
        try:
            async with httpx.AsyncClient(timeout=timeout, trust_env=False) as http:
                answer = await http.request(method, f"{self._url}{path}", headers=headers, content=body)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise RouteFailed.of("mcp_server_absent", url=self._url, reason=reason) from None
        return RouteReply(answer.status_code, answer.content)


async def json_reply(call: RouteCaller, method: str, path: str, body: Any = None) -> dict[str, Any]:
    """Returns the JSON object that a route answers with.

    Raises:
        RouteFailed: the route answers with an error, or with something else.
    """
    sent = None if body is None else json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
    reply = await call(method, path, sent)
    try:
        found: Any = json.loads(reply.body)
    except ValueError:
        found = None
    if reply.status == 200 and isinstance(found, dict):
        return cast("dict[str, Any]", found)
    message = f"the server answered {reply.status}"
    if isinstance(found, dict):
        told = cast("dict[str, Any]", found).get("error")
        if isinstance(told, dict):
            message = str(cast("dict[str, Any]", told).get("message") or message)
    error = RouteFailed(message)
    error.status = reply.status
    raise error
