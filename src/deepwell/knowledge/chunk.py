"""`chunk_document`: cuts a document by its structure into overlapping windows, counted by the embedder's tokenizer.

The contract, for every chunk: `chunk.text == document.text[chunk.start:chunk.end]`, or, where the window begins with rows of
a table whose header stands before it, the header line, a line end, and that. Every character of a section but the space
between its sentences is in a chunk, and chunks are in order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, NamedTuple

from deepwell.errors import InvalidRequest
from deepwell.knowledge.documents import Chunk, Document, MediaPlace, Place, Section, spanning
from deepwell.knowledge.protocols import TokenCounter
from deepwell.knowledge.sentences import sentence_spans

__all__ = ["MAX_TOKENS", "OVERLAP_TOKENS", "chunk_document", "chunk_lines", "place_text"]

MAX_TOKENS: Final = 512
OVERLAP_TOKENS: Final = 64
CHARACTERS_A_TOKEN: Final = 16  # a tokenizer may count a word of any length as one unknown token

_BATCH_TEXTS, _BATCH_CHARACTERS = 4096, 1 << 19  # of one call of the counter
_MIN_FILLED = 0.5  # of a window, before a better cut than the last is looked for
_ATOM_CHARACTERS = 64
_ATOMS: Final = re.compile(r"[^\s,;:，、；：]*[\s,;:，、；：]+|[^\s,;:，、；：]+")
_JOINERS: Final = re.compile("[\u0300-\u036f\u200c\u200d\u20d0-\u20ff\ufe00-\ufe0f\U0001f3fb-\U0001f3ff]")

# The strength of a cut before a unit.
_WITHIN, _BOUND, _SENTENCE, _LINE, _PARAGRAPH, _HEADING = range(-2, 4)


class _Span(NamedTuple):
    start: int
    end: int
    section: int
    cut: int  # as in `_Unit`


@dataclass(frozen=True, slots=True)
class _Unit:
    """A sentence, line or row, or a part of one that alone is too long.

    Attributes:
        cut: strength of the cut before it: how good a place to begin a window is.
        cost: its tokens, or more if it has many characters a token.
        header_cost: cost of the header that a window beginning here repeats.
    """

    start: int
    end: int
    section: int
    cut: int
    cost: int
    header_cost: int = 0


def chunk_document(
    document: Document,
    counter: TokenCounter,
    *,
    max_tokens: int | None = None,
    overlap_tokens: int | None = None,
    by_record: bool = False,
) -> list[Chunk]:
    """Returns the windows of a document. See the module for what holds of them.

    A window ends at the end of a sentence, line or row, unless one alone is too long. It prefers, in its second half, to end
    before a heading, sheet or slide, then at a paragraph; small sections share a window. The sentences at its end are
    repeated in the next up to `overlap_tokens`, but not across a heading and not rows of a table, whose header is repeated
    instead. A header that fills more than half a window is not repeated.

    Args:
        max_tokens: most tokens of a window; None: 512, or what the embedder takes at once if that is less.
        overlap_tokens: most tokens that two windows share, at most half of `max_tokens`; None: 64, or less in small windows.

        by_record: whether every row or record of a table begins a window of its own.

    Raises:
        InvalidRequest: the numbers do not fit.
    """
    limit = min(MAX_TOKENS, counter.max_tokens) if max_tokens is None else max_tokens
    overlap = min(OVERLAP_TOKENS, limit // 2) if overlap_tokens is None else overlap_tokens
    if limit < 1 or not 0 <= overlap <= limit // 2:
        raise InvalidRequest(
            f"windows of {limit} tokens cannot overlap by {overlap}",
            fix="take at least 1 token, and an overlap from 0 to half of that",
        )
    units = _Cutter(document, counter, limit, overlap).units()
    spans: list[tuple[int, int]] = []
    for begin, end in _records(units, document.sections) if by_record else [(0, len(units))]:
        inside = _windows(units[begin:end], limit, overlap)
        spans += ((begin + first, begin + last) for first, last in inside)
    return _Finisher(document, counter, limit, units).chunks(spans)


def chunk_lines(chunks: Sequence[Chunk]) -> Iterator[str]:
    """Yields what people read of chunks: a line of number, offsets, tokens and place, then the text, then a blank line."""
    for number, chunk in enumerate(chunks, 1):
        place = place_text(chunk.place)
        head = f"[{number}] characters {chunk.start}-{chunk.end}, {chunk.tokens} tokens"
        yield f"{head}, {place}" if place else head
        yield chunk.text
        yield ""


def place_text(place: Place) -> str:
    """Returns a place as people write it: `page 3, Methods > Data`; empty if nothing is known of it."""
    parts = [
        f"page {place.page}" if place.page is not None else "",
        f"slide {place.slide}" if place.slide is not None else "",
        f"sheet {place.sheet}" if place.sheet else "",
        f"row {place.row}" if place.row is not None else "",
        " > ".join(place.headings),
        "" if place.media is None else _media_text(place.media),
    ]
    return ", ".join(part for part in parts if part)


def _media_text(media: MediaPlace) -> str:
    if media.start_s is None or media.end_s is None:
        return media.kind
    return f"{_clock(media.start_s)}-{_clock(media.end_s)}"


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def _records(units: Sequence[_Unit], sections: Sequence[Section]) -> list[tuple[int, int]]:
    """Returns the runs of units that belong to the same record, or to none."""
    rows = [(sections[unit.section].place.sheet, sections[unit.section].place.row) for unit in units]
    edges = [index for index in range(1, len(rows)) if rows[index] != rows[index - 1]]
    return list(pairwise([0, *edges, len(rows)])) if rows else []


def _counts(counter: TokenCounter, texts: Sequence[str]) -> list[int]:
    """Counts in batches: a call a sentence would take longer than the counting, and one for all much memory."""
    found: list[int] = []
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and (len(batch) >= _BATCH_TEXTS or size + len(text) > _BATCH_CHARACTERS):
            found += counter.count(batch)
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        found += counter.count(batch)
    return found


def _cost(tokens: int, characters: int) -> int:
    return max(tokens, -(-characters // CHARACTERS_A_TOKEN))


class _Cutter:
    """Cuts a document into units that each fit a window."""

    def __init__(self, document: Document, counter: TokenCounter, limit: int, overlap: int) -> None:
        self._text = document.text
        self._sections = document.sections
        self._counter = counter
        self._limit = limit
        self._part = max(
            overlap, limit // 8, 1
        )  # of a sentence that is too long: windows of parts overlap too
        headers = list({section.header for section in document.sections if section.header})
        costs = [count + 1 for count in _counts(counter, headers)]
        self._headers = {h: cost for h, cost in zip(headers, costs, strict=True) if cost <= limit // 2}

    def units(self) -> list[_Unit]:
        units: list[_Unit] = []
        long: list[tuple[int, _Span]] = []  # with their place in `units`
        for span, count in self._counted(self._spans()):
            unit = self._unit(span, count)
            if unit.cost + unit.header_cost > self._limit:
                long.append((len(units), span))
            units.append(unit)
        for at, span in reversed(long):
            units[at : at + 1] = self._shortened(span)
        return units

    def _counted(self, spans: Iterable[_Span]) -> Iterator[tuple[_Span, int]]:
        held = list(spans)
        counts = _counts(self._counter, [self._text[span.start : span.end] for span in held])
        return zip(held, counts, strict=True)

    def _unit(self, span: _Span, count: int) -> _Unit:
        cost = _cost(count, span.end - span.start)
        return _Unit(span.start, span.end, span.section, span.cut, cost, self._header_cost(span.section))

    def _shortened(self, long: _Span) -> list[_Unit]:
        """Returns units of the sentences of a row, and of parts of a sentence, that each fit a window."""
        sentences = list(sentence_spans(self._text, long.start, long.end))
        units: list[_Unit] = []
        spans = (_Span(start, end, long.section, _SENTENCE) for start, end in sentences)
        for span, count in self._counted(spans):
            unit = self._unit(span, count)
            if unit.cost + unit.header_cost <= self._limit:
                units.append(unit)
                continue
            most = min(self._part, self._limit - unit.header_cost)
            for number, (start, end, cost) in enumerate(self.parts(span.start, span.end, most)):
                cut = _WITHIN if number else _SENTENCE
                units.append(_Unit(start, end, span.section, cut, cost, unit.header_cost))
        return [replace(units[0], cut=long.cut), *units[1:]]

    def _header_cost(self, index: int) -> int:
        section = self._sections[index]
        # Its size comes first: a section of one long text has very many units, and is not copied for each.
        size = section.end - section.start
        is_header = size == len(section.header) and self._text.startswith(section.header, section.start)
        return 0 if is_header else self._headers.get(section.header, 0)

    def _spans(self) -> Iterator[_Span]:
        """Yields every sentence, line or row."""
        before: Section | None = None
        last_end = 0
        bound = False  # the last unit belongs to what follows: it is a heading, or the header of a table
        for index, section in enumerate(self._sections):
            row = section.place.row is not None
            inside = (
                [self._trimmed(section.start, section.end)]
                if row
                else sentence_spans(self._text, section.start, section.end)
            )
            for number, (start, end) in enumerate(inside):
                if start >= end:
                    continue
                cut = self._cut(last_end, start) if before is not None else _PARAGRAPH
                if before is not None and number == 0 and _is_parted(before.place, section.place):
                    cut = _HEADING
                if bound and (number > 0 or before is None or _goes_on(before.place, section.place)):
                    cut = _BOUND
                yield _Span(start, end, index, cut)
                text = self._text[start:end]
                bound = section.header == text if row else number == 0 and _is_title(text, section.place)
                last_end = end
                before = section

    def _trimmed(self, start: int, end: int) -> tuple[int, int]:
        text = self._text[start:end]
        return start + len(text) - len(text.lstrip()), start + len(text.rstrip())

    def _cut(self, last_end: int, start: int) -> int:
        lines = self._text.count("\n", last_end, start)
        return _PARAGRAPH if lines > 1 else _LINE if lines else _SENTENCE

    def parts(self, start: int, end: int, most: int) -> Iterator[tuple[int, int, int]]:
        """Yields start, end and cost of parts of at most `most` tokens each, where a character alone is not more."""
        begin, stop, cost = start, start, 0
        for first, last, one in self._atoms(start, end, most):
            if cost and cost + one > most:
                yield from self._part_of(begin, stop, cost)
                begin, cost = first, 0
            stop = last
            cost += one
        yield from self._part_of(begin, stop, cost)

    def _part_of(self, start: int, end: int, cost: int) -> Iterator[tuple[int, int, int]]:
        start, end = self._trimmed(start, end)
        if end > start:
            yield start, end, cost

    def _atoms(self, start: int, end: int, most: int) -> list[tuple[int, int, int]]:
        """Returns clauses, words and pieces of words with their costs, in order."""
        spans: list[tuple[int, int]] = []
        for found in _ATOMS.finditer(self._text, start, end):
            at = found.start()
            while found.end() - at > _ATOM_CHARACTERS:
                stop = self._whole(at, at + _ATOM_CHARACTERS, found.end())
                spans.append((at, stop))
                at = stop
            if found.end() > at:
                spans.append((at, found.end()))
        done: list[tuple[int, int, int]] = []
        while spans:
            counts = _counts(self._counter, [self._text[first:last] for first, last in spans])
            large: list[tuple[int, int]] = []
            for (first, last), count in zip(spans, counts, strict=True):
                cost = max(_cost(count, last - first), 1)
                if cost <= most or last - first == 1:
                    done.append((first, last, cost))
                    continue
                middle = self._whole(first, (first + last) // 2, last)
                if middle >= last:
                    middle = (first + last) // 2
                large += [(first, middle), (middle, last)]
            spans = large
        return sorted(done)

    def _whole(self, first: int, at: int, last: int) -> int:
        """Returns a place to cut at or near `at` that parts no letter from its accents and no emoji from its tone."""
        for near in range(at, min(at + 8, last)):
            if not _JOINERS.match(self._text, near) and not (
                near > first and self._text[near - 1] == "\u200d"
            ):
                return near
        return at


def _is_parted(before: Place, after: Place) -> bool:
    return before.headings != after.headings or before.sheet != after.sheet or before.slide != after.slide


def _goes_on(before: Place, after: Place) -> bool:
    """Tells whether a heading that ends at `before` stands above what begins at `after`."""
    same = before.sheet == after.sheet and before.slide == after.slide
    return same and after.headings[: len(before.headings)] == before.headings


def _is_title(text: str, place: Place) -> bool:
    return bool(place.headings) and text.strip("# \t").startswith(place.headings[-1][:80])


def _windows(units: Sequence[_Unit], limit: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Yields first and behind-last unit of every window."""
    begin = done = 0
    while done < len(units):
        stop, held = begin, units[begin].header_cost
        best = done + 1
        best_cut = _WITHIN - 1
        while stop < len(units) and (stop == begin or held + units[stop].cost <= limit):
            held += units[stop].cost
            stop += 1
            cut = units[stop].cut if stop < len(units) else _HEADING + 1
            if stop > done and cut >= (best_cut if held >= _MIN_FILLED * limit else _HEADING + 1):
                best, best_cut = stop, cut
        if best_cut < _WITHIN:  # the window is less than half full: what follows is large
            best = max(stop, done + 1)
        yield begin, best
        done = best
        begin = _overlapping(units, begin, done, limit, overlap)


def _overlapping(units: Sequence[_Unit], begin: int, done: int, limit: int, overlap: int) -> int:
    """Returns the first unit of the window that goes on at `done`."""
    if done >= len(units) or units[done].cut == _HEADING or units[done].header_cost:
        return done
    shared, first = 0, done
    room = min(overlap, limit - units[done].cost)
    while first - 1 > begin and shared + units[first - 1].cost <= room:
        unit = units[first - 1]
        if unit.header_cost:
            break
        first -= 1
        shared += unit.cost
        if unit.cut == _HEADING:
            break
    return first


class _Finisher:
    """Makes chunks of windows, and counts them as a whole: the sum of sentences may differ from the count of their text."""

    def __init__(self, document: Document, counter: TokenCounter, limit: int, units: Sequence[_Unit]) -> None:
        self._document = document
        self._counter = counter
        self._limit = limit
        self._units = units

    def chunks(self, windows: Sequence[tuple[int, int]]) -> list[Chunk]:
        waiting = [self._chunk(self._units[first:behind]) for first, behind in windows]
        done: list[Chunk] = []
        while waiting:
            counts = _counts(self._counter, [text for _, text in waiting])
            again: list[tuple[Sequence[_Unit], str]] = []
            for (units, text), count in zip(waiting, counts, strict=True):
                if count > self._limit and len(units) > 1:
                    middle = _middle(units)
                    again += [self._chunk(units[:middle]), self._chunk(units[middle:])]
                    continue
                sections = self._document.sections
                place = spanning(sections[units[0].section].place, sections[units[-1].section].place)
                done.append(Chunk(text, units[0].start, units[-1].end, place, count))
            waiting = again
        return list(_not_contained(done))

    def _chunk(self, units: Sequence[_Unit]) -> tuple[Sequence[_Unit], str]:
        text = self._document.text[units[0].start : units[-1].end]
        if units[0].header_cost:
            text = f"{self._document.sections[units[0].section].header}\n{text}"
        return units, text


def _not_contained(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Yields chunks in order. Half of a window may lie within the next, which began with the same sentences."""
    last_end = -1
    for chunk in sorted(chunks, key=lambda chunk: (chunk.start, -chunk.end)):
        if chunk.end > last_end:
            yield chunk
            last_end = chunk.end


def _middle(units: Sequence[_Unit]) -> int:
    """Returns the best cut in the middle half of a window."""
    quarter = len(units) // 4
    candidates = range(max(quarter, 1), max(len(units) - quarter, 2))
    return max(candidates, key=lambda index: (units[index].cut, -abs(2 * index - len(units))))
