"""A token's role, prompt or generated, is its own: no chunk, preemption, draft or prefix hit changes it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine import sequences
from tests.engine.backends import backend
from tests.engine.fakes import EOS, VOCAB, FakeModel, logits_after
from tests.engine.test_scheduler import MAX_LEN, Driver, events, greedy, small_limits
from tests.parallel import every_processor

from deepwell.engine.batch import BLOCK_TOKENS, Batch
from deepwell.engine.limits import Limits, RowCost
from deepwell.engine.load import open_engine
from deepwell.engine.options import EngineOptions
from deepwell.engine.protocol import EngineStats, GenerateRequest, SamplingParams


class RoleModel(FakeModel):
    """The fake whose cache also shows by which path a token was computed, as latent attention's does."""

    def forward(self, batch: Batch, cache: Any, **outputs: Any) -> None:
        assert batch.prompt_lengths is not None
        lengths = np.repeat(batch.prompt_lengths, np.diff(batch.seq_starts))
        generated = (batch.positions >= lengths).astype(np.int32)
        super().forward(replace(batch, tokens=batch.tokens + VOCAB * generated), cache, **outputs)


def continuation(prompt: Sequence[int], count: int) -> list[int]:
    """Greedy tokens of the fake with roles, when nothing is paged, batched, cached or chunked."""
    tokens = list(prompt)
    said: list[int] = []
    while len(said) < count:
        token = int(logits_after(np.asarray(tokens, np.int32)).argmax())
        if token == EOS:
            break
        said.append(token)
        tokens.append(token + VOCAB)
    return said


@given(events, small_limits, st.integers(MAX_LEN // BLOCK_TOKENS, 12))
def test_output_equals_the_oracle_under_any_schedule(
    plan: list[tuple[object, ...]], limits: Limits, num_blocks: int
) -> None:
    driver = Driver(num_blocks, replace(limits, share_generated=False), RoleModel())
    wanted: dict[str, tuple[list[int], int]] = {}
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
                kind = "score" if what == "score" else "generate"
                driver.add(name, prompt, greedy(max_tokens), kind=kind, tenant=tenant, priority=priority)
                if kind == "generate":
                    wanted[name] = prompt, max_tokens
            case ("abort", int()):
                pass
            case (_, int() as steps):
                for _ in range(steps):
                    if driver.scheduler.has_work:
                        driver.step()
            case _:
                raise AssertionError(event)
    driver.run()
    for name, (prompt, count) in wanted.items():
        assert driver.said(name) == continuation(prompt, count)


def turns(share_generated: bool) -> Driver:
    """A conversation: the second prompt holds the first answer."""
    driver = Driver(16, Limits(share_generated=share_generated), RoleModel())
    prompt = list(range(40))
    driver.add("turn 1", prompt, greedy(30, ignore_eos=True))
    driver.run()
    driver.add("turn 2", [*prompt, *driver.said("turn 1"), 5], greedy(20))
    driver.run()
    return driver


def test_only_blocks_of_prompt_tokens_serve_the_next_turn() -> None:
    driver = turns(share_generated=False)
    second = driver.sequences["turn 2"]
    assert second.cached_tokens == 32, "of the 40 tokens of the first prompt"
    assert driver.said("turn 2") == continuation(second.tokens[: second.num_prompt].tolist(), 20)
    mixed = turns(share_generated=True)
    assert mixed.sequences["turn 2"].cached_tokens == 64
    assert mixed.said("turn 2") != driver.said("turn 2"), "what the limit is for"


def test_the_third_turn_reuses_the_second_prompt() -> None:
    driver = turns(share_generated=False)
    second = driver.sequences["turn 2"]
    driver.add("turn 3", [*second.tokens[: second.num_prompt].tolist(), 7], greedy(1))
    driver.step()
    assert driver.sequences["turn 3"].cached_tokens == 64, "of 71: computed as a prompt by now"


EAGER = RowCost(0.0, 0.0)
ALONE = Limits(prefix_cache=False, draft_depth=0)
COMPANIES = {
    "cached": (Limits(), 2048),
    "odd chunks": (Limits(prefill_tokens=23, mixed_prefill_tokens=9, row_cost=EAGER), 2048),
    "preempted": (Limits(row_cost=EAGER, draft_depth=4), 208),
}


def answers(
    directory: Path,
    requests: list[GenerateRequest],
    limits: Limits,
    kv_tokens: int,
    *,
    together: bool,
    **options: Any,
) -> tuple[list[Any], EngineStats]:
    """Tokens and exact log probabilities of each request; what the engine counted meanwhile."""
    engine = open_engine(
        directory,
        EngineOptions(context=128, kv_tokens=kv_tokens, limits=limits, backend="native", **options),
        quiet=True,
    )

    async def answer(request: GenerateRequest) -> Any:
        tokens: list[int] = []
        logprobs: list[float] = []
        async for delta in engine.generate(request):
            tokens += delta.tokens
            logprobs += [entry.logprob for entry in delta.logprobs]
        return tokens, logprobs

    async def run() -> list[Any]:
        if together:
            return await asyncio.gather(*map(answer, requests))
        return [await answer(request) for request in requests]

    try:
        return asyncio.run(run()), engine.stats()
    finally:
        engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("kv_dtype", ["bf16", "int8"])
@pytest.mark.parametrize(
    "name", ["deepseek-v2", "deepseek-v3", "deepseek-v3-prediction", "deepseek-v32", "qwen3-moe"]
)
def test_the_same_request_gives_the_same_bits(name: str, kv_dtype: str, tmp_path: Path) -> None:
    """Alone on one thread, and in company with cache, chunks, drafts and preemption on two; int8 latents and V3.2 too."""
    backend("native")
    sequences.golden_checkpoint(name, tmp_path)
    rng = np.random.default_rng(3)
    shared = rng.integers(2, 150, 37).tolist()
    requests: list[GenerateRequest] = []
    for number in range(8):
        own = rng.integers(2, 150, int(rng.integers(1, 30))).tolist()
        prompt = [*shared[: 37 * (number % 2)], *(own * 2)]
        params = SamplingParams(
            max_tokens=24, temperature=[0.0, 0.8][number % 3 == 0], seed=number, logprobs=1, ignore_eos=True
        )
        requests.append(GenerateRequest(f"r{number}", prompt, params))
    options: dict[str, Any] = {"precision": "int8", "kv_dtype": kv_dtype}
    expected, _ = answers(tmp_path, requests, ALONE, 2048, together=False, threads=1, **options)
    seen: dict[str, EngineStats] = {}
    for company, (limits, kv_tokens) in COMPANIES.items():
        with every_processor():
            computed, seen[company] = answers(
                tmp_path, requests, limits, kv_tokens, together=True, threads=2, **options
            )
        assert computed == expected, company
    assert seen["cached"].cached_tokens > 0
    assert seen["odd chunks"].drafted_tokens > seen["odd chunks"].accepted_tokens
    assert seen["preempted"].preemptions > 0
    assert (seen["odd chunks"].predicted_tokens > 0) == (name == "deepseek-v3-prediction")


@pytest.mark.parametrize("name", ["deepseek-v2", "deepseek-v3", "qwen3-moe"])
def test_a_generated_text_scored_as_a_prompt(name: str, tmp_path: Path) -> None:
    """What does not hold for latents: both ways are equal but for rounding, and to the bit where there is one way alone."""
    backend("native")
    sequences.golden_checkpoint(name, tmp_path)
    prompt = np.random.default_rng(5).integers(2, 150, 20).tolist()
    params = SamplingParams(max_tokens=40, temperature=0.0, logprobs=0, ignore_eos=True)
    options: dict[str, Any] = {"precision": "fp32", "kv_dtype": "fp32"}
    [(said, generated)], _ = answers(
        tmp_path, [GenerateRequest("a", prompt, params)], ALONE, 512, together=False, **options
    )
    again = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, ignore_eos=True)
    engine = open_engine(
        tmp_path,
        EngineOptions(context=128, kv_tokens=512, limits=ALONE, backend="native", **options),
        quiet=True,
    )
    try:
        [delta] = engine.generate_sync(GenerateRequest("b", [*prompt, *said], again))
    finally:
        engine.close()
    assert delta.prompt_logprobs is not None
    scored = [entry.logprob for entry in delta.prompt_logprobs[len(prompt) :] if entry is not None]
    assert len(scored) == len(generated) == 40
    assert np.allclose(scored, generated, atol=5e-3)
    assert (scored == generated) == (name == "qwen3-moe")
