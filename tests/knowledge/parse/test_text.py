"""Plain text, its encodings, and Markdown."""

from __future__ import annotations

import pytest

from deepwell.errors import InvalidFile, UnsupportedFile
from deepwell.knowledge.documents import Document
from deepwell.knowledge.parse.encoding import decode
from deepwell.knowledge.parse.parse import parse_bytes

CHINESE = "深井是一个知识库。它回答问题，并给出引用。"


def parts(document: Document) -> list[tuple[str, tuple[str, ...]]]:
    return [(document.text[s.start : s.end], s.place.headings) for s in document.sections]


@pytest.mark.parametrize(
    ("data", "text", "encoding"),
    [
        ("Grüße, 世界".encode(), "Grüße, 世界", "utf-8"),
        ("\ufeffGrüße".encode(), "Grüße", "utf-8"),
        ("Grüße, 世界".encode("utf-16"), "Grüße, 世界", "utf-16-le"),
        ("\ufeffGrüße, 世界".encode("utf-16-be"), "Grüße, 世界", "utf-16-be"),
        ("plain words".encode("utf-16-le"), "plain words", "utf-16-le"),
        ("plain words".encode("utf-32"), "plain words", "utf-32-le"),
        (CHINESE.encode("gb18030"), CHINESE, "gb18030"),
        (CHINESE.encode("gbk") + b" and ASCII", CHINESE + " and ASCII", "gb18030"),
        (
            "Müller trinkt Café crème – für 3 €".encode("cp1252"),
            "Müller trinkt Café crème – für 3 €",
            "windows-1252",
        ),
        (("好" * 200).encode()[:-1], "好" * 199 + "\ufffd", "utf-8, 1 broken characters"),
    ],
)
def test_encodings_are_found(data: bytes, text: str, encoding: str) -> None:
    document = parse_bytes(data, "note.txt")
    assert document.text == text
    assert document.metadata["encoding"] == encoding
    assert document.media_type == "text/plain"


@pytest.mark.parametrize("declared", ["utf-8", "GBK", "hex", "utf-7\x00", "no such", "iso-8859-1", "utf-16"])
def test_a_declared_encoding_that_does_not_fit_is_not_believed(declared: str) -> None:
    assert decode("中文".encode("gbk") * 20, declared).text in ("中文" * 20, "ÖÐÎÄ" * 20)


def test_form_feeds_part_pages() -> None:
    document = parse_bytes(b"one\fsecond\r\nline\f\f", "rfc.txt")
    assert [(document.text[s.start : s.end], s.place.page) for s in document.sections] == [
        ("one", 1),
        ("second\nline", 2),
    ]


def test_what_no_store_can_hold_is_replaced() -> None:
    text = parse_bytes(b'{"a": "x\\ud800y\\u0000z"}\n{"a": "b"}', "a.jsonl").text
    assert text == "a: x\ufffdy\ufffdz\n\na: b"


@pytest.mark.parametrize("data", [b"", b" \n\t ", b"\xef\xbb\xbf"])
def test_an_empty_file_is_an_error(data: bytes) -> None:
    with pytest.raises(InvalidFile):
        parse_bytes(data, "a.txt")


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n" + b"\x00" * 50,
        bytes(range(256)) * 4,
        b"\x1f\x8b\x08" + b"\x00" * 9,
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    ],
)
def test_other_formats_are_refused_with_those_that_are_read(data: bytes) -> None:
    with pytest.raises(UnsupportedFile) as refusal:
        parse_bytes(data, "report.pdf")
    assert "PDF, DOCX, PPTX, XLSX, HTML, Markdown" in refusal.value.fix


MARKDOWN = """---
title: The guide
date: 2026-01-02
tags: [a, b]
---
Before all.

# One `code` [link](https://example.org)
Text.

```python
# no heading
| a | b |
|---|---|
```

Second
------

| name | 2024 |
|:-----|-----:|
| a\\|b | 1 |
| c | 2 |

After.

### Deep ###
- item
# Two
end
"""


def test_markdown_keeps_its_structure() -> None:
    document = parse_bytes(MARKDOWN.encode(), "guide.md")
    assert document.media_type == "text/markdown"
    assert document.title == "The guide"
    assert document.metadata["date"] == "2026-01-02"
    one = ("One code link",)
    found = parts(document)
    assert found[0] == ("Before all.", ())
    assert found[1][1] == one and found[1][0].endswith("|---|---|\n```")
    assert found[2] == ("Second\n------", (*one, "Second"))
    assert [s.header for s in document.sections[3:6]] == ["name | 2024"] * 3
    assert found[4] == ("a|b | 1", (*one, "Second"))
    assert found[6] == ("After.", (*one, "Second"))
    assert found[7] == ("### Deep ###\n- item", (*one, "Second", "Deep"))
    assert found[8] == ("# Two\nend", ("Two",))


def test_markdown_of_one_heading_alone() -> None:
    assert parts(parse_bytes(b"#\n# A\n", "a.md")) == [("#", ()), ("# A", ("A",))]


@pytest.mark.parametrize(
    "piece", ["#", "# ", "*", "[", "|-", "| ", "<!-- -->", "\n#", "`", "---\n", " ", "_a", ":-", "- "]
)
def test_monotonous_text_takes_no_time(piece: str) -> None:
    assert parse_bytes(f"# x{piece * 100_000}x".encode(), "a.md").text
    assert parse_bytes(f"{piece * 100_000}x".encode(), "a").text
