"""The search: instructions x sets of examples, by successive halving within a budget of calls.

In the manner of MIPROv2 (Opsahl-Ong et al. 2024, arXiv:2406.11695) and OPRO (Yang et al. 2023, arXiv:2309.03409), kept small:
examples are bootstrapped from training rows, instructions are edited by a seed and rewritten by the model itself, and three
generations of prompts are halved (Jamieson & Talwalkar 2016, arXiv:1502.07943). Only training and development rows are read.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

from deepwell.dialogue.prompts.text import PromptText
from deepwell.errors import InvalidRequest
from deepwell.tuning.prompts.candidates import Candidate, ExampleSet, Instruction, first_candidate, usable
from deepwell.tuning.prompts.examples import ExamplePool, Kind
from deepwell.tuning.prompts.proposals import asked_rewrite, cleaned, mutations, rewrite_messages
from deepwell.tuning.prompts.rows import Row, labels_of
from deepwell.tuning.prompts.trials import Standing, Trials

if TYPE_CHECKING:
    from deepwell.llm import LLM

__all__ = ["Found", "Plan", "Tried", "search"]

_BOOTSTRAP: Final = 0.05  # share of the budget
_UNTIL: Final = (0.4, 0.6, 0.8)  # shares of the budget that are spent when each generation ends
_FEWEST_ROWS: Final = 8  # of the first round


@dataclass(frozen=True, slots=True)
class Plan:
    """Options of a search.

    Attributes:
        seed: of edits, rewrites, sets of examples and the order of rows.
        rewrites: rewrites that the model is asked for.
        edits: edits of the start.
        own: further instructions to try.
        width: prompts of the first generation; half as many are new in each further one.
        finalists: prompts that are compared at the end besides the start; the best two of them on the most rows.
        most_examples: most examples of a prompt; 0: none.
        characters: length at which the input of an example is cut.
    """

    seed: int = 0
    rewrites: int = 6
    edits: int = 8
    own: tuple[str, ...] = ()
    width: int = 32
    finalists: int = 5
    most_examples: int = 16
    characters: int = 400


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate with its mean over the most rows that it was asked."""

    candidate: Candidate
    standing: Standing


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a search.

    Attributes:
        start: the prompt that it began with, on the rows that finalists were compared on.
        winner: the best of them; the start where none is better.
        tried: all candidates, the best first, those that saw more rows before others.
    """

    start: Tried
    winner: Tried
    tried: tuple[Tried, ...] = field(default=())


def search(
    llm: LLM,
    start: PromptText,
    trials: Trials,
    train: Sequence[Row],
    development: Sequence[Row],
    plan: Plan | None = None,
) -> Found:
    """Returns the best prompt for the development rows within the budget of the trials.

    Raises:
        InvalidRequest: rows lack fields that the prompt has variables for.
    """
    plan = plan or Plan()
    _check_variables(start, [*train, *development])
    return _Search(llm, start, trials, plan).run(train, development)


class _Search:
    """The state of one search."""

    def __init__(self, llm: LLM, start: PromptText, trials: Trials, plan: Plan) -> None:
        self._llm = llm
        self._trials = trials
        self._plan = plan
        self._dice = random.Random(f"deepwell:{plan.seed}")  # noqa: S311 - a draw, not a secret
        self._first = first_candidate(start)
        self._standings: dict[str, Tried] = {}

    def run(self, train: Sequence[Row], development: Sequence[Row]) -> Found:
        """Bootstraps, proposes, halves three generations, and compares the last few."""
        budget = self._trials.budget
        train, rows = self._mixed(train), self._mixed(development)
        pool = self._bootstrapped(train[: max(_FEWEST_ROWS, round(_BOOTSTRAP * budget))], train)
        instructions = self._instructions(train)
        kept = self._halved(self._generation(instructions, pool), rows, round(_UNTIL[0] * budget))
        for share in _UNTIL[1:]:
            kept = self._halved(self._crossed(kept, pool, rows), rows, round(share * budget))
        finalists = self._last(kept[: self._plan.finalists], rows, self._trials.left // 2)
        ended = self._last([one.candidate for one in finalists], rows, self._trials.left, most=2)
        start = next(one for one in ended if one.candidate.key == self._first.key)
        winner = ended[0] if ended[0].standing.score > start.standing.score else start
        seen = {one.candidate.key for one in ended}
        others = [one for key, one in self._standings.items() if key not in seen]
        others.sort(key=lambda one: (one.standing.rows, *one.standing.rank), reverse=True)
        return Found(start, winner, (*ended, *others))

    def _last(
        self, kept: Sequence[Candidate], rows: Sequence[Row], calls: int, *, most: int | None = None
    ) -> list[Tried]:
        """Compares the first of some candidates with the start, on as many rows as the calls reach for all; the best first.

        Args:
            most: candidates to take besides the start; None: all.
        """
        others = [one for one in kept if one.key != self._first.key][:most]
        finalists = _different([*others, self._first])
        seen = [self._rows_of(one) for one in finalists]
        count = len(rows)
        while count > 1 and sum(max(0, count - one) for one in seen) > calls:
            count -= 1
        tried = [self._try(one, rows[:count]) for one in finalists]
        return sorted(tried, key=lambda one: one.standing.rank, reverse=True)

    def _mixed(self, rows: Sequence[Row]) -> list[Row]:
        """Returns rows in an order of the seed that does not depend on that of the file."""
        mixed = sorted(rows, key=lambda row: row.key)
        random.Random(f"rows:{self._plan.seed}").shuffle(mixed)  # noqa: S311 - a draw, not a secret
        return mixed

    def _bootstrapped(self, asked: Sequence[Row], train: Sequence[Row]) -> ExamplePool:
        """Asks the start some training rows, so that examples can be drawn from what it gets right and wrong."""
        if not self._plan.most_examples:
            return ExamplePool((), {}, most=0)
        found = self._trials.outcomes(self._first, asked)
        outcomes = {row.key: one for row, one in zip(asked, found, strict=True)}
        return ExamplePool(train, outcomes, most=self._plan.most_examples, characters=self._plan.characters)

    def _instructions(self, train: Sequence[Row]) -> list[Instruction]:
        """Returns the start, instructions of the user, rewrites of the model and edits, each text once."""
        start = self._first.start
        answers = labels_of(train)
        labels = answers if 2 <= len(answers) <= 24 and all(len(one) < 60 for one in answers) else ()
        found = [self._first.instruction]
        found += [Instruction(text, f"own {number}") for number, text in enumerate(self._plan.own, 1)]
        edits = mutations(start.instructions, labels, self._dice, self._plan.edits)
        for number in range(self._plan.rewrites if start.instructions else 0):
            shown = self._dice.sample(list(train), min(4, len(train)))
            messages = rewrite_messages(start.instructions, shown, labels, number)
            seed = self._plan.seed * 1000 + number
            asked = hashlib.sha256(json.dumps([messages, seed]).encode()).hexdigest()[:16]
            said = self._trials.proposed(
                asked, lambda messages=messages, seed=seed: asked_rewrite(self._llm, messages, seed)
            )
            if (text := cleaned(said, start)) is not None:
                found.append(Instruction(text, f"rewrite {number + 1}"))
        found += edits if start.instructions else []
        return list({one.text: one for one in reversed(found)}.values())[::-1]

    def _generation(self, instructions: Sequence[Instruction], pool: ExamplePool) -> list[Candidate]:
        """Returns the first generation: every instruction alone, with the start's and with other examples."""
        start, others, own = self._first.start, instructions[1:], self._first.shown
        bare = [Candidate(start, one) for one in others]
        if own.examples:
            shown = [Candidate(start, one, own) for one in others]
            bare = [one for both in zip(shown, bare, strict=True) for one in both]
            bare.insert(0, Candidate(start, self._first.instruction))
        if not pool.sizes:
            return self._usable([self._first, *bare])[: self._plan.width]
        ways: list[tuple[int, Kind]] = [(size, kind) for size in pool.sizes for kind in pool.kinds]
        sets = [pool.draw(self._dice, *ways[number % len(ways)]) for number in range(2 * self._plan.width)]
        if own.examples:  # of each second pair of sets, the start's examples stay in front of the drawn ones
            sets = [
                ExampleSet((*own.examples, *one.examples), f"own, {one.kind}") if number % 4 < 2 else one
                for number, one in enumerate(sets)
            ]
        found = [self._first]
        for number in range(self._plan.width):
            found.append(Candidate(start, self._first.instruction, sets[2 * number]))
            found += bare[number : number + 1]
            if number < len(others):
                found.append(Candidate(start, others[number], sets[2 * number + 1]))
        return self._usable(found)[: self._plan.width]

    def _crossed(self, kept: Sequence[Candidate], pool: ExamplePool, rows: Sequence[Row]) -> list[Candidate]:
        """Returns the next generation: the best of the last one, their parts in other pairs, and sets near the best ones."""
        best = list(kept[: max(2, self._plan.finalists)])
        start = self._first.start
        instructions = list(dict.fromkeys(one.instruction for one in best))
        sets = list(dict.fromkeys(one.shown for one in best if one.shown.examples))
        pairs = [Candidate(start, instruction, shown) for shown in sets for instruction in instructions]
        near = [
            Candidate(start, one.instruction, shown) for one in best for shown in self._near(one, pool, rows)
        ]
        self._dice.shuffle(pairs)
        self._dice.shuffle(near)
        mixed = [one for both in zip_longest(near, pairs) for one in both if one is not None]
        return self._usable([*best, *mixed])[: len(best) + max(2, self._plan.width // 2)]

    def _near(self, one: Candidate, pool: ExamplePool, rows: Sequence[Row]) -> list[ExampleSet]:
        """Returns sets near that of a candidate: another order or example, another draw, and such as lean less.

        A few examples make a small model favour the label that stands last or most often among them (Zhao et al. 2021,
        arXiv:2102.09690). Where a candidate answers one label too often and another too seldom, examples are moved or
        exchanged against that.
        """
        if not pool.sizes:
            return []
        shown, dice = one.shown, self._dice
        if not shown.examples:
            return [pool.draw(dice, size, dice.choice(pool.kinds)) for size in pool.sizes[:2]]
        kinds: dict[str, Kind] = {one: one for one in pool.kinds}
        kind = kinds.get(shown.kind, pool.kinds[0])
        size = min(pool.sizes, key=lambda size: abs(size - len(shown.examples)))
        larger = next((other for other in pool.sizes if other > size), size)
        found = [pool.replaced(dice, shown), pool.reordered(dice, shown), pool.draw(dice, larger, kind)]
        if pool.classes and (asked := rows[: self._rows_of(one)]):
            outcomes = self._trials.outcomes(one, asked)
            lean = Counter(outcome.answer for outcome in outcomes)
            lean.subtract(row.answer for row in asked)
            over = max(pool.classes, key=lambda label: lean[label])
            under = min(pool.classes, key=lambda label: lean[label])
            if lean[over] - lean[under] > len(asked) // 10:
                found = [pool.moved_last(shown, under), pool.tilted(dice, shown, over, under), *found]
        return found

    def _halved(self, pool: Sequence[Candidate], rows: Sequence[Row], until: int) -> list[Candidate]:
        """Returns the candidates of a pool, the best first: each round keeps the better half and doubles the rows.

        Args:
            until: calls that may be spent when it ends, those before it among them.
        """
        pool = list(pool)
        calls = min(until - self._trials.cost.calls, self._trials.left)
        while len(pool) > 2 and _first_rows(len(pool), calls) < _FEWEST_ROWS:
            pool.pop()  # the last ones are the least certain
        count = min(len(rows), max(_FEWEST_ROWS, _first_rows(len(pool), calls)))
        out: list[Candidate] = []
        while True:
            need = sum(max(0, count - self._rows_of(one)) for one in pool)
            if need > min(until - self._trials.cost.calls, self._trials.left):
                break
            tried = [self._try(one, rows[:count]) for one in pool]
            ranked = sorted(tried, key=lambda one: one.standing.promise)
            pool = [one.candidate for one in reversed(ranked)]
            half = max(2, (len(pool) + 1) // 2)
            if count == len(rows) or len(pool) <= 2:
                break
            out, pool = pool[half:] + out, pool[:half]
            count = min(len(rows), 2 * count)
        return [*pool, *out]

    def _try(self, candidate: Candidate, rows: Sequence[Row]) -> Tried:
        """Returns the standing on at least these rows: those that it was asked already stay in."""
        tried = Tried(candidate, self._trials.standing(candidate, rows))
        known = self._standings.get(candidate.key)
        if known is None or known.standing.rows <= tried.standing.rows:
            self._standings[candidate.key] = tried
        return tried

    def _rows_of(self, candidate: Candidate) -> int:
        known = self._standings.get(candidate.key)
        return 0 if known is None else known.standing.rows

    def _usable(self, found: Sequence[Candidate]) -> list[Candidate]:
        return [one for one in _different(found) if one.key == self._first.key or usable(one.text)]


def _first_rows(count: int, calls: int) -> int:
    """Returns how many rows a first round may have if every further one halves the candidates and doubles the rows."""
    rounds = max(1, count.bit_length() - 2)
    return int(calls / (count * (1 + rounds / 2)))


def _different(found: Sequence[Candidate]) -> list[Candidate]:
    return list({one.key: one for one in reversed(found)}.values())[::-1]


def _check_variables(start: PromptText, rows: Sequence[Row]) -> None:
    for row in rows:
        if missing := [name for name in start.variables if name not in row.fields]:
            raise InvalidRequest.of(
                "prompts_variable", name=missing[0], known=", ".join(map(str, row.fields)), param="data"
            )
