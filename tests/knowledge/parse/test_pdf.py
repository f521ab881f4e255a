"""PDF: pages, outline, pictures, and files that are none."""

from __future__ import annotations

import pytest
from tests.knowledge.parse.pdf_files import PICTURE, page_of_text, pdf_file

from deepwell.errors import InvalidFile, MissingDependency
from deepwell.knowledge.parse import pdf as pdf_module
from deepwell.knowledge.parse.parse import parse_bytes


def test_pages_keep_their_numbers() -> None:
    document = parse_bytes(
        pdf_file([page_of_text("One\nsecond line"), page_of_text("Two")], title="Book"), "a"
    )
    assert document.media_type == "application/pdf" and document.title == "Book"
    assert [(document.text[s.start : s.end], s.place.page) for s in document.sections] == [
        ("One\nsecond line", 1),
        ("Two", 2),
    ]


def test_the_outline_is_the_heading_path() -> None:
    pages = [
        page_of_text("Preface words\nIntroduction\nhello\nMethods\nwe did"),
        page_of_text("more"),
        page_of_text("end"),
    ]
    outline = [("Introduction", 0), ("Methods", 0), ("Not written out", 2)]
    document = parse_bytes(pdf_file(pages, outline=outline), "a.pdf")
    found = [(document.text[s.start : s.end], s.place.page, s.place.headings) for s in document.sections]
    assert found == [
        ("Preface words", 1, ()),
        ("Introduction\nhello", 1, ("Introduction",)),
        ("Methods\nwe did", 1, ("Methods",)),
        ("more", 2, ("Methods",)),
        ("end", 3, ("Not written out",)),
    ]


def test_pictures_without_text_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf_module, "ocr_installed", lambda: False)
    pages = [page_of_text("text"), PICTURE, PICTURE, page_of_text("text"), PICTURE]
    document = parse_bytes(pdf_file(pages), "a.pdf")
    assert document.metadata["pages_left_out"].startswith("2-3, 5 (pictures without text")
    assert "deepwell[ocr]" in document.metadata["pages_left_out"]


def test_a_scanned_file_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf_module, "ocr_installed", lambda: False)
    with pytest.raises(MissingDependency) as missing:
        parse_bytes(pdf_file([PICTURE]), "a.pdf")
    assert "pip install 'deepwell[ocr]'" in missing.value.fix


def test_a_blank_page_is_not_left_out() -> None:
    assert "pages_left_out" not in parse_bytes(pdf_file([page_of_text("text"), ""]), "a.pdf").metadata


@pytest.mark.parametrize("data", [b"%PDF-1.7 nothing", pdf_file([page_of_text("x")])[:150], pdf_file([""])])
def test_broken_and_empty_files_are_errors(data: bytes) -> None:
    with pytest.raises(InvalidFile):
        parse_bytes(data, "a.pdf")
