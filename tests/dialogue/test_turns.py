"""Turns of tenants: one at a time, none lost, and nobody starved."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.dialogue.turns import FairTurns, TooManyTexts

ASKED = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9)), min_size=1, max_size=30)


def served(asked: list[tuple[str, int]], leave: frozenset[int] = frozenset()) -> list[int]:
    """The order in which turns are given to those who ask one after another; `leave` go away while they wait."""
    order: list[int] = []

    async def run() -> None:
        turns = FairTurns(10**6)
        first = asyncio.Event()
        having = 0

        async def take(number: int, tenant: str, cost: int) -> None:
            nonlocal having
            async with turns.turn(tenant, cost):
                having += 1
                assert having == 1
                order.append(number)
                if len(order) == 1:
                    await first.wait()
                await asyncio.sleep(0)
                having -= 1

        tasks = [asyncio.create_task(take(number, *one)) for number, one in enumerate(asked)]
        await asyncio.sleep(0)
        for number in leave:
            if 0 < number < len(tasks):
                tasks[number].cancel()
        await asyncio.sleep(0)
        first.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert turns.is_idle

    asyncio.run(run())
    return order


@given(ASKED, st.frozensets(st.integers(1, 29), max_size=5))
def test_everybody_who_stays_has_one_turn(asked: list[tuple[str, int]], leave: frozenset[int]) -> None:
    assert sorted(served(asked, leave)) == [number for number in range(len(asked)) if number not in leave]


@given(ASKED)
def test_a_tenants_own_turns_keep_their_order(asked: list[tuple[str, int]]) -> None:
    order = served(asked)
    for tenant in "abc":
        own = [number for number in order if asked[number][0] == tenant]
        assert own == sorted(own)


@given(st.integers(2, 20), st.integers(1, 9))
def test_a_flood_delays_another_tenant_by_one_turn(flood: int, cost: int) -> None:
    order = served([("a", cost)] * flood + [("b", cost)])
    assert order.index(flood) <= 2  # behind the turn that runs, and at most one more


async def test_a_tenant_may_not_pile_up_texts() -> None:
    turns = FairTurns(10)
    async with turns.turn("a", 5):
        waiting = asyncio.create_task(_take(turns, "a", 8))
        await asyncio.sleep(0)
        with pytest.raises(TooManyTexts) as refused:
            await _take(turns, "a", 8)
        assert (refused.value.status, refused.value.code) == (503, "overloaded")
        other = asyncio.create_task(_take(turns, "b", 8))
        await asyncio.sleep(0)
    await asyncio.gather(waiting, other)


async def _take(turns: FairTurns, tenant: str, cost: int) -> None:
    async with turns.turn(tenant, cost):
        pass
