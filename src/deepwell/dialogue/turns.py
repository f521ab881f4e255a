"""`FairTurns`: one turn at a time, shared fairly between tenants.

Start-time fair queueing, as in `engine.core.fair`: each tenant has the cost of its turns so far, and of the tenants that wait
the one with the smallest sum is next. So a tenant that sends many or long texts waits for itself, and delays another by one
turn.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from deepwell.errors import DeepwellError

__all__ = ["FairTurns", "TooManyTexts"]


class TooManyTexts(DeepwellError):
    """Raised when a tenant has more text waiting for its turn than the server keeps."""

    status = 503
    code = "overloaded"
    retry_after = 2


class FairTurns:
    """Turns of one event loop.

    Args:
        most_waiting: cost of the turns that one tenant may have waiting, beside the first.
    """

    def __init__(self, most_waiting: int) -> None:
        self._most_waiting = most_waiting
        self._waiting: dict[str, deque[tuple[int, asyncio.Future[None]]]] = {}  # none is empty
        self._given: dict[str, int] = {}  # of tenants that wait, and of those served since it was last quiet
        self._clock = 0
        self._busy = False

    @property
    def is_idle(self) -> bool:
        """True while nobody has a turn and nobody waits."""
        return not self._busy

    @asynccontextmanager
    async def turn(self, tenant: str, cost: int) -> AsyncGenerator[None]:
        """Waits for the tenant's turn, and has it for the time of the block.

        Raises:
            TooManyTexts: the tenant has too much waiting already.
        """
        if self._busy:
            await self._wait(tenant, cost)
        else:
            self._busy = True
            self._charge(tenant, cost)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, tenant: str, cost: int) -> None:
        queue = self._waiting.get(tenant, ())
        waiting = sum(one for one, _ in queue)
        if queue and waiting + cost > self._most_waiting:
            raise TooManyTexts(
                f"{len(queue)} long texts of {waiting} characters wait to be tokenised",
                fix="send them one after another",
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (cost, turn)
        if tenant not in self._waiting:
            # A tenant cannot save up turns while it is away.
            self._given[tenant] = max(self._given.get(tenant, 0), self._clock)
            self._waiting[tenant] = deque()
        self._waiting[tenant].append(entry)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():  # the turn came in the same moment
                self._pass_on()
            else:
                self._leave(tenant, entry)
            raise

    def _leave(self, tenant: str, entry: tuple[int, asyncio.Future[None]]) -> None:
        queue = self._waiting.get(tenant)
        if queue is not None and entry in queue:
            queue.remove(entry)
            if not queue:
                del self._waiting[tenant]

    def _charge(self, tenant: str, cost: int) -> None:
        given = max(self._given.get(tenant, 0), self._clock)
        self._clock = given
        self._given[tenant] = given + cost

    def _pass_on(self) -> None:
        """Gives the turn to the next who waits."""
        while self._waiting:
            tenant = min(self._waiting, key=self._given.__getitem__)
            queue = self._waiting[tenant]
            cost, turn = queue.popleft()
            if not queue:
                del self._waiting[tenant]
            if not turn.done():
                self._charge(tenant, cost)
                turn.set_result(None)
                return
        self._busy = False
        self._given.clear()  # nobody waits, so there is nobody to be fair to
        self._clock = 0
