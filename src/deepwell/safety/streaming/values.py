"""`OpenValues`: tells where a number, an address or a key may have begun that is not yet whole, by its own expression."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Final

from deepwell.safety.streaming.prefixes import prefixes

if TYPE_CHECKING:
    from re2 import _Regexp

__all__ = ["OpenValues", "ValueForm", "ValueForms"]

_MEMORY_BYTES: Final = 64 << 20
# Characters that are kept: the longest words in front of a value and the most that is held back.
_KEPT: Final = 160
# No value has fewer characters, such as `a@b.cn`, or an account's name of five with the character behind it.
_MIN_LENGTH: Final = 6
# Bytes of the longest words in front of a value that are looked through: 40 Han characters of an address.
_LONGEST_LEAD: Final = 120
_NOTHING: Final = r"[^\x{0}-\x{10FFFF}]"


@dataclass(frozen=True, slots=True)
class ValueForm:
    """One form of a value that may not leave a stream.

    Attributes:
        pattern: RE2 expression of the value.
        lead: expression of the words in front of it, without which it is none. They may leave.
        folded: whether both are read in folded text, and not in the text as it stands.
        behind: characters behind the value that decide whether it is one.
        closed: expression of an unfinished value and of signs behind it that may close the whole stream, such as a quotation
            mark; empty: none.
    """

    pattern: str
    lead: str = ""
    folded: bool = False
    behind: int = 0
    closed: str = ""


class ValueForms:
    """Forms of values, as expressions over the two readings of a stream. They are compiled once for all equal ones.

    Attributes:
        plain: over the text as it stands; None if there are none.
        folded: over folded text; None if there are none.
    """

    __slots__ = ("folded", "plain")

    def __init__(self, forms: Iterable[ValueForm] = ()) -> None:
        forms = tuple(forms)
        self.plain = _reading(tuple(one for one in forms if not one.folded))
        self.folded = _reading(tuple(one for one in forms if one.folded))


class OpenValues:
    """Follows one stream through the forms of values.

    NOTE: The expressions that find values tell as well whether the end of the stream is the beginning of one: `prefixes`
    makes of each that of its beginnings, and RE2 searches for all of them together, from the end backwards, at about 2 us a
    token. A word of five letters may be the beginning of an e-mail address, and then waits for the character behind it.
    """

    __slots__ = ("_fold", "_forms", "_hold_back", "_places", "_starts", "_texts", "_whole")

    def __init__(self, forms: ValueForms, fold: Callable[[str], str], hold_back: int) -> None:
        """Makes the follower.

        Args:
            fold: returns the folded reading of a character.
            hold_back: most characters that are held back. A longer value leaves from its beginning, unless it is whole before.
        """
        self._forms = forms
        self._fold = fold
        self._hold_back = hold_back
        self._whole = False
        # For the plain and the folded reading: the last characters, and the position of each in the stream.
        self._texts = ["", ""]
        self._places: list[list[int]] = [[], []]
        self._starts: list[int | None] = [None, None]

    @property
    def start(self) -> int | None:
        """Position of the first character of a value that is not whole, or that the next characters decide; None if none."""
        plain, folded = self._starts
        return folded if plain is None else plain if folded is None else min(plain, folded)

    def start_before(self, position: int) -> int | None:
        """Returns what `start` would be if the stream ended at a position."""
        starts: list[int] = []
        for expressions, text, places in zip(
            (self._forms.plain, self._forms.folded), self._texts, self._places, strict=True
        ):
            if expressions is not None:
                data = text[: bisect_left(places, position)].encode("utf-8", "replace")
                if (begun := expressions.start(data)) is not None:
                    starts.append(places[len(data[:begun].decode("utf-8"))])
        return min(starts, default=None)

    def whole(self) -> bool:
        """Tells whether a value has become whole since the last call which cannot be held any longer."""
        whole, self._whole = self._whole, False
        return whole

    def read(self, text: str, position: int) -> None:
        """Reads the next characters of the stream, the first of which stands at `position`."""
        if not text:
            return
        if self._forms.plain is not None:
            self._append(0, text, range(position, position + len(text)))
            self._search(0, self._forms.plain, position)
        if self._forms.folded is not None:
            folded, places = self._folded(text, position)
            self._append(1, folded, places)
            self._search(1, self._forms.folded, position)

    def _folded(self, text: str, position: int) -> tuple[str, Iterable[int]]:
        """Returns characters folded, white space single, and the position of each."""
        before = self._texts[1][-1:]
        if text.isascii() and text.isprintable() and "  " not in before + text:
            return text.lower(), range(position, position + len(text))
        out: list[str] = []
        places: list[int] = []
        for at, character in enumerate(text, position):
            for one in self._fold(character):
                if one != " " or before != " ":
                    out.append(one)
                    places.append(at)
                before = one
        return "".join(out), places

    def _append(self, at: int, text: str, places: Iterable[int]) -> None:
        self._texts[at] += text
        self._places[at].extend(places)
        if len(self._texts[at]) > 2 * _KEPT + len(text):
            self._texts[at] = self._texts[at][-_KEPT - len(text) :]
            self._places[at] = self._places[at][-_KEPT - len(text) :]

    def _search(self, at: int, expressions: _Expressions, position: int) -> None:
        """Notes where a value begins, and whether one is whole and cannot be held that was held or begins at `position`."""
        text, places = self._texts[at], self._places[at]
        held, self._starts[at] = self._starts[at], None
        if not text:
            return
        data = text.encode("utf-8", "replace")
        is_ascii = len(data) == len(text)
        until = len(data)
        begun = expressions.start(data)
        if begun is not None:
            place = places[begun if is_ascii else len(data[:begun].decode("utf-8"))]
            self._starts[at] = place
            # What is longer than may be held leaves, and is of interest as soon as it is whole.
            until = until if places[-1] + 1 - place > self._hold_back else begun
        first = bisect_left(places, position if held is None else held)
        first = first if is_ascii else len(text[:first].encode("utf-8", "replace"))
        if until > first and len(data) - first >= _MIN_LENGTH:
            self._whole = self._whole or expressions.holds_whole(data, first, until)


class _Expressions:
    """The expressions over one reading of a stream, put together so that RE2 looks for all of them at once."""

    def __init__(self, forms: Sequence[ValueForm]) -> None:
        alone = [one for one in forms if not one.lead]
        self._led_forms = [one for one in forms if one.lead]
        begun = [_beginnings(one) for one in alone]
        led = [one.lead + _beginnings(one) for one in self._led_forms]
        self._any_begun = _compiled([*begun, *led], at_end=True)
        self._begun = _compiled(begun, at_end=True)
        whole = [one.pattern for one in alone]
        led = [one.lead + one.pattern for one in self._led_forms]
        self._any_whole = _compiled([*whole, *led])
        self._whole = _compiled(whole)
        self._led_whole = _compiled(led)

    @cached_property
    def _each_led(self) -> list[_Regexp]:
        return [_compiled([f"{one.lead}({_beginnings(one)})"], at_end=True) for one in self._led_forms]

    def start(self, data: bytes) -> int | None:
        """Returns the first byte of a value that has begun and that more characters may make whole, or None."""
        any_begun = self._any_begun.search(data)
        first = len(data) if any_begun is None else any_begun.start()
        if first == len(data):
            return None
        found = self._begun.search(data)
        start = len(data) if found is None else found.start()
        # Otherwise words that lead to a value come first.
        if start > first:
            for one in self._each_led:
                if (found := one.search(data)) is not None:
                    start = min(start, found.start(1))
        return start if start < len(data) else None

    def holds_whole(self, data: bytes, first: int, until: int) -> bool:
        """Tells whether a value is whole that begins between two bytes, or, if words lead to it, ends behind the first."""
        if self._any_whole.search(data, first - _LONGEST_LEAD) is None:
            return False
        found = self._whole.search(data, first)
        if found is not None and found.start() < until:
            return True
        return any(found.end() > first for found in self._led_whole.finditer(data))


@lru_cache(64)
def _reading(forms: tuple[ValueForm, ...]) -> _Expressions | None:
    return _Expressions(forms) if forms else None


def _beginnings(form: ValueForm) -> str:
    """Returns the expression of the beginnings of a value, and of what decides about it."""
    begun = prefixes(form.pattern)
    if form.closed:
        begun = f"{begun}|{form.closed}"
    if form.behind:
        begun = f"{begun}|{form.pattern}(?s:.{{0,{form.behind}}})"
    return f"(?:{begun})"


def _compiled(patterns: Sequence[str], *, at_end: bool = False) -> _Regexp:
    """Returns an expression that matches where one of the patterns does.

    Args:
        at_end: whether the match must end where the text does. RE2 then reads from there backwards.
    """
    import re2

    options = re2.Options()
    options.max_mem = _MEMORY_BYTES
    options.log_errors = False
    together = "|".join(f"(?:{one})" for one in patterns) or _NOTHING
    return re2.compile((rf"(?:{together})\z" if at_end else together).encode(), options)
