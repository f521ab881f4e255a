"""Waits for what another thread or process brings about. No other file of the tests pauses for a time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

__all__ = ["until", "until_async"]

T = TypeVar("T")

PATIENCE_S = 60.0
PAUSE_S = 0.01


def until(asked: Callable[[], T], holds: Callable[[T], Any] = bool, patience_s: float = PATIENCE_S) -> T:
    """Returns the first answer of `asked` for which `holds` is true.

    Raises:
        AssertionError: no answer was such within `patience_s` seconds; the message has the last one.
    """
    end = time.monotonic() + patience_s
    while not holds(answer := asked()):
        assert time.monotonic() < end, f"still {answer!r}"
        time.sleep(PAUSE_S)
    return answer


async def until_async(
    asked: Callable[[], T | Awaitable[T]], holds: Callable[[T], Any] = bool, patience_s: float = PATIENCE_S
) -> T:
    """Returns the first answer of `asked`, awaited where it is awaitable, for which `holds` is true.

    Raises:
        AssertionError: no answer was such within `patience_s` seconds; the message has the last one.
    """
    end = time.monotonic() + patience_s
    while True:
        answer: Any = asked()
        if inspect.isawaitable(answer):
            answer = await answer
        if holds(answer):
            return answer
        assert time.monotonic() < end, f"still {answer!r}"
        await asyncio.sleep(PAUSE_S)
