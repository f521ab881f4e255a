"""`Attendance`: long texts are tokenised for a tenant, and as long as somebody waits for the answer."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from deepwell.server.access.principal import ANYONE
from deepwell.server.access.ticket import current_ticket
from deepwell.server.http.sse import Stop, attended

__all__ = ["Attendance"]

T = TypeVar("T")


class Attendance:
    """Runs work for the request whose ticket this task has (`dialogue.model.Attend`).

    The wait for the tenant's turn and the work itself count against the request's deadline. Both end when the client leaves
    or the server stops.
    """

    def __init__(self, stopped: Stop) -> None:
        self._stopped = stopped

    async def __call__(self, work: Callable[[str], Coroutine[Any, Any, T]]) -> T:
        ticket = current_ticket()
        if ticket is None or ticket.connection is None:
            return await work((ticket.principal if ticket is not None else ANYONE).tenant)
        scope, receive = ticket.connection
        return await attended(work(ticket.principal.tenant), scope, receive, self._stopped)
