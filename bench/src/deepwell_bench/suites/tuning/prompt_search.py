"""Prompts that are tuned: topics of BBC News and sentiment of Rotten Tomatoes, from a hand-written start, with smollm2.

The tasks and their held-out sets were fixed before the first search: both sets are the frozen ones of
`bench/workloads/tuning/labelled.toml`, and the search reads their pools alone. The metric is `exact`: the answer that a client
reads is the label. The start names the labels and shows the form of the answer with an example of each, written for it: on
development rows smollm2 answers with sentences where it has the instructions alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from deepwell.cli.bench.report import Report, rounded
from deepwell.dialogue.prompts.text import PromptMessage, PromptText
from deepwell.llm import LLM
from deepwell.tuning.prompts.candidates import Candidate, Instruction
from deepwell.tuning.prompts.metrics import ExactMetric, LabelMetric, Metric
from deepwell.tuning.prompts.rows import Row, Shares, key_of
from deepwell.tuning.prompts.run import Data, Optimised, optimise
from deepwell.tuning.prompts.search import Plan
from deepwell_bench.workloads.tuning.labelled import LabelledSet, LabelledText, bbc_news, rotten_tomatoes

__all__ = ["TASKS", "PromptTask", "bench_prompts_optimise", "rows_of_pool"]

_POOL: Final = Shares(0.6, 0.4, 0.0)
_MOST_TOKENS: Final = 8  # of an answer: more than any label has
_BESIDE: Final = 200  # held-out rows that are asked beside the bar
_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class PromptTask:
    """A task with its hand-written start.

    Attributes:
        instructions: system message, with the labels and the form of the answer.
        examples: an example of each label, as pairs of input and label.
        characters: length at which a text is cut.
    """

    name: str
    data: Callable[[], LabelledSet]
    instructions: str
    examples: tuple[tuple[str, str], ...]
    characters: int

    @property
    def start(self) -> PromptText:
        """The prompt that the search begins with."""
        turns: list[PromptMessage] = []
        for text, label in self.examples:
            turns += [PromptMessage("user", text), PromptMessage("assistant", label)]
        return PromptText(self.instructions, tuple(turns))


TASKS: Final = (
    PromptTask(
        "topics",
        bbc_news,
        "You sort news articles by topic. The topics are business, entertainment, politics, sports and tech. "
        "Answer with the topic of the article in one word, for example: politics",
        (
            ("Shares in the carmaker fell by four per cent after it warned of lower profits.", "business"),
            ("The singer will play three more nights in London after tickets sold out.", "entertainment"),
            ("The prime minister told MPs that the bill would be changed before the vote.", "politics"),
            ("The striker scored twice as the home side came from behind to win.", "sports"),
            ("A new version of the browser closes a hole that let viruses in.", "tech"),
        ),
        600,
    ),
    PromptTask(
        "sentiment",
        rotten_tomatoes,
        "You read a sentence from a film review and say whether the reviewer likes the film. "
        "Answer in one word: positive or negative.",
        (
            ("a warm and very funny film that stays with you for days .", "positive"),
            ("a dull story , and two hours that nobody will give back to me .", "negative"),
        ),
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

    Beside both, some of the same rows are asked with the start's instructions alone, and the label's likelihood is scored with
    each prompt, which leaves out the form of the answer.

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

            metric = ExactMetric(llm, max_tokens=_MOST_TOKENS)
            found = optimise(
                llm,
                task.start,
                metric,
                Data(train, development, last),
                calls=calls,
                plan=Plan(seed=seed),
            )
            told = _told(found) | _beside(llm, task, found, kept)
            told["seconds"] = rounded(time.monotonic() - begun)
            value[task.name] = told
            gains.append(told["gain"])
            lows.append(told["gain_low"])
            table.append(_line(task, told))
            report.note(f"{task.name}: {found.found.winner.candidate.name}")
    columns = ("task", "rows", "start", "winner", "gain", "95 % interval", "calls", "tokens", "alone")
    report.table("Held-out accuracy, in per cent", columns, table)
    return value | {"least_gain": min(gains), "least_gain_low": min(lows)}


def _told(found: Optimised) -> dict[str, Any]:
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
    return told | {
        "rows": change.paired,
        "start": rounded(100 * change.first, 4),
        "score": rounded(100 * change.second, 4),
        "gain": rounded(100 * change.value, 4),
        "gain_low": rounded(100 * change.low, 4),
        "gain_high": rounded(100 * change.high, 4),
        "held_out_calls": verdict.cost.calls,
        "held_out_tokens": verdict.cost.prompt_tokens + verdict.cost.answer_tokens,
    }


def _beside(llm: LLM, task: PromptTask, found: Optimised, kept: Sequence[Row]) -> dict[str, Any]:
    """Returns what the first held-out rows give with the instructions alone, by answers and by the likeliest label."""
    rows = kept[:_BESIDE]
    if not rows:
        return {}
    alone = Candidate(PromptText(), Instruction(task.instructions, "alone"))
    answers, labels = ExactMetric(llm, max_tokens=_MOST_TOKENS), LabelMetric(llm, task.data().classes)
    prompts = {"alone": alone, "start": found.found.start.candidate, "winner": found.found.winner.candidate}
    told: dict[str, Any] = {"beside_rows": len(rows), "alone": _share(answers, alone, rows)}
    return told | {f"label_{name}": _share(labels, one, rows) for name, one in prompts.items()}


def _share(metric: Metric, candidate: Candidate, rows: Sequence[Row]) -> float:
    """Returns the mean score of rows in per cent."""
    scores: list[float] = []
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        scores += [one.score for one in metric.ask([candidate.conversation(row) for row in some], some)]
    return rounded(100 * sum(scores) / len(scores), 4)


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
        told.get("alone", "-"),
    )


def _rows(texts: Sequence[LabelledText], characters: int) -> list[Row]:
    """Returns texts as rows. An input is cut at a number of characters."""
    found: dict[str, Row] = {}
    for one in texts:
        text = one.text[:characters]
        key = key_of(text)
        found.setdefault(key, Row(key, text, one.label, {"input": text, "label": one.label}))
    return list(found.values())
