"""`PromptTask`: items with what a right answer holds, a plain prompt, and a score; and helpers that tasks share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, Literal

__all__ = ["Half", "PromptItem", "PromptTask", "digest", "json_in", "label_in", "squeezed"]

Half = Literal["development", "held_out"]
_MOST: Final = 4000  # characters of an answer that are read


@dataclass(frozen=True, slots=True)
class PromptItem:
    """One request.

    Attributes:
        id: name of the item.
        input: what both prompts are asked.
        expected: what a right answer holds, by the task's own names.
    """

    id: str
    input: str
    expected: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PromptTask:
    """The task of one pack.

    Attributes:
        pack: id of the pack.
        language: of the items.
        plain: the prompt without care: one instruction, with the same form of the answer.
        items: makes the items of a half.
        score: of an answer to an item, 0 to 1.
        values: values of the pack's variables.
        max_tokens: most tokens of an answer.
        choice: the possible answers, to which a grammar binds both prompts; empty: none does.
    """

    pack: str
    language: Literal["en", "zh"]
    plain: str
    items: Callable[[Half], Sequence[PromptItem]]
    score: Callable[[PromptItem, str], float]
    values: Mapping[str, str] = field(default_factory=dict[str, str])
    max_tokens: int = 16
    choice: tuple[str, ...] = ()


def digest(tasks: Sequence[PromptTask]) -> str:
    """Returns the SHA-256 of the held-out items of tasks: inputs and what is expected."""
    rows = [
        [task.pack, one.id, one.input, dict(one.expected)] for task in tasks for one in task.items("held_out")
    ]
    return sha256(json.dumps(rows, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def label_in(answer: str, labels: Sequence[str]) -> str | None:
    """Returns the one label that an answer names; None: it names none, or several."""
    text = answer[:_MOST].casefold()
    named = [one for one in labels if one.casefold() in text]
    return named[0] if len(named) == 1 else None


def json_in(answer: str) -> Mapping[str, Any]:
    """Returns the first JSON object of an answer, whatever is around it; an empty one if there is none."""
    text = answer[:_MOST]
    start = text.find("{")
    if start < 0:
        return {}
    try:
        value, _ = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def squeezed(text: object) -> str:
    """Returns a value as text without blanks, for comparison."""
    return re.sub(r"\s+", "", str(text)).casefold() if isinstance(text, str | int | float) else ""
