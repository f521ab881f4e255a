"""None of the programs that try to leave the sandbox succeeds. The row `agent_sandbox` also runs each without one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator

import pytest
from tests.needs import SANDBOX

from deepwell.agents.sandbox import Sandbox, SandboxLimits
from deepwell_bench.workloads.escapes import Bait, Ended, Escape, escapes

pytestmark = pytest.mark.needs(SANDBOX)

LIMITS = SandboxLimits(
    seconds=20, processor_s=4, memory_bytes=256 << 20, folder_bytes=16 << 20, file_bytes=8 << 20
)


@pytest.fixture(scope="module")
def bait() -> Generator[Bait]:
    with Bait() as made:
        yield made


async def _attempt(bait: Bait, sandbox: Sandbox, escape: Escape, seconds: float) -> bool:
    begin = time.monotonic()
    result = await sandbox.run(bait.source(escape), seconds=seconds)
    returned = tuple(result.files.values())
    ended = Ended(result.stdout + result.stderr, returned, time.monotonic() - begin, result.timed_out)
    return bait.succeeded(escape, ended, seconds)


@pytest.mark.parametrize("group", ["files", "proc", "network", "rights"])
def test_nothing_gets_out(bait: Bait, group: str) -> None:
    chosen = [one for one in escapes() if one.group == group]
    assert len(chosen) > 12

    async def attack() -> list[str]:
        sandbox = Sandbox(LIMITS)
        got = await asyncio.gather(*(_attempt(bait, sandbox, one, 20.0) for one in chosen))
        return [one.name for one, escaped in zip(chosen, got, strict=True) if escaped]

    assert asyncio.run(attack()) == []
    assert bait.unharmed()


@pytest.mark.fault
@pytest.mark.parametrize(
    "escape", [one for one in escapes() if one.group == "resources"], ids=lambda one: one.name
)
def test_nothing_takes_the_machine(bait: Bait, escape: Escape) -> None:
    assert not asyncio.run(_attempt(bait, Sandbox(LIMITS), escape, 20.0))
    assert asyncio.run(Sandbox(LIMITS).run("print(42)")).stdout == "42\n"


@pytest.mark.fault
def test_everything_ends(bait: Bait) -> None:
    chosen = [one for one in escapes() if one.group == "ends"]

    async def attack() -> list[str]:
        sandbox = Sandbox(LIMITS, most_at_once=6)
        ended = await asyncio.gather(*(sandbox.run(bait.source(one), seconds=2.0) for one in chosen))
        return [
            one.name
            for one, end in zip(chosen, ended, strict=True)
            if one.success == "late" and not end.timed_out
        ]

    assert asyncio.run(attack()) == []
    assert bait.unharmed()


def test_attempts_are_apart_and_many() -> None:
    names = [one.name for one in escapes()]
    assert len(names) == len(set(names)) >= 60
