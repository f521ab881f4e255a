"""`read_turn`: the question of a user turn, and the document that it is about.

The question is a short paragraph at the end or at the beginning; where a turn has no paragraphs, a line, and where it has no
lines, a sentence. One with a question mark comes first, then the last. What introduces the text at the other end (a few
words, or what ends with a colon, such as "Read this report:") stays with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from deepwell.knowledge.answer.text import names
from deepwell.knowledge.context.terms import terms_of
from deepwell.knowledge.sentences import sentence_spans

__all__ = ["TurnParts", "asks_for_text", "looked_for", "read_turn"]

_SHORT: Final = 1200  # most characters of a question
_FEW: Final = 120  # most bytes of an introduction that has no colon
_BLANK: Final = re.compile(r"\n[ \t\r]*\n\s*")
_LINE: Final = re.compile(r"\r?\n\s*")
_FACT: Final = re.compile(
    r"\b(?:who|whose|whom|what|when|where|which|tell me)\b"
    r"|\bhow (?:many|much|long|old|far|often|big|large|high|tall|deep|wide|fast|late)\b"
    r"|谁|什么|哪|几|多少|多[大长久高远深重快]|何[时地人]|吗|告诉我",
    re.IGNORECASE,
)
# Asks for a text, for a way to do something, or about the conversation itself.
_OTHER: Final = re.compile(
    r"\b(?:your|summar\w*|outline|translat\w*|write|rewrite|rephrase|shorten|continue|explain|elaborate|examples?|why)\b"
    r"|\bhow (?:do|can|should|to|would)\b|\bin (?:one|two|three|a few|\d+) (?:words?|sentences?|lines?)\b"
    r"|\bmain (?:points?|ideas?)\b"
    r"|\b(?:is|are) (?:it|they|(?:this|that|these|those|the)(?: \w+)?) (?:all )?about\b"
    r"|\b(?:it|they|(?:this|that|these|those|the)(?: \w+)?) (?:is|are) (?:all )?about\b"
    r"|你的|总结|概括|概述|大意|要点|主题|主要内容|讲了什么|说了什么|一句话|翻译|写|继续|解释|例子|为什么|为何|怎么|如何|刚才|上一|上面",
    re.IGNORECASE,
)
_ASKS: Final = re.compile(r"[?？]\s*[\"”’」』)）]?\s*$|[?？]")


@dataclass(frozen=True, slots=True)
class TurnParts:
    """A user turn as a question and a document.

    Attributes:
        query: the question, by which the document is fitted.
        start, end: offsets of the document; equal: there is none.

    A long text may have no question: `asks` is false for one that nothing is asked about.
    """

    query: str
    start: int
    end: int

    @property
    def has_document(self) -> bool:
        """True if there is a document that may be shortened."""
        return self.start < self.end

    @property
    def asks(self) -> bool:
        """True if something may be asked: the turn is short as a whole, or has a question mark in its question."""
        return bool(self.query) and (not self.has_document or _ASKS.search(self.query) is not None)


def read_turn(text: str) -> TurnParts:
    """Returns the question and the document of a user turn. A turn that is short as a whole is a question."""
    if len(text) <= _SHORT:
        return TurnParts(text.strip(), 0, 0)
    for cut in (_by(_BLANK), _by(_LINE), _sentences):
        if (found := _read(text, cut)) is not None:
            return found
    # One endless sentence: its end is as good a query as any, and all of it is a document.
    return TurnParts(text[-_SHORT // 4 :].strip(), 0, len(text))


def looked_for(query: str, *, leans: bool) -> int:
    """Returns the number of words of meaning by which a question looks for a fact that was said ("Is that correct?" has one).

    It is 0 if the question asks for something else, or if it leans on the turn before it and names nothing itself.
    """
    if not _FACT.search(query) or asks_for_text(query) or (leans and not names(query)):
        return 0
    return len(terms_of(query))


def asks_for_text(query: str) -> bool:
    """Returns whether a question asks for more than facts: a summary, a translation, a reason, the next part.

    A few sentences do not suffice for that, however well they match its words.
    """
    return _OTHER.search(query) is not None


Ends = tuple[tuple[int, int], tuple[int, int]]  # the first and the last part, each as start and end


def _read(text: str, cut: Callable[[str], Ends | None]) -> TurnParts | None:
    ends = cut(text)
    if ends is None:
        return None
    (first_start, first_end), (last_start, last_end) = ends
    first, last = text[first_start:first_end].strip(), text[last_start:last_end].strip()
    short = [one for one in (last, first) if one and len(one) <= _SHORT]
    if not short:
        return None
    query = next((one for one in short if _ASKS.search(one)), short[0])
    start = first_end if first == query or _introduces(first) else 0
    end = last_start if last == query or _introduces(last) else len(text)
    return TurnParts(query, start, end) if start < end else None


def _introduces(part: str) -> bool:
    return len(part.encode("utf-8", "replace")) <= _FEW or (
        len(part) <= _SHORT and part.endswith((":", "："))
    )


def _by(separator: re.Pattern[str]) -> Callable[[str], Ends | None]:
    def cut(text: str) -> Ends | None:
        begin = len(text) - len(text.lstrip())
        stop = len(text.rstrip())
        seen = [found.span() for found in separator.finditer(text, begin, stop)]
        if not seen:
            return None
        return (begin, seen[0][0]), (seen[-1][1], stop)

    return cut


def _sentences(text: str) -> Ends | None:
    spans: Iterator[tuple[int, int]] = sentence_spans(text)
    found = list(spans)
    return (found[0], found[-1]) if len(found) > 2 else None
