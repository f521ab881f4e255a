"""ASGI middleware that gives every request a ticket, which holds its quota and cache use, and a deadline."""

from __future__ import annotations

import asyncio
from functools import cached_property

from starlette.types import ASGIApp, Receive, Scope, Send

from deepwell.server.access.limit_table import LimitTable
from deepwell.server.access.principal import Principal, principal_in
from deepwell.server.access.quota import LimitStore, Quota, RateLimited, limits_of
from deepwell.server.access.shared_limits import SharedLimits
from deepwell.server.access.ticket import CacheUse, Ticket, set_ticket
from deepwell.server.http.declaration import RouteTable
from deepwell.server.http.errors import error_response
from deepwell.server.observe.metrics import Metrics
from deepwell.server.options import LimitsConfig
from deepwell.server.valkey import ValkeyClient

__all__ = ["Limiter", "RateLimitMiddleware"]


class Limiter:
    """The rate-limit buckets of a server, opened when the first request with a limit comes."""

    def __init__(self, config: LimitsConfig, metrics: Metrics) -> None:
        self.config = config
        self.valkey = (
            ValkeyClient(config.valkey_url, metrics.valkey) if config.valkey_url is not None else None
        )
        self._table: LimitTable | None = None
        self._refused = metrics.refused

    @cached_property
    def store(self) -> LimitStore:
        """The store of the buckets."""
        table = self._table = LimitTable(self.config.table)
        return table if self.valkey is None else SharedLimits(self.valkey, table)

    def quota(self, principal: Principal) -> Quota | None:
        """Returns the quota of a principal's request, or None if no limit applies."""
        if not limits_of(self.config.rates, principal):
            return None
        return Quota(self.store, self.config.rates, principal, self._refused)

    async def close(self) -> None:
        """Closes the table, and the connection to Valkey."""
        if self.valkey is not None:
            await self.valkey.close()
        if self._table is not None:
            self._table.close()
            self._table = None


class RateLimitMiddleware:
    """ASGI middleware that counts requests, and attaches a ticket to each, whose headers `Envelope` sends.

    Health checks, metrics and pages are left out.
    """

    def __init__(self, app: ASGIApp, limiter: Limiter, routes: RouteTable) -> None:
        self._app = app
        self._limiter = limiter
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._routes.is_limited(scope["path"]):
            await self._app(scope, receive, send)
            return
        principal = principal_in(scope)
        quota = self._limiter.quota(principal)
        ticket = Ticket(principal, quota, _cache_use(scope), connection=(scope, receive))
        state = scope.setdefault("state", {})
        state["ticket"] = ticket
        if timeout_s := self._limiter.config.request_timeout_s:
            state["deadline"] = asyncio.get_running_loop().time() + timeout_s
            state["timeout_s"] = timeout_s
        set_ticket(ticket)

        try:
            if quota is not None:
                await quota.take_request()
        except RateLimited as error:
            await error_response(error)(scope, receive, send)
        else:
            await self._app(scope, receive, send)
        finally:
            ticket.connection = None  # the scope holds the ticket: both would be garbage in a cycle


def _cache_use(scope: Scope) -> CacheUse:
    """Returns what a request's `Cache-Control` asks for (RFC 9111, 5.2.1)."""
    use: CacheUse = "use"
    for name, value in scope["headers"]:
        if name == b"cache-control":
            directives = {part.strip().lower() for part in value.split(b",")}
            if b"no-store" in directives:
                return "off"
            if b"no-cache" in directives or b"max-age=0" in directives:
                use = "renew"
    return use
