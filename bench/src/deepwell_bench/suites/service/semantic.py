"""The semantic cache's false and right hits: swaps and paraphrases through both of its gates."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deepwell.cli.bench.machine import machine
from deepwell.cli.bench.report import Report, rounded
from deepwell.dialogue.completion import Choice, Question, Update
from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.text import Codec
from deepwell.engine.load import open_engine
from deepwell.engine.options import EngineOptions
from deepwell.engine.protocol import GenerateRequest, SamplingParams
from deepwell.server.caches.semantic_cache import (
    Embed,
    SemanticCache,
    Vector,
    cosine_gate,
    embed_with,
    shelf_of,
)
from deepwell.server.caches.wording import asks_the_same, normal_form
from deepwell.server.options import SemanticOptions
from deepwell_bench.harness.assets import bench_cache
from deepwell_bench.workloads.swaps import Pair, paraphrase_pairs, swap_pairs

__all__ = ["bench_semantic", "upper_bound"]

_AT_ONCE = 256  # texts that are embedded together


def upper_bound(hits: int, trials: int, *, confidence: float = 0.95) -> float:
    """Returns the upper end of the two-sided Clopper-Pearson interval of a rate."""
    if hits >= trials:
        return 1.0
    tail = (1 - confidence) / 2
    low, high = hits / trials, 1.0
    for _ in range(60):
        rate = (low + high) / 2
        if _at_most(hits, trials, rate) > tail:
            low = rate
        else:
            high = rate
    return high


def _at_most(hits: int, trials: int, rate: float) -> float:
    """Returns the chance of no more than `hits` of `trials`, each with chance `rate`."""
    return sum(
        math.exp(
            math.lgamma(trials + 1)
            - math.lgamma(k + 1)
            - math.lgamma(trials - k + 1)
            + k * math.log(rate)
            + (trials - k) * math.log1p(-rate)
        )
        for k in range(hits + 1)
    )


@dataclass(frozen=True, slots=True)
class _Verdict:
    """A pair and its verdicts: the cache takes the second for the first, and each gate would by itself.

    `judged`: the embedder can read both; where it cannot, the cache refuses, whatever they say.
    """

    pair: Pair
    hit: bool
    cosine: bool
    wording: bool
    judged: bool


def bench_semantic(
    report: Report,
    embedder: Path,
    *,
    threads: int,
    each: int = 80,
    seed: int = 0,
    options: SemanticOptions | None = None,
) -> dict[str, Any]:
    """Asks the second question of every pair of a cache that knows the answer to the first.

    The rate of false hits is over the pairs that the embedder can judge: those it refuses would only make it look better. The
    wording's own rate is over all pairs.

    Args:
        embedder: the embedding model.
        each: swaps of every family.
    """
    options = options or SemanticOptions()
    facts = machine(threads)
    about = f"{facts['cpu']}, {threads} threads, {facts['system']}, {facts['date']}"
    report.note(f"{about}; embedder {embedder.name}")
    engine = open_engine(
        embedder, EngineOptions(precision="auto", threads=threads, cache_dir=bench_cache()), quiet=True
    )
    try:
        model = ServedModel(embedder.name, engine, Codec.load(embedder))
        pairs = [*swap_pairs(each, seed=seed), *paraphrase_pairs()]
        verdicts = asyncio.run(_judge(pairs, embed_with(model), options))
    finally:
        engine.close()
    swaps = [one for one in verdicts if one.pair.family != "paraphrase"]
    paraphrases = [one for one in verdicts if one.pair.family == "paraphrase"]
    _tables(report, swaps, paraphrases, options)
    for one in swaps:
        if one.hit or one.wording:
            report.note(f"taken for the same, {one.pair.family}: {one.pair.first} | {one.pair.second}")
    judged = [one for one in swaps if one.judged]
    held_out = [one for one in judged if one.pair.held_out]
    hits, held_out_hits = sum(one.hit for one in judged), sum(one.hit for one in held_out)
    by_wording = sum(one.wording for one in swaps)

    def rate(language: str, figure: str) -> float:
        found = [getattr(one, figure) for one in paraphrases if one.pair.language == language]
        return rounded(sum(found) / len(found), 3)

    return {
        "false_hits": hits,
        "judged_pairs": len(judged),
        "false_hit_rate_upper": rounded(upper_bound(hits, len(judged)), 3),
        "held_out_false_hits": held_out_hits,
        "held_out_pairs": len(held_out),
        "held_out_upper": rounded(upper_bound(held_out_hits, len(held_out)), 3),
        "swap_pairs": len(swaps),
        "chinese_pairs": sum(one.pair.language == "zh" for one in swaps),
        "families": len({one.pair.family for one in swaps}),
        "wording_alone_false_hits": by_wording,
        "wording_alone_upper": rounded(upper_bound(by_wording, len(swaps)), 3),
        "cosine_alone_false_hit_rate": rounded(sum(one.cosine for one in judged) / len(judged), 3),
        "paraphrase_pairs": len(paraphrases),
        "hit_rate_en": rate("en", "hit"),
        "hit_rate_zh": rate("zh", "hit"),
        "wording_alone_hit_rate_zh": rate("zh", "wording"),
        "cosine_alone_hit_rate_en": rate("en", "cosine"),
        "min_cosine": options.min_cosine,
    }


async def _judge(pairs: Sequence[Pair], embed: Embed, options: SemanticOptions) -> list[_Verdict]:
    texts = list(dict.fromkeys(text for pair in pairs for text in (pair.first, pair.second)))
    vectors: dict[str, Vector | None] = {}
    for start in range(0, len(texts), _AT_ONCE):
        group = texts[start : start + _AT_ONCE]
        vectors |= dict(zip(group, await asyncio.gather(*map(embed, group)), strict=True))

    async def known(text: str) -> Vector | None:
        return vectors[text]

    cache = SemanticCache(known, replace(options, capacity_bytes=1 << 30))
    answer = (Update(0, "the answer", finish_reason="stop"),)
    request = GenerateRequest("", [], SamplingParams(temperature=0))
    verdicts: list[_Verdict] = []
    for number, pair in enumerate(pairs):
        # A shelf of its own: what other pairs asked is no answer to this one.
        question = Question(pair.first, [{"number": number}])
        shelf = shelf_of(Choice(0, request), question, fingerprint="", adapter="", window=512)
        assert shelf is not None
        cache.put(shelf, pair.first, answer)
        hit = await cache.find(shelf, pair.second) is not None
        one, other = vectors[pair.first], vectors[pair.second]
        cosine = cosine_gate(one, other, options.min_cosine)
        first, second = normal_form(pair.first), normal_form(pair.second)
        wording = bool(first and second and asks_the_same(first, second))
        verdicts.append(_Verdict(pair, hit, cosine, wording, one is not None and other is not None))
    return verdicts


def _tables(
    report: Report, swaps: Sequence[_Verdict], paraphrases: Sequence[_Verdict], options: SemanticOptions
) -> None:
    def row(name: str, chosen: Sequence[_Verdict]) -> list[Any]:
        def counted(figure: str) -> str:
            count = sum(getattr(one, figure) for one in chosen)
            return f"{count} ({count / max(len(chosen), 1):.1%})"

        judged = sum(one.judged for one in chosen)
        return [name, len(chosen), judged, *map(counted, ("hit", "cosine", "wording"))]

    def of(verdicts: Sequence[_Verdict], language: str, held_out: bool | None = None) -> list[_Verdict]:
        return [
            one for one in verdicts if one.pair.language == language and held_out in (None, one.pair.held_out)
        ]

    columns = ["", "pairs", "embedder can judge", "both gates", "cosine alone", "wording alone"]
    report.table(
        f"Swaps taken for the same question; cosine >= {options.min_cosine:g}",
        columns,
        [
            row("English, seen", of(swaps, "en", False)),
            row("English, held out", of(swaps, "en", True)),
            row("Chinese, seen", of(swaps, "zh", False)),
            row("Chinese, held out", of(swaps, "zh", True)),
        ],
    )
    report.table(
        "Paraphrases taken for the same question",
        columns,
        [row("English", of(paraphrases, "en")), row("Chinese", of(paraphrases, "zh"))],
    )
