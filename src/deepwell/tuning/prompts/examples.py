"""Sets of few-shot examples, bootstrapped from training rows that the start prompt was asked."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from deepwell.tuning.prompts.candidates import Example, ExampleSet
from deepwell.tuning.prompts.metrics import Outcome
from deepwell.tuning.prompts.rows import Row, labels_of

__all__ = ["ExamplePool", "Kind"]

Kind = Literal["right", "wrong", "mixed"]
"""Rows that examples are drawn from: those whose answer of the start was right, was wrong, or all."""

_FEWEST: Final = 8  # rows of a kind that is drawn from
_FORMS: Final = 24  # most different answers that are taken for classes


class ExamplePool:
    """Examples to draw from.

    A row without an answer of its own becomes an example with the model's answer, if the metric passed that.

    Args:
        rows: training rows.
        outcomes: what the start prompt got for them, by the row's key.
        most: most examples of a set.
        characters: length at which the input of an example is cut.

    Attributes:
        sizes: the sizes of sets that can be drawn; empty: there is nothing to show.
        kinds: the kinds that have rows.
    """

    def __init__(
        self, rows: Sequence[Row], outcomes: Mapping[str, Outcome], *, most: int = 16, characters: int = 400
    ) -> None:
        self._characters = characters
        self._rows: dict[Kind, list[tuple[Row, str]]] = {"right": [], "wrong": [], "mixed": []}
        for row in rows:
            outcome = outcomes.get(row.key)
            answer = row.answer or (outcome.answer if outcome is not None and outcome.passed else "")
            if not answer or "{{" in row.input + answer or "\0" in row.input + answer:
                continue
            if row.answer and outcome is not None:
                self._rows["right" if outcome.passed else "wrong"].append((row, answer))
            self._rows["mixed"].append((row, answer))
        answers = labels_of(row for row, _ in self._rows["mixed"])
        few = 2 <= len(answers) <= min(_FORMS, most)
        self.classes = answers if few and len(answers) * 4 <= len(self._rows["mixed"]) else ()
        known: list[Kind] = [kind for kind, found in self._rows.items() if len(found) >= _FEWEST]
        self.kinds: tuple[Kind, ...] = tuple(known) or ("mixed",)
        step = len(self.classes) or 2
        room = min(most, len(self._rows["mixed"]))
        self.sizes = tuple(step * times for times in (1, 2, 4, 8) if step * times <= room)

    def draw(self, dice: random.Random, size: int, kind: Kind) -> ExampleSet:
        """Returns a set in a random order, with as many examples of each class."""
        pool = list(self._rows[kind])
        dice.shuffle(pool)
        if not self.classes:
            chosen = pool[:size]
        else:
            chosen = []
            spare = list(self._rows["mixed"])
            dice.shuffle(spare)
            for label in self.classes:
                each = size // len(self.classes)
                mine = [one for one in (*pool, *spare) if one[1] == label]
                chosen += list({row.key: (row, answer) for row, answer in mine}.values())[:each]
            dice.shuffle(chosen)
        return ExampleSet(tuple(self._example(row, answer) for row, answer in chosen), kind)

    def replaced(self, dice: random.Random, shown: ExampleSet) -> ExampleSet:
        """Returns a set with one example exchanged for another of the same answer, and the others in their order."""
        place = dice.randrange(len(shown.examples))
        old = shown.examples[place]
        taken = {one.input for one in shown.examples}
        pool = [
            self._example(row, answer)
            for row, answer in self._rows["mixed"]
            if not self.classes or answer == old.answer
        ]
        fresh = [one for one in pool if one.input not in taken]
        if not fresh:
            return shown
        examples = list(shown.examples)
        examples[place] = dice.choice(fresh)
        return ExampleSet(tuple(examples), shown.kind)

    def reordered(self, dice: random.Random, shown: ExampleSet) -> ExampleSet:
        """Returns the same examples in another order."""
        examples = list(shown.examples)
        dice.shuffle(examples)
        return ExampleSet(tuple(examples), shown.kind)

    def moved_last(self, shown: ExampleSet, answer: str) -> ExampleSet:
        """Returns the same examples, those with an answer at the end."""
        examples = sorted(shown.examples, key=lambda one: one.answer == answer)
        return ExampleSet(tuple(examples), shown.kind)

    def tilted(self, dice: random.Random, shown: ExampleSet, over: str, under: str) -> ExampleSet:
        """Returns a set with one example of the answer `over` exchanged for one of the answer `under`."""
        taken = {one.input for one in shown.examples}
        pool = [self._example(row, answer) for row, answer in self._rows["mixed"] if answer == under]
        fresh = [one for one in pool if one.input not in taken]
        places = [place for place, one in enumerate(shown.examples) if one.answer == over]
        if not fresh or not places:
            return shown
        examples = list(shown.examples)
        examples[dice.choice(places)] = dice.choice(fresh)
        return ExampleSet(tuple(examples), shown.kind)

    def _example(self, row: Row, answer: str) -> Example:
        text = row.input
        if len(text) > self._characters:
            head = text[: self._characters]
            text = (head.rsplit(" ", 1)[0] if " " in head else head).rstrip() + " ..."
        return Example(text, answer)
