"""Retrieval of knowledge on collections with judgements: the rankers of the product's own search, beside bm25s."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deepwell.cli.bench.report import Report
from deepwell.knowledge.collection import Collection
from deepwell.knowledge.evaluate import Arm, Evaluation, evaluated
from deepwell_bench.workloads.knowledge.cranfield import cranfield
from deepwell_bench.workloads.knowledge.law import law

__all__ = ["bench_cranfield", "bench_law", "bm25s_arm"]

Words = Callable[[str], Sequence[str]]
_NDCG, _RECALL = "nDCG@10", "R@20"
_RANKED = 50  # as the product's rankings


def bench_cranfield(report: Report, *, embedder: str | None = None) -> dict[str, Any]:
    """Returns nDCG@10 of each ranker in points over all 225 queries.

    The fusion's weight was chosen on other collections; see the note in `knowledge/fuse.py`.
    """
    return _figures(_evaluated(report, "Cranfield", cranfield(), embedder, english_words()))


def bench_law(report: Report, *, embedder: str | None = None) -> dict[str, Any]:
    """Returns nDCG@10 and recall@20 of each ranker over 372 situations and 26,196 articles, in points.

    Vectors of the articles take 10 minutes the first time, and are kept.
    """
    found = _evaluated(report, "Chinese law", law(), embedder, _chinese_words())
    figures = _figures(found)
    others = ("bm25s", "lexical", "dense")
    return {
        **figures,
        **{f"{arm}_recall20": _points(found, arm, _RECALL) for arm in (*others, "hybrid")},
        "hybrid_is_best": all(figures["hybrid"] > figures[arm] for arm in others),
    }


def english_words() -> Words:
    """Returns the words of bm25s with Lucene's stop words and the English stemmer."""
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")

    def words(text: str) -> Sequence[str]:
        tokens = bm25s.tokenize(
            [text], stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False
        )
        return tokens[0]  # pyright: ignore[reportReturnType] - tokens, as return_ids says

    return words


def _chinese_words() -> Words:
    import logging

    import jieba

    jieba.setLogLevel(logging.WARNING)
    return lambda text: [word for word in jieba.lcut(text) if word.strip()]


def bm25s_arm(collection: Collection, words: Words) -> Arm:
    """Returns bm25s (Lucene's formula, its default parameters) over a collection as an arm."""
    import bm25s

    ids = list(collection.documents)
    index = bm25s.BM25(method="lucene")
    index.index([list(words(text)) for text in collection.documents.values()], show_progress=False)

    async def arm(query: str) -> list[tuple[str, float]]:
        scores = index.get_scores(list(words(query)))
        order = np.argsort(-scores, kind="stable")[:_RANKED]
        return [(ids[place], float(scores[place])) for place in order if scores[place] > 0]

    return arm


def _evaluated(
    report: Report, title: str, collection: Collection, embedder: str | None, words: Words
) -> Evaluation:
    seen = ""

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal seen
        step = f"{stage} {10 * done // max(total, 1)}"
        if step != seen:
            seen = step
            report.note(f"{stage}: {done:,} of {total:,}")

    peer = {"bm25s": bm25s_arm(collection, words)}
    found = asyncio.run(evaluated(collection, embedder, progress, peer))
    report.table(title, found.columns, found.rows)
    return found


def _figures(found: Evaluation) -> dict[str, Any]:
    best = found.best_single(_NDCG)
    gain = found.difference("hybrid", best, _NDCG)
    beside = found.difference("lexical", "bm25s", _NDCG)
    return {
        "queries": len(found.values["hybrid"][_NDCG]),
        **{arm: _points(found, arm, _NDCG) for arm in ("bm25s", "lexical", "dense", "hybrid")},
        "lexical_minus_bm25s": round(100 * beside.mean, 2),
        "best_single": best,
        "hybrid_gain": round(100 * gain.mean, 2),
        "hybrid_gain_low": round(100 * gain.low, 2),
        "hybrid_gain_high": round(100 * gain.high, 2),
    }


def _points(found: Evaluation, arm: str, metric: str) -> float:
    return round(100 * found.mean(arm, metric).mean, 2)
