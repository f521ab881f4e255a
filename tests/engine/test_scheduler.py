"""The scheduler: whatever arrives, leaves or runs out, every sequence says what it would have said alone."""

from __future__ import annotations

import random
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.engine.fakes import EOS, VOCAB, FakeCache, FakeModel, continuation

from deepwell.engine.batch import BLOCK_TOKENS
from deepwell.engine.core.batch_builder import BatchBuilder, output_rows_of
from deepwell.engine.core.blocks import BlockPool
from deepwell.engine.core.scheduler import Scheduler
from deepwell.engine.core.sequence import Kind, Sequence, SequenceSpec
from deepwell.engine.core.speculation import Draft, accept
from deepwell.engine.core.step import Move, ScheduledStep
from deepwell.engine.limits import Limits, RowCost
from deepwell.engine.memory import factor_memory
from deepwell.engine.protocol import SamplingParams, Window

MAX_LEN = 96
FREE = RowCost(0.01, 0.01)  # everything that is guessed is drafted


def greedy(max_tokens: int, **changes: int | None) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0, **changes)  # pyright: ignore[reportArgumentType]


class Guesses:
    """A drafter that knows what comes next and lies about some of it, as `seed` decides."""

    def __init__(self, sequence: Sequence, seed: int) -> None:
        self.num_tokens = sequence.num_tokens
        self.truth = continuation(
            sequence.tokens[: sequence.num_prompt].tolist(), replace(sequence.params, max_tokens=120)
        )[0]
        self.drawn = -1
        self.rng = random.Random(f"{seed} {sequence.request_id}")

    def observe(self, tokens: Tokens[int]) -> None:
        self.num_tokens += len(tokens)
        self.drawn += len(tokens)

    def propose(self, most: int) -> Draft:
        count = self.rng.randint(0, max(0, most))
        drawn = self.drawn + 1
        tokens = [*self.truth[drawn : drawn + count], *[0] * count][:count]  # the stop token is never guessed
        tokens = [token if self.rng.random() < 0.7 else self.rng.randrange(VOCAB) for token in tokens]
        return Draft(tokens, [1.0] * count)


@dataclass
class Masks:
    """A grammar as the scheduler sees it."""

    ready: bool = True
    slow: bool = False


@dataclass
class Driver:
    """Runs a scheduler on the fake model, checking its books after each step."""

    num_blocks: int
    limits: Limits = field(default_factory=Limits)
    model: FakeModel = field(default_factory=FakeModel)
    guesses: int | None = None  # the seed of a drafter in place of prompt lookup

    def __post_init__(self) -> None:
        self.pool = BlockPool(self.num_blocks)
        self.scheduler = Scheduler(self.pool, self.limits)
        further = max(self.limits.prefill_tokens, self.limits.draft_rows)
        self.builder = BatchBuilder(self.limits.max_sequences, further, MAX_LEN)
        self.cache = FakeCache(self.num_blocks)
        self.ended: dict[str, str] = {}
        self.sequences: dict[str, Sequence] = {}

    def add(
        self,
        name: str,
        prompt: list[int],
        params: SamplingParams,
        *,
        kind: Kind = "generate",
        salt: str = "",
        tenant: str = "",
        priority: int = 0,
        grammar: Masks | None = None,
        window: Window | None = None,
    ) -> Sequence:
        spec = SequenceSpec(
            name,
            np.asarray(prompt, np.int32),
            params,
            kind=kind,
            salt=salt,
            tenant=tenant,
            priority=priority,
            grammar=grammar,  # pyright: ignore[reportArgumentType]
            eos_token_ids=frozenset({EOS}),
            window=window,
            new_memory=window and factor_memory(cast(Any, self.model), self.cache, window, MAX_LEN),
        )
        sequence = Sequence(spec)
        self.sequences[name] = sequence
        if self.guesses is not None:
            sequence.drafts.drafter = Guesses(sequence, self.guesses)
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> ScheduledStep:
        step = self.scheduler.schedule()
        assert step.sequences, "a step with work computes something"
        for move in step.moves:
            self.move(move)
        batch = self.builder.build(step)
        argmax = np.zeros(len(batch.output_rows), np.int32)
        self.model.forward(batch, self.cache, argmax=argmax)
        self.book(step, self.drawn(step, argmax))
        return step

    def move(self, move: Move) -> None:
        if move.memory is not None:
            self.model.remember_blocks(self.cache, cast(Any, move.memory), move.forgotten)
        self.model.shift_blocks(self.cache, move.sources, move.targets, move.positions)

    def drawn(self, step: ScheduledStep, argmax: NDArray[np.int32]) -> list[list[int]]:
        """What each sequence is given, from the greedy token of every output row."""
        tokens: list[list[int]] = []
        row = 0
        for sequence, count in zip(step.sequences, step.counts, strict=True):
            row += output_rows_of(sequence, count)
            drafted = sequence.drafted(count)
            draws = sequence.draws and sequence.computed + count >= sequence.num_tokens
            drafts = sequence.tokens[sequence.num_tokens : sequence.num_tokens + drafted].tolist()
            drawn = argmax[row - 1 - drafted : row].tolist()
            tokens.append(accept(drafts, drawn, sequence.stop_ids) if draws else [])
        return tokens

    def book(self, step: ScheduledStep, tokens: list[list[int]]) -> None:
        reasons = self.scheduler.commit(step, tokens)
        for sequence, reason in zip(step.sequences, reasons, strict=True):
            if reason is not None:
                self.ended[sequence.request_id] = reason
        self.scheduler.check_integrity()

    def run(self) -> None:
        while self.scheduler.has_work:
            self.step()

    def said(self, name: str) -> list[int]:
        sequence = self.sequences[name]
        return sequence.tokens[sequence.num_prompt : sequence.num_tokens].tolist()


prompt_tokens = st.builds(  # mostly shared prefixes
    lambda base, length, suffix: [*[base] * length, *suffix],
    st.integers(0, 1),
    st.integers(0, 60),
    st.lists(st.integers(0, 3), min_size=1, max_size=6),
)
events = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            prompt_tokens,
            st.integers(0, 30),
            st.sampled_from(["generate", "rows", "score"]),
            st.sampled_from("abc"),
            st.integers(-1, 1),
        ),
        st.tuples(st.just("abort"), st.integers(0, 20)),
        st.tuples(st.just("step"), st.integers(1, 6)),
    ),
    min_size=5,
    max_size=30,
)
small_limits = st.builds(
    Limits,
    max_sequences=st.integers(1, 5),
    prefill_tokens=st.integers(1, 48),
    mixed_prefill_tokens=st.integers(1, 48),
    logits_rows=st.integers(1, 20),
    prefix_cache=st.booleans(),
    draft_depth=st.sampled_from([0, 1, 3, 8]),
    draft_rows=st.integers(1, 16),
    row_cost=st.sampled_from([FREE, RowCost()]),
).filter(lambda limits: limits.mixed_prefill_tokens <= limits.prefill_tokens)


@given(
    events,
    small_limits,
    st.integers(MAX_LEN // BLOCK_TOKENS, 12),
    st.one_of(st.none(), st.integers(0, 99)),
)
def test_output_equals_the_oracle_under_any_schedule(
    plan: list[tuple[object, ...]], limits: Limits, num_blocks: int, guesses: int | None
) -> None:
    driver = Driver(num_blocks, limits, guesses=guesses)
    wanted: dict[str, tuple[list[int], SamplingParams]] = {}
    aborted: set[str] = set()
    for event in plan:
        match event:
            case (
                "add",
                list() as prompt,
                int() as max_tokens,
                str() as what,
                str() as tenant,
                int() as priority,
            ):
                name = str(len(driver.sequences))
                params = greedy(max_tokens, prompt_logprobs=1 if what == "rows" else None)
                kind: Kind = "score" if what == "score" else "generate"
                driver.add(name, prompt, params, kind=kind, tenant=tenant, priority=priority)
                if what != "score":
                    wanted[name] = (prompt, params)
            case ("abort", int() as index):
                name = str(index)
                if name in driver.sequences and driver.scheduler.remove(driver.sequences[name]):
                    aborted.add(name)
                    driver.scheduler.check_integrity()
            case (_, int() as steps):
                for _ in range(steps):
                    if driver.scheduler.has_work:
                        driver.step()
            case _:
                raise AssertionError(event)
    driver.run()
    for name, (prompt, params) in wanted.items():
        said, reason = continuation(prompt, params)
        if name in aborted:
            assert said[: len(driver.said(name))] == driver.said(name)
        else:
            assert (driver.said(name), driver.ended[name]) == (said, reason)
    assert set(driver.ended) == set(driver.sequences) - aborted
    assert driver.pool.used == 0


def test_a_pool_too_small_for_two_preempts_the_youngest_and_both_finish() -> None:
    driver = Driver(num_blocks=6)
    for name, token in (("old", 1), ("young", 2)):
        driver.add(name, [token] * 40, greedy(40, ignore_eos=True))
    driver.run()
    assert driver.scheduler.preemptions > 0
    assert driver.sequences["old"].preemptions == 0
    for name, token in (("old", 1), ("young", 2)):
        assert driver.said(name) == continuation([token] * 40, greedy(40, ignore_eos=True))[0]


def test_a_repeated_prompt_computes_only_what_follows_its_last_full_block() -> None:
    driver = Driver(num_blocks=16)
    prompt = list(range(40))
    driver.add("first", prompt, greedy(1))
    driver.run()
    driver.add("again", prompt, greedy(1))
    assert driver.step().counts == [8]
    assert driver.sequences["again"].cached_tokens == 32


def test_a_fully_cached_prompt_still_computes_its_last_block() -> None:
    driver = Driver(num_blocks=16)
    prompt = list(range(32))
    driver.add("first", prompt, greedy(1))
    driver.run()
    again = driver.add("again", prompt, greedy(1))
    assert driver.step().counts == [16]
    assert again.cached_tokens == 16


def test_generated_blocks_are_reused_by_the_next_turn() -> None:
    driver = Driver(num_blocks=16)
    prompt = list(range(20))
    driver.add("turn 1", prompt, greedy(30, ignore_eos=True))
    driver.run()
    driver.add("turn 2", [*prompt, *driver.said("turn 1"), 5], greedy(1))
    driver.step()
    assert driver.sequences["turn 2"].cached_tokens == 48  # of 49 computed ones


def test_equal_prompts_that_arrive_together_are_computed_once() -> None:
    driver = Driver(num_blocks=32)
    for name in "abcd":
        driver.add(name, list(range(50)), greedy(2))
    driver.run()
    assert driver.scheduler.prompt_tokens == 50 + 3 * 2
    assert driver.scheduler.cached_tokens == 3 * 48


def test_salts_keep_prefixes_apart() -> None:
    driver = Driver(num_blocks=16)
    for salt in ("a", "b"):
        driver.add(salt, list(range(40)), greedy(1), salt=salt)
        driver.run()
    assert driver.sequences["b"].cached_tokens == 0


def test_prompt_chunks_shrink_while_somebody_decodes() -> None:
    driver = Driver(num_blocks=24, limits=Limits(prefill_tokens=64, mixed_prefill_tokens=16))
    driver.add("a", list(range(60)), greedy(20, ignore_eos=True))
    assert driver.step().counts == [60]
    driver.add("b", [9] * 60, greedy(1))
    step = driver.step()
    assert [s.request_id for s in step.sequences] == ["a", "b"]
    assert step.counts == [1, 16]


def test_requests_are_admitted_in_order_of_arrival() -> None:
    driver = Driver(num_blocks=64, limits=Limits(max_sequences=2))
    for name in "abc":
        driver.add(name, [ord(name) % VOCAB] * 5, greedy(3, ignore_eos=True))
    assert [s.request_id for s in driver.step().sequences] == ["a", "b"]
    driver.step()
    driver.step()
    assert [s.request_id for s in driver.step().sequences] == ["c"]


def test_prompt_logprobs_compute_every_row_in_small_chunks() -> None:
    driver = Driver(num_blocks=16, limits=Limits(logits_rows=20))
    prompt = list(range(40))
    driver.add("first", prompt, greedy(1))
    driver.run()
    rows = driver.add("rows", prompt, greedy(1, prompt_logprobs=0))
    assert driver.step().counts == [20]
    driver.run()
    assert rows.cached_tokens == 0


def test_scoring_alone_fills_whole_steps_and_shares_them_in_company() -> None:
    driver = Driver(num_blocks=24, limits=Limits(logits_rows=16))
    driver.add("alone", list(range(90)), greedy(0), kind="score")
    assert driver.step().counts == [90]
    driver.add("score", list(range(90)), greedy(0), kind="score")
    driver.add("chat", [1, 2, 3], greedy(2))
    assert driver.step().counts == [16, 3]
    driver.run()
    assert driver.ended == {"alone": "stop", "score": "stop", "chat": "length"}


def test_right_guesses_save_steps_and_wrong_ones_cost_none() -> None:
    def steps(guesses: int | None, depth: int) -> tuple[int, Driver]:
        driver = Driver(num_blocks=8, limits=Limits(draft_depth=depth, row_cost=FREE), guesses=guesses)
        driver.add("a", [1, 2, 3], greedy(60, ignore_eos=True))
        driver.run()
        return driver.model.calls, driver

    plain, _ = steps(None, 0)
    guessed, driver = steps(1, 8)
    assert plain == 60
    assert guessed + driver.scheduler.accepted_tokens == plain
    assert 0 < driver.scheduler.accepted_tokens < driver.scheduler.drafted_tokens
    assert driver.sequences["a"].accepted_tokens == driver.scheduler.accepted_tokens


def test_nobody_is_preempted_for_a_draft() -> None:
    """Blocks for both contexts and none to spare: drafts keep to the blocks that are held."""
    limits = Limits(row_cost=FREE)
    driver = Driver(num_blocks=8, limits=limits, guesses=3)
    for name, token in (("a", 1), ("b", 2)):
        driver.add(name, [token] * 20, greedy(44, ignore_eos=True))
    driver.run()
    assert driver.scheduler.preemptions == 0
    assert driver.scheduler.accepted_tokens > 0


def test_drafts_wait_while_somebody_reads_a_prompt() -> None:
    driver = Driver(num_blocks=24, limits=Limits(mixed_prefill_tokens=16, row_cost=FREE), guesses=1)
    driver.add("a", [1] * 20, greedy(40, ignore_eos=True))
    driver.step()
    driver.add("b", [2] * 40, greedy(1))
    assert [driver.step().drafted for _ in range(3)] == [0, 0, 0]
    assert sum(driver.step().drafted for _ in range(4)) > 0


def test_only_drawn_tokens_reach_the_prefix_cache() -> None:
    """Rejected drafts have been in the blocks that a later prompt reuses."""
    driver = Driver(num_blocks=16, limits=Limits(row_cost=FREE), guesses=5)
    driver.add("turn 1", list(range(20)), greedy(40, ignore_eos=True))
    driver.run()
    assert driver.scheduler.accepted_tokens < driver.scheduler.drafted_tokens
    prompt = [*range(20), *driver.said("turn 1"), 5]
    driver.add("turn 2", prompt, greedy(12, ignore_eos=True))
    driver.run()
    assert driver.sequences["turn 2"].cached_tokens == 48
    assert driver.said("turn 2") == continuation(prompt, greedy(12, ignore_eos=True))[0]


def waiting_batch(driver: Driver, count: int, priority: int) -> None:
    for number in range(count):
        driver.add(f"batch {number}", [number] * 20, greedy(40, ignore_eos=True), priority=priority)


def test_a_higher_priority_takes_the_place_of_the_youngest_lower_one() -> None:
    driver = Driver(num_blocks=64, limits=Limits(max_sequences=2, draft_depth=0))
    waiting_batch(driver, 3, -1)
    driver.step()
    driver.add("chat", [9] * 5, greedy(3, ignore_eos=True))
    step = driver.step()
    assert [one.request_id for one in driver.scheduler.running] == ["chat", "batch 0"]
    assert step.decoding == 1
    driver.run()
    assert list(driver.ended) == ["chat", "batch 0", "batch 1", "batch 2"]
    assert [driver.sequences[f"batch {n}"].preemptions for n in range(3)] == [0, 1, 0]
    for number in range(3):
        assert driver.said(f"batch {number}") == continuation([number] * 20, greedy(40, ignore_eos=True))[0]


def test_a_higher_priority_takes_the_blocks_of_lower_ones_and_never_those_of_its_own() -> None:
    driver = Driver(num_blocks=6, limits=Limits(draft_depth=0))
    driver.add("first", [1] * 40, greedy(5, ignore_eos=True))
    driver.add("batch", [2] * 20, greedy(20, ignore_eos=True), priority=-1)
    driver.step()
    driver.add("second", [3] * 30, greedy(5, ignore_eos=True))
    driver.step()
    assert [one.request_id for one in driver.scheduler.running] == ["first", "second"]
    driver.add("third", [4] * 30, greedy(5, ignore_eos=True))
    driver.run()
    assert list(driver.ended) == ["first", "second", "third", "batch"]
    assert [driver.sequences[name].preemptions for name in ("first", "second", "third")] == [0, 0, 0]


def test_nobody_gives_way_where_it_would_not_help() -> None:
    driver = Driver(num_blocks=6, limits=Limits(draft_depth=0))
    driver.add("first", [1] * 60, greedy(5, ignore_eos=True))
    driver.add("batch", [2] * 10, greedy(10, ignore_eos=True), priority=-1)
    driver.step()
    driver.add("second", [3] * 50, greedy(5, ignore_eos=True))
    driver.step()
    assert driver.sequences["batch"].preemptions == 0


def test_tenants_share_the_places() -> None:
    driver = Driver(num_blocks=64, limits=Limits(max_sequences=1))
    for number in range(6):
        driver.add(f"flood {number}", [1] * 10, greedy(2), tenant="flood")
    driver.step()
    driver.add("other", [2] * 10, greedy(2), tenant="other")
    driver.run()
    assert list(driver.ended)[:3] == ["flood 0", "other", "flood 1"]


def test_a_sequence_without_its_mask_is_left_out_and_the_others_draft_on() -> None:
    driver = Driver(64, Limits(row_cost=FREE), guesses=1)
    masks = Masks()
    driver.add("bound", [1, 2], greedy(20), grammar=masks)
    driver.add("plain", [3, 4], greedy(20))
    driver.step()
    masks.ready, masks.slow = False, True
    drafted = 0
    while "plain" not in driver.ended:
        step = driver.step()
        assert [one.request_id for one in step.sequences] == ["plain"]
        drafted += step.drafted
    assert drafted
    assert not driver.scheduler.schedule().sequences
    masks.ready = True
    driver.run()
    assert driver.said("bound") == continuation([1, 2], greedy(20))[0]


def test_slow_masks_give_their_place_to_whoever_waits() -> None:
    driver = Driver(64, Limits(max_sequences=2))
    masks = [Masks(), Masks()]
    for number, one in enumerate(masks):
        driver.add(f"bound{number}", [1, number], greedy(30), grammar=one)
    driver.step()
    for one in masks:
        one.ready, one.slow = False, True
    driver.add("plain", [3, 4], greedy(5))
    driver.step()
    assert [one.request_id for one in driver.scheduler.running] == ["plain", "bound0"]
    while "plain" not in driver.ended:
        driver.step()
    for one in masks:
        one.ready = True
    driver.run()
    assert [driver.said(f"bound{n}") for n in range(2)] == [
        continuation([1, n], greedy(30))[0] for n in range(2)
    ]


def test_waiting_sequences_with_slow_masks_let_others_pass() -> None:
    driver = Driver(64, Limits(max_sequences=1))
    masks = Masks()
    driver.add("bound", [1, 2], greedy(30), grammar=masks)
    driver.step()
    masks.slow = True
    for number in range(3):
        driver.add(f"plain{number}", [3, number], greedy(4))
    driver.run()
    assert list(driver.ended) == ["plain0", "plain1", "plain2", "bound"]


@given(
    seed=st.integers(0, 2**32),
    num_blocks=st.integers(8, 24),
    max_sequences=st.integers(1, 5),
    draft_depth=st.sampled_from([0, 4]),
)
def test_rows_without_a_mask_are_computed_again(
    seed: int, num_blocks: int, max_sequences: int, draft_depth: int
) -> None:
    chance = random.Random(seed)
    limits = Limits(max_sequences=max_sequences, row_cost=FREE, draft_depth=draft_depth)
    driver = Driver(num_blocks, limits, guesses=seed)
    prompts = {f"s{n}": [chance.randrange(5) for _ in range(chance.randint(1, 40))] for n in range(6)}
    masks: dict[str, Masks] = {}
    for number, (name, prompt) in enumerate(prompts.items()):
        if number % 3:
            masks[name] = Masks()
        driver.add(name, prompt, greedy(20), grammar=masks.get(name))
    while driver.scheduler.has_work:
        for one in masks.values():
            one.slow = chance.random() < 0.3
            one.ready = not one.slow or chance.random() < 0.6
        step = driver.scheduler.schedule()
        if not step.sequences:
            continue
        batch = driver.builder.build(step)
        argmax = np.zeros(len(batch.output_rows), np.int32)
        driver.model.forward(batch, driver.cache, argmax=argmax)
        drawn = driver.drawn(step, argmax)
        for index, sequence in enumerate(step.sequences):
            if sequence.num_generated and sequence.request_id in masks and chance.random() < 0.3:
                drawn[index] = []
        driver.book(step, drawn)
    for name, prompt in prompts.items():
        assert (driver.said(name), driver.ended[name]) == continuation(prompt, greedy(20))
