"""Speculation: likely next tokens, computed in the same step as the token that is due.

A drafter proposes tokens with the chance that each is right. The scheduler takes those that are worth their row
(`DraftPolicy`), the model computes all rows of the step at once, and `accept` keeps only tokens that the sampler draws
itself. A draft therefore affects how many steps an answer takes, but never the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.limits import RowCost

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
    "accept",
]

PENDING_ROWS: Final = 16  # most rows that a sequence keeps until it drafts
SHORTEST_KEY, LONGEST_KEY = 2, 4  # tokens that are looked up
_FACTOR = 0x9E3779B97F4A7C15  # odd, so the map is a bijection of the 64-bit numbers
_MASK = (1 << 64) - 1
# Prior chance that a match of 2-3, 4-7, 8-15 and 16 or more tokens continues, until the sequence itself shows it.
_PRIOR = (0.1, 0.25, 0.5, 0.7)
_PRIOR_TRIALS = 2.0
# The same for the tokens of a multi-token prediction layer, which was trained only for the first one.
_PREDICTION_PRIOR = (0.8, 0.6, 0.5)
_PROBE_AFTER, _PROBE_AFTER_AT_MOST = 8, 128  # steps
_MEMORY_TRIALS = 16.0  # counts are halved above this, so that the last few dozen tokens decide


@dataclass(frozen=True, slots=True)
class Draft:
    """Proposed tokens; `chances[i]` is the probability that tokens 0..i are all right."""

    tokens: list[int]
    chances: list[float]


class Drafter(Protocol):
    """Follows one sequence and proposes its next tokens."""

    @property
    def num_tokens(self) -> int:
        """Number of tokens of the sequence seen so far."""
        ...

    def observe(self, tokens: Sequence[int]) -> None:
        """Records the new tokens of the sequence, whether proposed or not."""
        ...

    def propose(self, most: int) -> Draft:
        """Returns a draft of up to `most` tokens; it is empty without a basis for one."""
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
        """Number of tokens seen so far."""
        return len(self._tokens)

    @property
    def match_length(self) -> int:
        """Number of last tokens that equal those of their earlier occurrence; 0 without one."""
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
                # Two keys may have the same hash, so the tokens are compared.
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
            # Past the end the draft continues with its own beginning, like a repeating text.
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
        """Indexes the whole prompt at once, like `observe` without its predictions."""
        self._tokens = tokens.tolist()
        wide = tokens.astype(np.uint64)
        keys = wide + np.uint64(1)
        for size in range(SHORTEST_KEY, min(LONGEST_KEY, len(tokens)) + 1):
            keys = keys[1:] * np.uint64(_FACTOR) + wide[: len(wide) - size + 1] + np.uint64(size)
            self._ends.update(zip(keys.tolist(), range(size, len(tokens) + 1), strict=True))


def _kind(length: int) -> int:
    return min(length.bit_length(), 5) - 2


class Odds:
    """The success rates, by depth, of a multi-token prediction layer's predictions for one sequence.

    The predicted tokens are not known when a step is planned, because each costs a pass of the layer. These rates alone
    decide how many to make. If they do not pay, a single prediction is made now and then and compared with the token that
    comes anyway, to notice when a text becomes predictable.
    """

    def __init__(self) -> None:
        self._hits = [chance * _PRIOR_TRIALS for chance in _PREDICTION_PRIOR]
        self._trials = [_PRIOR_TRIALS] * len(_PREDICTION_PRIOR)
        self._wait = self._left = _PROBE_AFTER

    def chances(self, most: int) -> list[float]:
        """Returns the probabilities that the first 1, 2, ... `most` predictions are all right."""
        result: list[float] = []
        chance, last = 1.0, len(_PREDICTION_PRIOR) - 1
        for depth in range(most):
            kind = min(depth, last)
            chance *= self._hits[kind] / self._trials[kind]
            result.append(chance)
        return result

    def learn(self, predicted: Sequence[int], drawn: Sequence[int]) -> None:
        """Compares predictions with the drawn tokens. Those after the first wrong one do not count."""
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
        """Returns whether to predict once without drafting. Called in each step that could have drafted and did not."""
        self._left -= 1
        if self._left:
            return False
        self._wait = self._left = min(2 * self._wait, _PROBE_AFTER_AT_MOST)
        return True

    def drafted(self) -> None:
        """Records that predictions pay, so that probing starts early again when they no longer do."""
        self._wait = self._left = _PROBE_AFTER


class DraftPolicy:
    """Decides which drafted rows of one step pay.

    A row pays if its chance of a token per cost is higher than the tokens per cost of the step without it. A single sequence
    therefore drafts readily, and one in a large batch hardly at all.
    """

    def __init__(self, rows: int, row_cost: RowCost) -> None:
        self._row_cost = row_cost
        self._rows = rows
        self._tokens = float(rows)  # expected tokens of the step
        self._cost = sum(row_cost.of(row) for row in range(1, rows + 1))

    def take(self, chances: Iterable[float], price: float = 0.0) -> int:
        """Adds those drafted rows of one sequence that pay, and returns their number. `chances` are falling.

        Args:
            price: cost of a draft in addition to its row, in steps of one row.
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
        """Returns whether one more row with this chance would be added."""
        cost = self._row_cost.of(self._rows + 1) + price
        return chance * self._cost > cost * self._tokens


class Pending:
    """Rows of one sequence that the layer has not read: positions `first` to `end`, the token after each, and states."""

    __slots__ = ("count", "end", "states", "tokens")

    def __init__(self, state_size: int) -> None:
        self.tokens = np.empty(PENDING_ROWS, np.int32)
        self.states = np.empty((PENDING_ROWS, state_size), np.float32)
        self.count = self.end = 0

    @property
    def first(self) -> int:
        """Position of the first row."""
        return self.end - self.count

    def add(self, first: int, tokens: NDArray[np.int32], states: NDArray[np.float32]) -> None:
        """Appends rows. Earlier rows that do not end right before them are dropped, because the sequence was preempted."""
        if self.end != first:
            self.count = 0
        end = self.count + len(tokens)
        self.tokens[self.count : end] = tokens
        self.states[self.count : end] = states
        self.count, self.end = end, first + len(tokens)


class DraftState:
    """The speculation state of one sequence."""

    __slots__ = ("accepted_tokens", "drafter", "odds", "pending")

    def __init__(self) -> None:
        self.drafter: Drafter | None = None  # set by the first step that could draft
        self.odds: Odds | None = None  # set by the first step that could use predictions
        self.pending: Pending | None = None  # rows that the prediction layer has not read yet
        self.accepted_tokens = 0

    def forget(self) -> None:
        """Forgets the text so far, when tokens leave a window: a lookup of an endless text would grow without end."""
        self.drafter = None
        if self.pending is not None:
            self.pending.count = 0


def accept(draft: Sequence[int], drawn: Iterable[int], stop_ids: frozenset[int]) -> list[int]:
    """Returns the tokens that one step gives a sequence: the drawn tokens, up to the first that differs from the draft.

    Args:
        draft: the tokens whose rows were computed after the token that was due.
        drawn: the sampler's token for each row, [len(draft) + 1]; consumed one by one, only as far as needed.
        stop_ids: tokens that end the sequence.
    """
    tokens: list[int] = []
    for position, token in enumerate(drawn):
        tokens.append(token)
        if position == len(draft) or token != draft[position] or token in stop_ids:
            break
    return tokens
