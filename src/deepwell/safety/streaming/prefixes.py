"""`prefixes`: from a regular expression, the one that matches every beginning of its matches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["prefixes"]

_ASSERTIONS: Final = (r"\b", r"\B", "^", "$")
_QUANTIFIERS: Final = "?*+{"


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of an expression: its text, and that of its beginnings, which includes the empty one.

    Attributes:
        single: whether it matches one character or none, so that it has no beginning of its own.
    """

    text: str
    beginnings: str
    single: bool = False


def prefixes(pattern: str) -> str:
    """Returns an expression that matches the beginnings of what `pattern` matches, from no character to all of them.

    A beginning of `xyz` is nothing, or a beginning of `x`, or `x` and a beginning of `yz`; one of `x{2,5}` is up to four `x`
    and a beginning of `x`. Known is the syntax that the guard's expressions need: classes, escapes, groups that capture
    nothing, with flags for a group or for all that follows, alternatives and repetitions, greedy or not.

    Raises:
        ValueError: the pattern uses other syntax.
    """
    reader = _Reader(pattern)
    whole = reader.alternatives()
    if reader.at < len(pattern):
        raise ValueError(f"unbalanced bracket at {reader.at} of {pattern}")
    return whole.beginnings


class _Reader:
    """Reads an expression from left to right."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self.at = 0

    def _next(self) -> str:
        return self._pattern[self.at : self.at + 1]

    def alternatives(self) -> _Part:
        """Reads up to a closing bracket or the end."""
        flags = ""
        if (
            self._pattern.startswith("(?", self.at)
            and self._pattern[self.at + 2 :].partition(")")[0].isalpha()
        ):
            close = self._pattern.index(")", self.at) + 1
            flags, self.at = self._pattern[self.at + 2 : close - 1], close
        choices = [self._sequence()]
        while self._next() == "|":
            self.at += 1
            choices.append(self._sequence())
        opens = f"(?{flags}:"
        if len(choices) == 1 and not flags:
            return choices[0]
        return _Part(
            opens + "|".join(one.text for one in choices) + ")",
            opens + "|".join(one.beginnings for one in choices) + ")",
        )

    def _sequence(self) -> _Part:
        parts: list[_Part] = []
        while self._next() not in ("", "|", ")"):
            parts.append(self._repeated())
        beginnings = ""
        for part in reversed(parts):
            follows = f"{part.text}{beginnings}"
            if part.text in _ASSERTIONS:
                beginnings = f"(?:{follows})?" if beginnings else ""
            elif part.single:
                beginnings = f"(?:{follows})?"
            else:
                beginnings = f"(?:{follows}|{part.beginnings})" if beginnings else part.beginnings
        return _Part("".join(part.text for part in parts), beginnings)

    def _repeated(self) -> _Part:
        part = self._atom()
        if self._next() == "" or self._next() not in _QUANTIFIERS:
            return part
        least, most = self._quantifier()
        if self._next() == "?":
            self.at += 1
        times = f"{{{least},{'' if most is None else most}}}"
        if part.single:
            up_to = "*" if most is None else f"{{0,{most}}}"
            return _Part(part.text + times, part.text + up_to)
        up_to = "*" if most is None else f"{{0,{most - 1}}}"
        return _Part(part.text + times, f"{part.text}{up_to}{part.beginnings}")

    def _quantifier(self) -> tuple[int, int | None]:
        sign = self._next()
        if sign != "{":
            self.at += 1
            return {"?": (0, 1), "*": (0, None), "+": (1, None)}[sign]
        close = self._pattern.index("}", self.at)
        least, comma, most = self._pattern[self.at + 1 : close].partition(",")
        self.at = close + 1
        return int(least), (int(most) if most else None) if comma else int(least)

    def _atom(self) -> _Part:
        begin, sign = self.at, self._next()
        if sign == "(":
            return self._group()
        if sign == "[":
            self._class()
        elif sign == "\\":
            named = self._pattern[begin + 1] in "pP"
            self.at = self._pattern.index("}", begin) + 1 if named else begin + 2
        elif sign in _QUANTIFIERS:
            raise ValueError(f"nothing to repeat at {begin} of {self._pattern}")
        else:
            self.at += 1
        text = self._pattern[begin : self.at]
        return _Part(text, "" if text in _ASSERTIONS else f"{text}?", text not in _ASSERTIONS)

    def _class(self) -> None:
        at = self.at + 1
        at += self._pattern[at] == "^"
        at += self._pattern[at] == "]"
        while self._pattern[at] != "]":
            at += 2 if self._pattern[at] == "\\" else 1
        self.at = at + 1

    def _group(self) -> _Part:
        flags, colon, _ = self._pattern[self.at + 1 :].partition(":")
        if not colon or not flags.startswith("?") or not (flags == "?" or flags[1:].isalpha()):
            raise ValueError(f"unknown group at {self.at} of {self._pattern}")
        self.at += 1 + len(flags) + 1
        inner = self.alternatives()
        if self._next() != ")":
            raise ValueError(f"unbalanced bracket at {self.at} of {self._pattern}")
        self.at += 1
        opens = f"({flags}:"
        return _Part(f"{opens}{inner.text})", f"{opens}{inner.beginnings})")
