"""The same request, the same bits: whatever runs beside it, however it was chunked, cached, preempted or threaded."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deepwell.cli.bench.report import Report
from deepwell.engine.layouts import KVDtype, Precision
from deepwell.engine.limits import Limits, RowCost
from deepwell.engine.load import open_engine
from deepwell.engine.options import EngineOptions
from deepwell.engine.protocol import GenerateRequest, SamplingParams
from deepwell_bench.harness.assets import bench_cache
from deepwell_bench.workloads.text import text_tokens

__all__ = ["COMPANIES", "bench_determinism"]

LONGEST = 440  # tokens of a prompt

_COUNTED = ("preemptions", "cached_tokens", "drafted_tokens", "accepted_tokens", "predicted_tokens")

# Tokens, and log probabilities of drawn tokens, alternatives and prompt, as exact floats.
Answer = tuple[tuple[int, ...], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Company:
    """One way of serving: threads, scheduler limits, and cache size (small: sequences preempt each other)."""

    name: str
    threads: int
    limits: Limits
    kv_tokens: int


EAGER = RowCost(0.0, 0.0)  # drafts whatever it can, so that many are wrong
ALONE = Company(
    "alone, one thread, no cache, no speculation", 1, Limits(prefix_cache=False, draft_depth=0), 1024
)
COMPANIES = (
    Company("together, two threads, cache, speculation", 2, Limits(), 16_384),
    Company(
        "together, two threads, cache, odd chunks, eager speculation",
        2,
        Limits(prefill_tokens=93, mixed_prefill_tokens=37, row_cost=EAGER),
        16_384,
    ),
    Company(
        "together, one thread, preempted, eager speculation", 1, Limits(row_cost=EAGER, draft_depth=4), 1024
    ),
)


def random_requests(ids: Sequence[int], count: int, seed: int) -> list[GenerateRequest]:
    """Returns requests of mixed length and sampling; a third of them share their beginning with another."""
    rng = random.Random(seed)  # noqa: S311 - a repeatable workload, not a secret
    requests: list[GenerateRequest] = []
    for number in range(count):
        length = rng.choice([rng.randint(1, 40), rng.randint(40, 200), rng.randint(200, 400)])
        start = rng.randrange(len(ids) - length)
        prompt = list(ids[start : start + length])
        if number % 4 == 0:  # text that repeats, so that drafts come true
            prompt = (prompt[: 1 + length // 4] * 4)[:LONGEST]
        if requests and rng.random() < 0.33:
            other = rng.choice(requests).prompt
            prompt = [*other[: rng.randint(1, len(other))], *prompt[: rng.randint(1, 40)]][:LONGEST]
        params = SamplingParams(
            max_tokens=rng.randint(1, 40),
            temperature=rng.choice([0.0, 0.0, 0.7, 1.3]),
            top_p=rng.choice([1.0, 0.9]),
            seed=rng.randrange(1 << 31),
            logprobs=5,
            ignore_eos=True,
        )
        requests.append(GenerateRequest(f"random-{number}", prompt, params))
    return requests


async def _answer(engine: Any, request: GenerateRequest, delay: float) -> Answer:
    await asyncio.sleep(delay)
    tokens: list[int] = []
    logprobs: list[Any] = []
    async for delta in engine.generate(request):
        tokens.extend(delta.tokens)
        logprobs.extend((entry.token, entry.logprob, entry.rank, entry.top) for entry in delta.logprobs)
    return tuple(tokens), tuple(logprobs)


async def _serve(
    engine: Any, requests: Sequence[GenerateRequest], together: bool, seed: int
) -> dict[str, Answer]:
    if not together:
        return {request.request_id: await _answer(engine, request, 0.0) for request in requests}
    rng = random.Random(seed)  # noqa: S311
    shuffled = rng.sample(list(requests), len(requests))
    answers = await asyncio.gather(
        *(_answer(engine, request, rng.random() * 0.02 * len(requests)) for request in shuffled)
    )
    return {request.request_id: answer for request, answer in zip(shuffled, answers, strict=True)}


def bench_determinism(
    report: Report,
    model: Path,
    *,
    requests: int = 200,
    precisions: Sequence[Precision] = ("int8", "int4"),
    companies: Sequence[Company] = COMPANIES,
    kv_dtype: KVDtype = "bf16",
    name: str = "",
    seed: int = 7,
) -> dict[str, Any]:
    """Serves every request alone, then in each kind of company, and counts the answers that differ in any bit.

    Args:
        kv_dtype: of the cache.
        name: of the model, for the table.
    """
    work = random_requests(text_tokens(model), requests, seed)
    rows: list[list[Any]] = []
    different: set[tuple[str, str]] = set()
    seen: dict[str, int] = dict.fromkeys(_COUNTED, 0)
    for precision in precisions:
        expected: Mapping[str, Answer] = {}
        for company in (ALONE, *companies):
            engine = open_engine(
                model,
                EngineOptions(
                    precision=precision,
                    kv_dtype=kv_dtype,
                    threads=company.threads,
                    kv_tokens=company.kv_tokens,
                    limits=company.limits,
                    cache_dir=bench_cache(),
                ),
                quiet=True,
            )
            try:
                renamed = [replace(request, cache_salt="bench") for request in work]
                answers = asyncio.run(_serve(engine, renamed, company is not ALONE, seed))
                stats = engine.stats()
            finally:
                engine.close()
            if company is ALONE:
                expected = answers
            wrong = {request for request, answer in answers.items() if answer != expected[request]}
            different |= {(precision, request) for request in wrong}
            for figure in _COUNTED:
                seen[figure] += getattr(stats, figure)
            rows.append(
                [
                    f"{precision}: {company.name}",
                    len(answers),
                    stats.preemptions,
                    stats.cached_tokens,
                    f"{stats.accepted_tokens} / {stats.drafted_tokens}",
                    len(wrong),
                ]
            )
    report.table(
        f"Bitwise equality of tokens and logprobs with the run alone{', ' if name else ''}{name}",
        ["served", "requests", "preemptions", "cached tokens", "accepted / drafted", "different"],
        rows,
    )
    return {"requests": len(work), "precisions": list(precisions), "different": len(different), **seen}
