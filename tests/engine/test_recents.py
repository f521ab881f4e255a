"""Slots of single tokens: what a row reads one by one is what its own sequence wrote there, whatever came between."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.fakes import FakeCache, FakeModel, continuation
from tests.engine.test_scheduler import FREE, MAX_LEN, Driver, greedy, prompt_tokens

from deepwell.engine.batch import BLOCK_TOKENS, Batch
from deepwell.engine.core.blocks import BlockPool
from deepwell.engine.core.scheduler import Scheduler
from deepwell.engine.limits import Limits
from deepwell.engine.recents import RecentSlots, blocks_held


class SlottedModel(FakeModel):
    """Keeps tokens in slots beside the blocks, and compares both for every row and the tokens before it."""

    def __init__(self, recents: RecentSlots) -> None:
        super().__init__()
        self.recents = recents
        self.single = np.full((recents.num_slots, BLOCK_TOKENS), -1, np.int32)

    def forward(self, batch: Batch, cache: Any, **outputs: Any) -> None:
        table = self.recents.table
        for s, blocks in enumerate(batch.block_tables):
            rows = slice(batch.seq_starts[s], batch.seq_starts[s + 1])
            for token, position in zip(batch.tokens[rows], batch.positions[rows], strict=True):
                slot = table[blocks[position // BLOCK_TOKENS]]
                assert slot >= 0
                self.single[slot, position % BLOCK_TOKENS] = token
        super().forward(batch, cache, **outputs)
        for s, blocks in enumerate(batch.block_tables):
            first, last = batch.seq_starts[s], batch.seq_starts[s + 1] - 1
            begin = max(0, int(batch.positions[first]) - self.recents.horizon)
            for position in range(begin, int(batch.positions[last]) + 1):
                block, inside = blocks[position // BLOCK_TOKENS], position % BLOCK_TOKENS
                assert table[block] >= 0
                assert self.single[table[block], inside] == cache.tokens[block, inside]


class SlottedDriver(Driver):
    """A scheduler with as many slots as a step may need, and `spare` more."""

    def __init__(self, num_blocks: int, limits: Limits, horizon: int, spare: int) -> None:
        self.horizon, self.spare = horizon, spare
        super().__init__(num_blocks, limits)

    def __post_init__(self) -> None:
        super().__post_init__()
        limits = self.limits
        rows = max(limits.prefill_tokens, limits.mixed_prefill_tokens)
        of_sequence = blocks_held(self.horizon, 1 + limits.draft_depth) + 1
        slots = limits.max_sequences * of_sequence + -(-rows // BLOCK_TOKENS) + self.spare
        recents = RecentSlots(self.num_blocks, min(slots, self.num_blocks), self.horizon)
        self.pool = BlockPool(self.num_blocks, recents=recents)
        self.scheduler = Scheduler(self.pool, limits, recents)
        self.model = SlottedModel(recents)
        self.cache = FakeCache(self.num_blocks)


@given(
    st.lists(
        st.tuples(prompt_tokens, st.integers(0, 30), st.sampled_from(["go", "wait", "abort"])), min_size=3
    ),
    st.builds(
        Limits,
        max_sequences=st.integers(1, 4),
        prefill_tokens=st.integers(16, 48),
        mixed_prefill_tokens=st.integers(1, 16),
        prefix_cache=st.booleans(),
        draft_depth=st.sampled_from([0, 3]),
        row_cost=st.just(FREE),
    ),
    st.integers(MAX_LEN // BLOCK_TOKENS, 40),
    st.sampled_from([0, 1, 7, 15, 16, 31, 40]),
    st.integers(0, 6),
)
def test_rows_read_what_their_sequence_wrote(
    plan: list[tuple[list[int], int, str]], limits: Limits, num_blocks: int, horizon: int, spare: int
) -> None:
    driver = SlottedDriver(num_blocks, limits, horizon, spare)
    aborted: set[str] = set()
    for number, (prompt, max_tokens, then) in enumerate(plan):
        driver.add(str(number), prompt, greedy(max_tokens))
        if then == "abort" and driver.scheduler.remove(driver.sequences[str(number)]):
            aborted.add(str(number))
        elif then == "go" and driver.scheduler.has_work:
            driver.step()
            driver.scheduler.check_integrity()
    driver.run()
    for number, (prompt, max_tokens, _) in enumerate(plan):
        if str(number) not in aborted:
            assert driver.said(str(number)) == continuation(prompt, greedy(max_tokens))[0]


def test_a_prompt_goes_on_where_the_slots_behind_it_are_there() -> None:
    recents = RecentSlots(num_blocks=10, num_slots=4, horizon=31)
    assert recents.hold([0, 1, 2])
    recents.release([0, 1, 2])
    assert recents.reusable([0, 1, 2]) == 3
    assert recents.reusable([0, 1, 2, 5]) == 3  # block 5 has none
    assert recents.hold([7, 8])  # takes the slot of block 0, the oldest
    assert recents.table[0] == -1 and (recents.table[[1, 2, 7, 8]] >= 0).all()
    # Behind block 2 the tokens from 17 on are read: those of blocks 1 and 2.
    assert recents.reusable([0, 1, 2]) == 3
    assert recents.reusable([0, 1]) == 0


def test_slots_that_sequences_are_near_are_never_taken() -> None:
    recents = RecentSlots(num_blocks=6, num_slots=2, horizon=15)
    assert recents.hold([0, 1])
    assert not recents.hold([2])
    recents.release([0])
    assert not recents.hold([0, 2])  # block 0 keeps its slot, and none is left
    assert recents.hold([2]) and recents.table[0] == -1
    recents.check_integrity([[1], [2]])


def test_a_block_with_other_contents_has_no_slot() -> None:
    recents = RecentSlots(num_blocks=4, num_slots=2, horizon=15)
    assert recents.hold([3])
    recents.release([3])
    recents.forget([3, 2])
    assert recents.table.tolist() == [-1] * 4 and recents.available == 2


def test_a_sequence_that_waits_holds_no_more_than_its_next_row_reads() -> None:
    driver = SlottedDriver(12, Limits(max_sequences=2, prefill_tokens=64, mixed_prefill_tokens=64), 15, 0)
    waiting = driver.add("a", [1] * 90, greedy(2))
    driver.step()
    assert waiting.computed == 64 and waiting.near == range(3, 4)
    driver.run()


def test_a_prefix_that_lost_its_slots_is_offered_again_once_it_is_computed_anew() -> None:
    driver = SlottedDriver(40, Limits(max_sequences=1, prefill_tokens=16, mixed_prefill_tokens=16), 31, 0)
    prompt = [token % 90 for token in range(60)]
    for name, text in (("first", prompt), ("other", [5] * 80), ("another", [6] * 80)):
        driver.add(name, text, greedy(1))
        driver.run()
    for name in ("anew", "again"):
        driver.add(name, prompt, greedy(1))
        driver.run()
    assert driver.sequences["anew"].cached_tokens == 0
    assert driver.sequences["again"].cached_tokens == 48
