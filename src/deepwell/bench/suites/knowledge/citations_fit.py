"""Fits the weights of declining and the thresholds of citations on the development questions, and prints them as constants."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from deepwell import AsyncLLM
from deepwell.bench.harness.assets import e5_small
from deepwell.bench.harness.report import Report
from deepwell.bench.suites.knowledge.citations import HelpStore, Language, NamedWriter, help_store
from deepwell.bench.workloads.knowledge.answers import AnswerQuestion, development_answers
from deepwell.knowledge.answer.decline import JUDGED, asked_of
from deepwell.knowledge.answer.features import Case, Features, features_of
from deepwell.knowledge.answer.support import Support, Supporter
from deepwell.knowledge.answer.text import Sentence, content_words, sentences
from deepwell.knowledge.documents import Passage
from deepwell.knowledge.models import LLMEmbedder, LLMWriter
from deepwell.knowledge.protocols import Embedder

__all__ = ["FitCase", "cases_of", "fit_citations", "fit_writer", "fitted_case"]

_CANDIDATES: Final = 20
_SCALES: Final = np.array(
    [20.0, 3.0, 1.0, 2.0, 3.0]
)  # brings the features to one size, so that one penalty serves all
_PENALTY: Final = 1.0
_DECLINED: Final = 4  # per cent of covered development questions that may be declined for their score alone
_NEAR_DECLINED: Final = (
    70  # per cent of near development questions beyond which no more covered ones are given up
)
_FAR_DECLINED: Final = 90  # per cent of far development questions that must be declined, whatever that costs
_FOLDS: Final = 5
_TIES: Final = (0.0, 0.1, 0.2, 0.3, 0.4)
_COLUMNS: Final[dict[Case, tuple[tuple[int, ...], ...]]] = {
    "en": ((1, 1, 1, 1, 1), (0, 1, 1, 1, 1)),
    "zh": ((1, 1, 1, 1, 1), (0, 1, 1, 1, 1)),
    "cross": ((1, 0, 0, 1, 0),),
}
"""Features that count, in the order of `Features.row`."""


@dataclass(frozen=True, slots=True)
class FitCase:
    """A candidate of a development question: searched with the gold passage, without it, or far from it."""

    question: AnswerQuestion
    kind: str
    passage: Passage
    features: Features
    gold: bool


def fit_citations(report: Report) -> dict[str, Any]:
    """Fits and prints weights, least scores and ties, with what they do to the questions that they were fitted on.

    `crossed` has the figures of questions that were left out of the fit, a fifth at a time, for several ties.
    """
    return asyncio.run(_fit(report))


def fit_writer(report: Report, model: str) -> dict[str, Any]:
    """Fits and prints the weights of a writer's judgement, and measures the support of sentences by passages.

    Args:
        model: the writer whose judgement is weighed.
    """
    return asyncio.run(_fit_writer(report, model))


async def _fit(report: Report) -> dict[str, Any]:
    value: dict[str, Any] = {}
    async with AsyncLLM(e5_small()) as encoder:
        embedder = _Memory(LLMEmbedder(encoder))
        stores: dict[Language, HelpStore] = {one: await help_store(embedder, one) for one in ("en", "zh")}
        for case in ("en", "zh", "cross"):
            value |= fitted_case(case, await cases_of(case, stores, embedder))
            report.note(f"{case}: { ({name: one for name, one in value.items() if name.startswith(case)}) }")
    return value


def fitted_case(case: Case, cases: Sequence[FitCase]) -> dict[str, Any]:
    """Returns the constants of one case, with the cosine and without it, and their effects."""
    value: dict[str, Any] = {}
    for used in _COLUMNS[case]:
        name = f"{case}_{'cosine' if used[0] else 'words'}"
        weights, least = _first_stage(cases, np.array(used, float))
        value[name] = {"weights": weights, "least": least}
        scores = _scores(cases, weights) - least
        value[f"{name}_own"] = {str(tie): _effects(cases, scores, tie) for tie in _TIES}
        scores = _crossed(cases, np.array(used, float))
        value[f"{name}_crossed"] = {str(tie): _effects(cases, scores, tie) for tie in _TIES}
    return value


async def _fit_writer(report: Report, model: str) -> dict[str, Any]:
    value: dict[str, Any] = {}
    async with AsyncLLM(e5_small()) as encoder, AsyncLLM(model, context=2048, kv_tokens=8192) as chat:
        embedder, writer = _Memory(LLMEmbedder(encoder)), NamedWriter(chat, model)
        stores: dict[Language, HelpStore] = {one: await help_store(embedder, one) for one in ("en", "zh")}
        for case in ("en", "zh"):
            cases = await cases_of(case, stores, embedder)
            first = fitted_case(case, cases)[f"{case}_cosine"]
            value[f"{case}_writer"] = await _second_stage(cases, first, writer)
            report.note(f"{case} with {model}: {value[f'{case}_writer']}")
            value[f"{case}_support"] = await _support(cases, embedder)
            report.note(f"{case} support: {value[f'{case}_support']}")
    return value


class _Memory:
    """An embedder that embeds no text twice: with and without its gold passage, a question finds much the same."""

    def __init__(self, embedder: Embedder) -> None:
        self.name, self.hash, self.dimensions = embedder.name, embedder.hash, embedder.dimensions
        self.max_tokens = embedder.max_tokens
        self.count = embedder.count
        self._embedder = embedder
        self._vectors: dict[tuple[str, str], NDArray[np.float32]] = {}

    async def embed(
        self, texts: Sequence[str], input_type: Literal["query", "passage"]
    ) -> NDArray[np.float32]:
        new = [text for text in dict.fromkeys(texts) if (input_type, text) not in self._vectors]
        if new:
            made = await self._embedder.embed(new, input_type)
            self._vectors |= {(input_type, text): one for text, one in zip(new, made, strict=True)}
        return np.stack([self._vectors[input_type, text] for text in texts])


async def cases_of(case: Case, stores: dict[Language, HelpStore], embedder: Embedder) -> list[FitCase]:
    """Returns the judged candidates of all development questions, those of a question with the best of the search first."""
    found: list[FitCase] = []
    for question in development_answers():
        if case not in ("cross", question.language):
            continue
        language: Language = question.language
        if case == "cross":
            language = "zh" if question.language == "en" else "en"
        for kind in ("covered", "near") if question.golds else ("far",):
            without = question.golds if kind == "near" else ()
            passages = await stores[language].search(question.question, _CANDIDATES, embedder, without)
            features = await features_of(question.question, passages, embedder, JUDGED)
            found += [
                FitCase(question, kind, passage, one, kind == "covered" and passage.file_id in question.golds)
                for passage, one in zip(passages, features, strict=False)
            ]
    return found


def _first_stage(cases: Sequence[FitCase], used: NDArray[np.float64]) -> tuple[list[float], float]:
    """Returns weights with the constant term, and the least score."""
    rows = np.array([one.features.row for one in cases]) * _SCALES * used
    fitted = _logistic(rows, np.array([one.gold for one in cases], float))
    weights = [*(fitted[:-1] * _SCALES * used).round(3).tolist(), round(float(fitted[-1]), 3)]
    best = _best(cases, _scores(cases, weights))
    tops = {
        wanted: [score for (_, kind), (score, _) in best.items() if kind == wanted]
        for wanted in ("covered", "near", "far")
    }
    least = min(np.percentile(tops["covered"], _DECLINED), np.percentile(tops["near"], _NEAR_DECLINED))
    least = max(least, np.percentile(tops["far"], _FAR_DECLINED))
    return weights, round(float(least), 2)


async def _second_stage(cases: Sequence[FitCase], first: dict[str, Any], writer: LLMWriter) -> dict[str, Any]:
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


async def _support(cases: Sequence[FitCase], embedder: Embedder) -> dict[str, Any]:
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


def _scores(cases: Sequence[FitCase], weights: Sequence[float]) -> NDArray[np.float64]:
    return np.array([one.features.row for one in cases]) @ np.array(weights[:-1]) + weights[-1]


def _best(
    cases: Sequence[FitCase], scores: NDArray[np.float64]
) -> dict[tuple[str, str], tuple[float, FitCase]]:
    return {key: group[0] for key, group in _grouped(cases, scores).items()}


def _crossed(cases: Sequence[FitCase], used: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns scores above the least score, each from weights that were fitted on the other folds of questions."""
    folds = np.array([int(sha256(one.question.question.encode()).hexdigest(), 16) % _FOLDS for one in cases])
    scores = np.zeros(len(cases))
    for fold in range(_FOLDS):
        train = [one for one, own in zip(cases, folds, strict=True) if own != fold]
        weights, least = _first_stage(train, used)
        test = [one for one, own in zip(cases, folds, strict=True) if own == fold]
        scores[folds == fold] = _scores(test, weights) - least
    return scores


def _effects(cases: Sequence[FitCase], scores: NDArray[np.float64], tie: float) -> dict[str, Any]:
    """Returns the share of questions of each kind that are declined, and the precision of the passages that are cited."""
    declined: dict[str, list[bool]] = {}
    right: list[bool] = []
    for (_, kind), judged in _grouped(cases, scores).items():
        (score, best), *others = judged
        words = frozenset(content_words(best.passage.text))
        second = [own for own, one in others if frozenset(content_words(one.passage.text)) != words]
        tied = bool(second) and score - second[0] < tie
        declined.setdefault(kind, []).append(score < 0 or tied)
        if kind == "covered" and not declined[kind][-1]:
            right.append(best.gold)
    shares = {f"{kind}_declined": round(float(np.mean(all_)), 3) for kind, all_ in declined.items()}
    return {**shares, "precise": f"{sum(right)}/{len(right)}"}


def _grouped(
    cases: Sequence[FitCase], scores: NDArray[np.float64]
) -> dict[tuple[str, str], list[tuple[float, FitCase]]]:
    """Returns the candidates of each question and kind, best first."""
    groups: dict[tuple[str, str], list[tuple[float, FitCase]]] = {}
    for one, score in zip(cases, scores.tolist(), strict=True):
        groups.setdefault((one.question.question, one.kind), []).append((score, one))
    return {key: sorted(group, key=lambda pair: -pair[0]) for key, group in groups.items()}


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
