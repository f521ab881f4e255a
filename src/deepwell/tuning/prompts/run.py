"""`optimise`: a search over training and development rows, and then the one look at held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from deepwell.dialogue.prompts.text import PromptText
from deepwell.errors import InvalidRequest
from deepwell.tuning.prompts.metrics import Metric
from deepwell.tuning.prompts.rows import Row
from deepwell.tuning.prompts.search import Found, Plan, search
from deepwell.tuning.prompts.trials import Cost, Journal, Trials
from deepwell.tuning.prompts.verdict import Verdict, verdict_of

if TYPE_CHECKING:
    from deepwell.llm import LLM

__all__ = ["LEAST_CALLS", "Data", "Optimised", "check_answers", "check_calls", "optimise"]

LEAST_CALLS: Final = 100
"""Smallest budget: below it no two prompts can be told apart."""


@dataclass(frozen=True, slots=True)
class Data:
    """The rows of a search.

    Attributes:
        held_out: reads the held-out rows; it is called when the search has ended, and only if it found a better prompt.
    """

    train: Sequence[Row]
    development: Sequence[Row]
    held_out: Callable[[], Sequence[Row]]


@dataclass(frozen=True, slots=True)
class Optimised:
    """The result.

    Attributes:
        spent: cost of the search.
        verdict: start and winner on held-out rows; None: the search found nothing better than the start.
    """

    found: Found
    spent: Cost
    verdict: Verdict | None

    @property
    def is_better(self) -> bool:
        """True if the winner beats the start on held-out rows, with an interval that excludes zero."""
        return self.verdict is not None and self.verdict.change.verdict == "better"


def optimise(
    llm: LLM,
    start: PromptText,
    metric: Metric,
    data: Data,
    *,
    calls: int = 2000,
    plan: Plan | None = None,
    journal: Journal | None = None,
    counted: Callable[[str, int], None] = lambda name, count: None,
) -> Optimised:
    """Searches for a better prompt within a budget of calls, and compares it with its start on held-out rows, once.

    Args:
        llm: the model that proposes rewrites; the metric asks it.
        calls: most questions of the search. The held-out rows cost two calls each on top.
        counted: is told "search" or "held-out", and how many further calls are done.

    Raises:
        InvalidRequest: the budget is too small, or rows lack what the prompt or the metric needs.
    """
    kept = journal or Journal(None, {})
    check_calls(calls)
    check_answers(metric.name, [*data.train, *data.development])
    trials = Trials(metric, kept, calls, lambda count: counted("search", count))
    found = search(llm, start, trials, data.train, data.development, plan)
    if found.winner.candidate.key == found.start.candidate.key:
        return Optimised(found, trials.cost, None)
    verdict = verdict_of(
        found.start.candidate,
        found.winner.candidate,
        data.held_out,
        [*data.train, *data.development],
        lambda budget: Trials(metric, kept, budget, lambda count: counted("held-out", count)),
    )
    kept.put(f"look:{found.winner.candidate.key}", {"score": verdict.change.second})
    return Optimised(found, trials.cost, replace(verdict, looks=kept.count("look:")))


def check_answers(metric: str, rows: Sequence[Row]) -> None:
    """Checks that rows have the answers that a metric compares with.

    Raises:
        InvalidRequest: some have none, and the metric is no grader.
    """
    if metric != "grader" and (missing := sum(not row.answer for row in rows)):
        raise InvalidRequest.of("prompts_no_answers", count=missing, metric=metric, param="data")


def check_calls(calls: int) -> None:
    """Checks that a budget is worth a search.

    Raises:
        InvalidRequest: it is too small.
    """
    if calls < LEAST_CALLS:
        raise InvalidRequest.of("prompts_budget", calls=calls, least=LEAST_CALLS, param="calls")
