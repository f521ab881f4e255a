"""The scheduler: whatever arrives, leaves or runs out, every sequence says what it would have said alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.fakes import EOS, VOCAB, FakeCache, FakeModel, continuation

from deepwell.engine.batch import BLOCK_TOKENS
from deepwell.engine.batch_builder import BatchBuilder, output_rows_of
from deepwell.engine.blocks import BlockPool
from deepwell.engine.protocol import SamplingParams
from deepwell.engine.scheduler import NO_TOKEN, Limits, ScheduledStep, Scheduler
from deepwell.engine.sequence import Kind, Sequence

MAX_LEN = 96


def greedy(max_tokens: int, **changes: int | None) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0, **changes)  # pyright: ignore[reportArgumentType]


@dataclass
class Driver:
    """Runs a scheduler on the fake model, checking its books after each step."""

    num_blocks: int
    limits: Limits = field(default_factory=Limits)
    model: FakeModel = field(default_factory=FakeModel)

    def __post_init__(self) -> None:
        self.pool = BlockPool(self.num_blocks)
        self.scheduler = Scheduler(self.pool, self.limits)
        self.builder = BatchBuilder(self.limits.max_sequences, self.limits.prefill_tokens, MAX_LEN)
        self.cache = FakeCache(self.num_blocks)
        self.ended: dict[str, str] = {}
        self.sequences: dict[str, Sequence] = {}

    def add(
        self, name: str, prompt: list[int], params: SamplingParams, *, kind: Kind = "generate", salt: str = ""
    ) -> Sequence:
        sequence = Sequence(
            name, np.asarray(prompt, np.int32), params, kind=kind, salt=salt, eos_token_ids=frozenset({EOS})
        )
        self.sequences[name] = sequence
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> ScheduledStep:
        step = self.scheduler.schedule()
        assert step.sequences, "a step with work computes something"
        batch = self.builder.build(step)
        argmax = np.zeros(len(batch.output_rows), np.int32)
        self.model.forward(batch, self.cache, argmax=argmax)
        tokens: list[int] = []
        row = 0
        for sequence, count in zip(step.sequences, step.counts, strict=True):
            row += output_rows_of(sequence, count)
            draws = sequence.draws and sequence.computed + count == sequence.num_tokens
            tokens.append(int(argmax[row - 1]) if draws else NO_TOKEN)
        reasons = self.scheduler.commit(step, tokens)
        for sequence, reason in zip(step.sequences, reasons, strict=True):
            if reason is not None:
                self.ended[sequence.request_id] = reason
        self.scheduler.check_integrity()
        return step

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
            st.just("add"), prompt_tokens, st.integers(0, 30), st.sampled_from(["generate", "rows", "score"])
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
).filter(lambda limits: limits.mixed_prefill_tokens <= limits.prefill_tokens)


@given(events, small_limits, st.integers(MAX_LEN // BLOCK_TOKENS, 12))
def test_output_equals_the_oracle_under_any_schedule(
    plan: list[tuple[object, ...]], limits: Limits, num_blocks: int
) -> None:
    driver = Driver(num_blocks, limits)
    wanted: dict[str, tuple[list[int], SamplingParams]] = {}
    aborted: set[str] = set()
    for event in plan:
        match event:
            case ("add", list() as prompt, int() as max_tokens, str() as what):
                name = str(len(driver.sequences))
                params = greedy(max_tokens, prompt_logprobs=1 if what == "rows" else None)
                driver.add(name, prompt, params, kind="score" if what == "score" else "generate")
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
