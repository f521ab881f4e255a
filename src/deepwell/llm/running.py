"""Runs the choices of a call together: one wake-up of the event loop for each step of the engine, however many they are."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from deepwell.dialogue.completion import Choice, ChoiceProgress, Update
from deepwell.dialogue.text import Codec
from deepwell.engine.core.loop import InProcessEngine
from deepwell.engine.protocol import Delta

__all__ = ["Step", "run"]


@dataclass(frozen=True, slots=True)
class Step:
    """An update of a choice, with the tokens that it took in."""

    update: Update
    tokens: tuple[int, ...]


class _Inbox:
    """Receives the deltas of a call on the engine's thread, and hands them to its event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ready: deque[Delta] = deque()
        self._arrived = asyncio.Event()

    def post(self, deltas: list[Delta]) -> None:
        with suppress(RuntimeError):  # the loop is closed, so nobody listens
            self._loop.call_soon_threadsafe(self._deliver, deltas)

    def _deliver(self, deltas: list[Delta]) -> None:
        self._ready.extend(deltas)
        self._arrived.set()

    async def take(self) -> list[Delta]:
        """Waits for deltas, and returns all that have arrived."""
        await self._arrived.wait()
        self._arrived.clear()
        taken = list(self._ready)
        self._ready.clear()
        return taken


class _Running:
    """One choice in the engine."""

    def __init__(self, choice: Choice, codec: Codec, abandon: Callable[[], None]) -> None:
        self.abandon = abandon
        self._progress = ChoiceProgress(choice, codec)
        self._taken = 0

    def fold(self, delta: Delta) -> Step:
        update = self._progress.fold(delta)
        count = update.counts.completion
        # Tokens behind a stop string are not part of the answer.
        tokens = delta.tokens if update.stop is None else delta.tokens[: max(count - self._taken, 0)]
        self._taken = count
        return Step(update, tokens)


async def run(
    engine: InProcessEngine, codec: Codec, choices: Sequence[Choice]
) -> AsyncGenerator[list[Step], None]:
    """Yields what each step of the engine made of the choices. Closing the iterator aborts them within one step.

    Raises:
        GenerationFailed: the engine gave up on a request.
        InvalidRequest: a request cannot be sampled, or its grammar cannot go on.
    """
    inbox = _Inbox(asyncio.get_running_loop())
    running: dict[str, _Running] = {}
    try:
        for choice in choices:
            abandon = engine.generate_into(choice.request, inbox)
            running[choice.request.request_id] = _Running(choice, codec, abandon)
        while running:
            steps: list[Step] = []
            for delta in await inbox.take():
                one = running.get(delta.request_id)
                if one is None:  # it ended at a stop string
                    continue
                step = one.fold(delta)
                if step.update.finish_reason:
                    del running[delta.request_id]
                    if delta.finish_reason is None:
                        one.abandon()
                steps.append(step)
            if steps:
                yield steps
    finally:
        for one in running.values():
            one.abandon()
