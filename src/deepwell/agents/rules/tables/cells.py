"""`Cell`: one condition of a table, in a notation that can be checked without running it.

====================  ==========================================================
empty or ``-``        anything, a missing fact too
``18``                the number; ``= 18`` is the same
``< 5``, ``>= 5``     numbers and dates on one side
``[5..20)``           from 5 to below 20; ``(`` and ``)`` leave the end out
``mit, apache``       one of several; each may be any of the above
``"a, b"``            a text with a comma
``not mit, apache``   a fact is there, and it is none of these
``present, absent``   whether there is a fact at all
====================  ==========================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Final

from deepwell.agents.rules.facts import ArgumentType, DoesNotFit, Value

__all__ = ["ANYTHING", "Cell", "Interval", "parse_cell"]

_NUMBER: Final = r"[+-]?\d+(?:\.\d+)?"
_POINT: Final = rf"(\d{{4}}-\d\d-\d\d|{_NUMBER})"
_SIDE: Final = re.compile(rf"(<=|>=|<|>|=)?\s*{_POINT}\Z")
_BETWEEN: Final = re.compile(rf"([\[(])\s*{_POINT}\s*\.\.\s*{_POINT}\s*([\])])\Z")
_PART: Final = re.compile(r'\s*("(?:[^"]*)"|[^,"]+)\s*(?:,|\Z)')


@dataclass(frozen=True, slots=True)
class Interval:
    """Numbers between two ends; None: without an end."""

    low: Decimal | None
    high: Decimal | None
    low_open: bool = False
    high_open: bool = False

    def holds(self, value: Decimal) -> bool:
        """Returns whether a number lies inside."""
        if self.low is not None and (value < self.low or (self.low_open and value == self.low)):
            return False
        return self.high is None or not (value > self.high or (self.high_open and value == self.high))

    def expression(self, name: str) -> str:
        """Returns the condition on a variable in zen's notation."""
        if self.low is not None and self.low == self.high:
            return f"{name} == {self.low:f}"
        parts = [] if self.low is None else [f"{name} {'>' if self.low_open else '>='} {self.low:f}"]
        if self.high is not None:
            parts.append(f"{name} {'<' if self.high_open else '<='} {self.high:f}")
        return " and ".join(parts)


@dataclass(frozen=True, slots=True)
class Cell:
    """A condition: numbers of some intervals, or one of some texts, or the fact's presence.

    Attributes:
        anything: there is no condition.
        absent: the condition is that there is no such fact.
        negated: the condition holds for all facts but the named ones; without any, for each.
    """

    anything: bool = False
    absent: bool = False
    negated: bool = False
    intervals: tuple[Interval, ...] = ()
    texts: tuple[str, ...] = ()

    def holds(self, value: Decimal | str | None) -> bool:
        """Returns whether a value fits; None stands for a missing fact, dates and truth values for texts and numbers."""
        if self.anything:
            return True
        if self.absent or value is None:
            return self.absent and value is None
        if isinstance(value, str):
            return (value in self.texts) != self.negated
        return any(one.holds(value) for one in self.intervals) != self.negated

    def expression(self, name: str) -> str:
        """Returns the condition on a variable in zen's notation, which is empty where anything fits."""
        if self.anything:
            return ""
        if self.absent:
            return f"{name} == null"
        parts = [f"({one.expression(name)})" for one in self.intervals]
        either = " or ".join([*parts, *(f"{name} == {_quoted(one)}" for one in self.texts)])
        if self.negated:
            return f"{name} != null and not ({either})" if either else f"{name} != null"
        return f"{name} != null and ({either})"


ANYTHING: Final = Cell(anything=True)


def parse_cell(text: str, kind: ArgumentType) -> Cell:
    """Returns the condition that a cell states on values of a type.

    Raises:
        DoesNotFit: the cell is in another notation, or names a value that the type does not have.
    """
    text = text.strip()
    if text in ("", "-"):
        return ANYTHING
    if text == "absent":
        return Cell(absent=True)
    if text == "present":
        return Cell(negated=True)
    negated = text.startswith("not ")
    parts, at = list[str](), 4 if negated else 0
    while at < len(text):
        found = _PART.match(text, at)
        if found is None:
            raise DoesNotFit("rules_cell", cell=text[:80])
        parts.append(found[1].strip())
        at = found.end()
    if not parts:
        raise DoesNotFit("rules_cell", cell=text[:80])
    if kind.limits() is not None:
        intervals = tuple(_interval(part, kind) for part in parts)
        return Cell(negated=negated, intervals=intervals)
    texts = tuple(str(_text(part, kind)) for part in parts)
    return Cell(negated=negated, texts=texts)


def _interval(part: str, kind: ArgumentType) -> Interval:
    if found := _BETWEEN.match(part):
        low, high = _point(found[2], kind), _point(found[3], kind)
        interval = Interval(low, high, found[1] == "(", found[4] == ")")
        if low > high or (low == high and (interval.low_open or interval.high_open)):
            raise DoesNotFit("rules_cell_empty", cell=part[:80])
        return interval
    found = _SIDE.match(part)
    if found is None:
        raise DoesNotFit("rules_cell", cell=part[:80])
    point = _point(found[2], kind)
    match found[1]:
        case "<" | "<=":
            return Interval(None, point, high_open=found[1] == "<")
        case ">" | ">=":
            return Interval(point, None, low_open=found[1] == ">")
        case _:
            return Interval(point, point)


def _point(text: str, kind: ArgumentType) -> Decimal:
    if kind.type == "date":
        try:
            return Decimal(date.fromisoformat(text).isoformat().replace("-", ""))
        except ValueError:
            raise DoesNotFit("rules_value_type", value=text, type="date (YYYY-MM-DD)") from None
    if text.count("-") > 1:
        raise DoesNotFit("rules_value_type", value=text, type=kind.type)
    return Decimal(text)


def _text(part: str, kind: ArgumentType) -> Value:
    text = part[1:-1] if part.startswith('"') else part
    if kind.type == "boolean":
        if text not in ("true", "false"):
            raise DoesNotFit("rules_value_type", value=text, type="boolean")
        return text
    if ("'" in text and '"' in text) or "\\" in text:
        raise DoesNotFit("rules_cell", cell=text[:80])
    return kind.checked(text)


def _quoted(text: str) -> str:
    quote = '"' if "'" in text else "'"
    return f"{quote}{text}{quote}"
