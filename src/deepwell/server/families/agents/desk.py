"""`AgentDesk`: what the routes and the worker of one process tell each other about runs."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator

    from deepwell.server.context import ServerContext
    from deepwell.storage.database import Tenant

__all__ = ["AgentDesk", "desk_of"]

_POLL_S: Final = 0.5  # between looks at a run that another process works on


class AgentDesk:
    """Runs that this process works on, and those that it watches."""

    def __init__(self) -> None:
        self._cancelling: dict[tuple[Tenant, str], asyncio.Event] = {}
        self._changed: dict[tuple[Tenant, str], asyncio.Event] = {}
        self._watching: Counter[tuple[Tenant, str]] = Counter()

    @contextmanager
    def working(self, tenant: Tenant, id: str, cancelled: asyncio.Event) -> Generator[None]:
        """Lets `cancel` end a run for the time of the block."""
        self._cancelling[tenant, id] = cancelled
        try:
            yield
        finally:
            del self._cancelling[tenant, id]

    def cancel(self, tenant: Tenant, id: str) -> None:
        """Ends a run of this process within its step; others hear of it from the database."""
        if (event := self._cancelling.get((tenant, id))) is not None:
            event.set()

    def tell(self, tenant: Tenant, id: str) -> None:
        """Tells those who watch a run that it has a new step."""
        if (event := self._changed.get((tenant, id))) is not None:
            event.set()

    @contextmanager
    def watching(self, tenant: Tenant, id: str) -> Generator[None]:
        """Lets `wait` hear of a run for the time of the block."""
        self._watching[tenant, id] += 1
        self._changed.setdefault((tenant, id), asyncio.Event())
        try:
            yield
        finally:
            self._watching[tenant, id] -= 1
            if not self._watching[tenant, id]:
                del self._watching[tenant, id], self._changed[tenant, id]

    async def wait(self, tenant: Tenant, id: str) -> None:
        """Waits until a run may have a new step."""
        event = self._changed[tenant, id]
        with suppress(TimeoutError):
            async with asyncio.timeout(_POLL_S):
                await event.wait()
        event.clear()


def desk_of(context: ServerContext) -> AgentDesk:
    """Returns the desk of this process."""
    return context.shared(_made)


def _made(_context: ServerContext) -> AgentDesk:
    return AgentDesk()
