"""Speculation: tokens that probably come next, computed together with the one that is due.

A drafter proposes tokens with the chance that each is right. The scheduler takes those that are worth their row
(`DraftPolicy`), the model computes all rows of the step at once, and `accept` keeps what the sampler draws itself. So
a draft decides how many steps an answer takes and never what it says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LONGEST_KEY",
    "PENDING_ROWS",
    "SHORTEST_KEY",
    "Draft",
    "DraftPolicy",
    "DraftState",
    "Drafter",
    "Odds",
    "Pending",
    "PromptLookup",
    "RowCost",
    "accept",
]

PENDING_ROWS: Final = 16  # of a sequence, kept until it drafts or they are too many
SHORTEST_KEY, LONGEST_KEY = 2, 4  # tokens that are looked up
_FACTOR = 0x9E3779B97F4A7C15  # odd: the map is a bijection of the 64-bit numbers
_MASK = (1 << 64) - 1
# How often a match of 2-3, 4-7, 8-15 and 16 or more tokens goes on, until the sequence itself shows it.
_PRIOR = (0.1, 0.25, 0.5, 0.7)
_PRIOR_TRIALS = 2.0
# The same for the tokens of a multi-token prediction layer, which was trained for the first one alone.
_PREDICTION_PRIOR = (0.8, 0.6, 0.5)
_PROBE_AFTER, _PROBE_AFTER_AT_MOST = 8, 128  # steps
_MEMORY_TRIALS = 16.0  # counts are halved beyond them, so that the last few dozen tokens decide


@dataclass(frozen=True, slots=True)
class Draft:
    """Proposed tokens; `chances[i]` is the probability that tokens 0..i are all right."""

    tokens: list[int]
    chances: list[float]


class Drafter(Protocol):
    """Follows one sequence and proposes its next tokens."""

    @property
    def num_tokens(self) -> int:
        """Tokens of the sequence, seen so far."""
        ...

    def observe(self, tokens: Sequence[int]) -> None:
        """Take in the tokens that the sequence has gained since, whether proposed or not."""
        ...

    def propose(self, most: int) -> Draft:
        """Up to `most` tokens; none where there is nothing to go by."""
        ...


class PromptLookup:
    """Proposes what followed the last occurrence of the sequence's last 4, else 3, else 2 tokens.

    While its predictions come true it follows that occurrence, and the match grows. Every token drawn is held
    against the prediction, computed or not: the chance of a match of some length is how often such matches
    went on in this sequence. Where nothing is drafted, learning thus goes on and costs no row.

    A token costs three dictionary entries, whatever the length: about 400 bytes, beside 12,000 and more of keys and
    values. A suffix automaton would find the longest match at several times that, and following finds it as well.
    """

    def __init__(self, tokens: NDArray[np.int32]) -> None:
        self._tokens: list[int] = []
        self._ends: dict[int, int] = {}  # key of some tokens -> where they last ended
        self._from = 0  # the predicted token's place
        self._length = 0  # tokens before that place that equal the last ones; 0: no match
        self._hits = [chance * _PRIOR_TRIALS for chance in _PRIOR]
        self._trials = [_PRIOR_TRIALS] * len(_PRIOR)
        self._index(tokens[:-1])
        self.observe(tokens[-1:].tolist())

    @property
    def num_tokens(self) -> int:
        """Tokens seen so far."""
        return len(self._tokens)

    @property
    def match_length(self) -> int:
        """Tokens that the last ones have in common with their earlier occurrence; 0 without one."""
        return self._length

    def observe(self, tokens: Sequence[int]) -> None:
        known, ends = self._tokens, self._ends
        for token in tokens:
            if self._length:
                self._learn(known[self._from] == token)
            known.append(token)
            end, key = len(known), token + 1
            for size in range(SHORTEST_KEY, min(LONGEST_KEY, end) + 1):
                key = (key * _FACTOR + known[-size] + size) & _MASK
                before = ends.get(key)
                ends[key] = end
                # Two keys may share a number: the tokens decide.
                if (
                    before is not None
                    and self._length < size
                    and known[before - size : before] == known[-size:]
                ):
                    self._from, self._length = before, size

    def propose(self, most: int) -> Draft:
        draft = Draft([], [])
        if not self._length:
            return draft
        known, start, chance = self._tokens, self._from, 1.0
        left = len(known) - start
        for i in range(most):
            # Past the end the draft goes on with its own beginning, as a text that repeats itself would.
            draft.tokens.append(known[start + i] if i < left else draft.tokens[i - left])
            kind = _kind(self._length + i)
            chance *= self._hits[kind] / self._trials[kind]
            draft.chances.append(chance)
        return draft

    def _learn(self, right: bool) -> None:
        kind = _kind(self._length)
        self._trials[kind] += 1
        if right:
            self._hits[kind] += 1
            self._from += 1
            self._length += 1
        else:
            self._length = 0
        if self._trials[kind] > _MEMORY_TRIALS:
            self._trials[kind] /= 2
            self._hits[kind] /= 2

    def _index(self, tokens: NDArray[np.int32]) -> None:
        """Take the prompt in at once: `observe` without its predictions."""
        self._tokens = tokens.tolist()
        wide = tokens.astype(np.uint64)
        keys = wide + np.uint64(1)
        for size in range(SHORTEST_KEY, min(LONGEST_KEY, len(tokens)) + 1):
            keys = keys[1:] * np.uint64(_FACTOR) + wide[: len(wide) - size + 1] + np.uint64(size)
            self._ends.update(zip(keys.tolist(), range(size, len(tokens) + 1), strict=True))


def _kind(length: int) -> int:
    return min(length.bit_length(), 5) - 2


class Odds:
    """How often the predictions for one sequence came true, depth by depth: what a multi-token prediction layer drafts on.

    Its tokens are not known when a step is planned, for each of them costs a pass of the layer; how many to ask for is
    decided by the chances alone. Where they do not pay, a single prediction is made now and then and held against
    the token that comes anyway, so that a text which becomes predictable is noticed.
    """

    def __init__(self) -> None:
        self._hits = [chance * _PRIOR_TRIALS for chance in _PREDICTION_PRIOR]
        self._trials = [_PRIOR_TRIALS] * len(_PREDICTION_PRIOR)
        self._wait = self._left = _PROBE_AFTER

    def chances(self, most: int) -> list[float]:
        """The probabilities that the first 1, 2, ... `most` predictions are all right."""
        result: list[float] = []
        chance, last = 1.0, len(_PREDICTION_PRIOR) - 1
        for depth in range(most):
            kind = min(depth, last)
            chance *= self._hits[kind] / self._trials[kind]
            result.append(chance)
        return result

    def learn(self, predicted: Sequence[int], drawn: Sequence[int]) -> None:
        """Hold predictions against the tokens that the sampler drew; those behind the first wrong one show nothing."""
        last = len(_PREDICTION_PRIOR) - 1
        for depth, (guess, token) in enumerate(zip(predicted, drawn, strict=False)):
            kind = min(depth, last)
            self._trials[kind] += 1
            self._hits[kind] += guess == token
            if depth == 0 and guess == token:
                self._left = 1  # a run of successes is worth the next probe
            if self._trials[kind] > _MEMORY_TRIALS:
                self._trials[kind] /= 2
                self._hits[kind] /= 2
            if guess != token:
                break

    def probe(self) -> bool:
        """Whether to predict once without drafting; asked in each step that could have drafted and did not."""
        self._left -= 1
        if self._left:
            return False
        self._wait = self._left = min(2 * self._wait, _PROBE_AFTER_AT_MOST)
        return True

    def drafted(self) -> None:
        """Predictions pay: the next time they do not, probe soon again."""
        self._wait = self._left = _PROBE_AFTER


@dataclass(frozen=True, slots=True)
class RowCost:
    """What rows add to a step, in steps of one row.

    Arithmetic on a second row hides behind reading the weights; then it is what a step waits for. Measured on
    AVX2 with SmolLM2: 2, 4, 8 rows cost 1.05-1.3, 2.3, 4.1 steps on one core, 16 rows 6.1 on two.
    """

    second: float = 0.2
    further: float = 0.45
    predict: float = 0.0  # one pass of the multi-token prediction layer

    def of(self, rows: int) -> float:
        """Cost of row number `rows`."""
        return 1.0 if rows == 1 else self.second if rows == 2 else self.further


class DraftPolicy:
    """Decides which drafted rows pay, in one step.

    A row pays if its chance of giving a token, for what it costs, is better than what the step gives for its
    cost without it. So one sequence alone drafts readily, and one in company hardly at all.
    """

    def __init__(self, rows: int, row_cost: RowCost) -> None:
        self._row_cost = row_cost
        self._rows = rows
        self._tokens = float(rows)  # that the step is expected to give
        self._cost = sum(row_cost.of(row) for row in range(1, rows + 1))

    def take(self, chances: Iterable[float], price: float = 0.0) -> int:
        """How many of one sequence's drafted rows to add to the step; `chances` fall.

        Args:
            price: what a draft costs beside its row, in steps of one row.
        """
        taken = 0
        for chance in chances:
            if not self.pays(chance, price):
                break
            cost = self._row_cost.of(self._rows + 1) + price
            self._rows += 1
            self._tokens += chance
            self._cost += cost
            taken += 1
        return taken

    def pays(self, chance: float, price: float = 0.0) -> bool:
        """Whether one more row of such a chance would be added."""
        cost = self._row_cost.of(self._rows + 1) + price
        return chance * self._cost > cost * self._tokens


class Pending:
    """Rows of one sequence that the layer has not read: positions `first` up to `end`, the token behind each, and states."""

    __slots__ = ("count", "end", "states", "tokens")

    def __init__(self, hidden_size: int) -> None:
        self.tokens = np.empty(PENDING_ROWS, np.int32)
        self.states = np.empty((PENDING_ROWS, hidden_size), np.float32)
        self.count = self.end = 0

    @property
    def first(self) -> int:
        """Position of the first row."""
        return self.end - self.count

    def add(self, first: int, tokens: NDArray[np.int32], states: NDArray[np.float32]) -> None:
        """Append rows; what does not lie right before them is forgotten, for the sequence was preempted."""
        if self.end != first:
            self.count = 0
        end = self.count + len(tokens)
        self.tokens[self.count : end] = tokens
        self.states[self.count : end] = states
        self.count, self.end = end, first + len(tokens)


class DraftState:
    """What speculation knows of one sequence."""

    __slots__ = ("accepted_tokens", "drafter", "odds", "pending")

    def __init__(self) -> None:
        self.drafter: Drafter | None = None  # from the first draft on
        self.odds: Odds | None = None  # of predictions, from the first step on that could draft
        self.pending: Pending | None = None  # rows that the prediction layer has not read yet
        self.accepted_tokens = 0


def accept(draft: Sequence[int], drawn: Iterable[int], stop_ids: frozenset[int]) -> list[int]:
    """The tokens that one step gives a sequence: what was drawn, up to the first that is not the drafted one.

    Args:
        draft: the tokens whose rows were computed behind the one that was due.
        drawn: what the sampler draws from each row, [len(draft) + 1]; asked for one by one, no further than needed.
        stop_ids: tokens that end the sequence.
    """
    tokens: list[int] = []
    for position, token in enumerate(drawn):
        tokens.append(token)
        if position == len(draft) or token != draft[position] or token in stop_ids:
            break
    return tokens
