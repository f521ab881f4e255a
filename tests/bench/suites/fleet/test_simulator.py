"""The parts of the row `simulator`: traces, means of calibrations, a paced engine with slots."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from tests.server.fakes import write_tokenizer

from deepwell.engine.protocol import GenerateRequest, SamplingParams
from deepwell.fleet.simulate.profile import Profile
from deepwell.models.text.tokenizer import Tokenizer
from deepwell_bench.suites.fleet.simulator import PACED, capacity, mean_profile, trace_of
from deepwell_bench.workers.fleet.slotted import SlottedEngine

SLOTS = Profile("slots", ((1, 0.02),), 0.0, 0.05, kind="slots", max_batch=4)


def test_a_trace_has_its_rate_and_its_lengths() -> None:
    rows = trace_of(PACED, 20.0, 500.0, seed=1)
    assert len(rows) == pytest.approx(10_000, rel=0.05) and rows == trace_of(PACED, 20.0, 500.0, seed=1)
    assert {row.answer_tokens for row in rows} == set(range(4, 25))
    assert [row.at_s for row in rows] == sorted(row.at_s for row in rows)


def test_the_capacity_of_slots_is_what_they_hold() -> None:
    assert capacity(SLOTS, PACED) == pytest.approx(4 / (0.05 + 13 * 0.02), rel=0.03)


def test_a_mean_profile_lies_between_its_parts() -> None:
    other = replace(SLOTS, decode=((1, 0.04),), prefill_s=0.07, overhead_s=0.002, max_batch=3)
    mean = mean_profile([SLOTS, other])
    assert mean.decode == ((1, pytest.approx(0.03)),) and mean.max_batch == 3
    assert (mean.prefill_s, mean.overhead_s) == pytest.approx((0.06, 0.001))


async def test_a_slotted_engine_answers_so_many_at_once_and_all_in_the_end(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_tokenizer(tmp_path / "tokenizer"))
    engine = SlottedEngine(tokenizer, first_s=0.0, token_s=0.0, tokens=64, slots=2)
    open_now: set[str] = set()
    most = 0

    async def ask(number: int) -> int:
        nonlocal most
        name = f"request-{number}"
        tokens = 0
        async for delta in engine.generate(GenerateRequest(name, (1, 2), SamplingParams(max_tokens=5))):
            open_now.add(name)
            most = max(most, len(open_now))
            tokens += len(delta.tokens)
            if delta.finish_reason:
                open_now.discard(name)
        return tokens

    try:
        assert await asyncio.gather(*map(ask, range(9))) == [5] * 9
    finally:
        engine.close()
    assert most <= 2
