"""Children for a supervisor, in several states of health: `python -m tests.process.children FD`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

from deepwell.process.control import ControlChannel
from deepwell.process.turns import Turn


async def _serve(control: ControlChannel, health: str) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    control.attach(loop, lambda _: stop.set())
    control.ready()

    def work() -> None:
        time.sleep(0.1)
        if health == "slow":
            control.counters.turn()

    if health in ("slow", "stuck"):
        for _ in range(30):  # all of them in one turn of the loop, which answers no ping meanwhile
            loop.call_soon(work)
        loop.call_soon(control.report, b"worked")
    elif health.startswith("turn:"):
        turn = Turn(Path(health.removeprefix("turn:")))
        turn.take()
        control.counters.begin()  # a step that never ends, in a turn that is never given back
        control.report(b"took")
    elif health == "hung":
        control.counters.begin()  # a thread that never comes to the end of its step
    else:
        control.counters.begin()
        control.counters.step()
        control.counters.rest()
    await stop.wait()


def main(descriptor: str) -> None:
    control = ControlChannel(int(descriptor))
    health = control.launch().decode()
    if health == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    asyncio.run(_serve(control, health))


if __name__ == "__main__":
    main(sys.argv[1])
