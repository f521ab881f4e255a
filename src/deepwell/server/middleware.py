"""ASGI middleware. Pure functions of (scope, receive, send): anything that wraps the response hides a client's hang-up."""

from __future__ import annotations

import hashlib
import hmac
import uuid
from collections.abc import Sequence

from pydantic import SecretStr
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepwell.server.errors import BodyTooLarge, InvalidApiKey, error_response
from deepwell.server.metrics import Metrics

__all__ = ["BearerAuth", "BodyLimit", "Envelope"]

_OPEN_PATHS = frozenset({"/healthz", "/readyz"})  # a supervisor has no key


class Envelope:
    """Gives every response an `x-request-id` and counts it."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 499  # what is counted when the client left before an answer began

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", f"req_{uuid.uuid4().hex}".encode())]
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except Exception:
            status = 500  # starlette answers outside of this middleware
            raise
        finally:
            route = scope.get("route")
            self._metrics.requests.labels(getattr(route, "path", "none"), str(status)).inc()


class BodyLimit:
    """Refuses longer bodies, by their declared length before reading and by their real one while reading."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if declared.isdigit() and int(declared[:20]) > self._limit:
            await error_response(BodyTooLarge(self._limit).error, 413, {"connection": "close"})(
                scope, receive, send
            )
            return
        received = 0

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self._limit:
                    raise BodyTooLarge(self._limit)
            return message

        await self._app(scope, receive_limited, send)


class BearerAuth:
    """Asks for one of the keys as `Authorization: Bearer KEY`, or `X-Api-Key: KEY`.

    Only digests are kept, compared in constant time.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[SecretStr]) -> None:
        self._app = app
        self._digests = [hashlib.sha256(key.get_secret_value().encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        header = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if not header:  # Anthropic's clients send the bare key
            key = next((value for name, value in scope["headers"] if name == b"x-api-key"), b"")
            header = b"Bearer " + key if key else b""
        scheme, _, key = header.partition(b" ")
        digest = hashlib.sha256(key.strip()).digest()
        # Every digest is compared, so that the time tells nothing about which one matched.
        known = [hmac.compare_digest(digest, other) for other in self._digests]
        if scheme.lower() != b"bearer" or not any(known):
            error = InvalidApiKey(
                "an API key is needed" if not header else "the API key is not known here",
                fix="send 'Authorization: Bearer KEY' with one of the server's DEEPWELL_API_KEYS",
            )
            await error_response(error, headers={"www-authenticate": "Bearer"})(scope, receive, send)
            return
        # Prefix cache entries are shared only between requests of one key: hit times would tell about other keys' prompts.
        scope.setdefault("state", {})["cache_salt"] = digest.hex()[:16]
        await self._app(scope, receive, send)
