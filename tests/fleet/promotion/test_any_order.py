"""The registry under any order of operations: what is refused changes nothing, and the ledger always agrees with the alias."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from deepwell.errors import DeepwellError
from deepwell.fleet.promotion.check import check_ledger
from deepwell.fleet.promotion.rollout import Rollouts
from deepwell.storage.aliases import AliasNames, AliasStore
from deepwell.storage.database import Database
from deepwell.storage.registry.store import NewVersion

NAMES = ("prod", "test")
MODELS = ("base", "v1", "v2")
Step = tuple[str, str, str, int, bool]
STEPS = st.tuples(
    st.sampled_from(
        [
            "set",
            "remove",
            "register",
            "gate",
            "start",
            "promote",
            "abort",
            "roll_back",
            "judge",
            "revert",
            "step",
        ]
    ),
    st.sampled_from(NAMES),
    st.sampled_from(MODELS),
    st.integers(1, 3),
    st.booleans(),
)


def operations(
    rollouts: Rollouts, aliases: AliasStore, step: Step
) -> dict[str, Callable[[], Awaitable[Any]]]:
    _, name, model, number, good = step
    registry = rollouts.registry

    async def step_on() -> None:
        state = (await rollouts.registry.story(name)).aliases.get(name)
        rollout = "" if state is None else state.rollout or ""
        await registry.step(name, number / 3 if good else 0.0, "a", rollout=rollout)

    return {
        "step": step_on,
        "set": lambda: aliases.set(name, model, "a"),
        "remove": lambda: aliases.remove(name, "a"),
        "register": lambda: rollouts.register(name, NewVersion(model), "a"),
        "gate": lambda: registry.gate(f"{name}#{number}", {"passed": good, "gates": []}, "a"),
        "start": lambda: rollouts.start(f"{name}#{number}", "a", ungated="yes" if good else ""),
        "promote": lambda: rollouts.promote(name, "a"),
        "abort": lambda: rollouts.abort(name, "a"),
        "roll_back": lambda: registry.end(name, "rolled_back", "a"),
        "judge": lambda: rollouts.judge(name),
        "revert": lambda: rollouts.revert(name, "a"),
    }


@settings(max_examples=40, deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_any_order_leaves_a_ledger_that_agrees_with_the_aliases(steps: list[Step]) -> None:
    database = Database.temporary()
    try:
        rollouts, aliases = Rollouts(database), AliasStore(database)

        async def state() -> tuple[AliasNames, int]:
            names = await aliases.names()
            return AliasNames(0, names.models, names.canaries), len(await rollouts.registry.ledger.entries())

        async def play() -> None:
            for step in steps:
                before = await state()
                refused = True
                with suppress(DeepwellError):
                    await operations(rollouts, aliases, step)[step[0]]()
                    refused = False
                after = await state()
                assert check_ledger(database).holds
                if refused:
                    assert after == before, step
                else:
                    assert after[1] - before[1] <= 1, "one entry for one change"
                    assert after[1] > before[1] or after[0] == before[0], "no change without an entry"
                for name, canary in after[0].canaries.items():
                    assert canary.model != after[0].models[name]

        asyncio.run(play())
    finally:
        database.close()
