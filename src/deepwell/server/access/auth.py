"""Authentication: keys of the settings, and keys in the database behind a cache of seconds.

Each process asks the database about a key at most once in `CHECKED_AGAIN_AFTER_S`, so a revocation by any process takes
effect everywhere within that time.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import SecretStr
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp, Receive, Scope, Send

from deepwell.errors import DeepwellError
from deepwell.server.access.principal import ANYONE, Principal
from deepwell.server.http.declaration import RouteTable
from deepwell.server.http.errors import InvalidApiKey, error_response
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Tenant
from deepwell.storage.keys import KEY_PATTERN, ApiKey, KeyStore, digest_of

__all__ = [
    "CHECKED_AGAIN_AFTER_S",
    "Auth",
    "InsufficientScope",
    "KeyRing",
    "KeysUnavailable",
    "static_principal",
]

CHECKED_AGAIN_AFTER_S = 5.0
TRUSTED_UNCHECKED_S = 60.0  # while the database does not answer: nobody can revoke a key in one that is down
_QUERY_S = 2.0  # limit for an answer of the database
_REMEMBERED = 4096  # digests in the cache, those of unknown keys included
_WRITTEN_EVERY_S = 60.0  # between writes of the times of last use

_log = logging.getLogger("deepwell.server")


class InsufficientScope(DeepwellError):
    """Raised when a known key lacks the scope that the request needs."""

    status = 403
    type = "invalid_request_error"
    code = "insufficient_scope"


class KeysUnavailable(DeepwellError):
    """Raised when the database, which holds the keys, does not answer."""

    status = 503
    code = "keys_unavailable"


@dataclass(frozen=True, slots=True)
class _Known:
    """The database's answer for a digest, and when it came (monotonic seconds)."""

    key: ApiKey | None
    principal: Principal | None
    checked: float


class KeyRing:
    """All keys that the server accepts. For one event loop.

    Args:
        keys: keys of the settings; each is a tenant of its own and may do everything.
        store: keys in the database; None: there are none.
    """

    def __init__(self, keys: Sequence[SecretStr] = (), store: KeyStore | None = None) -> None:
        digests = [digest_of(key.get_secret_value().encode()) for key in keys]
        self._static = [(one, static_principal(one)) for one in digests]
        self._store = store
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[ApiKey | None]] = {}
        self._any = bool(keys)
        self._any_checked = float("-inf")
        self._used: dict[str, int] = {}
        self._writing: asyncio.Task[None] | None = None

    async def required(self) -> bool:
        """Returns whether a request needs a key: it does once a key has ever been made."""
        if self._any or self._store is None:
            return self._any
        now = time.monotonic()
        if now - self._any_checked >= CHECKED_AGAIN_AFTER_S:
            try:
                self._any = await asyncio.wait_for(self._store.any(), _QUERY_S)
            except (SQLAlchemyError, DeepwellError, OSError, TimeoutError) as error:
                raise _unavailable() from error
            self._any_checked = now
        return self._any

    async def principal(self, key: bytes) -> Principal | None:
        """Returns the principal of a key, or None if the key is unknown, revoked or expired.

        Raises:
            KeysUnavailable: the database does not answer, and has not for a while.
        """
        digest = digest_of(key)
        found: Principal | None = None
        # Every digest is compared, so that the time does not tell which one matched.
        for other, principal in self._static:
            if hmac.compare_digest(digest, other):
                found = principal
        if found is not None or self._store is None or not KEY_PATTERN.fullmatch(key):
            return found
        known = self._known.get(digest)
        if known is None or time.monotonic() - known.checked >= CHECKED_AGAIN_AFTER_S:
            known = await self._ask(digest, known, self._store)
        if known.key is None or not known.key.usable(shared_time()):
            return None
        self._note_use(known.key.id)
        return known.principal

    async def _ask(self, digest: bytes, before: _Known | None, store: KeyStore) -> _Known:
        """Asks the database, once for all that wait for the same answer."""
        task = self._asking.get(digest)
        if task is None:
            task = self._asking[digest] = asyncio.create_task(store.find(digest))
            task.add_done_callback(lambda done: self._asked(digest, done))
        try:
            key = await asyncio.wait_for(asyncio.shield(task), _QUERY_S)
        except (SQLAlchemyError, DeepwellError, OSError, TimeoutError) as error:
            if before is not None and time.monotonic() - before.checked < TRUSTED_UNCHECKED_S:
                _log.warning("the database does not answer: a key is trusted as it was: %s", error)
                return before
            raise _unavailable() from error
        known = _Known(key, None if key is None else _principal(key), time.monotonic())
        self._known[digest] = known
        self._known.move_to_end(digest)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return known

    def _asked(self, digest: bytes, done: asyncio.Task[ApiKey | None]) -> None:
        self._asking.pop(digest, None)
        if not done.cancelled():
            done.exception()  # marks it as retrieved, because all waiters may have left

    def _note_use(self, id: str) -> None:
        self._used[id] = int(shared_time())
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_later())

    async def _write_later(self) -> None:
        try:
            await asyncio.sleep(_WRITTEN_EVERY_S)
        finally:
            self._writing = None
        await self.flush()

    async def flush(self) -> None:
        """Writes the times of last use."""
        used, self._used = self._used, {}
        if used and self._store is not None:
            try:
                await self._store.touch(used)
            except (SQLAlchemyError, DeepwellError, OSError) as error:
                _log.warning("when keys were used last could not be written: %s", error)

    async def close(self) -> None:
        """Writes what has not been written yet."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        await self.flush()


def static_principal(digest: bytes) -> Principal:
    """Returns the principal of a key of the settings, by its SHA-256."""
    name = digest.hex()
    return Principal(Tenant(name[:16]), f"env-{name[:12]}")


def _principal(key: ApiKey) -> Principal:
    return Principal(
        key.tenant,
        key.id,
        frozenset(key.scopes),
        requests_per_minute=key.requests_per_minute,
        tokens_per_minute=key.tokens_per_minute,
        audio_seconds_per_minute=key.audio_seconds_per_minute,
        images_per_minute=key.images_per_minute,
    )


def _unavailable() -> KeysUnavailable:
    return KeysUnavailable(
        "the database of API keys does not answer", fix="send the request again in a while"
    )


class Auth:
    """ASGI middleware that requires a key, as `Authorization: Bearer KEY` or `X-Api-Key: KEY`, with the path's scope."""

    def __init__(self, app: ASGIApp, ring: KeyRing, routes: RouteTable) -> None:
        self._app = app
        self._ring = ring
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        principal = ANYONE
        if not self._routes.is_open(path):
            try:
                if await self._ring.required():
                    principal = await self._identify(scope)
                    needed = self._routes.scope_of(path)
                    if not principal.may(needed):
                        raise InsufficientScope(
                            f"this API key does not have the scope {needed!r}",
                            fix=f"use one that was made with `deepwell keys create --scope {needed}`",
                        )
            except DeepwellError as error:
                headers = {"www-authenticate": "Bearer"} if error.status == 401 else None
                await error_response(error, headers=headers)(scope, receive, send)
                return
        scope.setdefault("state", {})["principal"] = principal
        await self._app(scope, receive, send)

    async def _identify(self, scope: Scope) -> Principal:
        header = b""
        for name, value in scope["headers"]:
            if name == b"authorization":
                header = value
                break
            if name == b"x-api-key":  # Anthropic's clients send the bare key
                header = b"Bearer " + value
        scheme, _, key = header.partition(b" ")
        principal = await self._ring.principal(key.strip()) if scheme.lower() == b"bearer" else None
        if principal is None:
            raise InvalidApiKey.of("request_key_unknown" if header else "request_without_key")
        return principal
