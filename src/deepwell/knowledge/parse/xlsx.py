"""XLSX: sheet by sheet, a section a row, with the header of the sheet's table."""

from __future__ import annotations

import datetime
import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any, Final

from deepwell.errors import InvalidFile
from deepwell.knowledge.documents import Document, Place
from deepwell.knowledge.parse.builder import DocumentBuilder
from deepwell.knowledge.parse.office import checked_archive
from deepwell.knowledge.parse.tables import lines_of_table

__all__ = ["parse_xlsx"]

_MOST_SHEETS: Final = 1_000
_MOST_ROWS: Final = 1 << 20  # as in Excel
_MOST_CELLS: Final = 10_000_000  # empty ones counted, for the library makes them too
_NO_VALUE: Final = re.compile(rb"</f>\s*(?:<v\s*/>|<v>\s*</v>)?\s*</c>")


def parse_xlsx(data: bytes) -> Document:
    """Returns the cells of a workbook as values, hidden sheets included.

    A formula has the value that was last computed. `formulas_without_value` in the metadata counts those that have none,
    because the program that wrote the file does not compute.

    Raises:
        InvalidFile: the file is broken, hostile or without text.
    """
    from openpyxl import load_workbook

    file = checked_archive(data)
    empty = _formulas_without_value(file)
    book = load_workbook(file, read_only=True, data_only=True, keep_links=False)
    builder = DocumentBuilder("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet")
    if _has_properties(file):
        properties: Any = book.properties
        builder.note("author", properties.creator)
        builder.note("date", str(properties.modified or ""))
        builder.title = properties.title or None
    builder.note("formulas_without_value", str(empty) if empty else "")
    if len(book.worksheets) > _MOST_SHEETS:
        raise InvalidFile(f"the workbook has {len(book.worksheets):,} sheets", fix="split it")
    counter = _CellCounter()
    for sheet in book.worksheets:
        gap = "\n\n"
        for line in lines_of_table(counter.rows(sheet)):
            place = Place(sheet=sheet.title, row=line.row, headings=(sheet.title,))
            builder.add(line.text, place, header=line.header, gap=gap)
            gap = "\n"
    if not len(builder) and empty:
        raise InvalidFile(
            f"the workbook holds {empty:,} formulas whose values were never computed, and nothing else",
            fix="open it with a spreadsheet program and save it",
        )
    return builder.finish()


class _CellCounter:
    """Reads rows, and stops at a workbook that has more cells than it may."""

    def __init__(self) -> None:
        self._seen = 0

    def rows(self, sheet: Any) -> Iterator[Sequence[object]]:
        sheet.reset_dimensions()  # what the file says of its size is not believed
        for number, row in enumerate(sheet.iter_rows(values_only=True), 1):
            if number > _MOST_ROWS:
                raise InvalidFile(f"a sheet has more than {_MOST_ROWS:,} rows", fix="save the workbook again")
            self._seen += max(len(row), 1)
            if self._seen > _MOST_CELLS:
                raise InvalidFile(
                    f"the workbook has more than {_MOST_CELLS:,} cells, empty ones counted",
                    fix="split it, or remove empty rows and columns",
                )
            yield [_plain(value) for value in row]


def _plain(value: object) -> object:
    if isinstance(value, datetime.datetime):
        return value.date() if value.time() == datetime.time() else value.isoformat(" ", "minutes")
    return value


def _has_properties(file: io.BytesIO) -> bool:
    """Tells whether the file describes itself. The library would invent an author and a date."""
    with zipfile.ZipFile(file) as archive:
        return "docProps/core.xml" in archive.namelist()


def _formulas_without_value(file: io.BytesIO) -> int:
    count = 0
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.filename.startswith("xl/worksheets/") and member.filename.endswith(".xml"):
                with archive.open(member) as part:
                    rest = b""
                    while block := part.read(1 << 20):
                        block = rest + block
                        found = list(_NO_VALUE.finditer(block))
                        count += len(found)
                        # A match may lie across the end of the block.
                        rest = block[max(found[-1].end() if found else 0, len(block) - 64) :]
    file.seek(0)
    return count
