"""Formulas of multi graders: arithmetic over the scores of other graders, read by a parser of their own grammar.

    sum     = product (("+" | "-") product)*
    product = signed (("*" | "/") signed)*
    signed  = ("+" | "-") signed | power
    power   = atom ["^" signed]
    atom    = number | name | function "(" sum ("," sum)* ")" | "(" sum ")"

Nothing is evaluated as code: a name is a score or one of eight functions, and every value is a float.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deepwell.errors import InvalidRequest

__all__ = ["FUNCTIONS", "evaluate_formula", "formula_names"]

FUNCTIONS: Mapping[str, tuple[Callable[..., Any], int]] = {
    "abs": (abs, 1),
    "ceil": (math.ceil, 1),
    "exp": (math.exp, 1),
    "floor": (math.floor, 1),
    "log": (math.log, 1),
    "max": (max, 0),
    "min": (min, 0),
    "sqrt": (math.sqrt, 1),
}
"""Functions of formulas, with the number of their arguments; 0: one or more."""

_MAX_CHARACTERS = 2000
_MAX_DEPTH = 50
_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)|([A-Za-z_]\w*)|(\*\*|[-+*/^(),]))")


def evaluate_formula(formula: str, values: Mapping[str, float]) -> float:
    """Returns the value of a formula.

    Args:
        values: the scores, by the names that the formula may use.

    Raises:
        InvalidRequest: the formula cannot be read, or has no finite value for these scores.
    """
    try:
        value = _Parser(formula, values).parse()
    except (ArithmeticError, ValueError) as error:
        raise InvalidRequest(
            f"calculate_output has no value: {error}", fix="guard against a division by zero, say"
        ) from None
    if not math.isfinite(value):
        raise InvalidRequest("calculate_output has no finite value", fix="keep its parts small")
    return value


def formula_names(formula: str) -> set[str]:
    """Returns the names of scores that a formula uses.

    Raises:
        InvalidRequest: it cannot be read.
    """
    names: set[str] = set()
    _Parser(formula, None, names).parse()
    return names


class _Parser:
    """Reads a formula and computes it on the way. Without values, it reads only."""

    def __init__(
        self, formula: str, values: Mapping[str, float] | None, names: set[str] | None = None
    ) -> None:
        self._values = values
        self._names = names if names is not None else set[str]()
        self._tokens = _tokens(formula)
        self._place = 0
        self._depth = 0

    def parse(self) -> float:
        value = self._sum()
        if self._next() != "":
            raise _unreadable(f"{self._next()!r} is out of place")
        return value

    def _sum(self) -> float:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _unreadable("it is nested too deeply")
        value = self._product()
        while self._next() in ("+", "-"):
            sign = self._take()
            other = self._product()
            value = value + other if sign == "+" else value - other
        self._depth -= 1
        return value

    def _product(self) -> float:
        value = self._signed()
        while self._next() in ("*", "/"):
            sign = self._take()
            other = self._signed()
            value = value * other if sign == "*" else self._computed(lambda a, b: a / b, value, other)
        return value

    def _signed(self) -> float:
        negative = False
        while self._next() in ("+", "-"):
            negative ^= self._take() == "-"
        value = self._power()
        return -value if negative else value

    def _power(self) -> float:
        value = self._atom()
        if self._next() not in ("^", "**"):
            return value
        self._take()
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _unreadable("it is nested too deeply")
        exponent = self._signed()
        self._depth -= 1
        return self._computed(math.pow, value, exponent)

    def _atom(self) -> float:
        if self._next() == "(":
            self._take()
            value = self._sum()
            self._expect(")")
            return value
        token = self._take()
        if token[:1].isdigit() or token[:1] == ".":
            return float(token)
        if not token[:1].isalpha() and token[:1] != "_":
            raise _unreadable(f"{token!r} is out of place" if token else "it ends too early")
        if self._next() == "(":
            return self._call(token)
        if self._values is not None and token not in self._values:
            known = ", ".join(sorted(self._values)) or "none"
            raise _unreadable(f"there is no grader {token!r}; the graders are: {known}")
        self._names.add(token)
        return float(self._values[token]) if self._values is not None else 1.0

    def _call(self, name: str) -> float:
        if name not in FUNCTIONS:
            raise _unreadable(f"there is no function {name!r}; the functions are: {', '.join(FUNCTIONS)}")
        self._take()
        arguments = [self._sum()]
        while self._next() == ",":
            self._take()
            arguments.append(self._sum())
        self._expect(")")
        function, count = FUNCTIONS[name]
        if count and len(arguments) != count:
            raise _unreadable(f"{name} takes {count} argument")
        if not count:
            return function(arguments)
        return self._computed(function, *arguments)

    def _computed(self, function: Callable[..., Any], *arguments: float) -> float:
        return float(function(*arguments)) if self._values is not None else 1.0

    def _next(self) -> str:
        return self._tokens[self._place] if self._place < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._next()
        self._place += 1
        return token

    def _expect(self, token: str) -> None:
        if self._take() != token:
            raise _unreadable(f"{token!r} is missing")


def _tokens(formula: str) -> Sequence[str]:
    if len(formula) > _MAX_CHARACTERS:
        raise _unreadable(f"it is longer than {_MAX_CHARACTERS} characters")
    text, place, tokens = formula.rstrip(), 0, list[str]()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise _unreadable(f"{text[place : place + 10].strip()!r} is no part of a formula")
        tokens.append(match[0].strip())
        place = match.end()
    return tokens


def _unreadable(reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"calculate_output cannot be read: {reason}",
        fix="use the names of the graders, numbers, + - * / ^, brackets and " + ", ".join(FUNCTIONS),
        param="calculate_output",
    )
