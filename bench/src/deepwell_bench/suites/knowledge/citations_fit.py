"""Fits the weights of declining and the thresholds of citations on the development questions, and prints them as constants."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from deepwell import AsyncLLM
from deepwell.cli.bench.report import Report
from deepwell.knowledge.answer.decline import JUDGED
from deepwell.knowledge.answer.features import Case, Features, features_of
from deepwell.knowledge.answer.quoting import READ, gains_of
from deepwell.knowledge.answer.support import Support, Supporter
from deepwell.knowledge.answer.text import Sentence, sentences
from deepwell.knowledge.documents import Passage
from deepwell.knowledge.models import LLMEmbedder, LLMWriter
from deepwell.knowledge.protocols import Embedder
from deepwell_bench.harness.assets import e5_small
from deepwell_bench.suites.knowledge.citations import HelpStore, Language, NamedWriter, help_store
from deepwell_bench.suites.knowledge.quoting_fit import QuotingCase, fitted_quoting, logistic, weights_of
from deepwell_bench.workloads.knowledge.answers import AnswerQuestion, development_sets

__all__ = ["FitCase", "cases_of", "fit_citations", "fit_writer", "fitted_case", "quoting_cases"]

_CANDIDATES: Final = 20
_SCALES: Final = np.array(
    [20.0, 3.0, 1.0, 2.0, 3.0, 1.0]
)  # brings the features to one size, so that one penalty serves all
_DECLINED: Final = 4  # per cent of covered development questions that may be declined for their score alone
_NEAR_DECLINED: Final = (
    70  # per cent of near development questions beyond which no more covered ones are given up
)
_FAR_DECLINED: Final = 90  # per cent of far development questions that must be declined, whatever that costs
_COLUMNS: Final[dict[Case, tuple[tuple[int, ...], ...]]] = {
    "en": ((1, 1, 1, 1, 1, 1), (0, 1, 1, 1, 1, 1)),
    "zh": ((1, 1, 1, 1, 1, 1), (0, 1, 1, 1, 1, 1)),
    "cross": ((1, 0, 0, 1, 0, 0),),
}
"""Features that count, in the order of `Features.row`."""


@dataclass(frozen=True, slots=True)
class FitCase:
    """The judged candidates of a development question: searched with the gold passage, without it, or far from it."""

    questions: str
    question: AnswerQuestion
    kind: str
    passages: tuple[Passage, ...]
    features: tuple[Features, ...]

    @property
    def golds(self) -> list[bool]:
        """True for each candidate that is a gold passage."""
        return [one.file_id in self.question.golds for one in self.passages]


def fit_citations(report: Report) -> dict[str, Any]:
    """Fits and prints the weights of judging and of quoting, with what the latter do to left-out questions."""
    return asyncio.run(_fit(report))


def fit_writer(report: Report, model: str) -> dict[str, Any]:
    """Fits and prints the weights of quoting with a writer's likelihoods, and measures the support of sentences by passages.

    Questions without a relevant passage are declined unread; `unread` counts them, and the other figures leave them out.

    Args:
        model: the writer that reads the passages. It takes about half a second a question on two idle cores.
    """
    return asyncio.run(_fit_writer(report, model))


async def _fit(report: Report) -> dict[str, Any]:
    value: dict[str, Any] = {}
    async with AsyncLLM(e5_small()) as encoder:
        embedder = _Memory(LLMEmbedder(encoder))
        stores: dict[Language, HelpStore] = {one: await help_store(embedder, one) for one in ("en", "zh")}
        for case in ("en", "zh", "cross"):
            cases = await cases_of(case, stores, embedder)
            value |= fitted_case(case, cases)
            if case != "cross":
                quoting = quoting_cases(case, cases)
                for name, cosine in (("cosine", True), ("words", False)):
                    value[f"{case}_quoting_{name}"] = fitted_quoting(case, quoting, cosine=cosine)
            for name, one in value.items():
                if name.startswith(case):
                    report.note(f"{name}: {one}")
    return value


def fitted_case(case: Case, cases: Sequence[FitCase]) -> dict[str, Any]:
    """Returns the constants of judging of one case, with the cosine and without it, and the shares that they decline."""
    value: dict[str, Any] = {}
    for used in _COLUMNS[case]:
        weights, least = _first_stage(cases, np.array(used, float))
        best: dict[str, list[float]] = {}
        for one in cases:
            best.setdefault(one.kind, []).append(max(_scores(one, weights), default=-np.inf) - least)
        value[f"{case}_{'cosine' if used[0] else 'words'}"] = {
            "weights": weights,
            "least": least,
            **{
                f"{kind}_declined": round(float(np.mean(np.array(all_) < 0)), 3)
                for kind, all_ in best.items()
            },
        }
    return value


def quoting_cases(
    case: Case, cases: Sequence[FitCase], gains: dict[tuple[str, str], float] | None = None
) -> list[QuotingCase]:
    """Returns the candidates that may be quoted, those whose language is the case's, of questions that have some.

    Args:
        gains: by question and passage; candidates without one are left out. None: 0 for all.
    """
    found: list[QuotingCase] = []
    for one in cases:
        kept = [
            (passage, features, 0.0 if gains is None else gains[one.question.question, passage.file_id])
            for passage, features in zip(one.passages, one.features, strict=True)
            if features.case == case and (gains is None or (one.question.question, passage.file_id) in gains)
        ]
        if kept:
            found.append(QuotingCase(one.questions, one.question, one.kind, *zip(*kept, strict=True)))
    return found


async def _fit_writer(report: Report, model: str) -> dict[str, Any]:
    value: dict[str, Any] = {}
    async with AsyncLLM(e5_small()) as encoder, AsyncLLM(model, context=2048, kv_tokens=8192) as chat:
        embedder, writer = _Memory(LLMEmbedder(encoder)), NamedWriter(chat, model)
        stores: dict[Language, HelpStore] = {one: await help_store(embedder, one) for one in ("en", "zh")}
        for case in ("en", "zh"):
            cases = await cases_of(case, stores, embedder)
            first = fitted_case(case, cases)[f"{case}_cosine"]
            gains = await _gains(
                case, cases, [*first["weights"][:-1], first["weights"][-1] - first["least"]], writer
            )
            for gain in (False, True):
                name = f"{case}_quoting_{'likelihood' if gain else 'plain'}"
                read = quoting_cases(case, cases, gains)
                value[name] = fitted_quoting(case, read, gain=gain)
                value[name]["unread"] = {
                    kind: sum(one.kind == kind for one in cases) - sum(one.kind == kind for one in read)
                    for kind in ("covered", "near", "far")
                }
                report.note(f"{name} with {model}: {value[name]}")
            value[f"{case}_support"] = await _support(cases, embedder)
            report.note(f"{case} support: {value[f'{case}_support']}")
    return value


async def _gains(
    case: Case, cases: Sequence[FitCase], weights: Sequence[float], writer: LLMWriter
) -> dict[tuple[str, str], float]:
    """Returns the gains of the best `READ` candidates, by question and passage; of no question without a relevant one."""
    found: dict[tuple[str, str], float] = {}
    for one in cases:
        text = one.question.question
        scores = _scores(one, weights)
        if max(scores, default=-1.0) < 0:
            continue
        best = sorted(
            (at for at, features in enumerate(one.features) if features.case == case),
            key=lambda at: -scores[at],
        )[:READ]
        new = [one.passages[at] for at in best if (text, one.passages[at].file_id) not in found]
        if new and (gains := await gains_of(text, new, writer)) is not None:
            found |= {(text, passage.file_id): gain for passage, gain in zip(new, gains, strict=True)}
    return found


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
    for name, questions in development_sets().items():
        for question in questions:
            if case not in ("cross", question.language):
                continue
            language: Language = question.language
            if case == "cross":
                language = "zh" if question.language == "en" else "en"
            for kind in ("covered", "near") if question.golds else ("far",):
                without = question.golds if kind == "near" else ()
                passages = await stores[language].search(question.question, _CANDIDATES, embedder, without)
                features = await features_of(question.question, passages, embedder, JUDGED)
                found.append(FitCase(name, question, kind, tuple(passages[: len(features)]), tuple(features)))
    return found


def _first_stage(cases: Sequence[FitCase], used: NDArray[np.float64]) -> tuple[list[float], float]:
    """Returns weights with the constant term, and the least score."""
    rows = np.array([features.row for one in cases for features in one.features]) * _SCALES * used
    gold = np.array([gold for one in cases for gold in one.golds], float)
    counts = np.repeat(weights_of(cases), [len(one.features) for one in cases])
    fitted = logistic(rows, gold, counts)
    weights = [*(fitted[:-1] * _SCALES * used).round(3).tolist(), round(float(fitted[-1]), 3)]
    tops: dict[str, list[float]] = {"covered": [], "near": [], "far": []}
    for one in cases:
        tops[one.kind] += [max(_scores(one, weights))] if one.features else []
    least = min(np.percentile(tops["covered"], _DECLINED), np.percentile(tops["near"], _NEAR_DECLINED))
    least = max(least, np.percentile(tops["far"], _FAR_DECLINED))
    return weights, round(float(least), 2)


def _scores(one: FitCase, weights: Sequence[float]) -> list[float]:
    return [
        sum(w * x for w, x in zip(weights[:-1], features.row, strict=True)) + weights[-1]
        for features in one.features
    ]


async def _support(cases: Sequence[FitCase], embedder: Embedder) -> dict[str, Any]:
    """Measures support: sentences of gold passages without their headings, against their own and against others' passages."""
    own: list[Support] = []
    other: list[Support] = []
    for one in cases:
        golds = [passage for passage, gold in zip(one.passages, one.golds, strict=True) if gold]
        rivals = [passage for passage, gold in zip(one.passages, one.golds, strict=True) if not gold]
        for own_passage in golds:
            supporter = Supporter(one.question.question, [own_passage, *rivals], embedder)
            for sentence in sentences(own_passage.text):
                compared = await supporter.compare(replace(sentence, text=_shortened(sentence)))
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
