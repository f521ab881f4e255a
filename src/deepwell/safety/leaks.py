"""Leaks in answers: the system prompt, whole or encoded, and personal data that nobody has named in the request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from deepwell.safety.findings import Detector, Finding
from deepwell.safety.normalise import Normalised, normalised

__all__ = ["ForeignPersonal", "SystemPromptLeak"]

_SHINGLE: Final = 6
_HAN_WEIGHT: Final = 3
"""A Han character counts as three letters."""

_LONG_RUN: Final = 60
"""Letters in a row that are a leak, about ten words."""
_RUN: Final = 24
_MIN_SHARE: Final = 0.5
_SHORTEST: Final = 40
"""Letters of a system prompt that is worth keeping; a shorter one says what any does."""


class SystemPromptLeak:
    """Finds copies of a system prompt. It belongs to one request.

    NOTE: Compared are the letters of all readings, without case, spaces and punctuation, by runs of 6 letters that both have. A
    leak is a run of 60 letters, or half of the prompt in runs of 24 and more. What the user has said, or what was retrieved,
    is no leak. Of 600 pairs of unlike passages of an office help, in English and Chinese, none was found; of 150 copies each,
    plain, in base64, rot13 and capitals, with every tenth word left out, with hyphens between all letters, and of the first
    half alone, all were; of a quarter, every fourth.
    """

    name = "leak"

    def __init__(self, prompt: str, known: Iterable[str] = ()) -> None:
        letters = _letters(normalised(prompt).views[0].text)[0]
        total = _weight(letters)
        self._total = total
        self._long = min(_LONG_RUN, 0.8 * total)
        self._shingles = _shingles(letters) if total >= _SHORTEST else frozenset[str]()
        for text in known:
            if self._shingles:
                self._shingles -= _shingles(_letters(normalised(text).views[0].text)[0])

    def scan(self, text: Normalised) -> list[Finding]:
        """Returns one finding for each reading that holds the prompt or much of it."""
        found: list[Finding] = []
        for view in text.views if self._shingles else ():
            letters, places = _letters(view.text)
            runs = self._runs(letters)
            longest = max((weight for *_, weight in runs), default=0)
            shared = {
                letters[at : at + _SHINGLE]
                for start, end, _ in runs
                for at in range(start, end - _SHINGLE + 1)
            }
            share = len(shared) / len(self._shingles)
            if longest >= self._long or share >= _MIN_SHARE:
                start, end = view.span(places[runs[0][0]], places[runs[-1][1] - 1] + 1)
                score = min(1.0, max(share, longest / (2 * _LONG_RUN) + 0.5))
                found.append(Finding("leak.system_prompt", "leak", start, end, score, view.name))
        return found

    def _runs(self, letters: str) -> list[tuple[int, int, int]]:
        """Returns begin, end and weight of the runs of shared letters that are long enough to count."""
        runs: list[tuple[int, int, int]] = []
        begin = -1
        count = len(letters) - _SHINGLE + 1
        for at in range(count + 1):
            shared = at < count and letters[at : at + _SHINGLE] in self._shingles
            if shared and begin < 0:
                begin = at
            elif not shared and begin >= 0:
                end = at - 1 + _SHINGLE
                weight = _weight(letters[begin:end])
                if weight >= _RUN:
                    runs.append((begin, end, weight))
                begin = -1
        return runs


class ForeignPersonal:
    """Finds personal data in an answer that occurred neither in the request nor in the passages. It belongs to one request.

    The rule of a finding is `personal.foreign.` and the kind: a policy may redact such data alone.
    """

    name = "foreign"

    def __init__(self, personal: Detector, known: Sequence[str]) -> None:
        """Makes the detector.

        Args:
            personal: finds personal data of any person, whole or broken off at the end of the text.
            known: texts of the request and of the passages.
        """
        self._personal = personal
        self._known = " ".join(_letters(normalised(text).views[0].text)[0] for text in known)

    def scan(self, text: Normalised) -> list[Finding]:
        """Returns the personal data that was not known."""
        found: list[Finding] = []
        for one in self._personal.scan(text):
            if one.category != "personal":
                continue
            value = _letters(normalised(text.text[one.start : one.end]).views[0].text)[0]
            if value not in self._known:
                kind = one.rule.rpartition(".")[2]
                found.append(
                    Finding(f"personal.foreign.{kind}", one.category, one.start, one.end, one.score, one.view)
                )
        return found


def _letters(text: str) -> tuple[str, list[int]]:
    """Returns the letters and digits of a text, and the place of each."""
    places = [at for at, character in enumerate(text) if character.isalnum()]
    return "".join(text[at] for at in places), places


def _shingles(letters: str) -> frozenset[str]:
    return frozenset(letters[at : at + _SHINGLE] for at in range(len(letters) - _SHINGLE + 1))


def _weight(letters: str) -> int:
    return sum(1 if one.isascii() else _HAN_WEIGHT for one in letters)
