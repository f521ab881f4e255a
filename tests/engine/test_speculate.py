"""Drafting and acceptance: what is proposed, what it is worth, and that it never changes an answer."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.conformance import Answer, request
from tests.engine.fakes import FakeModel, fake_engine

from deepwell.engine.batch import Batch
from deepwell.engine.core.loop import InProcessEngine
from deepwell.engine.core.speculation import LONGEST_KEY, SHORTEST_KEY, DraftPolicy, PromptLookup, accept
from deepwell.engine.limits import Limits, RowCost
from deepwell.engine.protocol import GenerateRequest, SamplingParams

COST = RowCost(0.2, 0.4)
texts = st.lists(st.integers(0, 3), min_size=1, max_size=60)  # four letters: everything repeats


def drafter_of(tokens: Sequence[int], indexed: int) -> PromptLookup:
    """One that took `indexed` tokens in as a prompt and the others one by one."""
    drafter = PromptLookup(np.asarray(tokens[:indexed], np.int32))
    for token in tokens[indexed:]:
        drafter.observe([token])
    return drafter


def longest_match(tokens: Sequence[int]) -> int:
    """The longest key at the end of `tokens` that occurs before; 0 if none does."""
    for size in range(LONGEST_KEY, SHORTEST_KEY - 1, -1):
        key = tokens[len(tokens) - size :]
        if len(key) == size and any(
            tokens[start : start + size] == key for start in range(len(tokens) - size)
        ):
            return size
    return 0


@given(texts, st.data())
def test_drafts_follow_the_longest_key_that_occurs_before(tokens: list[int], data: st.DataObject) -> None:
    drafter = drafter_of(tokens, data.draw(st.integers(1, len(tokens))))
    draft = drafter.propose(6)
    size = longest_match(tokens)
    assert min(drafter.match_length, LONGEST_KEY) == size
    assert drafter.num_tokens == len(tokens)
    if not size:
        assert draft.tokens == []
        return
    length = drafter.match_length
    places = [
        start + length
        for start in range(len(tokens) - length)
        if tokens[start : start + length] == tokens[len(tokens) - length :]
    ]

    def after(place: int) -> list[int]:
        text = list(tokens)
        for i in range(6):
            text.append(text[place + i])
        return text[len(tokens) :]

    assert draft.tokens in [after(place) for place in places]


@given(texts)
def test_a_new_match_follows_the_last_occurrence(tokens: list[int]) -> None:
    drafter = PromptLookup(np.asarray(tokens, np.int32))
    size = longest_match(tokens)
    if size:
        key = tokens[len(tokens) - size :]
        last = max(start for start in range(len(tokens) - size) if tokens[start : start + size] == key)
        assert drafter.propose(1).tokens == [tokens[last + size]]


@given(texts, st.integers(0, 9))
def test_chances_are_probabilities_that_fall(tokens: list[int], most: int) -> None:
    draft = drafter_of(tokens, 1).propose(most)
    assert len(draft.tokens) == len(draft.chances) in (0, most)
    assert all(0 < chance < 1 for chance in draft.chances)
    assert draft.chances == sorted(draft.chances, reverse=True)


def test_confidence_comes_with_success_and_goes_with_failure() -> None:
    rng = random.Random(1)
    passage = [rng.randrange(1000) for _ in range(60)]
    drafter = PromptLookup(np.asarray(passage, np.int32))
    worth: list[int] = []
    for token in passage:
        drafter.observe([token])
        worth.append(DraftPolicy(1, COST).take(drafter.propose(8).chances))
    assert worth[:2] == [0, 0], "an unknown text is not drafted on one coincidence"
    assert sum(worth[:10]) < sum(worth[10:20]) <= sum(worth[20:30]), "depth grows"
    assert worth[-1] >= 4
    worth.clear()
    for _ in range(12):  # pairs that occur before and go on in another way
        place = rng.randrange(58)
        drafter.observe([passage[place], passage[place + 1]])
        worth.append(DraftPolicy(1, COST).take(drafter.propose(8).chances))
        drafter.observe([2000 + rng.randrange(1000)])

    assert worth[-4:] == [0] * 4, "it backs off"


def test_an_eager_bigram_in_chat_is_not_worth_a_row() -> None:
    chat = [1, 2, 3, 1, 2, 4, 1, 2, 5, 1, 2, 6, 1, 2, 7, 1, 2]
    assert DraftPolicy(1, COST).take(drafter_of(chat, 3).propose(8).chances) == 0


def test_memory_is_a_few_entries_a_token() -> None:
    tokens = np.random.default_rng(0).integers(0, 50_000, 5000).astype(np.int32)
    drafter = drafter_of(tokens.tolist(), 4000)
    assert len(drafter._ends) <= (LONGEST_KEY - SHORTEST_KEY + 1) * len(tokens)


@pytest.mark.parametrize("rows", [1, 4, 16])
@pytest.mark.parametrize("chance", [0.2, 0.5, 0.8, 0.95])
def test_depth_is_the_one_with_the_most_tokens_for_the_cost(rows: int, chance: float) -> None:
    chances = [chance ** (i + 1) for i in range(12)]
    rates = [
        (rows + sum(chances[:k])) / sum(COST.of(row) for row in range(1, rows + k + 1)) for k in range(13)
    ]
    assert DraftPolicy(rows, COST).take(chances) == rates.index(max(rates))


def test_company_makes_rows_dear() -> None:
    chances = [0.85**i for i in range(1, 9)]
    depths = [DraftPolicy(rows, COST).take(chances) for rows in (1, 2, 4, 16)]
    assert depths == sorted(depths, reverse=True)
    assert depths[0] > 1
    assert depths[3] == 0


@pytest.mark.parametrize(
    ("draft", "drawn", "kept"),
    [
        ([], [5], [5]),
        ([5, 6], [5, 6, 7], [5, 6, 7]),
        ([5, 6], [5, 9, 7], [5, 9]),
        ([5, 6], [9, 6, 7], [9]),
        ([5, 0, 6], [5, 0, 6, 7], [5, 0]),  # 0 ends the sequence, guessed or not
        ([5, 6], [0, 6, 7], [0]),
    ],
)
def test_acceptance_ends_with_the_first_token_that_was_not_drafted(
    draft: list[int], drawn: list[int], kept: list[int]
) -> None:
    assert accept(draft, drawn, frozenset({0})) == kept


class Parrot(FakeModel):
    """Mostly repeats what stood 12 tokens before, so that lookups succeed and fail."""

    def forward(self, batch, cache, *, logits=None, argmax=None, **outputs) -> None:
        rows = np.empty((len(batch.output_rows), self.vocab_size), np.float32)
        super().forward(batch, cache, logits=rows, **outputs)
        for output, row in enumerate(batch.output_rows):
            position = int(batch.positions[row])
            s = int(np.searchsorted(batch.seq_starts, row, side="right")) - 1
            if position >= 11 and rows[output, 0] < 1.5:
                back = position - 11
                rows[output, cache.tokens[batch.block_tables[s, back // 16], back % 16]] += 9
        if logits is not None:
            logits[:] = rows
        if argmax is not None:
            argmax[:] = rows.argmax(axis=1)


def requests(count: int) -> list[GenerateRequest]:
    rng = random.Random(9)
    return [
        GenerateRequest(
            f"{i}",
            [rng.randrange(8) for _ in range(rng.randrange(1, 40))],
            SamplingParams(
                max_tokens=rng.randrange(1, 80),
                min_tokens=rng.choice((0, 20)),
                temperature=rng.choice((0.0, 0.0, 1.0)),
                frequency_penalty=rng.choice((0.0, 0.0, 0.3)),
                repetition_penalty=rng.choice((1.0, 1.1)),
                logit_bias=rng.choice(({}, {3: 2.0})),
                logprobs=rng.choice((None, 2)),
                stop_token_ids=rng.choice(((), (5, 40))),
                seed=rng.randrange(100),
            ),
            choice=rng.randrange(3),
        )
        for i in range(count)
    ]


def all_answers(engine: InProcessEngine, asked: list[GenerateRequest], together: bool) -> list[Answer]:
    if not together:
        return [Answer(list(engine.generate_sync(one))) for one in asked]
    streams = [engine.generate_sync(one) for one in asked]
    return [Answer(list(stream)) for stream in streams]


@pytest.mark.parametrize("together", [False, True])
def test_answers_and_logprobs_are_those_without_speculation(together: bool) -> None:
    """Greedy and drawn, with penalties, biases, stop tokens and minima; in a pool that is too small."""
    asked = requests(60)
    with fake_engine(model=Parrot(), num_blocks=64, limits=Limits(draft_depth=0)) as engine:
        plain = all_answers(engine, asked, False)
        assert engine.stats().drafted_tokens == 0
    limits = Limits(max_sequences=5, prefill_tokens=40, mixed_prefill_tokens=16, row_cost=RowCost(0.05, 0.05))
    with fake_engine(model=Parrot(), num_blocks=16, limits=limits) as engine:
        speculated = all_answers(engine, asked, together)
        stats = engine.stats()
    assert 20 < stats.accepted_tokens < stats.drafted_tokens
    assert stats.blocks_used == 0
    assert stats.generated_tokens == sum(len(answer.tokens) for answer in plain)
    for before, after in zip(plain, speculated, strict=True):
        assert after.tokens == before.tokens
        assert after.logprobs == before.logprobs, "bitwise"
        assert after.last.finish_reason == before.last.finish_reason
        assert after.last.completion_tokens == len(after.tokens)
        assert all(len(delta.logprobs) in (0, len(delta.tokens)) for delta in after.deltas)
    assert sum(answer.last.accepted_tokens for answer in speculated) == stats.accepted_tokens


def test_a_step_may_bring_several_tokens() -> None:
    with fake_engine(model=Parrot(), max_model_len=1024) as engine:
        answer = Answer(list(engine.generate_sync(request("a", list(range(12)), max_tokens=200))))
        stats = engine.stats()
    assert len(answer.tokens) == 200
    assert max(len(delta.tokens) for delta in answer.deltas) > 1
    assert stats.steps < 200
    assert stats.steps + stats.accepted_tokens == 200


def test_unusable_rows_behind_a_draft_fail_when_they_are_due() -> None:
    """The tokens before them are delivered, as they would have been one by one."""

    class Broken(Parrot):
        def forward(self, batch: Batch, cache, *, logits=None, argmax=None, **outputs) -> None:
            super().forward(batch, cache, logits=logits, argmax=argmax, **outputs)
            bad = batch.positions[batch.output_rows] >= 90
            if logits is not None:
                logits[bad] = np.nan
            if argmax is not None:
                argmax[bad] = np.iinfo(np.int32).max

    for params in ({}, {"temperature": 0.1, "seed": 1}):
        asked = request("a", list(range(12)), max_tokens=200, **params)
        answers: list[Answer] = []
        for depth in (0, 8):
            with fake_engine(model=Broken(), max_model_len=256, limits=Limits(draft_depth=depth)) as engine:
                answers.append(Answer(list(engine.generate_sync(asked))))
                assert engine.stats().accepted_tokens > 0 or not depth
        assert answers[0].tokens == answers[1].tokens
        assert [answer.last.finish_reason for answer in answers] == ["error", "error"]


def test_a_step_that_fails_while_it_is_booked_ends_its_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that had finished when it failed."""
    gate = threading.Event()
    with fake_engine(model=FakeModel(before_step=lambda batch: gate.wait(60) and None)) as engine:
        commit = engine._scheduler.commit

        def broken(step, tokens):
            commit(step, tokens)
            raise RuntimeError("no room in the books")

        monkeypatch.setattr(engine._scheduler, "commit", broken)
        streams = [engine.generate_sync(request(name, [i], max_tokens=1)) for i, name in enumerate("ab")]
        gate.set()
        lasts = [list(stream)[-1] for stream in streams]
        monkeypatch.undo()
        assert [last.finish_reason for last in lasts] == ["error", "error"]
        assert all("no room in the books" in last.error for last in lasts)
        assert len(list(engine.generate_sync(request("c")))) == 8
        assert engine.stats().blocks_used == 0


def test_prompt_logprobs_of_a_single_token_are_one_none() -> None:
    with fake_engine() as engine:
        for max_tokens in (0, 1):
            asked = request("a", [7], max_tokens=max_tokens, prompt_logprobs=1)
            first, *_ = engine.generate_sync(asked)
            assert first.prompt_logprobs == (None,)
