"""Fits the weights of declining and the thresholds of citations on the development questions, and prints them as constants."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell import AsyncLLM
from deepwell.bench.harness.assets import e5_small
from deepwell.bench.harness.report import Report
from deepwell.bench.suites.knowledge.citations import HelpStore, Language, NamedWriter, help_store
from deepwell.bench.workloads.knowledge.answers import AnswerQuestion, development_answers
from deepwell.knowledge.answer.decline import (
    Case,
    Features,
    asked_of,
    features_of,
)
from deepwell.knowledge.answer.support import Support, Supporter
from deepwell.knowledge.answer.text import Sentence, sentences
from deepwell.knowledge.documents import Passage
from deepwell.knowledge.models import LLMEmbedder, LLMWriter
from deepwell.knowledge.protocols import Embedder

__all__ = ["fit_citations"]

_CANDIDATES: Final = 20
_SCALES: Final = np.array(
    [20.0, 3.0, 1.0, 2.0]
)  # brings the features to one size, so that one penalty serves all
_PENALTY: Final = 0.3
_DECLINED: Final = 5  # per cent of covered development questions that may be declined


@dataclass(frozen=True, slots=True)
class _Case:
    """A candidate of a development question: searched with the gold passage, without it, or far from it."""

    question: AnswerQuestion
    kind: str
    passage: Passage
    features: Features
    gold: bool


def fit_citations(report: Report, model: str) -> dict[str, Any]:
    """Fits and prints all constants, and what they do to the questions that they were fitted on.

    Args:
        model: the writer whose judgement is weighed.
    """
    return asyncio.run(_fit(report, model))


async def _fit(report: Report, model: str) -> dict[str, Any]:
    value: dict[str, Any] = {}
    async with AsyncLLM(e5_small()) as encoder, AsyncLLM(model, context=2048, kv_tokens=8192) as chat:
        embedder, writer = LLMEmbedder(encoder), NamedWriter(chat, model)
        stores: dict[Language, HelpStore] = {one: await help_store(embedder, one) for one in ("en", "zh")}
        for case in ("en", "zh", "cross"):
            cases = await _cases(case, stores, embedder)
            for used in ((1, 1, 1, 1), (0, 1, 1, 1)) if case != "cross" else ((1, 0, 0, 1),):
                weights, least = _first_stage(cases, np.array(used, float))
                name = f"{case}_{'cosine' if used[0] else 'words'}"
                value[name] = {
                    "weights": weights,
                    "least": least,
                    **_declined(cases, _scores(cases, weights), least),
                }
                report.note(f"{name}: {value[name]}")
            if case != "cross":
                value[f"{case}_writer"] = await _second_stage(cases, value[f"{case}_cosine"], writer)
                report.note(f"{case} with {model}: {value[f'{case}_writer']}")
                value[f"{case}_support"] = await _support(cases, embedder)
                report.note(f"{case} support: {value[f'{case}_support']}")
    return value


async def _cases(case: Case, stores: dict[Language, HelpStore], embedder: Embedder) -> list[_Case]:
    found: list[_Case] = []
    for question in development_answers():
        if case not in ("cross", question.language):
            continue
        language: Language = question.language
        if case == "cross":
            language = "zh" if question.language == "en" else "en"
        for kind in ("covered", "near") if question.golds else ("far",):
            without = question.golds if kind == "near" else ()
            passages = await stores[language].search(question.question, _CANDIDATES, embedder, without)
            features = await features_of(question.question, passages, embedder)
            found += [
                _Case(question, kind, passage, one, kind == "covered" and passage.file_id in question.golds)
                for passage, one in zip(passages, features, strict=False)
            ]
    return found


def _first_stage(cases: Sequence[_Case], used: NDArray[np.float64]) -> tuple[list[float], float]:
    """Returns weights with the constant term, and the least score."""
    rows = np.array([one.features.row for one in cases]) * _SCALES * used
    fitted = _logistic(rows, np.array([one.gold for one in cases], float))
    weights = [*(fitted[:-1] * _SCALES * used).round(3).tolist(), round(float(fitted[-1]), 3)]
    best = _best(cases, _scores(cases, weights))
    covered = [score for (_, kind), (score, _) in best.items() if kind == "covered"]
    return weights, round(float(np.percentile(covered, _DECLINED)), 2)


async def _second_stage(cases: Sequence[_Case], first: dict[str, Any], writer: LLMWriter) -> dict[str, Any]:
    scores = _scores(cases, first["weights"]) - first["least"]
    best = {key: one for key, one in _best(cases, scores).items() if key[1] != "far"}
    rows: list[list[float]] = []
    kinds: list[str] = []
    gold: list[float] = []
    for (question, kind), (score, one) in best.items():
        odds, gain = await asked_of(question, one.passage, writer)
        rows.append([score, odds, gain])
        kinds.append(kind)
        gold.append(float(one.gold))
    fitted = _logistic(np.array(rows), np.array(gold))
    final = np.array(rows) @ fitted[:-1] + fitted[-1]
    covered = np.array([kind == "covered" for kind in kinds])
    least = float(np.percentile(final[covered], _DECLINED))
    return {
        "weights": [*fitted[:-1].round(3).tolist(), round(float(fitted[-1]) - least, 3)],
        "covered_declined": float(np.mean(final[covered] < least)),
        "near_declined": float(np.mean(final[~covered] < least)),
    }


async def _support(cases: Sequence[_Case], embedder: Embedder) -> dict[str, Any]:
    """Measures support: sentences of gold passages without their headings, against their own and against others' passages."""
    own: list[Support] = []
    other: list[Support] = []
    for one in cases:
        if not one.gold:
            continue
        rivals = [
            two.passage
            for two in cases
            if two.question is one.question and two.kind == "covered" and not two.gold
        ]
        supporter = Supporter(one.question.question, [one.passage, *rivals], embedder)
        for sentence in sentences(one.passage.text):
            shortened = replace(sentence, text=_shortened(sentence))
            compared = await supporter.compare(shortened)
            own.append(compared[0])
            other += compared[1:]
    lowest = {
        name: [
            round(float(np.percentile([getattr(two, name) for two in group], at)), 3)
            for at in (1, 5, 50, 95, 99)
        ]
        for group, suffix in ((own, "own"), (other, "other"))
        for name in ("contained", "cosine")
        if suffix == "own"
    }
    rivals_ = {
        name: [
            round(float(np.percentile([getattr(two, name) for two in other], at)), 3) for at in (50, 95, 99)
        ]
        for name in ("contained", "cosine")
    }
    return {
        "own": lowest,
        "other": rivals_,
        "other_missing": float(np.mean([bool(two.missing) for two in other])),
    }


def _shortened(sentence: Sentence) -> str:
    """Returns a sentence without its third quarter, as an answer that leaves out a part of it."""
    text = sentence.text
    if " " not in text:
        return text[: len(text) // 2] + text[3 * len(text) // 4 :]
    words = text.split()
    return " ".join(words[: len(words) // 2] + words[3 * len(words) // 4 :])


def _scores(cases: Sequence[_Case], weights: Sequence[float]) -> NDArray[np.float64]:
    return np.array([one.features.row for one in cases]) @ np.array(weights[:-1]) + weights[-1]


def _best(cases: Sequence[_Case], scores: NDArray[np.float64]) -> dict[tuple[str, str], tuple[float, _Case]]:
    best: dict[tuple[str, str], tuple[float, _Case]] = {}
    for one, score in zip(cases, scores.tolist(), strict=True):
        key = (one.question.question, one.kind)
        if key not in best or score > best[key][0]:
            best[key] = (score, one)
    return best


def _declined(cases: Sequence[_Case], scores: NDArray[np.float64], least: float) -> dict[str, float]:
    best = _best(cases, scores)
    return {
        f"{kind}_declined": round(
            float(np.mean([score < least for (_, own), (score, _) in best.items() if own == kind])), 3
        )
        for kind in ("covered", "near", "far")
    }


def _logistic(rows: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the weights of a ridge logistic regression, the constant term last, by Newton's method."""
    x = np.c_[rows, np.ones(len(rows))]
    penalty = np.r_[np.full(x.shape[1] - 1, _PENALTY), 1e-6]
    weights = np.zeros(x.shape[1])
    for _ in range(60):
        chance = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        slope = x.T @ (chance - truth) + penalty * weights
        curve = (x * (chance * (1 - chance))[:, None]).T @ x + np.diag(penalty)
        weights -= np.linalg.solve(curve, slope)
    return weights
