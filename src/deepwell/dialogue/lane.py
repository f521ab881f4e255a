"""`TextLane`: texts that a child process renders and tokenises, one at a time, while the event loop goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from deepwell.dialogue.turns import FairTurns
from deepwell.models.text.text_process import TextProcess, trim_memory

__all__ = ["TextLane"]

IDLE_S: Final = 20.0  # after which the child is ended, and its memory given back
MOST_WAITING: Final = 32 << 20  # characters of one tenant
_KILL_AGAIN_S: Final = 0.05

T = TypeVar("T")


class TextLane:
    """One child and the turns of those who need it. It belongs to one event loop.

    Args:
        stays: whether the child is kept while nobody needs it.
    """

    def __init__(self, process: TextProcess, *, stays: bool = False, idle_s: float = IDLE_S) -> None:
        self.process = process
        self._stays = stays
        self._idle_s = idle_s
        self._turns = FairTurns(MOST_WAITING)
        self._thread: ThreadPoolExecutor | None = None
        self._ending: asyncio.TimerHandle | None = None

    async def run(self, tenant: str, characters: int, work: Callable[[TextProcess], T]) -> T:
        """Runs `work` with the child on a thread, when the tenant's turn comes. Cancelling it kills the child.

        Raises:
            TooManyTexts: the tenant has too much waiting already.
        """
        async with self._turns.turn(tenant, characters):
            self._stay()
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, "deepwell-text")
            loop = asyncio.get_running_loop()
            future = loop.run_in_executor(self._thread, work, self.process)
            try:
                return await asyncio.shield(future)
            except asyncio.CancelledError:
                future.add_done_callback(_retrieved)
                while not future.done():  # until the thread is free again; it may not have begun its call
                    self.process.kill()
                    await asyncio.wait((future,), timeout=_KILL_AGAIN_S)
                raise
            finally:
                if not self._stays:
                    self._ending = loop.call_later(self._idle_s, self._end)

    def close(self) -> None:
        """Ends the child and the thread. Called on the event loop when no more texts come.

        A call that comes nevertheless starts both again, until nobody has needed them for `idle_s`.
        """
        self._stays = False
        self._stay()
        if self._thread is not None:
            self._thread.submit(self._retire)
            self._thread.shutdown(wait=False)
            self._thread = None
        else:
            self.process.close()  # which may have been started before there was an event loop

    def forget(self) -> None:
        """Ends the child, which remembers texts, behind the call in progress. The next call starts another."""
        if self._thread is not None:
            self._thread.submit(self.process.close)

    def end(self) -> None:
        """Ends the child and the thread, and waits for both. Called when the event loop of the lane has ended."""
        self._ending = None
        self.process.close()
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            self._thread = None

    def _stay(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None

    def _end(self) -> None:
        if self._turns.is_idle:
            self.close()

    def _retire(self) -> None:
        self.process.close()
        trim_memory()  # of the texts themselves, which have passed through this process


def _retrieved(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()  # of a call that nobody waits for
