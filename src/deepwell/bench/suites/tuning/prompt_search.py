"""Prompts that are tuned: topics of BBC News and sentiment of Rotten Tomatoes, from a hand-written start, with smollm2.

The tasks, their starts and their held-out sets were fixed before the first search: both sets are the frozen ones of
`bench/workloads/tuning/labelled.toml`, and the search reads their pools alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from deepwell.bench.harness.report import Report, rounded
from deepwell.bench.workloads.tuning.labelled import LabelledSet, LabelledText, bbc_news, rotten_tomatoes
from deepwell.dialogue.prompts.text import PromptText
from deepwell.llm import LLM
from deepwell.tuning.evaluate.statistics import mean_of
from deepwell.tuning.prompts.candidates import Candidate, Example, ExampleSet, Instruction
from deepwell.tuning.prompts.metrics import LabelMetric, Outcome
from deepwell.tuning.prompts.rows import Row, Shares, key_of
from deepwell.tuning.prompts.run import Data, Optimised, optimise
from deepwell.tuning.prompts.search import Plan

__all__ = ["TASKS", "PromptTask", "bench_prompts_optimise", "rows_of_pool"]

_POOL: Final = Shares(0.6, 0.4, 0.0)


@dataclass(frozen=True, slots=True)
class PromptTask:
    """A task with its hand-written start.

    Attributes:
        start: system message, with the labels and the form of the answer.
        characters: length at which a text is cut.
    """

    name: str
    data: Callable[[], LabelledSet]
    start: str
    characters: int


TASKS: Final = (
    PromptTask(
        "topics",
        bbc_news,
        "You sort news articles by topic. The topics are business, entertainment, politics, sports and tech. "
        "Answer with the topic of the article in one word, for example: politics",
        600,
    ),
    PromptTask(
        "sentiment",
        rotten_tomatoes,
        "You read a sentence from a film review and say whether the reviewer likes the film. "
        "Answer in one word: positive or negative.",
        600,
    ),
)


def rows_of_pool(task: PromptTask) -> tuple[list[Row], list[Row]]:
    """Returns training and development rows of a task's pool, parted by the hash of their input."""
    parts: dict[str, list[Row]] = {"train": [], "development": []}
    for row in _rows(task.data().pool, task.characters):
        parts[_POOL.part(row.key)].append(row)
    return parts["train"], parts["development"]


def bench_prompts_optimise(
    report: Report, model: str, *, calls: int = 2000, held_out: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Searches for a better prompt of each task, and compares it with its start on held-out rows, once.

    Beside both, the start with the first example of each class of the pool is asked the same rows: examples that a developer
    might add without any search.

    Args:
        model: a name in the store, or a path.
        calls: budget of each search.
        held_out: most held-out rows of each task.
    """
    value: dict[str, Any] = {"model": model, "tasks": len(TASKS)}
    lows: list[float] = []
    gains: list[float] = []
    table: list[tuple[Any, ...]] = []
    with LLM(model, context=4096) as llm:
        for task in TASKS:
            begun = time.monotonic()
            train, development = rows_of_pool(task)
            kept: list[Row] = []

            def last(task: PromptTask = task, kept: list[Row] = kept) -> Sequence[Row]:
                kept[:] = _rows(task.data().held_out[:held_out], task.characters)
                return kept

            metric = LabelMetric(llm, task.data().classes)
            found = optimise(
                llm,
                PromptText(task.start),
                metric,
                Data(train, development, last),
                calls=calls,
                plan=Plan(seed=seed),
            )
            plain = _hand_shown(task, train)
            shown = metric.ask([plain.conversation(row) for row in kept], kept) if kept else []
            told = _told(found, shown, kept)
            told["seconds"] = rounded(time.monotonic() - begun)
            value[task.name] = told
            gains.append(told["gain"])
            lows.append(told["gain_low"])
            table.append(_line(task, told))
            report.note(f"{task.name}: {found.found.winner.candidate.name}")
    columns = ("task", "rows", "start", "winner", "gain", "95 % interval", "calls", "tokens", "with examples")
    report.table("Held-out accuracy, in per cent", columns, table)
    return value | {"least_gain": min(gains), "least_gain_low": min(lows)}


def _told(found: Optimised, shown: Sequence[Outcome], rows: Sequence[Row]) -> dict[str, Any]:
    """Returns the figures of a task in points and counts."""
    best, spent, verdict = found.found.winner, found.spent, found.verdict
    told: dict[str, Any] = {
        "prompts": len(found.found.tried),
        "winner": best.candidate.name,
        "development": [rounded(100 * one.standing.score, 4) for one in (found.found.start, best)],
        "search_calls": spent.calls,
        "search_tokens": spent.prompt_tokens + spent.answer_tokens,
        "gain": 0.0,
        "gain_low": 0.0,
    }
    if verdict is None:
        return told
    change = verdict.change
    keys = [row.key for row in rows]
    with_examples = mean_of("score", [one.score for one in shown], share=True, keys=keys)
    plain = 100 * with_examples.value
    return told | {
        "rows": change.paired,
        "start": rounded(100 * change.first, 4),
        "score": rounded(100 * change.second, 4),
        "gain": rounded(100 * change.value, 4),
        "gain_low": rounded(100 * change.low, 4),
        "gain_high": rounded(100 * change.high, 4),
        "held_out_calls": verdict.cost.calls,
        "held_out_tokens": verdict.cost.prompt_tokens + verdict.cost.answer_tokens,
        "hand_examples": rounded(plain, 4),
    }


def _line(task: PromptTask, told: dict[str, Any]) -> tuple[Any, ...]:
    interval = f"{told['gain_low']} to {told.get('gain_high', 0.0)}"
    names = ("rows", "start", "score", "gain")
    figures = [told.get(name, "-") for name in names]
    return (
        task.name,
        *figures,
        interval,
        told["search_calls"],
        told["search_tokens"],
        told.get("hand_examples", "-"),
    )


def _hand_shown(task: PromptTask, train: Sequence[Row]) -> Candidate:
    """Returns the start with the first training row of each class."""
    first = {row.answer: row for row in reversed(train)}
    shown = tuple(Example(first[label].input[:400], label) for label in task.data().classes if label in first)
    return Candidate(PromptText(task.start), Instruction(task.start, "start"), ExampleSet(shown, "first"))


def _rows(texts: Sequence[LabelledText], characters: int) -> list[Row]:
    """Returns texts as rows. An input is cut at a number of characters."""
    found: dict[str, Row] = {}
    for one in texts:
        text = one.text[:characters]
        key = key_of(text)
        found.setdefault(key, Row(key, text, one.label, {"input": text, "label": one.label}))
    return list(found.values())
