"""Sums over the items of a run: results by criterion, tokens by model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from deepwell.server.families.evals.bodies import CriterionResult, EvalResult, EvalSample, ModelUsage

__all__ = ["ItemBody", "RunSummary", "summed"]


class ItemBody(Struct):
    """The part of an item that is stored as JSON."""

    item: dict[str, Any]
    results: list[EvalResult]
    sample: EvalSample


class RunSummary(Struct):
    """The sums of a run."""

    per_model_usage: list[ModelUsage]
    per_testing_criteria_results: list[CriterionResult]


async def summed(pages: AsyncIterable[Sequence[str]]) -> RunSummary:
    """Returns the sums over stored items, which are read in a thread, some at a time."""
    usage: dict[str, ModelUsage] = {}
    results: dict[str, CriterionResult] = {}
    async for bodies in pages:
        await asyncio.to_thread(_add, bodies, usage, results)
    return RunSummary(list(usage.values()), list(results.values()))


def _add(bodies: Sequence[str], usage: dict[str, ModelUsage], results: dict[str, CriterionResult]) -> None:
    for text in bodies:
        body = msgspec.json.decode(text, type=ItemBody)
        sample = body.sample
        if sample.model:
            used = usage.setdefault(sample.model, ModelUsage(sample.model))
            used.invocation_count += 1
            used.prompt_tokens += sample.usage.prompt_tokens
            used.completion_tokens += sample.usage.completion_tokens
            used.total_tokens += sample.usage.total_tokens
            used.cached_tokens += sample.usage.cached_tokens
        for one in body.results:
            found = results.setdefault(one.name, CriterionResult(one.name, 0, 0))
            found.passed += one.passed
            found.failed += not one.passed
            for model, tokens in one.tokens.items():
                used = usage.setdefault(model, ModelUsage(model))
                used.invocation_count += 1
                used.total_tokens += tokens
