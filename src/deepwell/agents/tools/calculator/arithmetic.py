"""Exact arithmetic on text: a recursive-descent parser over fractions, with bounds on length, depth and size.

sum     = product (("+" | "-") product)*
product = sign (("*" | "/" | "//" | "%" | "mod") sign)*
sign    = ("+" | "-")* power
power   = percent (("^" | "**") sign)?
percent = atom "%"*                        # where no operand follows
atom    = number | constant | name "(" sum ("," sum)* ")" | "(" sum ")"
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from decimal import Context, Decimal, Inexact
from fractions import Fraction
from typing import Final

__all__ = ["ArithmeticProblem", "evaluate", "shown"]

_MOST_CHARACTERS: Final = 1000
_MOST_DEPTH: Final = 50
_MOST_BITS: Final = 20_000
_MOST_EXPONENT: Final = 1000
_MOST_NUMBER_EXPONENT: Final = 300
_DIGITS: Final = 12  # of a result that is rounded
_MOST_EXACT_DIGITS: Final = 40
_PRECISE: Final = Context(prec=60)

_ALIKE: Final = str.maketrans(
    {"×": "*", "·": "*", "∙": "*", "÷": "/", "−": "-", "–": "-", "—": "-", "，": ",", "、": ","}
)
_TOKEN: Final = re.compile(
    r"\s*(?:(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_]+)|(?P<sign>\*\*|//|[-+*/%^(),√]))"
)
# A comma between digits groups thousands, unless it separates the arguments of a function: max(1,200) has two.
_GROUPED: Final = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")


class ArithmeticProblem(Exception):
    """Raised for an expression that has no value, in words that let a model mend it."""


def evaluate(text: str) -> Fraction:
    """Returns the exact value of an expression; roots and fractional powers have 60 digits.

    Raises:
        ArithmeticProblem: it cannot be read, has no value, or is too large.
    """
    if len(text) > _MOST_CHARACTERS:
        raise ArithmeticProblem(f"The expression is longer than {_MOST_CHARACTERS} characters.")
    return _Parser(_tokens(_plain(text))).whole()


def shown(value: Fraction) -> str:
    """Returns a value as a decimal number: exact if it ends within 40 digits, else with 12 significant ones and a note."""
    if abs(value.numerator).bit_length() - value.denominator.bit_length() <= 3.4 * _MOST_EXACT_DIGITS:
        exact = Context(prec=_MOST_EXACT_DIGITS, traps=[])
        found = exact.divide(Decimal(value.numerator), Decimal(value.denominator))
        if not exact.flags[Inexact]:
            text = f"{found:f}"
            if len(text) <= _MOST_EXACT_DIGITS + 2:
                return text.rstrip("0").rstrip(".") if "." in text else text
    rounded = Context(prec=_DIGITS).divide(Decimal(value.numerator), Decimal(value.denominator))
    plain = -8 <= rounded.adjusted() <= 15
    text = f"{rounded:f}" if plain else f"{rounded:E}"
    if plain and "." in text:
        text = text.rstrip("0").rstrip(".")
    return f"{text} (rounded)"


def _plain(text: str) -> str:
    """Returns the text with one character for each sign, and without thousands separators and currency signs."""
    text = unicodedata.normalize("NFKC", text).translate(_ALIKE).strip()
    text = text.rstrip("=? ").strip("$€¥£ ")
    return _GROUPED.sub(lambda found: _ungrouped(found, text), text)


def _ungrouped(found: re.Match[str], text: str) -> str:
    """Returns digits without their commas, unless they are arguments of a function."""
    before = text[: found.start()]
    open_names, depth = list[bool](), 0
    for place, character in enumerate(before):
        if character == "(":
            open_names.append(before[:place].rstrip()[-1:].isalpha())
        elif character == ")" and open_names:
            open_names.pop()
        depth = len(open_names)
    return found.group() if depth and open_names[-1] else found.group().replace(",", "")


def _tokens(text: str) -> list[tuple[str, str]]:
    found, place = list[tuple[str, str]](), 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            if not text[place:].strip():
                break
            wrong = text[place:].strip()[:1]
            raise ArithmeticProblem(
                f"{wrong!r} cannot be calculated with. Write numbers, + - * / ^ % and brackets only."
            )
        found.append((str(match.lastgroup), match.group(str(match.lastgroup))))
        place = match.end()
    if not found:
        raise ArithmeticProblem("The expression is empty.")
    return found


class _Parser:
    """Reads tokens once, from left to right, and calculates on the way."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens, self._place, self._depth = tokens, 0, 0

    def whole(self) -> Fraction:
        value = self._sum()
        if self._place < len(self._tokens):
            raise ArithmeticProblem(
                f"{self._tokens[self._place][1]!r} is out of place. Send one expression, such as (12.5 + 3) * 4."
            )
        return value

    def _next(self) -> str:
        """Returns the sign or name at the place, "0" for a number, and "" at the end."""
        if self._place >= len(self._tokens):
            return ""
        kind, text = self._tokens[self._place]
        return "0" if kind == "number" else text

    def _taken(self, *signs: str) -> str:
        sign = self._next()
        if sign not in signs:
            return ""
        self._place += 1
        return sign

    def _sum(self) -> Fraction:
        value = self._product()
        while sign := self._taken("+", "-"):
            other = self._product()
            value = _bounded(value + other if sign == "+" else value - other)
        return value

    def _product(self) -> Fraction:
        value = self._sign()
        while sign := self._taken("*", "/", "//", "%", "mod"):
            other = self._sign()
            if sign == "*":
                value = _bounded(value * other)
                continue
            if not other:
                raise ArithmeticProblem("It divides by zero.")
            if sign == "/":
                value = _bounded(value / other)
            else:
                value = Fraction(value // other) if sign == "//" else value % other
        return value

    def _sign(self) -> Fraction:
        negative = False
        while sign := self._taken("+", "-"):
            negative ^= sign == "-"
        value = self._power()
        return -value if negative else value

    def _power(self) -> Fraction:
        base = self._percent()
        if not self._taken("^", "**"):
            return base
        self._deeper()
        exponent = self._sign()
        self._depth -= 1
        return _power(base, exponent)

    def _percent(self) -> Fraction:
        value = self._atom()
        while self._next() == "%" and not self._operand_follows():
            self._place += 1
            value /= 100
        return value

    def _operand_follows(self) -> bool:
        following = self._tokens[self._place + 1] if self._place + 1 < len(self._tokens) else ("", "")
        return (following[0] in ("number", "name") and following[1] != "mod") or following[1] in ("(", "√")

    def _atom(self) -> Fraction:
        if self._place >= len(self._tokens):
            raise ArithmeticProblem("The expression ends too early.")
        kind, text = self._tokens[self._place]
        self._place += 1
        if kind == "number":
            return _number(text)
        self._deeper()
        if text == "√":
            value = _root(self._atom())
        elif text == "(":
            value = self._sum()
            self._close()
        elif kind == "name":
            value = self._named(text.lower())
        else:
            raise ArithmeticProblem(f"{text!r} is out of place: a number is missing before it.")
        self._depth -= 1
        return value

    def _named(self, name: str) -> Fraction:
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name not in _FUNCTIONS:
            known = ", ".join(_FUNCTIONS)
            raise ArithmeticProblem(f"{name[:30]!r} is unknown. Write its number. Functions: {known}.")
        if not self._taken("("):
            raise ArithmeticProblem(f"{name} needs its numbers in brackets.")
        values = [self._sum()]
        while self._taken(","):
            values.append(self._sum())
        self._close()
        least, most, function = _FUNCTIONS[name]
        if not least <= len(values) <= most:
            raise ArithmeticProblem(f"{name} does not take {len(values)} numbers.")
        return _bounded(function(*values))

    def _close(self) -> None:
        if not self._taken(")"):
            raise ArithmeticProblem("A closing bracket is missing.")

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise ArithmeticProblem(f"The expression is nested more than {_MOST_DEPTH} deep.")


def _number(text: str) -> Fraction:
    _, _, exponent = text.lower().partition("e")
    if exponent and (len(exponent) > 5 or abs(int(exponent)) > _MOST_NUMBER_EXPONENT):
        raise ArithmeticProblem("A number is too large.")
    return Fraction(text)


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MOST_BITS:
        raise ArithmeticProblem("The result is too large.")
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if abs(exponent) > _MOST_EXPONENT:
        raise ArithmeticProblem(f"An exponent is beyond {_MOST_EXPONENT}.")
    if not base and exponent < 0:
        raise ArithmeticProblem("It divides by zero.")
    if exponent.denominator == 1:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if bits * abs(int(exponent)) > _MOST_BITS:
            raise ArithmeticProblem("The result is too large.")
        return base ** int(exponent)
    if base < 0:
        raise ArithmeticProblem("A negative number has no fractional power.")
    if exponent == Fraction(1, 2):
        return _root(base)
    return Fraction(_PRECISE.power(_decimal(base), _decimal(exponent)))


def _root(value: Fraction) -> Fraction:
    if value < 0:
        raise ArithmeticProblem("A negative number has no square root.")
    over, under = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if over * over == value.numerator and under * under == value.denominator:
        return Fraction(over, under)
    return Fraction(_PRECISE.sqrt(_decimal(value)))


def _decimal(value: Fraction) -> Decimal:
    return _PRECISE.divide(Decimal(value.numerator), Decimal(value.denominator))


def _round(value: Fraction, digits: Fraction = Fraction(0)) -> Fraction:
    """Rounds half away from zero, as people do."""
    if digits.denominator != 1 or abs(digits) > _MOST_NUMBER_EXPONENT:
        raise ArithmeticProblem("round takes a number, and a whole number of decimals.")
    unit = Fraction(10) ** int(digits)
    whole = math.floor(abs(value) * unit + Fraction(1, 2)) / unit
    return whole if value >= 0 else -whole


_CONSTANTS: Final = {"pi": Fraction("3.14159265358979323846264338327950288419716939937510582097494")}
_FUNCTIONS: Final[dict[str, tuple[int, int, Callable[..., Fraction]]]] = {
    "sqrt": (1, 1, _root),
    "abs": (1, 1, Fraction.__abs__),
    "round": (1, 2, _round),
    "floor": (1, 1, lambda value: Fraction(math.floor(value))),
    "ceil": (1, 1, lambda value: Fraction(math.ceil(value))),
    "min": (1, 200, lambda *values: min(values)),
    "max": (1, 200, lambda *values: max(values)),
    "sum": (1, 200, lambda *values: sum(values, Fraction(0))),
    "avg": (1, 200, lambda *values: sum(values, Fraction(0)) / len(values)),
    "mod": (2, 2, lambda value, by: value % _nonzero(by)),
}


def _nonzero(value: Fraction) -> Fraction:
    if not value:
        raise ArithmeticProblem("It divides by zero.")
    return value
