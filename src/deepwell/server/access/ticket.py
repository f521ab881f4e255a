"""`Ticket`: what a request carries besides its body: who asks, what it may use up, and how its answer may be kept.

The middleware writes it; whoever generates reads it through `current_ticket`, for a route has nothing to do with it.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

from deepwell.server.access.principal import ANYONE, Principal
from deepwell.server.access.quota import Quota

__all__ = ["CacheUse", "Lookup", "Offer", "Ticket", "current_ticket", "offer", "set_ticket"]

Lookup = Literal["hit", "joined", "semantic", "miss"]
CacheUse = Literal["use", "renew", "off"]


@dataclass(frozen=True, slots=True)
class Offer:
    """A whole answer that the next equal request may get, but for its id and time."""

    id: str
    created: int
    body: bytes


@dataclass(slots=True)
class Ticket:
    """One request. `expires` is the time (monotonic seconds) at which the first kept answer that it used ends."""

    principal: Principal = ANYONE
    quota: Quota | None = None
    cache: CacheUse = "use"  # "renew": generate, and keep the result; "off": neither look nor keep
    lookups: list[Lookup] = field(default_factory=list[Lookup])
    expires: float = float("inf")
    offer: Offer | None = None

    @property
    def lookup(self) -> Lookup | None:
        """What the response cache did for the whole request; None: it was not asked."""
        for result in ("miss", "semantic", "joined", "hit"):
            if result in self.lookups:
                return result
        return None


_current: ContextVar[Ticket | None] = ContextVar("deepwell_ticket", default=None)


def current_ticket() -> Ticket | None:
    """That of the request on whose behalf this runs; None: of no client's."""
    return _current.get()


def offer(id: str, created: int, body: bytes) -> None:
    """Let the next equal request have this answer, if it turns out that all of it was kept before."""
    ticket = _current.get()
    if ticket is not None:
        ticket.offer = Offer(id, created, body)


def set_ticket(ticket: Ticket | None) -> None:
    """From here on this task, and those it starts, run on behalf of a request."""
    _current.set(ticket)
