"""DOCX: paragraphs, lists and tables in their order, headings as path, notes at the end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from deepwell.knowledge.documents import Document, Place
from deepwell.knowledge.parse.builder import DocumentBuilder
from deepwell.knowledge.parse.headings import HeadingPath, one_line
from deepwell.knowledge.parse.office import checked_archive, member_text
from deepwell.knowledge.parse.tables import lines_of_table

__all__ = ["parse_docx"]

_W: Final = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_HEADING_STYLE: Final = re.compile(r"(?:heading|标题|標題|überschrift|titre)\s*([1-9])$", re.IGNORECASE)
_NOTES: Final = (("footnotes", "Footnotes"), ("endnotes", "Endnotes"), ("comments", "Comments"))
_CORE: Final = "application/vnd.openxmlformats-package.core-properties+xml"
_WRAPPERS: Final = ("sdt", "sdtContent", "customXml", "ins", "moveTo", "smartTag")


def parse_docx(data: bytes) -> Document:
    """Returns the text of a Word document, a section for each heading and each row of a table.

    Footnotes, endnotes and comments follow the text under headings of their own. Headers and footers of pages are left out.

    Raises:
        InvalidFile: the file is broken, hostile or without text.
    """
    import docx

    document = docx.Document(checked_archive(data))
    builder = DocumentBuilder("application/vnd.openxmlformats-officedocument.wordprocessingml.document")
    package: Any = document.part.package
    describe(package, document, builder)
    _Reader(builder, _levels(document)).read(document.element.body)
    for part in package.iter_parts():
        for name, title in _NOTES:
            if str(part.partname).lower() == f"/word/{name}.xml":
                _notes(part.blob, title, builder)
    return builder.finish()


def describe(package: Any, document: Any, builder: DocumentBuilder) -> None:
    """Keeps the core properties of an Office document, if it has any: the library would invent those of today."""
    if not any(part.content_type == _CORE for part in package.iter_parts()):
        return
    properties = document.core_properties
    for key in ("author", "subject", "keywords", "created", "modified"):
        try:
            value = getattr(properties, key)
        except (AttributeError, ValueError):  # a date that is none
            continue
        builder.note("date" if key == "modified" else key, str(value) if value else "")
    builder.title = properties.title or None


def _levels(document: Any) -> dict[str, int]:
    """Returns the heading level of styles by their id."""
    found: dict[str, int] = {}
    for style in document.styles.element.iter(f"{_W}style"):
        key = style.get(f"{_W}styleId")
        outline = style.find(f"{_W}pPr/{_W}outlineLvl")
        name = style.find(f"{_W}name")
        written = name.get(f"{_W}val") if name is not None else ""
        if not key:
            continue
        if (named := _HEADING_STYLE.match(written or "")) is not None:
            found[key] = int(named[1])
        elif written == "Title":
            found[key] = 1
        elif outline is not None and (outline.get(f"{_W}val") or "").isdigit():
            level = int(outline.get(f"{_W}val")) + 1
            if level <= 9:
                found[key] = level
    return found


class _Reader:
    def __init__(self, builder: DocumentBuilder, levels: dict[str, int]) -> None:
        self._builder = builder
        self._levels = levels
        self._path = HeadingPath()
        self._parts: list[str] = []
        self._last_item = False

    def read(self, body: Any) -> None:
        for element in _blocks(body):
            if element.tag == f"{_W}tbl":
                self._table(element)
            else:
                self._paragraph(element)
        self._flush()

    def _paragraph(self, paragraph: Any) -> None:
        text = member_text(paragraph).strip()
        if not text:
            return
        level = self._level(paragraph)
        if level:
            self._flush()
            self._path.enter(level, text)
            if self._builder.title is None and level == 1:
                self._builder.title = one_line(text)
        item = paragraph.find(f"{_W}pPr/{_W}numPr") is not None and not level
        gap = "\n" if item and self._last_item else "\n\n"
        self._parts.append((gap if self._parts else "") + (f"- {text}" if item else text))
        self._last_item = item

    def _level(self, paragraph: Any) -> int:
        properties = paragraph.find(f"{_W}pPr")
        if properties is None:
            return 0
        outline = properties.find(f"{_W}outlineLvl")
        value = outline.get(f"{_W}val") if outline is not None else None
        if value and value.isdigit() and int(value) < 9:
            return int(value) + 1
        style = properties.find(f"{_W}pStyle")
        return self._levels.get(style.get(f"{_W}val"), 0) if style is not None else 0

    def _table(self, table: Any) -> None:
        self._flush()
        for line in lines_of_table(list(_rows(table))):
            place = Place(row=line.row, headings=self._path.titles)
            self._builder.add(line.text, place, header=line.header, gap="\n" if line.row > 1 else "\n\n")

    def _flush(self) -> None:
        self._builder.add("".join(self._parts), Place(headings=self._path.titles))
        self._parts = []
        self._last_item = False


def _blocks(root: Any) -> Iterator[Any]:
    """Yields paragraphs and tables in their order, also those in content controls and tracked insertions."""
    stack = list(reversed(root))
    while stack:
        element = stack.pop()
        if element.tag in (f"{_W}p", f"{_W}tbl"):
            yield element
        elif isinstance(element.tag, str) and element.tag.rpartition("}")[2] in _WRAPPERS:
            stack.extend(reversed(element))


def _rows(table: Any) -> Iterator[list[str]]:
    for row in table.iter(f"{_W}tr"):
        if next(row.iterancestors(f"{_W}tbl")) is not table:
            continue  # of a table inside a cell, which is text of the cell
        cells: list[str] = []
        for cell in row.iter(f"{_W}tc"):
            if next(cell.iterancestors(f"{_W}tr")) is not row:
                continue
            merged = cell.find(f"{_W}tcPr/{_W}vMerge")
            goes_on = merged is not None and merged.get(f"{_W}val") in (None, "continue")
            cells.append("" if goes_on else member_text(cell))
            span = cell.find(f"{_W}tcPr/{_W}gridSpan")
            width = span.get(f"{_W}val") or "1" if span is not None else "1"
            cells += [""] * min(int(width) - 1 if width.isdigit() else 0, 50)
        yield cells


def _notes(blob: bytes, title: str, builder: DocumentBuilder) -> None:
    from docx.oxml import parse_xml

    notes = [member_text(note).strip() for note in parse_xml(blob)]
    text = "\n".join(note for note in notes if note)
    if text:
        builder.add(f"{title}\n\n{text}", Place(headings=(title,)))
