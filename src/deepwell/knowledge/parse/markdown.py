"""Markdown: heading path, fenced code, tables with their headers, front matter."""

from __future__ import annotations

import re
from typing import Final

from deepwell.knowledge.documents import Document, Place
from deepwell.knowledge.parse.builder import DocumentBuilder
from deepwell.knowledge.parse.encoding import decode
from deepwell.knowledge.parse.headings import HeadingPath
from deepwell.knowledge.parse.tables import lines_of_table

__all__ = ["parse_markdown"]

_ATX: Final = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_SETEXT: Final = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,})")
_MOST_HEADING: Final = 1_000  # characters of its line; what is longer is text, and would take long to match
_DELIMITER: Final = re.compile(r"\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$")
_CELL_END: Final = re.compile(r"(?<!\\)\|")
_FRONT: Final = re.compile(r"---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_FIELD: Final = re.compile(r"([A-Za-z][\w-]{0,60})[ \t]*:[ \t]*(.+)")
_INLINE: Final = re.compile(r"[*_`]{1,3}(\S(?:.{0,200}?\S)?)[*_`]{1,3}|\[([^\]]{1,200})\]\([^)]{0,500}\)")


def parse_markdown(data: bytes) -> Document:
    """Returns a Markdown text as it is written, a section for each heading and each row of a table.

    Simple fields of the front matter become metadata, and it is not part of the text.

    Raises:
        InvalidFile: there is no text, or too much.
    """
    decoded = decode(data)
    builder = DocumentBuilder("text/markdown")
    builder.note("encoding", decoded.said)
    text = decoded.text.replace("\r\n", "\n").replace("\r", "\n")
    if (front := _FRONT.match(text)) is not None:
        for line in front[1].split("\n"):
            if (field := _FIELD.match(line)) is not None:
                builder.note(field[1].lower(), field[2].strip().strip("\"'"))
        text = text[front.end() :]
    _Reader(builder).read(text.split("\n"))
    builder.title = builder.metadata.pop("title", None) or builder.title
    return builder.finish()


class _Reader:
    def __init__(self, builder: DocumentBuilder) -> None:
        self._builder = builder
        self._path = HeadingPath()
        self._lines: list[str] = []

    def read(self, lines: list[str]) -> None:
        at = 0
        while at < len(lines):
            line = lines[at]
            if (fence := _FENCE.match(line)) is not None:
                at = self._code(lines, at, fence[1])
            elif len(line) <= _MOST_HEADING and (atx := _ATX.match(line)) is not None:
                self._heading(len(atx[1]), atx[2] or "", [line])
                at += 1
            elif "|" in line and at + 1 < len(lines) and _is_delimiter(lines[at + 1]):
                at = self._table(lines, at)
            elif (under := _SETEXT.match(line)) is not None and self._is_title():
                title = self._lines.pop()
                self._heading(1 if under[1][0] == "=" else 2, title, [title, line])
                at += 1
            else:
                self._lines.append(line)
                at += 1
        self._flush()

    def _is_title(self) -> bool:
        """Tells whether the last line is a paragraph of one line."""
        lines = self._lines
        return bool(lines) and bool(lines[-1].strip()) and (len(lines) < 2 or not lines[-2].strip())

    def _heading(self, level: int, written: str, lines: list[str]) -> None:
        self._flush()
        title = _INLINE.sub(lambda found: found[1] or found[2], written).strip()
        self._path.enter(level, title)
        if level == 1 and self._builder.title is None:
            self._builder.title = title
        self._lines = list(lines)

    def _code(self, lines: list[str], at: int, fence: str) -> int:
        self._lines.append(lines[at])
        end = re.compile(rf" {{0,3}}{re.escape(fence[0])}{{{len(fence)},}}[ \t]*$")
        for index in range(at + 1, len(lines)):
            self._lines.append(lines[index])
            if end.match(lines[index]):
                return index + 1
        return len(lines)

    def _table(self, lines: list[str], at: int) -> int:
        self._flush()
        rows = [_cells(lines[at])]
        index = at + 2
        while index < len(lines) and "|" in lines[index]:
            rows.append(_cells(lines[index]))
            index += 1
        for line in lines_of_table(rows):
            place = Place(row=line.row, headings=self._path.titles)
            gap = "\n" if line.row > 1 else "\n\n"
            self._builder.add(line.text, place, header=line.header, gap=gap)
        return index

    def _flush(self) -> None:
        self._builder.add("\n".join(self._lines), Place(headings=self._path.titles))
        self._lines = []


def _is_delimiter(line: str) -> bool:
    return "-" in line and "|" in line and _DELIMITER.match(line.strip()) is not None


def _cells(line: str) -> list[str]:
    parts = _CELL_END.split(line.strip().removeprefix("|"))
    if len(parts) > 1 and not parts[-1].strip():
        parts.pop()
    return [part.strip().replace("\\|", "|") for part in parts]
