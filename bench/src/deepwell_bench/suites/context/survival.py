"""Survival of needed facts without a language model: compression and retrieval beside truncation, at budgets of tokens.

A fact survives where its whole statement stands in the text that is left. Questions ask for one fact, or for three from
different depths; every fact has four distractors of its form. No model answers here: the share that survives is the most that
one could answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, Final

from deepwell.cli.bench.report import Report, rounded
from deepwell.dialogue.text import Codec
from deepwell.knowledge.context.compress import compress
from deepwell.knowledge.context.history import History
from deepwell.knowledge.context.likelihood import LikelihoodScorer, ModelLikelihoods
from deepwell.knowledge.context.pieces import Source
from deepwell.knowledge.context.scores import CascadeScorer, FusedScorer, LexicalScorer, SentenceScorer
from deepwell.knowledge.context.tokens import CodecTokens, Tokens
from deepwell.knowledge.embedders import Embedders
from deepwell.knowledge.protocols import Embedder
from deepwell.llm import AsyncLLM
from deepwell.models.store.store import ModelStore
from deepwell.settings import Settings
from deepwell_bench.workloads.context.facts import Question, Split
from deepwell_bench.workloads.context.haystacks import HAYSTACKS, Haystack, haystack

__all__ = ["Survival", "SurvivalOptions", "bench_survival", "survived"]

TRUNCATION: Final = "truncation"
_LIKELY: Final = 32  # sentences that the language model scores for a question

Method = Callable[[str, int], Awaitable[str]]
"""Returns the text that is left for a question within a budget."""


@dataclass(frozen=True, slots=True)
class SurvivalOptions:
    """The cases to measure.

    Attributes:
        split: development, on which choices are made, or the frozen evaluation.
        lengths: tokens of the haystacks.
        budgets: tokens that are left.
        every: asks every n-th question alone.
    """

    split: Split = "evaluation"
    lengths: tuple[int, ...] = (4_000, 16_000, 64_000)
    budgets: tuple[int, ...] = (256, 512, 1_000, 2_000)
    every: int = 1


@dataclass(frozen=True, slots=True)
class Survival:
    """The outcome of one question.

    Attributes:
        length, budget: tokens of the haystack, and of its rest.
        facts: number of facts that the question needs.
        survived: number of those that are left.
        seconds: time of the call.
    """

    haystack: str
    length: int
    budget: int
    method: str
    facts: int
    survived: int
    seconds: float


def bench_survival(
    report: Report,
    options: SurvivalOptions,
    *,
    model: str = "qwen2.5-coder-0.5b",
    embedder: str | None = None,
    likelihood: bool = False,
) -> dict[str, Any]:
    """Returns shares of surviving facts at each length and budget, and times.

    Args:
        model: counts the tokens, and scores sentences if `likelihood` is set.
        embedder: name of the embedding model; None: that of the settings.
        likelihood: whether to measure the scorer by the model's likelihoods too, which takes seconds a question.
    """
    settings = Settings.load()
    tokens = CodecTokens(Codec.load(ModelStore(settings.models_dir).get(model).path))
    name = embedder or settings.knowledge_embedder

    async def run() -> tuple[list[Survival], dict[int, list[float]]]:
        embedders = Embedders(settings.models_dir)
        async with AsyncExitStack() as opened:
            opened.push_async_callback(embedders.close)
            scorer = None
            if likelihood:
                llm = await opened.enter_async_context(AsyncLLM(model, models_dir=settings.models_dir))
                scorer = LikelihoodScorer(ModelLikelihoods(llm))
            return await _measured(report, options, tokens, await embedders.named(name), scorer)

    found, added = asyncio.run(run())
    _print(report, options, found, f"{options.split}, {name}")
    return _figures(options, found, added)


def survived(text: str, question: Question) -> int:
    """Returns how many of the facts that a question needs stand in a text, word for word."""
    return sum(one.sentence in text for one in question.needed)


async def _measured(
    report: Report,
    options: SurvivalOptions,
    tokens: Tokens,
    embedder: Embedder,
    likelihood: SentenceScorer | None,
) -> tuple[list[Survival], dict[int, list[float]]]:
    """Returns all outcomes, and the seconds that adding a thousand tokens to a history took, by length."""
    found: list[Survival] = []
    added: dict[int, list[float]] = {}
    for name in HAYSTACKS:
        for length in options.lengths:
            hay = haystack(name, options.split, length, tokens.count)
            history = History(tokens, embedder)
            began = time.perf_counter()
            for number, turn in enumerate(hay.turns(), 1):
                await history.add(number, turn)
            added.setdefault(length, []).append(1000 * (time.perf_counter() - began) / history.tokens)
            methods = await _methods(hay, history, tokens, embedder, likelihood)
            for budget in options.budgets:
                if budget < length:
                    found += await _asked(hay, methods, length, budget, options.every)
            shares = {
                method: f"{_share(one for one in found if one.method == method and _is(one, name, length)):.0%}"
                for method in methods
            }
            report.note(f"{name}, {length:,} tokens, {len(history)} chunks: {shares}")
    return found, added


def _is(one: Survival, name: str, length: int) -> bool:
    return (one.haystack, one.length) == (name, length)


async def _methods(
    hay: Haystack, history: History, tokens: Tokens, embedder: Embedder, likelihood: SentenceScorer | None
) -> dict[str, Method]:
    """Returns the methods over one haystack. Vectors of its sentences are there before the first question."""
    source = Source.read(hay.text, tokens)
    lexical, fused = LexicalScorer(), FusedScorer(embedder)

    def compressed(scorer: SentenceScorer) -> Method:
        async def left(query: str, budget: int) -> str:
            return (await compress([source], query, budget, tokens=tokens, scorer=scorer)).texts[0]

        return left

    async def truncated(query: str, budget: int) -> str:
        return hay.text[int(source.starts[-budget]) :]

    async def recalled(query: str, budget: int) -> str:
        return (await history.recall(query, budget)).text

    methods: dict[str, Method] = {
        TRUNCATION: truncated,
        "words": compressed(lexical),
        "compress": compressed(fused),
        "retrieve": recalled,
    }
    if likelihood is not None:
        methods["likelihood"] = compressed(CascadeScorer(fused, likelihood, most=_LIKELY))
    await methods["compress"](hay.questions[0].text, 256)
    return methods


async def _asked(
    hay: Haystack, methods: Mapping[str, Method], length: int, budget: int, every: int
) -> list[Survival]:
    found: list[Survival] = []
    for question in hay.questions[::every]:
        for name, method in methods.items():
            began = time.perf_counter()
            left = await method(question.text, budget)
            seconds = time.perf_counter() - began
            found.append(
                Survival(
                    hay.name, length, budget, name, len(question.needed), survived(left, question), seconds
                )
            )
    return found


def _share(found: Iterable[Survival]) -> float:
    many = list(found)
    return sum(one.survived for one in many) / max(sum(one.facts for one in many), 1)


def _print(report: Report, options: SurvivalOptions, found: Sequence[Survival], title: str) -> None:
    methods = list(dict.fromkeys(one.method for one in found))
    for facts, words in ((1, "questions for one fact"), (3, "questions for three facts")):
        rows = [
            (
                f"{length:,} to {budget:,}",
                *(f"{_share(_of(found, one, length, budget, facts)):.1%}" for one in methods),
            )
            for length in options.lengths
            for budget in options.budgets
            if budget < length
        ]
        report.table(f"facts that survive, {words} ({title})", ("tokens", *methods), rows)
    rows = [
        (
            name,
            *(
                f"{_share(one for one in found if (one.haystack, one.method) == (name, method)):.1%}"
                for method in methods
            ),
        )
        for name in HAYSTACKS
    ]
    report.table("by haystack, all lengths, budgets and questions", ("haystack", *methods), rows)
    times = [
        (
            f"{length:,}",
            *(
                1000 * median(one.seconds for one in found if (one.length, one.method) == (length, method))
                for method in methods
            ),
        )
        for length in options.lengths
    ]
    report.table("milliseconds of a question (median)", ("tokens", *methods), times)


def _of(found: Sequence[Survival], method: str, length: int, budget: int, facts: int) -> list[Survival]:
    wanted = (method, length, budget, facts)
    return [one for one in found if (one.method, one.length, one.budget, one.facts) == wanted]


def _figures(
    options: SurvivalOptions, found: Sequence[Survival], added: Mapping[int, Sequence[float]]
) -> dict[str, Any]:
    longest = max(options.lengths)
    figures: dict[str, Any] = {"tokens": longest}
    for method in dict.fromkeys(one.method for one in found):
        mine = [one for one in found if one.method == method]
        for facts, name in ((1, "one"), (3, "three")):
            for budget in options.budgets:
                share = _share(_of(mine, method, longest, budget, facts))
                figures[f"{method}_{name}_{budget}"] = rounded(100 * share)
        figures[f"{method}_ms"] = rounded(1000 * median(one.seconds for one in mine if one.length == longest))
    figures["evict_ms_per_1000_tokens"] = rounded(1000 * fmean(added[longest]))
    return figures
