"""Closed questions on ICD-10-CM, answered by a small model with and without retrieval."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepwell.cli.bench.report import Report, rounded
from deepwell.knowledge.search import Searcher, SearchOptions
from deepwell.llm import LLM
from deepwell.storage.database import LOCAL, Database
from deepwell.storage.files import FileStore
from deepwell.storage.knowledge import KnowledgeStorage
from deepwell.storage.knowledge.stores import StoredStore
from deepwell_bench.harness.proportions import mcnemar, wilson
from deepwell_bench.suites.knowledge.published import KnownVectors, publish
from deepwell_bench.workloads.knowledge.control_questions import control_questions
from deepwell_bench.workloads.knowledge.icd import IcdPassage, icd_entries, icd_passages, plain
from deepwell_bench.workloads.knowledge.icd_questions import (
    ClosedQuestion,
    development_icd_questions,
    icd_questions,
)

__all__ = ["bench_medical"]

MODEL = "qwen2.5-coder-0.5b"
PASSAGES = 1
MIN_SCORE = 0.33
"""The least score of a passage that is used: 1 in 20 of the English development questions on LibreOffice reaches it."""
_SYSTEM = "You are an expert of medical coding. Use the notes, if there are any, and answer with nothing but the answer."
_AT_ONCE = 8  # questions whose steps the engine shares
_LEAST_LOGPROB = -25.0  # of a choice that is not among the 20 likeliest tokens


@dataclass(frozen=True, slots=True)
class _Answered:
    question: ClosedQuestion
    without: bool
    retrieved: bool
    passages: int
    found: bool


def _retrieved(
    passages: Sequence[IcdPassage], questions: Sequence[ClosedQuestion]
) -> dict[str, list[IcdPassage]]:
    """Returns the passages for every question, as `Searcher` finds them by words in a store with the whole classification."""

    async def search(folder: Path) -> dict[str, list[IcdPassage]]:
        database = Database.open(folder / "deepwell.db")
        kept, files = KnowledgeStorage(database), FileStore(database, folder / "files")
        embedder = KnownVectors("words alone", {}, 1)
        texts = [one.text for one in passages]
        store = await publish(kept, files, embedder, texts, np.zeros((len(texts), 1), np.float32))

        async def embedder_of(_store: StoredStore) -> KnownVectors:
            return embedder

        searcher = Searcher(kept, folder / "side", embedder_of)
        options = SearchOptions(limit=PASSAGES, ranker="lexical", min_score=MIN_SCORE)
        found: dict[str, list[IcdPassage]] = {}
        for one in questions:
            hits = await searcher.search(LOCAL, store.id, one.question, options)
            found[one.question] = [passages[(hit.place.row or 0) - 1] for hit in hits]
        await searcher.close()
        database.close()
        return found

    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(search(Path(folder)))


def bench_medical(report: Report, *, development: bool = False) -> dict[str, Any]:
    """Returns accuracies of both arms over the questions and over the control set, which decides whether retrieval harms."""
    passages = icd_passages(icd_entries())
    questions = development_icd_questions() if development else icd_questions()
    report.note(f"{len(passages):,} passages, {len(questions)} questions, {MODEL}, ranker lexical")
    found = _retrieved(passages, [*questions, *control_questions()])
    with LLM(MODEL) as llm, ThreadPoolExecutor(_AT_ONCE) as pool:
        asked = list(pool.map(lambda one: _answered(llm, found[one.question], one), questions))
        control = list(pool.map(lambda one: _answered(llm, found[one.question], one), control_questions()))
    rows: list[tuple[Any, ...]] = []
    for name, group in (
        ("yes/no", [one for one in asked if one.question.kind == "yesno"]),
        ("four choices", [one for one in asked if one.question.kind == "four"]),
        ("all", asked),
        ("control", control),
    ):
        rows.append(_row(name, group))
    report.table(
        "accuracy",
        (
            "questions",
            "number",
            "without",
            "with",
            "gained",
            "lost",
            "McNemar p",
            "note found",
            "passages used",
        ),
        rows,
    )
    gained, lost = _discordant(asked)
    gain = (gained - lost) / len(asked)
    control_gained, control_lost = _discordant(control)
    low, high = wilson(sum(one.retrieved for one in asked), len(asked))
    return {
        "without": _rate([one.without for one in asked]),
        "with": _rate([one.retrieved for one in asked]),
        "with_low": rounded(low),
        "with_high": rounded(high),
        "points": rounded(100 * gain),
        "mcnemar_p": rounded(mcnemar(gained, lost)),
        "yes_no_points": _points([one for one in asked if one.question.kind == "yesno"]),
        "four_way_points": _points([one for one in asked if one.question.kind == "four"]),
        "note_found": _rate([one.found for one in asked]),
        "control": len(control),
        "control_points": rounded(100 * (control_gained - control_lost) / len(control)),
        "control_with_passages": sum(one.passages > 0 for one in control),
        "questions": len(asked),
    }


def _answered(llm: LLM, passages: Sequence[IcdPassage], question: ClosedQuestion) -> _Answered:
    without = _choice(llm, question, []) == question.answer
    retrieved = without if not passages else _choice(llm, question, passages) == question.answer
    condition = plain(question.question.split('"')[1]) if question.gold else ""
    found = any(one.code == question.gold and condition in plain(one.text) for one in passages)
    return _Answered(question, without, retrieved, len(passages), found)


def _choice(llm: LLM, question: ClosedQuestion, passages: Sequence[IcdPassage]) -> str:
    """Returns the likeliest of the choices."""
    between = " or " if question.choices == ("yes", "no") else ", "
    text = f"{question.question} Answer {between.join(question.choices)}."
    if passages:
        text = "Notes:\n" + "\n\n".join(one.text for one in passages) + f"\n\n{text}"
    messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": text}]
    if question.choices == ("yes", "no"):
        step = llm.chat(messages, max_tokens=1, temperature=0.0, logprobs=20).logprobs
        top = dict(step[0].top) if step else {}
        yes, no = (
            max(top.get(one, _LEAST_LOGPROB) for one in (word, word.title())) for word in ("yes", "no")
        )
        return "yes" if yes > no else "no"
    return llm.chat(messages, choice=list(question.choices), max_tokens=24, temperature=0.0).text.strip()


def _discordant(group: Sequence[_Answered]) -> tuple[int, int]:
    return (
        sum(one.retrieved and not one.without for one in group),
        sum(one.without and not one.retrieved for one in group),
    )


def _row(name: str, group: Sequence[_Answered]) -> tuple[Any, ...]:
    gained, lost = _discordant(group)
    return (
        name, len(group), _rate([one.without for one in group]), _rate([one.retrieved for one in group]), gained, lost,
        rounded(mcnemar(gained, lost)), _rate([one.found for one in group]), sum(one.passages > 0 for one in group),
    )  # fmt: skip


def _points(group: Sequence[_Answered]) -> float:
    gained, lost = _discordant(group)
    return rounded(100 * (gained - lost) / len(group))


def _rate(values: Sequence[bool]) -> float:
    return rounded(sum(values) / len(values))
