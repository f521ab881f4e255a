"""Judges free answers to the questions by the values they hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

__all__ = ["f1", "holds"]

_COMMA: Final = re.compile(r"(?<=\d)[,\u00a0 ](?=\d{3}(?!\d))")
_MONTH_FIRST: Final = re.compile(r"\b([a-z]{3,9})\.? (\d{1,2})(?:st|nd|rd|th)?,? (\d{4})\b")
_ORDINAL: Final = re.compile(r"\b(\d{1,2})(?:st|nd|rd|th)\b(?: of)?")
_SPACE: Final = re.compile(r"\s+")


def holds(answer: str, value: str) -> bool:
    """Returns whether an answer states a value, as a whole word: 48213 is not in 148213.

    Case, commas in numbers, the order of day and month, and spaces and hyphens between words do not count.
    """
    wanted = re.escape(_plain(value))
    return re.search(rf"(?<![0-9a-z]){wanted}(?![0-9a-z])", _plain(answer)) is not None


def f1(answer: str, wanted: Sequence[str], others: Iterable[str]) -> float:
    """Returns the F1 of the values that an answer states: those wanted, against those of other facts that it states too."""
    right = sum(holds(answer, one) for one in wanted)
    wrong = sum(holds(answer, one) for one in others if one not in wanted)
    return 2 * right / (len(wanted) + right + wrong) if right else 0.0


def _plain(text: str) -> str:
    text = _SPACE.sub(" ", text.casefold().replace("-", " ").replace("gray", "grey"))
    text = _COMMA.sub("", _ORDINAL.sub(r"\1", text))
    return _MONTH_FIRST.sub(r"\2 \1 \3", text)
