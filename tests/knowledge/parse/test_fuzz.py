"""Any bytes end in a document or a domain error, by every parser and by the door."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

import docx
import openpyxl
import pptx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.knowledge.parse.pdf_files import page_of_text, pdf_file

from deepwell.errors import DeepwellError
from deepwell.knowledge.documents import Document
from deepwell.knowledge.parse.html import parse_html
from deepwell.knowledge.parse.mail import parse_mail
from deepwell.knowledge.parse.markdown import parse_markdown
from deepwell.knowledge.parse.parse import parse_bytes
from deepwell.knowledge.parse.plain import parse_text
from deepwell.knowledge.parse.records import parse_csv, parse_jsonl

FUZZ = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def check(parse: Callable[[], Document]) -> None:
    """Checks a document's invariants: sections in order, nothing but space between them, no character a store refuses."""
    try:
        document = parse()
    except DeepwellError:
        return
    at = 0
    for section in document.sections:
        assert at <= section.start < section.end <= len(document.text)
        assert not document.text[at : section.start].strip()
        at = section.end
    assert at == len(document.text) and document.sections
    everything = document.text + (document.title or "") + "".join(document.metadata.values())
    everything += "".join("".join(s.place.headings) + (s.place.sheet or "") for s in document.sections)
    assert "\x00" not in everything
    everything.encode()


TEXTS = ["\n", "\r\n", "\f", "\ufeff", "# ", "| a | b |\n|---|---|\n", "```", "---\n", '"', ",", "\\", "\x00"]
RECORDS = ["{", "}", "[1,", '{"a": 1}\n', '"\\ud800"']
TAGS = [
    "<",
    ">",
    "<table><tr><td>",
    "<h1>",
    "</p>",
    "<pre>",
    "&#0;",
    "&#xD800;",
    "<!--",
    "<meta charset=utf-16>",
]
MAILS = ["Subject: =?utf-8?B?", "From: x\n", "Content-Type: multipart/mixed; boundary=x\n", "--x\n", "=\n"]
MAILS += ["Content-Type: message/rfc822\n", "Content-Transfer-Encoding: base64\n", "\n\n"]
ODD = st.sampled_from(
    [b"\xff\xfe", b"\xd6\xd0", b"\x00", *(one.encode() for one in (*TEXTS, *RECORDS, *TAGS, *MAILS))]
)
ANY_TEXT = st.text(max_size=12).map(lambda text: text.encode("utf-8", "replace"))
BYTES = st.lists(ODD | st.binary(max_size=12) | ANY_TEXT).map(b"".join)


@pytest.mark.parametrize(
    "parse", [parse_text, parse_markdown, parse_csv, parse_jsonl, parse_html, parse_mail]
)
@FUZZ
@given(data=BYTES)
def test_parsers_of_text(parse: Callable[[bytes], Document], data: bytes) -> None:
    def guarded() -> Document:
        try:
            return parse(data)
        except ValueError as error:  # the door makes them errors of the file
            raise DeepwellError(str(error)) from error

    check(guarded)


@FUZZ
@given(
    data=BYTES,
    name=st.sampled_from(
        ["a.md", "a.csv", "a.jsonl", "a.json", "a.html", "a.eml", "a", "../../a.txt", "\x00"]
    ),
)
def test_the_door(data: bytes, name: str) -> None:
    check(lambda: parse_bytes(data, name))


def _saved(document: object) -> bytes:
    file = io.BytesIO()
    document.save(file)  # pyright: ignore[reportAttributeAccessIssue]
    return file.getvalue()


def _office() -> list[bytes]:
    word, show, book = docx.Document(), pptx.Presentation(), openpyxl.Workbook()
    word.add_heading("A", 1)
    word.add_table(2, 2).cell(0, 0).text = "x"
    show.slides.add_slide(show.slide_layouts[1]).shapes.title.text = "T"
    book.active.append(["a", "b"])  # pyright: ignore[reportOptionalMemberAccess]
    return [_saved(word), _saved(show), _saved(book)]


FILES = [pdf_file([page_of_text("Some words"), page_of_text("More")], outline=[("More", 1)]), *_office()]


@settings(FUZZ, max_examples=40)
@given(
    which=st.integers(0, 3),
    edits=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6),
    end=st.floats(0.2, 1.5),
)
def test_damaged_files(which: int, edits: list[tuple[float, bytes]], end: float) -> None:
    data = bytearray(FILES[which])
    for place, new in edits:
        at = int(place * (len(data) - 1))
        data[at : at + len(new)] = new
    check(lambda: parse_bytes(bytes(data[: int(end * len(data))]), "a"))


@settings(FUZZ, max_examples=40)
@given(
    which=st.integers(1, 3),
    member=st.integers(0, 50),
    place=st.floats(0, 1),
    new=st.binary(min_size=1, max_size=30),
)
def test_office_files_with_damaged_parts(which: int, member: int, place: float, new: bytes) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(FILES[which])) as old, zipfile.ZipFile(out, "w") as changed:
        names = old.namelist()
        for name in names:
            body = bytearray(old.read(name))
            if name == names[member % len(names)]:
                at = int(place * len(body))
                body[at : at + len(new)] = new
            changed.writestr(name, bytes(body))
    check(lambda: parse_bytes(out.getvalue(), "a"))
