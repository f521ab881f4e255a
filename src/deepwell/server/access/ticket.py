"""`Ticket`: what a request carries besides its body: its principal, its quota, and how its answer may be cached.

The middleware writes it. Code that generates reads it through `current_ticket`, so that routes need not pass it on.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from starlette.types import Receive, Scope

from deepwell.server.access.principal import ANYONE, Principal
from deepwell.server.access.quota import Quota
from deepwell.server.observe.record import current

if TYPE_CHECKING:
    from deepwell.knowledge.context.fitting.ledger import Ledger

__all__ = ["CacheUse", "Lookup", "Offer", "Ticket", "current_ticket", "offer", "set_ticket"]

Lookup = Literal["hit", "joined", "semantic", "miss"]
CacheUse = Literal["use", "renew", "off"]


@dataclass(frozen=True, slots=True)
class Offer:
    """A whole answer that the next equal request may get, with a new id and time, and the account of its prompt."""

    id: str
    created: int
    body: bytes
    ledger: Ledger | None = None


@dataclass(slots=True)
class Ticket:
    """The ticket of one request. `expires` is when the first cached answer that it used expires, in monotonic seconds.

    `connection` tells, once the body has been read, when the client leaves. None: there is no client to leave.
    """

    principal: Principal = ANYONE
    quota: Quota | None = None
    cache: CacheUse = "use"  # "renew": generate, and store the result; "off": neither look up nor store
    lookups: list[Lookup] = field(default_factory=list[Lookup])
    expires: float = float("inf")
    offer: Offer | None = None
    replayable: bool = True  # equal bytes get equal answers as long as the server runs
    connection: tuple[Scope, Receive] | None = None

    @property
    def lookup(self) -> Lookup | None:
        """The worst result of the request's response cache lookups, or None if there were none."""
        for result in ("miss", "semantic", "joined", "hit"):
            if result in self.lookups:
                return result
        return None

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Returns the headers of its answer: what is left of the quota, and the use of the cache."""
        headers = self.quota.headers() if self.quota is not None else []
        if (lookup := self.lookup) is not None:
            headers.append((b"x-deepwell-cache", lookup.encode()))
        return headers


_current: ContextVar[Ticket | None] = ContextVar("deepwell_ticket", default=None)


def current_ticket() -> Ticket | None:
    """Returns the ticket of the client's request that this code works for, or None if there is none."""
    return _current.get()


def offer(id: str, created: int, body: bytes) -> None:
    """Offers this answer to the next equal request. It is used only if all of it came from the cache."""
    ticket = _current.get()
    if ticket is not None and ticket.replayable:
        record = current()
        ticket.offer = Offer(id, created, body, None if record is None else record.ledger)


def set_ticket(ticket: Ticket | None) -> None:
    """Sets the ticket of this task, and of those that it starts from now on."""
    _current.set(ticket)
