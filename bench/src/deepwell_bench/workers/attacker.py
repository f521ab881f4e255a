"""The attacker of `deepwell bench siege`: a process at nice 19 that keeps itself to half a core, whatever it does.

It answers JSON lines: `open` says whom to attack, `attack` makes attacks at the same time, `load` sends harmless requests
of the same weight.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import Mapping, Sequence
from typing import Any

from deepwell_bench.workers.loop import answer_stream, serve
from deepwell_bench.workloads.attacks import ATTACKS, FLOODS, Broken, Ground, Pace

__all__ = ["Attacker"]

SHARE = 0.5  # of one core
TURN_S = 120.0  # for one turn of an attack, however long its time is
_LIGHT_CLIENTS = 4


class Attacker:
    """Makes attacks and harmless loads against one server."""

    def __init__(self) -> None:
        self._pace = Pace(SHARE)
        self._whom: dict[str, Any] = {}

    def open(self, **whom: Any) -> None:
        """Notes the server: the fields of `Ground` that stay the same."""
        self._whom = whom | {"adapters": tuple(whom["adapters"])}

    def _ground(self, seconds: float) -> Ground:
        return Ground(until=time.monotonic() + seconds, pace=self._pace, **self._whom)

    def attack(self, names: Sequence[str], seconds: float) -> dict[str, Any]:
        """Makes attacks at the same time, each again and again for `seconds`; returns why each was broken, by name."""
        return self._measured(self._attack(names, seconds))

    def load(self, kind: str, seconds: float) -> dict[str, Any]:
        """Sends harmless requests for `seconds`: a few short chats at a time, or 64 choices of one."""
        return self._measured(self._load(kind, seconds))

    def _measured(self, work: Any) -> dict[str, Any]:
        began, spent = time.monotonic(), time.process_time()
        broken = asyncio.run(work)
        seconds = time.monotonic() - began
        return {"broken": broken, "seconds": seconds, "cpu_share": (time.process_time() - spent) / seconds}

    async def _attack(self, names: Sequence[str], seconds: float) -> Mapping[str, str]:
        whys = await asyncio.gather(*(self._one(name, seconds) for name in names))
        return {name: why for name, why in zip(names, whys, strict=True) if why}

    async def _one(self, name: str, seconds: float) -> str:
        """Makes one attack until its time is over; returns why it is broken, or nothing."""
        ground = self._ground(seconds)
        try:
            while True:
                async with asyncio.timeout(seconds + TURN_S):
                    await (ATTACKS | FLOODS)[name].run(ground)
                if ground.over():
                    return ""
                await asyncio.sleep(0.01)
        except Exception as error:  # whatever it is, it is the end of this attack, and not of the others
            return _why(error)
        finally:
            ground.leave()

    async def _load(self, kind: str, seconds: float) -> Mapping[str, str]:
        ground = self._ground(seconds)

        async def light(number: int) -> None:
            while not ground.over():
                await ground.civil(
                    "POST", "/v1/chat/completions", ground.chat(f"Say {number}.", temperature=1)
                )

        async def heavy(_number: int) -> None:
            while not ground.over():
                body = ground.chat("Write.", max_tokens=24, n=64, temperature=1)
                await ground.civil("POST", "/v1/chat/completions", body)

        try:
            await ground.together(
                1 if kind == "heavy" else _LIGHT_CLIENTS, heavy if kind == "heavy" else light
            )
        finally:
            ground.leave()
        return {}


def _why(error: Exception) -> str:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, Broken):
        return str(error)
    return "a turn took too long" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    os.nice(19)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
    serve(Attacker(), answer_stream())
