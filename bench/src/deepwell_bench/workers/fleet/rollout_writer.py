"""A process that rolls versions out until it is killed: `rollout_writer DATABASE ANCHORS [STATEMENTS]`.

It goes on from the state that it finds. After each change it writes the head of the ledger to standard output. With
STATEMENTS, a list such as 1-40, it forks a child for each number instead, which kills itself at that statement of SQL.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from deepwell.fleet.promotion.rollout import Rollouts
from deepwell.storage.aliases import AliasStore
from deepwell.storage.database import Database
from deepwell.storage.registry.store import NewVersion
from deepwell.storage.safety.anchors import Anchors

__all__ = ["ALIAS", "main"]

ALIAS = "smollm2@prod"
_OUTCOMES = ("promote", "abort", "promote", "roll_back")


async def main(where: str, anchors: Path, acknowledge: Callable[[str], object]) -> None:
    """Rolls versions out without end."""
    database = Database.connect(where) if where.startswith("postgresql") else Database.open(Path(where))
    rollouts, aliases = Rollouts(database, Anchors(anchors)), AliasStore(database)
    while True:
        await (await _next(rollouts, aliases))
        newest = (await rollouts.registry.ledger.entries())[-1]
        acknowledge(f"{newest.sequence}:{newest.hash}\n")


async def _next(rollouts: Rollouts, aliases: AliasStore) -> Coroutine[Any, Any, object]:
    """Returns the change that follows from the state."""
    story = await rollouts.registry.story(ALIAS)
    state = story.aliases.get(ALIAS)
    if state is None:
        return aliases.set(ALIAS, "base", "writer")
    versions = story.versions_of(ALIAS)
    tried = {one.version for one in story.rollouts.values()}
    if state.rollout is not None:
        way = _OUTCOMES[len(tried) % len(_OUTCOMES)]
        if way == "roll_back":
            return rollouts.registry.end(
                ALIAS, "rolled_back", "writer", numbers={"users": 40}, rollout=state.rollout
            )
        return (rollouts.promote if way == "promote" else rollouts.abort)(ALIAS, "writer", "its turn")
    if not versions or versions[-1].id in tried:
        return rollouts.registry.register(ALIAS, NewVersion(f"v{len(versions) + 1}"), "writer")
    if versions[-1].gates is None:
        return rollouts.registry.gate(versions[-1].id, {"passed": True, "gates": []}, "writer")
    entries = await rollouts.registry.ledger.entries(ALIAS)
    if entries[-1].event == "gates" and len(versions) % 3 == 0 and entries[-4].event == "promoted":
        return rollouts.revert(ALIAS, "writer")
    return rollouts.start(versions[-1].id, "writer", share=0.25)


def _killed_at(number: int) -> None:
    """Kills this process in front of its SQL statement of a number; commits count too."""
    seen = 0

    def count(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(sa.Engine, "before_cursor_execute", count)
    event.listen(sa.Engine, "commit", count)


def _run(where: str, anchors: Path) -> None:
    asyncio.run(main(where, anchors, lambda line: os.write(1, line.encode())))


if __name__ == "__main__":
    place, folder, *numbers = sys.argv[1:]
    if not numbers:
        _run(place, Path(folder))
    first, last = map(int, numbers[0].split("-"))
    for one in range(first, last + 1):
        if (child := os.fork()) == 0:
            _killed_at(one)
            _run(place, Path(folder))
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            sys.exit(f"the child of statement {one} ended by itself")
