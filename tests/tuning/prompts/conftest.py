"""A task whose right prompt is known, with a metric that needs no model, and the tiny model of the evaluation's tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from tests.tuning.evaluate.conftest import tiny, tiny_model

from deepwell.tuning.prompts.metrics import Conversation, Outcome
from deepwell.tuning.prompts.rows import Row, key_of

__all__ = ["Oracle", "rows", "task", "tiny", "tiny_model"]


@dataclass
class Oracle:
    """Answers more rows, the more of three things a prompt has: the words "one of:", two examples or more, no "please".

    Attributes:
        asked: the key of each row that was asked, in order.
    """

    asked: list[str] = field(default_factory=list)
    name: str = "label"

    def ask(self, conversations: Sequence[Conversation], rows: Sequence[Row]) -> list[Outcome]:
        found: list[Outcome] = []
        for talk, row in zip(conversations, rows, strict=True):
            self.asked.append(row.key)
            head = " ".join(one["content"] for one in talk if one["role"] == "system")
            share = 30 + 25 * ("one of:" in head) + 25 * (len(talk) > 5) + 15 * ("please" not in head)
            right = int(row.key[-6:], 16) % 100 < share
            answer = row.answer if right else "?"
            found.append(Outcome(float(right), answer, right, len(talk), 1, float(right)))
        return found


def rows(start: int, count: int) -> list[Row]:
    """Returns rows of two labels."""
    texts = [f"text number {number}" for number in range(start, start + count)]
    return [
        Row(key_of(text), text, "ab"[place % 2], {"input": text, "label": "ab"[place % 2]})
        for place, text in enumerate(texts)
    ]


@pytest.fixture
def task() -> tuple[list[Row], list[Row], list[Row]]:
    """Training, development and held-out rows."""
    return rows(0, 120), rows(200, 160), rows(400, 200)
