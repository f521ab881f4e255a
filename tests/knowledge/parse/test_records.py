"""CSV, JSONL, and tables as text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.errors import InvalidFile
from deepwell.knowledge.documents import Document
from deepwell.knowledge.parse.parse import parse_bytes
from deepwell.knowledge.parse.tables import lines_of_table


def rows(document: Document) -> list[tuple[int | None, str, str]]:
    return [(s.place.row, document.text[s.start : s.end], s.header) for s in document.sections]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_finds_its_delimiter(delimiter: str) -> None:
    lines = [["Name", "City", "Note"], ["Ada", "London", '"a, b; c"'], ["Li", "西安", "x"]]
    text = "\n".join(delimiter.join(line) for line in lines)
    header = "Name | City | Note"
    assert rows(parse_bytes(text.encode(), "t.csv")) == [
        (1, header, header),
        (2, "Ada | London | a, b; c", header),
        (3, "Li | 西安 | x", header),
    ]


def test_csv_without_a_header_has_none() -> None:
    assert rows(parse_bytes(b"1,2\n3,4\n\n5,6", "t.csv")) == [
        (1, "1 | 2", ""),
        (2, "3 | 4", ""),
        (4, "5 | 6", ""),
    ]


def test_a_long_header_stands_in_every_row() -> None:
    names = [f"column number {i}" for i in range(30)]
    text = ",".join(names) + "\n" + ",".join(str(i) if i % 10 == 0 else "" for i in range(30))
    assert rows(parse_bytes(text.encode(), "t.csv")) == [
        (2, "column number 0: 0; column number 10: 10; column number 20: 20", "")
    ]


def test_years_may_name_columns() -> None:
    lines = list(lines_of_table([["", "2023", "2024"], ["Oil", 1, 2.0]]))
    assert [(line.text, line.header) for line in lines] == [
        (" | 2023 | 2024",) * 2,
        ("Oil | 1 | 2", " | 2023 | 2024"),
    ]


def test_jsonl_records() -> None:
    data = b'{"title": "A", "tags": ["x", "y"], "by": {"name": "Li", "age": null}}\n\n{"list": [{"a": 1}, {"a": 2}]}\n'
    document = parse_bytes(data, "r.jsonl")
    assert document.media_type == "application/jsonl"
    assert rows(document) == [
        (1, "title: A\ntags: x, y\nby.name: Li", ""),
        (3, "list.1.a: 1\nlist.2.a: 2", ""),
    ]
    listed = json.dumps([{"a": 1}, {"a": "b"}], indent=1).encode()
    assert rows(parse_bytes(listed, "r.json")) == [(1, "a: 1", ""), (2, "a: b", "")]


def test_a_broken_line_is_named() -> None:
    with pytest.raises(InvalidFile, match="line 7"):
        parse_bytes(b'{"a": 1}\n' * 6 + b'{"a": ', "r.jsonl")
    with pytest.raises(InvalidFile, match="nested"):
        parse_bytes(b'{"a": 1}\n{"a": 1}\n' + b'{"a":' * 50 + b"1" + b"}" * 50, "r.jsonl")


@given(
    st.lists(
        st.lists(st.one_of(st.none(), st.text(max_size=8), st.floats(), st.integers()), max_size=5),
        max_size=12,
    )
)
def test_no_filled_cell_is_lost(table: list[list[object]]) -> None:
    lines = list(lines_of_table(table))
    numbers = [line.row for line in lines]
    assert numbers == sorted(set(numbers))
    for line in lines:
        for cell in table[line.row - 1]:
            if isinstance(cell, str):
                assert " ".join(cell.split()) in line.text
