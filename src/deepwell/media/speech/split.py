"""Cuts a text into sentences and clauses that are said in one go."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["Pause", "Piece", "clean", "cut_phonemes", "ready_end", "split_text"]

Pause = Literal["word", "clause", "sentence", "paragraph"]
"""End of a piece, by which the silence behind it is chosen."""

MOST_CHARACTERS: Final = 180
"""Longest piece of text, with a Chinese character counted as three."""

_FIRST_CHARACTERS: Final = 45
"""Longest first piece where it has clauses, so that the first sound comes early."""

_LEAST_CHARACTERS: Final = 12
"""Shortest piece that a sentence is cut into."""

_SHORT: Final = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|etc|No|Inc|Ltd|Jr|Sr|e\.g|i\.e|approx)|\b[A-Z])\.$"
)
_SHORT_SPAN: Final = 12  # characters before a full stop that an abbreviation takes at most
# A run of signs is looked at from its first alone: hostile text has a million of them.
_SENTENCE_END: Final = re.compile(r"[。！？!?；;…]+[”’」』】)）\"']*|(?<!\.)\.++[”’)\"']*+(?=\s|$)|\n+")
_CLAUSE_END: Final = re.compile(r"(?<![，、：,:—])[，、：,:—]++(?=\D|$)|[)）](?=\s)")
_KEPT_CONTROLS: Final = "\n\t"


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of text, and the pause behind it."""

    text: str
    pause: Pause


def clean(text: str) -> str:
    """Returns a text without control and invisible characters, with compatibility forms such as Ａ as plain ones."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    kept = [
        c
        for c in text
        if c in _KEPT_CONTROLS or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn")
    ]
    return "".join(_narrow(character) for character in kept)


def _narrow(character: str) -> str:
    """Returns a full-width letter or digit as a plain one."""
    number = ord(character)
    if 0xFF10 <= number <= 0xFF19 or 0xFF21 <= number <= 0xFF3A or 0xFF41 <= number <= 0xFF5A:
        return chr(number - 0xFEE0)
    return " " if character in "\t\u00a0\u3000" else character


def split_text(text: str) -> list[Piece]:
    """Returns the pieces of a text, which joined have all of its words. Pieces without a letter or digit are left out."""
    pieces: list[Piece] = []
    for sentence, pause in _sentences(text):
        most = MOST_CHARACTERS if pieces else _FIRST_CHARACTERS
        pieces += _clauses(sentence, pause, most)
    return _joined([piece for piece in pieces if any(map(str.isalnum, piece.text))])


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Returns the pieces with very short ones joined to the one before, but for the first piece."""
    found: list[Piece] = []
    for piece in pieces:
        last = found[-1] if len(found) > 1 else None
        short = last is not None and min(_weight(piece.text), _weight(last.text)) < _LEAST_CHARACTERS
        if (
            last is not None
            and short
            and _weight(last.text + piece.text) <= MOST_CHARACTERS
            and last.pause != "paragraph"
        ):
            found[-1] = Piece(f"{last.text} {piece.text}", piece.pause)
        else:
            found.append(piece)
    return found


def _sentences(text: str) -> list[tuple[str, Pause]]:
    found: list[tuple[str, Pause]] = []
    start = 0
    for end in _SENTENCE_END.finditer(text):
        sentence = text[start : end.end()]
        if end[0].startswith(".") and _SHORT.search(
            text[max(start, end.start() - _SHORT_SPAN) : end.start() + 1]
        ):
            continue
        found.append((sentence.strip(), "paragraph" if end[0].startswith("\n") else "sentence"))
        start = end.end()
    found.append((text[start:].strip(), "sentence"))
    merged: list[tuple[str, Pause]] = []
    for sentence, pause in found:
        if not sentence and pause == "paragraph" and merged:
            merged[-1] = (merged[-1][0], "paragraph")
        elif sentence:
            merged.append((sentence, pause))
    return merged


def _clauses(sentence: str, pause: Pause, most: int) -> list[Piece]:
    """Cuts a sentence that is too long at its clauses, and clauses that are too long between words."""
    if _weight(sentence) <= most:
        return [Piece(sentence, pause)]
    ends = [end.end() for end in _CLAUSE_END.finditer(sentence)]
    pieces: list[Piece] = []
    start, last = 0, 0
    limit = most
    for end in [*ends, len(sentence)]:
        if _weight(sentence[start:end]) > limit and last > start:
            pieces.append(Piece(sentence[start:last].strip(), "clause"))
            start, limit = last, MOST_CHARACTERS
        if _weight(sentence[start:end]) >= _LEAST_CHARACTERS:
            last = end
    pieces.append(Piece(sentence[start:].strip(), pause))
    return [part for piece in pieces for part in _words(piece)]


def _words(piece: Piece) -> list[Piece]:
    """Cuts a piece that is too long at blanks, or anywhere if it has none."""
    text, parts = piece.text, list[Piece]()
    start = 0
    while (end := _reach(text, start)) < len(text):
        blank = text.rfind(" ", start + (end - start) // 2, end + 1)
        cut = blank if blank > 0 else end
        parts.append(Piece(text[start:cut].strip(), "word"))
        start = cut
        while start < len(text) and text[start].isspace():
            start += 1
    return [*parts, Piece(text[start:], piece.pause)]


def _reach(text: str, start: int) -> int:
    """Returns the end of the longest piece that begins at `start`."""
    weight = 0
    for place in range(start, len(text)):
        weight += _weight(text[place])
        if weight > MOST_CHARACTERS:
            return place
    return len(text)


def _weight(text: str) -> int:
    return sum(3 if character >= "\u2e80" else 1 for character in text)


def cut_phonemes(phonemes: str, most: int) -> list[str]:
    """Cuts phonemes into pieces of at most `most` symbols, at blanks where there are any."""
    pieces: list[str] = []
    while len(phonemes) > most:
        blank = phonemes.rfind(" ", most // 2, most + 1)
        cut = blank if blank > 0 else most
        pieces.append(phonemes[:cut].strip())
        phonemes = phonemes[cut:].strip()
    return [*pieces, phonemes] if phonemes else pieces


def ready_end(text: str) -> int:
    """Returns the end of the last sentence of a growing text that nothing can change any more; 0 if there is none."""
    last = 0
    for end in _SENTENCE_END.finditer(text):
        short = end[0].startswith(".") and _SHORT.search(
            text[max(last, end.start() - _SHORT_SPAN) : end.start() + 1]
        )
        if end.end() < len(text) and not short:
            last = end.end()
    return last
