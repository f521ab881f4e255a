"""Tables as text: the header once a chunk and a line a row, or `header: value` where the header is long.

A line of values under a repeated header costs the fewest tokens, and a language model reads it as a table. A header of
many columns would fill the window, and rows under it are mostly empty; there each value follows the name of its column.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

__all__ = ["Line", "cell_text", "lines_of_table"]

MOST_HEADER: Final = 200  # characters of a header that is repeated: about a tenth of a window of 512 tokens
_SEPARATOR = " | "
_SPACES = re.compile(r"\s+")
_NUMBER = re.compile(r"(?!(?:19|20)\d\d$)[-+(]?[$€£¥]?\d[\d\s.,:/%)-]*$")  # a year may name a column
_SCANNED_ROWS = 8  # a header stands in one of the first rows


class Line(NamedTuple):
    """A row of a table as text.

    Attributes:
        row: its number from 1, counted with the rows that are empty.
        header: the header line that belongs in front of it; empty for lines that need none.
        is_header: the line is the header itself.
    """

    row: int
    text: str
    header: str
    is_header: bool = False


def cell_text(value: object) -> str:
    """Returns a cell as one line of text."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return _SPACES.sub(" ", str(value)).strip()


def lines_of_table(rows: Iterable[Sequence[object]], *, first_row: int = 1) -> Iterator[Line]:
    """Yields the rows that are not empty as text.

    The header is the first row of two cells or more, if they are all filled in (the first may be empty), all different and no
    numbers, and another row follows. Rows above it are a title. A table without a header is lines of values.
    """
    numbered = _numbered(rows, first_row)
    head: list[tuple[int, list[str]]] = []
    for row in numbered:
        head.append(row)
        if len(head) >= _SCANNED_ROWS:
            break
    index = _header_index(head)
    if index is None:
        for number, cells in _chained(head, numbered):
            yield Line(number, _joined(cells), "")
        return
    for number, cells in head[:index]:
        yield Line(number, _joined(cells), "")
    number, names = head[index]
    header = _joined(names)
    if len(header) <= MOST_HEADER:
        yield Line(number, header, header, is_header=True)
        for number, cells in _chained(head[index + 1 :], numbered):
            yield Line(number, _padded(cells, len(names)), header)
        return
    for number, cells in _chained(head[index + 1 :], numbered):
        yield Line(number, _named(names, cells), "")


def _numbered(rows: Iterable[Sequence[object]], first: int) -> Iterator[tuple[int, list[str]]]:
    for number, row in enumerate(rows, first):
        cells = [cell_text(value) for value in row]
        while cells and not cells[-1]:
            cells.pop()
        if cells:
            yield number, cells


def _chained(
    head: Iterable[tuple[int, list[str]]], rest: Iterable[tuple[int, list[str]]]
) -> Iterator[tuple[int, list[str]]]:
    yield from head
    yield from rest


def _header_index(head: Sequence[tuple[int, list[str]]]) -> int | None:
    for index, (_, cells) in enumerate(head[:-1]):
        if len(cells) < 2:
            continue
        # The corner above the names of rows may be empty.
        names = all(cells[1:]) and not any(map(_NUMBER.match, cells))
        fits = names and len({cell.casefold() for cell in cells}) == len(cells)
        return index if fits else None
    return None


def _joined(cells: Sequence[str]) -> str:
    return _SEPARATOR.join(cells)


def _padded(cells: list[str], width: int) -> str:
    """Returns a row with as many separators as its header, so that each value stands under its name."""
    return _SEPARATOR.join([*cells, *[""] * (width - len(cells))]).rstrip()


def _named(names: Sequence[str], cells: Sequence[str]) -> str:
    pairs = [f"{name}: {cell}" for name, cell in zip(names, cells, strict=False) if cell]
    return "; ".join([*pairs, *(cell for cell in cells[len(names) :] if cell)])
