"""`Groundedness`: how much of an answer its passages support, sentence by sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from deepwell.safety.findings import Finding
from deepwell.safety.normalise import Normalised

__all__ = ["Claim", "Grounded", "Groundedness", "Support", "claims_of"]

_SENTENCE: Final = re.compile(r"[^.!?。！？\n]*[.!?。！？\n]+|[^.!?。！？\n]+$")
_WORDS: Final = re.compile(r"[a-z]{2,}|[\u3400-\u9fff]|\d+", re.IGNORECASE)
_LEAST_WORDS: Final = 4
_ASIDE: Final = re.compile(
    r"^\W*(?:I (?:do not|don't|cannot|can't)|sorry|please|let me know|based on|according to|here (?:is|are)|in summary|"
    r"抱歉|请|根据|以下|综上|如需)",
    re.IGNORECASE,
)
_SOURCES: Final = re.compile(r"\n\n\[\d{1,3}\] [^\n]*(?:\n\[\d{1,3}\] [^\n]*)*\s*\Z")


class Support(Protocol):
    """The check of one claim against passages. The server hands in that of its knowledge."""

    def __call__(self, claim: str, passages: Sequence[str]) -> float:
        """Returns how well the passages support a claim, from 0 to 1."""
        ...


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence of an answer that claims something.

    Attributes:
        start, end: characters of the answer.
        support: from 0 to 1.
    """

    start: int
    end: int
    support: float


@dataclass(frozen=True, slots=True)
class Grounded:
    """The check of an answer.

    Attributes:
        claims: sentences that claim something, in order. Greetings, questions and headings are none.
        share: share of the claims' characters that is supported; 1 if nothing is claimed.
    """

    claims: Sequence[Claim]
    share: float


class Groundedness:
    """Finds sentences that the passages of a request do not support, in whole answers. It belongs to one request."""

    name = "grounding"

    def __init__(self, passages: Sequence[str], support: Support, *, min_support: float = 0.5) -> None:
        """Makes the check.

        Args:
            min_support: a claim is supported from here on.
        """
        self._passages = tuple(passages)
        self._support = support
        self._min_support = min_support

    def check(self, answer: str) -> Grounded:
        """Returns the claims of an answer with their support."""
        claims = [
            Claim(start, end, self._support(answer[start:end].strip(), self._passages))
            for start, end in claims_of(answer)
        ]
        total = sum(claim.end - claim.start for claim in claims)
        good = sum(claim.end - claim.start for claim in claims if claim.support >= self._min_support)
        return Grounded(claims, good / total if total else 1.0)

    def scan(self, text: Normalised) -> list[Finding]:
        """Returns the claims that are not supported, as findings of the category `ungrounded`."""
        return self.findings(text.text)

    def findings(self, answer: str) -> list[Finding]:
        """Returns the claims of an answer that are not supported, as findings of the category `ungrounded`."""
        return [
            Finding("grounding.unsupported", "ungrounded", claim.start, claim.end, 1 - claim.support)
            for claim in self.check(answer).claims
            if claim.support < self._min_support
        ]


def claims_of(answer: str) -> list[tuple[int, int]]:
    """Returns the characters of the sentences that claim something. The list of sources at the end of an answer does not."""
    sources = _SOURCES.search(answer)
    found: list[tuple[int, int]] = []
    for match in _SENTENCE.finditer(answer, 0, sources.start() if sources else len(answer)):
        sentence = match.group().strip()
        if sentence.endswith(("?", "？", ":", "：")) or _ASIDE.search(sentence):
            continue
        if len(_WORDS.findall(sentence)) >= _LEAST_WORDS:
            found.append((match.start(), match.end()))
    return found
