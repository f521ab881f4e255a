"""E-mail: headers, bodies, attachments."""

from __future__ import annotations

from email.message import EmailMessage

from deepwell.knowledge.documents import Document
from deepwell.knowledge.parse.parse import parse_bytes


def letter() -> EmailMessage:
    message = EmailMessage()
    message["Subject"] = "季度报告"
    message["From"] = "Ada <ada@example.org>"
    message["To"] = "Li <li@example.org>"
    message["Date"] = "Mon, 04 May 2026 10:00:00 +0800"
    message.set_content("Dear Li,\nthe report is here.\n")
    return message


def parts(document: Document) -> list[tuple[str, tuple[str, ...]]]:
    return [(document.text[s.start : s.end], s.place.headings) for s in document.sections]


def test_headers_and_text() -> None:
    document = parse_bytes(letter().as_bytes(), "x")
    assert document.media_type == "message/rfc822" and document.title == "季度报告"
    assert document.metadata["from"] == "Ada <ada@example.org>"
    assert parts(document) == [
        (
            "Subject: 季度报告\nFrom: Ada <ada@example.org>\nTo: Li <li@example.org>\nDate: Mon, 04 May 2026 10:00:00 +0800",
            ("季度报告",),
        ),
        ("Dear Li,\nthe report is here.", ("季度报告",)),
    ]


def test_the_text_part_is_preferred_and_html_read_where_there_is_none() -> None:
    message = letter()
    message.add_alternative("<html><h1>Hi</h1><p>html words</p></html>", subtype="html")
    assert "html words" not in parse_bytes(message.as_bytes(), "a.eml").text
    page = EmailMessage()
    page["From"] = "a@example.org"
    page["Subject"] = "s"
    page.set_content("<html><h1>Hi</h1><p>html words</p></html>", subtype="html")
    assert parts(parse_bytes(page.as_bytes(), "a.eml"))[1] == ("Hi\n\nhtml words", ("s", "Hi"))


def test_attachments_are_read_or_named() -> None:
    inner = letter()
    inner.replace_header("Subject", "inner")
    message = letter()
    message.add_attachment(b"Name,Size\na,1\n", maintype="text", subtype="csv", filename="../../table.csv")
    message.add_attachment(
        b"\x89PNG\r\n\x1a\n" + b"\x00" * 99, maintype="image", subtype="png", filename="p.png"
    )
    message.add_attachment(inner)
    document = parse_bytes(message.as_bytes(), "a.eml")
    found = parts(document)
    assert ("a | 1", ("季度报告", "table.csv")) in found
    assert any(path[-1] == "inner" and "the report" in text for text, path in found)
    assert document.metadata["left_out"].startswith("p.png (the file is a PNG picture")


def test_mails_within_mails_end() -> None:
    message = letter()
    for _ in range(6):
        outer = letter()
        outer.add_attachment(message)
        message = outer
    document = parse_bytes(message.as_bytes(), "a.eml")
    assert document.text.count("the report is here") == 3
    assert "mails within mails, more than 3 deep" in document.metadata["left_out"]


def test_broken_encodings_end_in_text() -> None:
    data = (
        b"Subject: =?no-such?B?xx?= =?utf-8?B?!?=\nFrom: a\nMIME-Version: 1.0\n"
        b"Content-Type: text/plain; charset=none-such\nContent-Transfer-Encoding: base64\n\n%%%\n"
    )
    assert parse_bytes(data, "a.eml").title
