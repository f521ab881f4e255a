"""The gain of a language model behind the hybrid search: questions on the LibreOffice help, in the language of the passages."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deepwell.cli.bench.report import Report
from deepwell.knowledge.collection import Collection
from deepwell.knowledge.documents import Passage
from deepwell.knowledge.evaluate import RERANKED, Arm, Evaluation, evaluate
from deepwell.knowledge.fuse import candidates, fuse
from deepwell.knowledge.index.flat import FlatIndex
from deepwell.knowledge.index.lexical import TantivyIndex
from deepwell.knowledge.models import LLMReranker
from deepwell.knowledge.rerank import MOST_PASSAGES, reordered
from deepwell.llm import AsyncLLM
from deepwell_bench.harness.assets import e5_small
from deepwell_bench.harness.vectors import CachedEmbedder
from deepwell_bench.suites.knowledge.languages import context_text
from deepwell_bench.workloads.knowledge.help_questions import (
    HelpQuestion,
    development_questions,
    help_questions,
)
from deepwell_bench.workloads.knowledge.libreoffice_help import help_passages

__all__ = ["bench_rerank"]

_DEPTH = 100  # candidates of each arm, as in the product's search
_RANKED = 50
_NDCG = "nDCG@10"


def bench_rerank(report: Report, model: str, *, development: bool = False) -> dict[str, Any]:
    """Returns nDCG@10 in points with and without a reranker, the gain with its paired interval, and the time of both."""
    questions = development_questions() if development else help_questions()
    collection, rankings = _searched(report, questions)
    found = asyncio.run(_evaluated(report, model, collection, rankings))
    report.table(f"LibreOffice help, reranked by {model}", found.columns, found.rows)
    parts = {
        language: _part(found, [one.language == language for one in questions]) for language in ("en", "zh")
    }
    for language, part in parts.items():
        report.table(f"questions in {language}", part.columns, part.rows)
    gain = found.difference(RERANKED, "hybrid", _NDCG)
    return {
        "questions": len(questions),
        "hybrid": _points(found, "hybrid"),
        "reranked": _points(found, RERANKED),
        "gain": round(100 * gain.mean, 2),
        "gain_low": round(100 * gain.low, 2),
        "gain_high": round(100 * gain.high, 2),
        **{
            f"{language}_{arm}": _points(part, arm)
            for language, part in parts.items()
            for arm in ("hybrid", RERANKED)
        },
        "rerank_ms": round(found.milliseconds[RERANKED] - found.milliseconds["hybrid"]),
    }


def _searched(
    report: Report, questions: Sequence[HelpQuestion]
) -> tuple[Collection, Mapping[str, list[Passage]]]:
    """Returns the judged collection, and what the hybrid search finds for the text of each question."""
    passages = help_passages()
    texts = {"en": [one.english for one in passages], "zh": [one.chinese for one in passages]}
    indexed = {
        "en": [context_text(one.title_en, one.heading_en, one.english) for one in passages],
        "zh": [context_text(one.title_zh, one.heading_zh, one.chinese) for one in passages],
    }
    with CachedEmbedder(e5_small(), report.note) as embedder:
        vectors = {language: embedder.embed(many, "passage") for language, many in indexed.items()}
        queries = embedder.embed([one.question for one in questions], "query")
    keys = np.arange(len(passages))
    rankings: dict[str, list[Passage]] = {}
    qrels: dict[str, dict[str, int]] = {}
    places = {one.id: number for number, one in enumerate(passages)}
    for language, many in indexed.items():
        words, nearest = TantivyIndex(), FlatIndex.open(vectors[language].shape[1])
        words.add(keys, many)
        nearest.add(keys, vectors[language])
        for question, query in zip(questions, queries, strict=True):
            if question.language != language:
                continue
            lexical, dense = words.search(question.question, _DEPTH), nearest.search(query, _DEPTH)
            hits = fuse(lexical, dense, candidates(nearest, query, lexical, dense))
            rankings[question.question] = [
                Passage(key, f"{language}{key}", "", score, many[key])
                for key, score in zip(
                    hits.keys[:_RANKED].tolist(), hits.scores[:_RANKED].tolist(), strict=True
                )
            ]
            gold = texts[language][places[question.gold]]
            qrels[question.id] = {
                f"{language}{key}": 1 for key, text in enumerate(texts[language]) if text == gold
            }
    documents = {
        f"{language}{key}": text for language, many in indexed.items() for key, text in enumerate(many)
    }
    asked = {one.id: one.question for one in questions}
    return Collection(documents, asked, {name: qrels[name] for name in asked}), rankings


async def _evaluated(
    report: Report, model: str, collection: Collection, rankings: Mapping[str, list[Passage]]
) -> Evaluation:
    def named(found: Sequence[Passage]) -> list[tuple[str, float]]:
        return [(one.file_id, one.score) for one in found]

    def told(arm: str, done: int, total: int) -> None:
        if arm == RERANKED and done % 10 == 0:
            report.note(f"{arm}: {done} of {total}")

    async with AsyncLLM(model) as llm:
        reranker = LLMReranker(llm)

        async def hybrid(query: str) -> Sequence[tuple[str, float]]:
            return named(rankings[query])

        async def reranked(query: str) -> Sequence[tuple[str, float]]:
            found = rankings[query]
            scores = await reranker.rerank(query, [one.text for one in found[:MOST_PASSAGES]])
            return named(reordered(found, scores))

        arms: dict[str, Arm] = {"hybrid": hybrid, RERANKED: reranked}
        return await evaluate(collection, arms, told)


def _part(found: Evaluation, chosen: Sequence[bool]) -> Evaluation:
    mask = np.array(chosen)
    values = {
        arm: {metric: one[mask] for metric, one in metrics.items()} for arm, metrics in found.values.items()
    }
    return Evaluation(values, found.documents)


def _points(found: Evaluation, arm: str) -> float:
    return round(100 * found.mean(arm, _NDCG).mean, 2)
