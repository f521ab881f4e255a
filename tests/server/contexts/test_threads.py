"""Threads that fit conversations: a few at a time, tenants in turn, and none that outlives its caller for free."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest
from tests.waiting import until_async

from deepwell.server.fit_threads import FitThreads


class Gate:
    """Work that waits on its thread until it is let through."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self._open = threading.Event()

    def work(self, name: str) -> Callable[[], Awaitable[str]]:
        async def go() -> str:
            self.begun.append(name)
            self._open.wait()  # as reading a long text does, it hears of nothing meanwhile
            await asyncio.sleep(0)
            self.ended.append(name)
            return name

        return go

    def open(self) -> None:
        self._open.set()


async def test_who_hangs_up_holds_the_turn_until_the_work_has_ended() -> None:
    gate, threads = Gate(), FitThreads(1)
    left = asyncio.ensure_future(threads.run("a", gate.work("left")))
    await until_async(lambda: gate.begun == ["left"])
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    next_one = asyncio.ensure_future(threads.run("b", gate.work("next")))
    for _ in range(100):
        await asyncio.sleep(0)
    assert gate.begun == ["left"]
    gate.open()
    assert await next_one == "next"
    assert gate.ended == ["next"]  # the other one ended where it waited next


async def test_a_flood_of_one_tenant_delays_another_by_one_work() -> None:
    gate, threads = Gate(), FitThreads(1)
    flood = [asyncio.ensure_future(threads.run("flood", gate.work(f"flood {n}"))) for n in range(5)]
    await until_async(lambda: gate.begun == ["flood 0"])
    other = asyncio.ensure_future(threads.run("other", gate.work("other")))
    for _ in range(10):
        await asyncio.sleep(0)
    gate.open()
    await asyncio.gather(*flood, other)
    assert gate.ended.index("other") <= 2


async def test_who_leaves_the_queue_takes_no_turn() -> None:
    gate, threads = Gate(), FitThreads(1)
    first = asyncio.ensure_future(threads.run("a", gate.work("first")))
    await until_async(lambda: gate.begun == ["first"])
    gone = asyncio.ensure_future(threads.run("a", gate.work("gone")))
    last = asyncio.ensure_future(threads.run("a", gate.work("last")))
    for _ in range(10):
        await asyncio.sleep(0)
    gone.cancel()
    gate.open()
    assert [await first, await last] == ["first", "last"]
    assert gate.begun == ["first", "last"]


async def test_an_error_is_told_and_frees_the_turn() -> None:
    threads = FitThreads(1)

    async def fails() -> None:
        raise LookupError("no such text")

    for _ in range(3):
        with pytest.raises(LookupError):
            await threads.run("a", fails)
