"""Pairs of answers for people to compare, and the votes that they export."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from deepwell.errors import InvalidRequest
from deepwell.tuning.evaluate.agreement import Choice
from deepwell.tuning.evaluate.generation import Answer
from deepwell.tuning.evaluate.tasks import Prompt, read_rows

__all__ = ["Votes", "pair_lines", "read_votes"]

_CHOICES = ("first", "second", "tie")


@dataclass(frozen=True, slots=True)
class Votes:
    """The votes of a file.

    Attributes:
        by_rater: choices of each rater, by pair.
    """

    first: str
    second: str
    by_rater: Mapping[str, Mapping[int, Choice]]


def pair_lines(
    models: tuple[str, str], prompts: Sequence[Prompt], answers: tuple[Sequence[Answer], Sequence[Answer]]
) -> Iterator[dict[str, Any]]:
    """Yields the pairs whose answers differ, as the rating page takes them."""
    for prompt, first, second in zip(prompts, *answers, strict=True):
        if first.text.strip() != second.text.strip():
            yield {
                "prompt": _shown(prompt),
                "first": {"model": models[0], "answer": first.text},
                "second": {"model": models[1], "answer": second.text},
            }


def read_votes(path: Path) -> Votes:
    """Returns the votes of a file that the rating page exported.

    Raises:
        InvalidRequest: a line is no vote, or of other models than the first.
    """
    found: dict[str, dict[int, Choice]] = {}
    models: tuple[str, str] | None = None
    for number, row in enumerate(read_rows(path.read_bytes(), path), 1):
        rater, index, choice = row.get("rater"), row.get("index"), row.get("choice")
        these = (row.get("first"), row.get("second"))
        sound = isinstance(rater, str) and isinstance(index, int) and choice in _CHOICES
        if not sound or not all(isinstance(one, str) for one in these):
            raise InvalidRequest(
                f"row {number} of {path} is no vote", fix="export the votes from the rating page"
            )
        models = models or (str(these[0]), str(these[1]))
        if these != models:
            raise InvalidRequest(
                f"row {number} of {path} is of other models", fix="give the votes of one study"
            )
        found.setdefault(str(rater), {})[int(str(index))] = cast("Choice", choice)
    if models is None:
        raise InvalidRequest(f"{path} has no votes", fix="export the votes from the rating page")
    return Votes(*models, found)


def dump(line: Mapping[str, Any]) -> str:
    """Returns a line of a file of pairs."""
    return json.dumps(line, ensure_ascii=False) + "\n"


def _shown(prompt: Prompt) -> str:
    """Returns a conversation as text; a single question is itself."""
    if len(prompt.messages) == 1:
        return prompt.context
    return "\n\n".join(f"{message.get('role')}: {message.get('content')}" for message in prompt.messages)
