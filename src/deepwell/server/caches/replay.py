"""ASGI middleware that answers a request whose exact bytes were answered before, without parsing them.

The response cache knows answers by tokens and parameters. To find those takes validation, a rendered template and a
tokenizer, all functions of the path, the query, the content type, the body, and what the request allows for a context that is
too short. So where these are equal, for the same tenant and the same weights, the answer is the one that the routes gave when
every choice was a hit. Only its id and its time are made anew. The account of its prompt is the same.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepwell.engine.protocol import AdapterInfo
from deepwell.server.access.adapter_names import adapters_of
from deepwell.server.access.ticket import Offer, Ticket
from deepwell.server.caches.response_cache import ByteLru
from deepwell.server.http.errors import BodyRefused
from deepwell.server.observe.contexts import note_ledger
from deepwell.server.observe.metrics import Metrics
from deepwell.storage.clock import shared_time

if TYPE_CHECKING:
    from deepwell.knowledge.context.fitting.ledger import Ledger

__all__ = ["Replay", "Replays"]

_ENTRY_BYTES = 1024  # overhead of a key and an entry, beside their bytes
_LONGEST_BYTES = 64 << 10  # of a body; a longer one would be held in memory until its answer ends
_CREATED = b'"created":'

_SHAPING = (b"content-type", b"x-context-policy")  # headers that decide the answer

Key = tuple[str, str, bytes, tuple[bytes, ...], bytes, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class _Known:
    """An answer, split at its id and its time."""

    parts: tuple[bytes, bytes, bytes]
    prefix: str  # of the id
    choices: int
    route: Any
    ledger: Ledger | None

    def body(self) -> bytes:
        before, between, after = self.parts
        id = f"{self.prefix}-{uuid.uuid4().hex}"
        return b"%b%b%b%d%b" % (before, id.encode(), between, int(shared_time()), after)


class Replays(ByteLru[Key, _Known]):
    """Whole response bodies, by request."""

    def offer(self, key: Key, ticket: Ticket, route: Any) -> None:
        """Keeps the answer of a request if every choice was a cache hit."""
        offer = ticket.offer
        if offer is None or ticket.lookup != "hit":
            return
        known = _cut(offer, len(ticket.lookups), route)
        self.keep(key, known, _ENTRY_BYTES + len(key[4]) + len(offer.body), ticket.expires)


def _cut(offer: Offer, choices: int, route: Any) -> _Known:
    """Splits a body at its id and its time. Quotes inside JSON strings are escaped, so the first match is the member."""
    before, _, rest = offer.body.partition(offer.id.encode())
    between, mark, rest = rest.partition(_CREATED)
    after = rest.removeprefix(b"%d" % offer.created)
    return _Known((before, between + mark, after), offer.id.rpartition("-")[0], choices, route, offer.ledger)


class Replay:
    """ASGI middleware that looks a request up by its bytes, and passes it to the routes if it is new."""

    def __init__(
        self,
        app: ASGIApp,
        replays: Replays,
        adapters: Callable[[], Sequence[AdapterInfo]],
        metrics: Metrics,
        paths: frozenset[str],
    ) -> None:
        self._app = app
        self._replays = replays
        self._adapters = adapters
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ticket: Ticket | None = scope.get("state", {}).get("ticket")
        if (
            ticket is None
            or ticket.cache != "use"
            or scope["path"] not in self._paths
            or scope.get("method") != "POST"
        ):
            await self._app(scope, receive, send)
            return
        first: Message | None = None
        failure: Exception | None = None
        try:
            first = await receive()
        except BodyRefused as error:  # raised again where the routes' handlers can see it
            failure = error
        key: Key | None = None
        if first is not None and _is_whole(first):
            key = self._key(scope, ticket, first.get("body", b""))
            found = self._replays.find(key)
            if found is not None:
                await self._answer(found[0], ticket, scope, send)
                return
        told = False

        async def receive_again() -> Message:
            nonlocal told, first
            if told:
                return await receive()
            told = True
            if failure is not None:
                raise failure
            assert first is not None
            message, first = first, None
            return message

        await self._app(scope, receive_again, send)
        if key is not None:
            self._replays.offer(key, ticket, scope.get("route"))

    def _key(self, scope: Scope, ticket: Ticket, body: bytes) -> Key:
        found = {name: value for name, value in scope["headers"] if name in _SHAPING}
        shaping = tuple(found.get(name, b"") for name in _SHAPING)
        tenant = ticket.principal.tenant
        adapters: tuple[tuple[str, str], ...] = ()
        if loaded := self._adapters():
            seen = adapters_of(loaded, tenant).values()
            adapters = tuple((adapter.name, adapter.digest) for adapter in seen)
        return tenant, scope["path"], scope["query_string"], shaping, body, adapters

    async def _answer(self, known: _Known, ticket: Ticket, scope: Scope, send: Send) -> None:
        if known.route is not None:
            scope["route"] = known.route
        for _ in range(known.choices):
            ticket.lookups.append("hit")
            self._metrics.count_lookup("hit")
        if known.ledger is not None:
            note_ledger(known.ledger, self._metrics.contexts)
        body = known.body()
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _is_whole(message: Message) -> bool:
    """Returns whether a message is all of a body that is short enough to look up."""
    whole = message["type"] == "http.request" and not message.get("more_body", False)
    return whole and len(message.get("body", b"")) <= _LONGEST_BYTES
