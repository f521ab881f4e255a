"""The chunker's contract: exact offsets, whole sentences and rows, windows that fit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepwell.errors import InvalidRequest
from deepwell.knowledge.chunk import CHARACTERS_A_TOKEN, chunk_document, chunk_lines
from deepwell.knowledge.documents import Chunk, Document, Place, Section
from deepwell.knowledge.parse.parse import parse_bytes
from deepwell.knowledge.sentences import sentence_spans


class Words:
    """Counts words, and characters of Chinese and of emoji, as tokens."""

    max_tokens = 508

    def __init__(self) -> None:
        self.calls = 0

    def count(self, texts: Sequence[str]) -> list[int]:
        self.calls += 1
        return [len(re.findall(r"[a-zA-Z0-9]+|[^\sa-zA-Z0-9]", text)) for text in texts]


class Unknowns(Words):
    """Counts every word as one token, however long: a tokenizer with an unknown token."""

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]


class Spaces(Words):
    """Counts the space between words too: the whole has more tokens than its sentences together."""

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(re.findall(r"[a-zA-Z0-9]+|[^a-zA-Z0-9]", text)) for text in texts]


def marked(text: str) -> Document:
    return parse_bytes(text.encode(), "a.md")


def check(document: Document, chunks: Sequence[Chunk], limit: int, counter: Words) -> None:
    """Checks what the module of the chunker promises."""
    covered: set[int] = set()
    headers = {section.header for section in document.sections if section.header}
    for chunk in chunks:
        body = document.text[chunk.start : chunk.end]
        assert chunk.text == body or chunk.text in {f"{header}\n{body}" for header in headers}
        assert body == body.strip() and body
        assert chunk.tokens == counter.count([chunk.text])[0]
        assert chunk.tokens <= limit or len(body) == 1
        assert len(body) <= CHARACTERS_A_TOKEN * limit + 2 * limit  # gaps are not counted
        assert any(
            chunk.place == section.place
            for section in document.sections
            if section.start <= chunk.start < section.end
        )
        covered.update(range(chunk.start, chunk.end))
    wanted = {
        at
        for section in document.sections
        for at in range(section.start, section.end)
        if not document.text[at].isspace()
    }
    assert wanted <= covered
    starts = [(chunk.start, chunk.end) for chunk in chunks]
    assert starts == sorted(set(starts))


TABLE = "\n| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | four five |\n\n"
WORDS = [
    "word ",
    "two words. ",
    "Dr. A. Smith said e.g. this. ",
    "1. item\n",
    "y" * 70,
    "z" * 900,
    ", ",
    "e\u0301",
]
HAN = ["。", "深井是知识库。", "它回答问题", "汉" * 40, "\u3000", "👩\u200d👩\u200d👧", "🇩🇪"]
PIECES = st.sampled_from([*WORDS, *HAN, TABLE, "\t", "\n", "\n\n", "\n# Title\n", "\n## Sub\n"])


@settings(deadline=None, max_examples=200)
@given(
    st.lists(PIECES, max_size=40).map("".join),
    st.integers(1, 40),
    st.sampled_from([Words(), Unknowns(), Spaces()]),
    st.data(),
)
def test_the_contract_holds(text: str, limit: int, counter: Words, data: st.DataObject) -> None:
    if not text.strip():
        return
    overlap = data.draw(st.integers(0, limit // 2))
    document = marked("- " + text)
    check(
        document, chunk_document(document, counter, max_tokens=limit, overlap_tokens=overlap), limit, counter
    )


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=300), st.integers(1, 20))
def test_the_contract_holds_for_any_text(text: str, limit: int) -> None:
    text = text.replace("\r", "")
    sections = (Section(0, len(text)),) if text else ()
    document = Document(text, sections, "text/plain")
    check(
        document,
        chunk_document(document, Words(), max_tokens=limit, overlap_tokens=limit // 3),
        limit,
        Words(),
    )


def test_an_empty_document_has_no_chunks() -> None:
    assert chunk_document(Document("", (), "text/plain"), Words()) == []
    assert chunk_document(Document(" \n ", (Section(0, 3),), "text/plain"), Words()) == []


def test_windows_end_with_sentences_and_overlap_by_them() -> None:
    document = marked(" ".join(f"Sentence number {i} has words." for i in range(40)))
    chunks = chunk_document(document, Words(), max_tokens=30, overlap_tokens=8)
    assert len(chunks) > 5
    for one, following in pairwise(chunks):
        assert one.text.endswith("words.") and following.text.startswith("Sentence")
        assert document.text[following.start : one.end].count("Sentence") == 1


def test_chinese_sentences_stay_whole() -> None:
    document = marked("".join(f"第{i}句话讲的是知识库的第{i}个部分。" for i in range(30)))
    chunks = chunk_document(document, Words(), max_tokens=60, overlap_tokens=20)
    assert len(chunks) > 5
    assert all(chunk.text.startswith("第") and chunk.text.endswith("。") for chunk in chunks)


def test_headings_are_preferred_cuts_and_small_sections_are_joined() -> None:
    sections = "".join(f"\n## Part {i}\n" + f"Word{i} is here. " * 5 for i in range(8))
    chunks = chunk_document(marked(sections), Words(), max_tokens=50, overlap_tokens=10)
    assert all(chunk.text.startswith("## Part") for chunk in chunks)
    assert [chunk.text.count("##") for chunk in chunks] == [2, 2, 2, 2]
    assert chunks[1].place.headings == ("Part 2",)


def test_a_heading_stays_with_what_follows() -> None:
    text = "First words of the text. " * 6 + "\n\n# Title\n\n## Sub\n\n" + "The body of it. " * 9
    chunks = chunk_document(marked(text), Words(), max_tokens=40, overlap_tokens=0)
    assert [chunk.text for chunk in chunks if chunk.text.startswith("# Title\n\n## Sub\n\nThe body")]


def test_the_header_of_a_table_is_repeated() -> None:
    rows = "\n".join(f"row{i},value {i}" for i in range(40))
    document = parse_bytes(f"Name,Size\n{rows}".encode(), "t.csv")
    chunks = chunk_document(document, Words(), max_tokens=50, overlap_tokens=20)
    assert len(chunks) > 3
    assert all(chunk.text.startswith("Name | Size\nrow") for chunk in chunks)
    assert all(document.text[chunk.start : chunk.end].startswith("row") for chunk in chunks[1:])
    # Rows are not repeated.
    assert all(one.end < following.start for one, following in pairwise(chunks))
    assert [chunk.place.row for chunk in chunks[:2]] == [1, chunks[0].text.count("\n") + 2]


def test_a_long_sentence_is_cut_into_overlapping_windows() -> None:
    document = marked(" ".join(f"word{i}" for i in range(1000)))
    chunks = chunk_document(document, Words(), max_tokens=100, overlap_tokens=25)
    assert all(chunk.tokens <= 100 for chunk in chunks)
    assert all(0 < one.end - following.start < 300 for one, following in pairwise(chunks))


def test_counting_is_done_in_batches() -> None:
    counter = Words()
    chunk_document(marked("A sentence of six words here. " * 5000), counter)
    assert counter.calls < 10


@pytest.mark.parametrize(("limit", "overlap"), [(0, 0), (10, 6), (10, -1)])
def test_impossible_windows_are_refused(limit: int, overlap: int) -> None:
    with pytest.raises(InvalidRequest):
        chunk_document(marked("x"), Words(), max_tokens=limit, overlap_tokens=overlap)


def test_lines_for_people() -> None:
    place = Place(page=3, sheet="S", headings=("A", "B"))
    assert list(chunk_lines([Chunk("text", 5, 9, place, 1)])) == [
        "[1] characters 5-9, 1 tokens, page 3, sheet S, A > B",
        "text",
        "",
    ]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Dr. Smith and J. Doe met. They spoke, e.g. about it.", ["Dr. Smith and J. Doe met.", "They spoke, e.g. about it."]),
        ("He paid 3.50 for it... and left. “Good.” Yes.", ["He paid 3.50 for it... and left.", "“Good.”", "Yes."]),
        ("你好。“再见！”他说。好", ["你好。", "“再见！”", "他说。", "好"]),
        ("1. Install it\n2. Run it", ["1. Install it", "2. Run it"]),
        ("A line that was wrapped at a width of forty\nletters goes on. End", [
            "A line that was wrapped at a width of forty\nletters goes on.", "End",
        ]),
        ("这是一个很长的段落它在这里被换行符号截断了\n然后继续。", ["这是一个很长的段落它在这里被换行符号截断了\n然后继续。"]),
        ("  \n ", []),
        ("", []),
    ],
)  # fmt: skip
def test_sentences(text: str, sentences: list[str]) -> None:
    assert [text[start:end] for start, end in sentence_spans(text)] == sentences


@pytest.mark.parametrize("piece", [".", " ", "\n", "a.", "。", "#", "!?", "e.g. ", "\u0301", '"', "1. "])
def test_monotonous_text_takes_no_time(piece: str) -> None:
    text = "x" + piece * 200_000 + "x"
    document = Document(text, (Section(0, len(text)),), "text/plain")
    assert chunk_document(document, Words(), max_tokens=400)
