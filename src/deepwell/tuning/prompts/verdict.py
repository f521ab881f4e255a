"""The one look at held-out rows: the winner of a search beside its start, and the report of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deepwell.errors import InvalidRequest
from deepwell.tuning.evaluate.statistics import Difference, difference, mean_of
from deepwell.tuning.prompts.candidates import Candidate
from deepwell.tuning.prompts.rows import Row
from deepwell.tuning.prompts.search import Found
from deepwell.tuning.prompts.trials import Cost, Trials

__all__ = ["Verdict", "report_of", "verdict_of"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Start and winner on held-out rows.

    Attributes:
        change: scores of both and their difference, with the interval of a paired bootstrap.
        cost: cost of the look, which is not part of the search's budget.
        seen: held-out rows that were left out because training or development had the same input.
        refused: rows whose conversation did not fit the context, with the start and with the winner.
        looks: winners that these held-out rows were asked with so far; the interval holds for the first.
    """

    change: Difference
    cost: Cost
    seen: int
    refused: tuple[int, int]
    looks: int = 1


def verdict_of(
    start: Candidate,
    winner: Candidate,
    held_out: Callable[[], Sequence[Row]],
    known: Sequence[Row],
    ask: Callable[[int], Trials],
) -> Verdict:
    """Reads the held-out rows, asks them with both prompts, and returns the difference.

    Args:
        held_out: reads the rows; it is called here for the first time.
        known: training and development rows.
        ask: makes trials with a budget of that many calls.

    Raises:
        InvalidRequest: the search knows all of the rows, or there are none.
    """
    keys = {row.key for row in known}
    rows = {row.key: row for row in held_out()}
    fresh = [row for row in rows.values() if row.key not in keys]
    if not fresh:
        raise InvalidRequest.of("prompts_held_out_seen", param="held_out", rows=len(rows))
    trials = ask(2 * len(fresh))
    pair = [trials.outcomes(one, fresh) for one in (start, winner)]
    order = [row.key for row in fresh]
    first, second = (mean_of("score", [one.score for one in found], share=True, keys=order) for found in pair)
    refused = [sum(one.refused for one in found) for found in pair]
    return Verdict(difference(first, second), trials.cost, len(rows) - len(fresh), (refused[0], refused[1]))


def report_of(found: Found, spent: Cost, verdict: Verdict | None) -> dict[str, Any]:
    """Returns the result as plain values: the candidates, what they cost, and the held-out difference.

    Args:
        verdict: None: no candidate was better on the development rows, so that held-out rows were not read.
    """
    return {
        "candidates": [
            {"name": one.candidate.name, "key": one.candidate.key, **asdict(one.standing)}
            for one in found.tried
        ],
        "start": found.start.candidate.key,
        "winner": found.winner.candidate.key,
        "search": asdict(spent),
        "held_out": None
        if verdict is None
        else {
            **asdict(verdict.change),
            "seen_before": verdict.seen,
            "refused": list(verdict.refused),
            "looks": verdict.looks,
            "cost": asdict(verdict.cost),
        },
    }
