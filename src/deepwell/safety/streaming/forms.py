"""`held_values` and `Heads`: the forms of personal data and of secrets that a policy lets no answer say, be it in part."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Final

from deepwell.safety.findings import Finding
from deepwell.safety.normalise import Normalised
from deepwell.safety.personal import BEHIND, KINDS, Kind, is_spaced, readings
from deepwell.safety.secrets import FORMS, SecretForm
from deepwell.safety.streaming.prefixes import prefixes
from deepwell.safety.streaming.values import ValueForm

if TYPE_CHECKING:
    from re2 import _Regexp

__all__ = ["Heads", "held_values"]

_REACH: Final = 320
"""Characters at the end of a text in which an unfinished value and the words in front of it are looked for."""
_QUOTES: Final = r"[\"'`)\]}]{1,8}"
_STOPS: Final = r"[\s\"'`)\]}>.,;:!?*…，。；：！？」』）】》]{1,8}"
"""Signs that close a string and a call's arguments, and those that close a sentence or a block of code as well."""
_QUOTED: Final = re.compile(rf"{_QUOTES}\Z")
_STOPPED: Final = re.compile(rf"{_STOPS}\Z")
_IN_QUOTES: Final = rf"\p{{Han}}?(?:[0-9+][0-9 .:-]{{4,}}[0-9a-z]|[!-~]{{4,}}){_QUOTES}"
"""Whatever may be personal data in a string that has just ended."""


def held_values(acts: Callable[[Finding], bool]) -> Iterator[ValueForm]:
    """Yields the forms of values that are redacted or blocked.

    Args:
        acts: tells of a finding whether it is.
    """
    for number, kind in enumerate(_acting_kinds(acts)):
        surely = not kind.needs_word and acts(_finding(kind, kind.score))
        # A word behind the value may decide about it.
        yield ValueForm(kind.pattern, kind.lead, True, 0 if surely else BEHIND, "" if number else _IN_QUOTES)
    for form in _acting_forms(acts):
        yield ValueForm(form.pattern, form.lead, closed=f"{form.told}[!-~]*{_STOPS}" if form.told else "")


class Heads:
    """Finds the value in which a text breaks off: so much of it is there that it can be told, or guessed, and must not leave.

    NOTE: A finding has the rule of the whole value. An answer may end within a value where a stop string, the limit of tokens
    or the model's own end cuts it. `Kind.is_begun` and `SecretForm.is_begun` say from which character on.
    """

    name = "heads"

    def __init__(self, acts: Callable[[Finding], bool]) -> None:
        """Makes the detector.

        Args:
            acts: tells of a finding whether it is redacted or blocked. Other values may leave in part.
        """
        self._kinds = tuple(_acting_kinds(acts))
        self._forms = tuple(_acting_forms(acts))

    def scan(self, text: Normalised) -> list[Finding]:
        """Returns the findings that end where the text does, the first of each form."""
        found: list[Finding] = []
        base = max(0, len(text.text) - _REACH)
        end = text.text[base:]
        closed = _STOPPED.search(end)
        for form in self._forms:
            span = _begun(form, end, closed.start() if closed else len(end))
            if span is not None:
                start, stop = base + span[0], base + span[1]
                found.append(Finding(f"secrets.{form.name}", "secret", start, stop, form.score))
        for view in readings(text):
            base = max(0, len(view.text) - _REACH)
            end = view.text[base:]
            closed = _QUOTED.search(end)
            for kind in self._kinds:
                span = _begun(kind, end, closed.start() if closed else len(end))
                if span is not None:
                    first, last = view.span(base + span[0], base + span[1])
                    if view.name.endswith("joined") and not is_spaced(text.text[first:last]):
                        continue
                    found.append(
                        Finding(f"personal.{kind.name}", "personal", first, last, kind.score, view.name)
                    )
        return _longest(found)


def _acting_kinds(acts: Callable[[Finding], bool]) -> Iterator[Kind]:
    return (kind for kind in KINDS if acts(_finding(kind, 1.0)) or acts(_finding(kind, kind.score)))


def _acting_forms(acts: Callable[[Finding], bool]) -> Iterator[SecretForm]:
    return (form for form in FORMS if acts(Finding(f"secrets.{form.name}", "secret", 0, 1, form.score)))


def _finding(kind: Kind, score: float) -> Finding:
    return Finding(f"personal.{kind.name}", "personal", 0, 1, score)


def _begun(form: Kind | SecretForm, text: str, end: int) -> tuple[int, int] | None:
    """Returns the characters of a value that has begun where `end` is, be it whole or not; None if none has."""
    data = text[:end].encode("utf-8", "replace")
    expression, at = _at_end(form.lead, form.pattern), 0
    while (found := expression.search(data, at)) is not None and found.start(1) < len(data):
        start = len(data[: found.start(1)].decode())
        if form.is_begun(text, start, end):
            return start, end
        at = found.start() + 1
        while at < len(data) and data[at] & 0xC0 == 0x80:  # within a character
            at += 1
    return None


def _longest(findings: Iterable[Finding]) -> list[Finding]:
    """Returns findings without those inside of another."""
    kept: list[Finding] = []
    for one in sorted(findings, key=lambda f: (f.start, -f.end, -f.score)):
        if not kept or one.end > kept[-1].end:
            kept.append(one)
    return kept


@cache
def _at_end(lead: str, pattern: str) -> _Regexp:
    """Returns the expression of the beginnings of a value that end where a text does."""
    import re2

    options = re2.Options()
    options.log_errors = False
    return re2.compile(rf"{lead}({prefixes(pattern)})\z".encode(), options)
