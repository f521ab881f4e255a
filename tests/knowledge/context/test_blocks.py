"""Blocks cover a text and overlap at whole sentences; map-reduce reads every token and says what an answer leaves out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.knowledge.context.counting import WordTokens

from deepwell.errors import ContextLengthExceeded
from deepwell.knowledge.context.blocks import BlockOptions, blocks_of, joined_notes, map_reduce
from deepwell.knowledge.context.pieces import Source, cut

TOKENS = WordTokens()
SMALL = BlockOptions(tokens=20, overlap=6, note_tokens=4, answer_tokens=8)

SENTENCE = st.lists(
    st.sampled_from(["it", "is", "Ada", "not", "48,213", "river", "the", "said"]), min_size=1, max_size=30
).map(lambda words: " ".join(words) + ".")
TEXT = st.lists(SENTENCE, max_size=40).map(" ".join)


@given(TEXT, st.integers(2, 60), st.data())
def test_blocks_cover_a_text_once_and_repeat_at_most_the_overlap(
    text: str, size: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    source = Source.read(text, TOKENS)
    options = BlockOptions(tokens=size, overlap=overlap)
    blocks = blocks_of(source, options)
    assert "".join(text[one.own : one.end] for one in blocks) == text
    assert sum(one.tokens for one in blocks) == len(source.starts)
    edges = {0, *(one.end for one in cut([source], max(1, size - overlap)))}
    for before, after in pairwise(blocks):
        assert before.end == after.own, "what one block ends with the next goes on from"
        assert before.start <= after.start <= after.own and after.repeated <= overlap
    for one in blocks:
        assert {one.start, one.own, one.end} <= edges, "a sentence is never cut at a seam"
        whole = [
            piece
            for piece in cut([source], max(1, size - overlap))
            if piece.start >= one.own and piece.end <= one.end
        ]
        assert one.tokens + one.repeated <= size or len(whole) == 1, "only what cannot be cut passes a block"


def test_a_text_without_words_has_no_block_with_tokens() -> None:
    assert blocks_of(Source.read("", TOKENS), SMALL) == []


def test_a_block_begins_with_the_last_sentences_of_the_one_before() -> None:
    text = "Ada was born in London. She wrote a programme. It was for engines. It was not built. It is known."
    blocks = blocks_of(Source.read(text, TOKENS), BlockOptions(tokens=14, overlap=5))
    assert [text[one.start : one.own].strip() for one in blocks] == [
        "",
        "She wrote a programme.",
        "It was for engines.",
    ]


class Scribe:
    """A writer that notes the last word of what it is given, and keeps what it was asked."""

    name = "scribe"

    def __init__(self, context: int = 400, note: Callable[[str], str] | None = None) -> None:
        self.context_tokens = context
        self.asked: list[str] = []
        self._note = note or (lambda text: text.split()[-1])

    def count(self, text: str) -> int:
        return TOKENS.count(text)

    async def write(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        regex: str | None = None,
    ) -> str:
        self.asked.append(messages[-1]["content"])
        return self._note(self.asked[-1])

    def stream(
        self, messages: Sequence[Mapping[str, str]], *, max_tokens: int, temperature: float = 0.0
    ) -> AsyncIterator[str]:
        raise NotImplementedError

    async def choose(self, messages: Sequence[Mapping[str, str]], choices: Sequence[str]) -> list[float]:
        raise NotImplementedError


def story(sentences: int) -> str:
    return " ".join(f"Chapter {number} tells of word{number}." for number in range(sentences))


async def test_every_block_is_read_and_the_answer_rests_on_all_notes() -> None:
    scribe, seen = Scribe(), list[tuple[int, int]]()
    text = story(30)
    found = await map_reduce(text, "Which words?", scribe, TOKENS, SMALL, told=lambda *at: seen.append(at))
    blocks = blocks_of(Source.read(text, TOKENS), SMALL)
    assert found.blocks == len(blocks) and found.rounds == 1 and found.lost_tokens == 0
    assert found.source_tokens == TOKENS.count(text)
    assert found.repeated_tokens == sum(one.repeated for one in blocks)
    for one, asked in zip(blocks, scribe.asked[:-1], strict=True):
        assert asked.startswith("Which words?") and text[one.start : one.end].strip() in asked
    for one in blocks:
        assert text[: one.end].split()[-1] in scribe.asked[-1], (
            "the notes of every block are read for the answer"
        )
    assert seen[0] == (0, len(blocks)) and seen[-1] == (len(blocks), len(blocks))


async def test_notes_that_do_not_fit_one_prompt_are_noted_again() -> None:
    scribe = Scribe(context=140)
    found = await map_reduce(story(400), "Which words?", scribe, TOKENS, SMALL)
    assert found.rounds > 1 and found.lost_tokens == 0
    assert max(map(TOKENS.count, scribe.asked)) + SMALL.note_tokens <= scribe.context_tokens


async def test_a_model_that_repeats_its_blocks_loses_notes_and_says_so() -> None:
    scribe = Scribe(context=140, note=lambda asked: asked.split("\n\n")[-1])
    found = await map_reduce(story(200), "Which words?", scribe, TOKENS, SMALL)
    assert found.lost_tokens > 0
    assert TOKENS.count(scribe.asked[-1]) + SMALL.answer_tokens <= scribe.context_tokens


async def test_a_question_that_leaves_no_room_for_a_block_is_refused() -> None:
    with pytest.raises(ContextLengthExceeded):
        await map_reduce(story(10), "word " * 400, Scribe(), TOKENS, SMALL)


async def test_chinese_questions_are_asked_in_chinese() -> None:
    scribe = Scribe(context=2000)
    await map_reduce("大理有一座桥。桥在河上。", "文中讲了什么？", scribe, TOKENS, SMALL)
    assert "长文" in scribe.asked[0] and "笔记" in scribe.asked[-1]


def test_what_two_neighbours_noted_of_their_overlap_is_kept_once() -> None:
    notes = ["Ada wrote it. It was new.", "It was  new! The engine was not built.", "", "Ada wrote it."]
    assert joined_notes(notes) == "Ada wrote it. It was new.\nThe engine was not built.\nAda wrote it."
