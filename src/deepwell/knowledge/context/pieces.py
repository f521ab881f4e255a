"""`cut`: cuts texts into the pieces that compression keeps or drops: whole sentences, and clauses of those that are too long.

NOTE: clauses. A sentence that alone passes the budget is cut, first where independent clauses end (semicolon, colon), then at
commas, then between words. What may turn the sense of what remains stays together:
  numbers    "48,213", "3.5 kg", "12 May 2024": no cut in one, nor between it and the word behind it
  names      "Jan de Vries", "Port of Rotterdam": no cut in a run of capitalised words with small particles between them
  negations  a clause that denies is one piece with the clauses before and behind it up to the next semicolon; if that passes
             the budget, it is dropped as a whole, and never shortened
Chinese is cut at its own marks, and between characters where no digit, Latin word or numeral is cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.knowledge.answer.text import is_negated
from deepwell.knowledge.context.tokens import Tokens, tokens_between
from deepwell.knowledge.sentences import sentence_spans

__all__ = ["Piece", "Source", "cut", "leans"]

_CLAUSE_TOKENS: Final = 48
"""Neighbouring clauses of a sentence that is cut share a piece up to this size."""

_STRONG: Final = re.compile(r"[;:](?=\s)|[；：]")
_COMMA: Final = re.compile(r",(?=\s)|[，、]|\s[–—-](?=\s)")
_SPACE: Final = re.compile(r"\s+")
_HAN: Final = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_HAN_NUMERALS: Final = "零〇一二两三四五六七八九十百千万亿点"
# Between two characters of Chinese, neither of which is a numeral: 四十八 and 第三条 stay whole.
_BETWEEN_HAN: Final = re.compile(rf"(?<=[{_HAN}])(?<![{_HAN_NUMERALS}第])(?=[{_HAN}])(?![{_HAN_NUMERALS}])")
_WORD_BEFORE: Final = re.compile(rf"[^\s{_HAN}]+$")
_WORD_BEHIND: Final = re.compile(rf"\s*([^\s{_HAN}]+)")
_PARTICLES: Final = frozenset("of the de del della der den di da du la le van von zu al el bin and y".split())
_LEANS: Final = re.compile(
    r"\s*(?:(?:it|its|they|their|them|he|his|him|she|her|this|these|those|such|both)\b|[它其他她该此这]|前者|后者)",
    re.IGNORECASE,
)
_LOOK: Final = 64  # characters looked at on either side of a cut between words


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A text that was read once, so that it can be compressed for many questions.

    Attributes:
        text: the text.
        starts: offset of the character at which each of its tokens begins.
        sentences: start and end of its sentences, each with the space in front of it; together they are the text.
    """

    text: str
    starts: NDArray[np.int64]
    sentences: tuple[tuple[int, int], ...]

    @classmethod
    def read(cls, text: str, tokens: Tokens) -> Source:
        """Returns a text with its tokens and sentences. 64k tokens take about 0.3 s."""
        return cls(text, tokens.starts(text), tuple(_covering(text)))


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a source, with the space in front of it.

    Attributes:
        source: number of the source.
        start, end: offsets in the source. The pieces of a source cover it.
        tokens: tokens that begin in it.
        sentence: number of the sentence it belongs to, over all sources.
    """

    source: int
    start: int
    end: int
    tokens: int
    sentence: int


def cut(sources: Sequence[Source], room: int) -> list[Piece]:
    """Returns the pieces of all sources, in order.

    A piece has more than `room` tokens only if its sentence denies something or cannot be cut. It cannot be kept then.

    Args:
        room: most tokens of a piece that can be kept.
    """
    found: list[Piece] = []
    sentence = 0
    for number, source in enumerate(sources):
        placed = source.starts
        edges = np.searchsorted(placed, [end for _, end in source.sentences]).tolist()
        before = 0
        for (start, end), edge in zip(source.sentences, edges, strict=True):
            if edge - before <= room:
                found.append(Piece(number, start, end, edge - before, sentence))
            else:
                spans = _Cutter(source.text, placed, room).clauses(start, end)
                found += [Piece(number, a, b, tokens_between(placed, a, b), sentence) for a, b in spans]
            before = edge
            sentence += 1
    return found


def leans(text: str) -> bool:
    """Returns whether a sentence begins with a word that stands for something said before it: "Its number is 48213."."""
    return _LEANS.match(text) is not None


def _covering(text: str) -> Iterator[tuple[int, int]]:
    """Yields the sentences of a text with the space in front of each, and behind the last: together they are the text."""
    ends = [end for _, end in sentence_spans(text)]
    if ends:
        ends[-1] = len(text)
    elif text:
        ends = [len(text)]
    yield from pairwise([0, *ends])


class _Cutter:
    """Cuts one sentence into clauses."""

    def __init__(self, text: str, starts: NDArray[np.int64], room: int) -> None:
        self._text = text
        self._starts = starts
        self._room = room
        self._most = min(room, _CLAUSE_TOKENS)

    def clauses(self, start: int, end: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for a, b in self._parts(start, end, _STRONG):
            found += [(a, b)] if self._size(a, b) <= self._most else self._smaller(a, b)
        return self._joined(found)

    def _smaller(self, start: int, end: int) -> list[tuple[int, int]]:
        """Returns clauses between commas; one that denies takes its neighbours in."""
        parts = self._parts(start, end, _COMMA)
        denies = [is_negated(self._text[a:b]) for a, b in parts]
        groups: list[tuple[int, int, bool]] = []
        for index, (a, b) in enumerate(parts):
            bound = denies[index] or (index > 0 and denies[index - 1])
            if bound and groups:
                groups[-1] = (groups[-1][0], b, True)
            else:
                groups.append((a, b, denies[index]))
        found: list[tuple[int, int]] = []
        for a, b, is_bound in groups:
            found += [(a, b)] if is_bound or self._size(a, b) <= self._most else self._words(a, b)
        return found

    def _words(self, start: int, end: int) -> list[tuple[int, int]]:
        """Returns runs of whole words of about the wanted size."""
        text = self._text
        places = [found.start() for found in _SPACE.finditer(text, start, end)]
        places = [at for at in places if start < at < end and _may_part(text, at)]
        places += [found.start() for found in _BETWEEN_HAN.finditer(text, start, end)]
        edges, begin = [start], start
        last = start
        for at in [*sorted(set(places)), end]:
            if self._size(begin, at) > self._most and last > begin:
                edges.append(last)
                begin = last
            last = at
        return list(pairwise([*edges, end]))

    def _joined(self, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for a, b in spans:
            if found and self._size(found[-1][0], b) <= self._most:
                found[-1] = (found[-1][0], b)
            else:
                found.append((a, b))
        return found

    def _parts(self, start: int, end: int, mark: re.Pattern[str]) -> list[tuple[int, int]]:
        edges = [found.end() for found in mark.finditer(self._text, start, end)]
        return list(pairwise([start, *(at for at in edges if start < at < end), end]))

    def _size(self, start: int, end: int) -> int:
        return tokens_between(self._starts, start, end)


def _may_part(text: str, at: int) -> bool:
    """Tells whether the words before and behind a place do not belong to one number or name."""
    before = _WORD_BEFORE.search(text[max(0, at - _LOOK) : at])
    behind = _WORD_BEHIND.match(text, at, at + _LOOK)
    if before is None or behind is None:
        return True
    left, right = before[0], behind[1]
    if left[-1:] in ".,;:!?)]":
        return True
    if any(one.isdigit() for one in left):
        return False
    named = left[:1].isupper() or left.lower() in _PARTICLES
    return not (named and (right[:1].isupper() or right.lower() in _PARTICLES or right[:1].isdigit()))
