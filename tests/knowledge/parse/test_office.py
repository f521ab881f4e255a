"""DOCX, PPTX and XLSX, written by their libraries."""

from __future__ import annotations

import datetime
import io
import re
import zipfile
from collections.abc import Callable

import docx
import openpyxl
import pptx
import pytest
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches

from deepwell.errors import InvalidFile, UnsupportedFile
from deepwell.knowledge.documents import Document
from deepwell.knowledge.parse.parse import parse_bytes


def saved(document: object) -> bytes:
    file = io.BytesIO()
    document.save(file)  # pyright: ignore[reportAttributeAccessIssue]
    return file.getvalue()


def changed(data: bytes, change: Callable[[str, bytes], bytes | None]) -> bytes:
    """Returns an archive whose members are changed."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if (body := change(name, old.read(name))) is not None:
                new.writestr(name, body)
    return out.getvalue()


def parts(document: Document) -> list[str]:
    return [document.text[s.start : s.end] for s in document.sections]


def word_file() -> docx.document.Document:
    word = docx.Document()
    word.core_properties.title, word.core_properties.author = "Report", "Ada"
    word.add_heading("Chapter", 1)
    word.add_paragraph("First paragraph.")
    word.add_paragraph("one", style="List Bullet")
    word.add_heading("数据", 2)
    table = word.add_table(rows=3, cols=2)
    for row, values in zip(table.rows, [("Name", "Size"), ("a", "1"), ("b", "2")], strict=True):
        for cell, value in zip(row.cells, values, strict=True):
            cell.text = value
    word.add_paragraph("After the table.")
    return word


def test_word_documents() -> None:
    document = parse_bytes(saved(word_file()), "any name")
    assert document.media_type.endswith("wordprocessingml.document")
    assert (document.title, document.metadata["author"]) == ("Report", "Ada")
    assert parts(document) == [
        "Chapter\n\nFirst paragraph.\n\none",
        "数据",
        "Name | Size",
        "a | 1",
        "b | 2",
        "After the table.",
    ]
    assert [s.place.headings for s in document.sections] == [("Chapter",)] + [("Chapter", "数据")] * 5
    assert {s.header for s in document.sections[2:5]} == {"Name | Size"}


def test_deleted_text_and_fallbacks_are_left_out() -> None:
    space = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    extra = (
        f"<w:p {space}><w:ins><w:r><w:t>new </w:t></w:r></w:ins><w:del><w:r><w:delText>old</w:delText></w:r></w:del>"
        "<w:r><w:t>words</w:t></w:r></w:p><w:sdt><w:sdtContent><w:p><w:r><w:t>control</w:t></w:r></w:p></w:sdtContent></w:sdt>"
    )

    def change(name: str, body: bytes) -> bytes:
        return (
            body.replace(b"<w:sectPr", extra.encode() + b"<w:sectPr", 1)
            if name == "word/document.xml"
            else body
        )

    assert parts(parse_bytes(changed(saved(word_file()), change), "a"))[-1].endswith("new words\n\ncontrol")


def test_workbooks() -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.title = "Sales"
    for row in (
        ["Sales of the year"],
        [],
        ["Town", "Day", "Sum"],
        ["Ulm", datetime.date(2024, 5, 1), 3.0],
        ["Bonn", None, "=1+1"],
    ):
        sheet.append(row)
    book.create_sheet("空").append(["one cell"])
    document = parse_bytes(saved(book), "x")
    assert [(s.place.sheet, s.place.row) for s in document.sections] == [
        ("Sales", 1), ("Sales", 3), ("Sales", 4), ("Sales", 5), ("空", 1),
    ]  # fmt: skip
    assert parts(document) == [
        "Sales of the year",
        "Town | Day | Sum",
        "Ulm | 2024-05-01 | 3",
        "Bonn |  |",
        "one cell",
    ]
    assert document.sections[3].header == "Town | Day | Sum"
    assert document.metadata["formulas_without_value"] == "1"


def test_formulas_without_values_alone_are_an_error() -> None:
    book = openpyxl.Workbook()
    book.active["A1"] = "=1+1"  # pyright: ignore[reportOptionalSubscript]
    with pytest.raises(InvalidFile, match="never computed"):
        parse_bytes(saved(book), "x.xlsx")


def test_a_file_that_says_nothing_of_itself_has_no_date() -> None:
    def change(name: str, body: bytes) -> bytes | None:
        if name == "_rels/.rels":
            return re.sub(rb"<Relationship [^>]*core-properties[^>]*/>", b"", body)
        return None if name == "docProps/core.xml" else body

    data = changed(saved(word_file()), change)
    assert dict(parse_bytes(data, "a.docx").metadata) == {}


def test_a_sheet_that_says_it_is_endless_ends_in_an_error() -> None:
    book = openpyxl.Workbook()
    book.active["A1"] = "x"  # pyright: ignore[reportOptionalSubscript]

    def change(name: str, body: bytes) -> bytes:
        return body.replace(b'r="1"', b'r="99999999"') if "sheet1" in name else body

    with pytest.raises(InvalidFile):
        parse_bytes(changed(saved(book), change), "x.xlsx")


def test_presentations() -> None:
    show = pptx.Presentation()
    slide = show.slides.add_slide(show.slide_layouts[1])
    slide.shapes.title.text = "Plan"
    slide.placeholders[1].text = "First\nSecond"
    slide.notes_slide.notes_text_frame.text = "say hello"
    slide = show.slides.add_slide(show.slide_layouts[5])
    slide.shapes.title.text = "Numbers"
    table = slide.shapes.add_table(2, 2, 0, 0, Inches(2), Inches(1)).table
    for place, text in zip([(0, 0), (0, 1), (1, 0), (1, 1)], ["Name", "Size", "a", "1"], strict=True):
        table.cell(*place).text = text
    data = CategoryChartData()
    data.categories = ["May", "June"]
    data.add_series("Sum", (1, 2.5))
    slide.shapes.add_chart(XL_CHART_TYPE.PIE, 0, 0, Inches(2), Inches(2), data)
    document = parse_bytes(saved(show), "x")
    assert [(s.place.slide, s.place.headings) for s in document.sections] == [(1, ("Plan",))] * 2 + [
        (2, ("Numbers",))
    ] * 6
    assert parts(document) == [
        "Plan\n\nFirst\nSecond",
        "Notes: say hello",
        "Numbers",
        "Name | Size",
        "a | 1",
        "Category | Sum",
        "May | 1.0",
        "June | 2.5",
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused(encoding: str) -> None:
    bomb = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><x>&b;</x>'.encode(
        encoding
    )
    data = changed(saved(word_file()), lambda name, body: bomb if name == "word/document.xml" else body)
    with pytest.raises(InvalidFile, match="entities"):
        parse_bytes(data, "a.docx")


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    data = changed(
        saved(word_file()), lambda name, body: b" " * (32 << 20) if name == "word/styles.xml" else body
    )
    with pytest.raises(InvalidFile, match="unpacks"):
        parse_bytes(data, "a.docx")


def test_an_archive_that_is_no_document_is_refused() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("../../etc/passwd", "x")
    with pytest.raises(UnsupportedFile, match="zip archive"):
        parse_bytes(out.getvalue(), "a.docx")


@pytest.mark.parametrize("cut", [100, 1000, 10_000])
def test_a_cut_archive_is_an_error(cut: int) -> None:
    with pytest.raises(InvalidFile):
        parse_bytes(saved(word_file())[:cut], "a.docx")
