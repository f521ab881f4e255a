"""Contracts of compression: the budget, the account of every token, and what must not be lost."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.knowledge.context.counting import WordTokens
from tests.knowledge.hashing import HashEmbedder

from deepwell.errors import InvalidRequest
from deepwell.knowledge.answer.text import digits, is_negated
from deepwell.knowledge.context.compress import ELLIPSIS, Compressed, compress
from deepwell.knowledge.context.pieces import Source
from deepwell.knowledge.context.scores import FusedScorer, LexicalScorer

SENTENCES = (
    "The access code of the Rotterdam depot is 48213.",
    "Dr. Jan de Vries never paid 3.5 million euros.",
    "It rained.",
    "Nobody may enter without a badge, whether in summer or in winter, says Maria Berg.",
    "\n\n- The list has 12 entries\n",
    "杭州仓库的门禁密码是70961。",
    "任何人不得进入2号码头！",
    "The boundary layer of the plate is thin, as Blasius showed in 1908, and the drag is small; the wake is narrow.",
)
TEXT = st.lists(st.sampled_from(SENTENCES), min_size=0, max_size=12).map(" ".join)
QUERY = "What is the code of the Rotterdam depot, and who may enter 码头?"


def check(found: Compressed, sources: list[str], budget: int) -> None:
    """Checks what holds of every result."""
    tokens = WordTokens()
    assert found.tokens == sum(map(tokens.count, found.texts)) <= budget
    assert found.source_tokens == sum(map(tokens.count, sources)) == found.kept_tokens + found.dropped_tokens
    for number, text in enumerate(sources):
        mine = [one for one in found.stretches if one.source == number]
        assert "".join(text[one.start : one.end] for one in mine) == text
        assert all(a.kept != b.kept for a, b in itertools.pairwise(mine))
        kept = [text[one.start : one.end] for one in mine if one.kept]
        left = found.texts[number]
        for piece in kept:  # verbatim and in order
            at = left.index(piece)
            assert not left[:at].strip(f"{ELLIPSIS} \n")
            left = left[at + len(piece) :]
        assert not left.strip(f"{ELLIPSIS} \n")
        if kept:
            assert found.texts[number].count(ELLIPSIS) == sum(not one.kept for one in mine)


@given(sources=st.lists(TEXT, min_size=1, max_size=5), budget=st.integers(1, 150))
@settings(max_examples=200, deadline=None)
async def test_every_token_is_accounted_for(sources: list[str], budget: int) -> None:
    found = await compress(sources, QUERY, budget, tokens=WordTokens(), scorer=LexicalScorer())
    check(found, sources, budget)
    if sum(map(WordTokens().count, sources)) <= budget:
        assert list(found.texts) == sources and not found.dropped_tokens and not found.seam_tokens


@given(text=TEXT, budget=st.integers(45, 150))
@settings(max_examples=100, deadline=None)
async def test_sentences_that_fit_are_kept_whole_or_not_at_all(text: str, budget: int) -> None:
    found = await compress(text, QUERY, budget, tokens=WordTokens(), scorer=FusedScorer(HashEmbedder()))
    source = Source.read(text, WordTokens())
    for start, end in source.sentences:
        inside = [one for one in found.stretches if one.start < end and one.end > start]
        assert len(inside) == 1
        sentence = text[start:end].strip()
        if inside[0].kept:
            assert sentence in found.texts[0]


@given(
    parts=st.lists(st.sampled_from([one.strip(" .\n！。") for one in SENTENCES]), min_size=5, max_size=25),
    budget=st.integers(12, 60),
)
@settings(max_examples=150, deadline=None)
async def test_a_shortened_sentence_loses_nothing_of_what_remains(parts: list[str], budget: int) -> None:
    text = ", ".join(part.replace(";", ",") for part in parts)
    found = await compress(text, QUERY, budget, tokens=WordTokens(), scorer=LexicalScorer())
    check(found, [text], budget)
    edges = {one.start for one in found.stretches} - {0}
    for pattern in (
        r"\d+(?:[.,]\d+)*",
        r"Jan de Vries|Maria Berg|Rotterdam|Blasius",
        r"[A-Za-z]+",
        r"不得进入",
    ):
        for one in re.finditer(pattern, text):
            assert not edges & set(range(one.start() + 1, one.end()))
    for one in found.stretches:
        if one.kept:  # nothing is left out of it, and nothing is changed in it
            piece = text[one.start : one.end]
            shown = found.texts[0]
            assert piece in shown
            assert digits(piece) <= digits(text)
    for piece in re.split(rf"{ELLIPSIS}", found.texts[0]):
        for clause in piece.split(", "):
            if is_negated(clause):
                assert any(clause.strip(" ,") in part.replace(";", ",") for part in parts)


async def test_what_the_question_needs_is_kept() -> None:
    filler = [f"Pump number {n} was inspected on a quiet day." for n in range(200)]
    needed = (
        "The access code of the Rotterdam depot is 48213.",
        "The doors of the Oslo laboratory are dark red.",
    )
    text = " ".join([*filler[:50], needed[0], *filler[50:170], needed[1], *filler[170:]])
    query = "What is the access code of the Rotterdam depot, and what colour are the doors of the Oslo laboratory?"
    found = await compress(text, query, 60, tokens=WordTokens(), scorer=LexicalScorer())
    check(found, [text], 60)
    assert all(one in found.texts[0] for one in needed)
    assert found.texts[0].index(needed[0]) < found.texts[0].index(needed[1])


async def test_the_sentence_behind_the_one_that_has_the_name_is_kept() -> None:
    filler = [f"Pump {n} ran all day and all night in the hall of the works." for n in range(60)]
    fact = "The Rotterdam depot was refitted. Its new number is 48213."
    text = " ".join([*filler[:30], fact, *filler[30:]])
    found = await compress(
        text, "What about the Rotterdam depot?", 40, tokens=WordTokens(), scorer=LexicalScorer()
    )
    assert fact in found.texts[0]


async def test_sources_that_are_dropped_whole_are_marked_once() -> None:
    sources = ["A first one.", "Rotterdam is here.", "A third one.", "A fourth one.", "A fifth one."]
    found = await compress(sources, "Rotterdam", 12, tokens=WordTokens(), scorer=LexicalScorer())
    check(found, sources, 12)
    assert found.texts[1] == sources[1]
    assert found.texts.count("") == sum(
        a == b == ELLIPSIS or b == "" for a, b in zip(found.texts, found.texts[1:], strict=False)
    )


async def test_a_budget_without_room_for_a_mark_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="budget of 0 tokens"):
        await compress("A text.", "A question?", 0, tokens=WordTokens(), scorer=LexicalScorer())
    found = await compress("A longer text.", "A question?", 1, tokens=WordTokens(), scorer=LexicalScorer())
    assert found.texts == (ELLIPSIS,) and found.seam_tokens == found.tokens == 1


async def test_a_text_that_was_read_is_not_read_again() -> None:
    tokens = WordTokens()
    source = Source.read(" ".join(SENTENCES), tokens)
    tokens.counted.clear()
    found = await compress([source], QUERY, 30, tokens=tokens, scorer=LexicalScorer())
    assert source.text not in tokens.counted
    check(found, [source.text], 30)


@given(st.lists(TEXT, min_size=1, max_size=4), st.integers(1, 120), st.integers(0, 60))
@settings(max_examples=60, deadline=None)
async def test_what_stands_out_is_accounted_for_too(texts: list[str], budget: int, focus: int) -> None:
    found = await compress(texts, QUERY, budget, tokens=WordTokens(), scorer=LexicalScorer(), focus=focus)
    check(found, texts, budget)


async def test_a_sentence_that_stands_out_comes_with_what_leans_on_it_and_stands_around() -> None:
    filler = " ".join(f"Ship {number} sailed on." for number in range(40))
    text = f"{filler} The Rotterdam depot got a new lock. Its access code is 48213. {filler}"
    asked = "What is the access code of the Rotterdam depot?"
    few = await compress(text, asked, 150, tokens=WordTokens(), scorer=LexicalScorer(), focus=0)
    assert few.focused and few.texts == ("… The Rotterdam depot got a new lock. Its access code is 48213. …",)
    same = await compress(text, asked, 150, tokens=WordTokens(), scorer=LexicalScorer(), focus=40)
    assert same.texts == few.texts, "the sentences have most words of the question"
    asked = "Which sailors near Rotterdam keep their gear under lock?"
    more = await compress(text, asked, 150, tokens=WordTokens(), scorer=LexicalScorer(), focus=40)
    assert more.focused and "Ship 39 sailed on. The Rotterdam depot" in more.texts[0]
    assert few.tokens < more.tokens <= 50
    whole = await compress(text, "What sailed?", 150, tokens=WordTokens(), scorer=LexicalScorer(), focus=40)
    assert not whole.focused and whole.tokens > 100, "nothing stands out: the budget is filled"
