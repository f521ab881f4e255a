"""Contracts of the history of a conversation: what leaves the window is found again, in order, within the budget."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.knowledge.context.counting import WordTokens
from tests.knowledge.hashing import HashEmbedder

from deepwell.knowledge.context.history import History, HistoryOptions

FILLER = "The pump ran all day and the crew went home in the evening without a word. " * 12
FACTS = {
    7: "The access code of the Rotterdam depot is 48213.",
    19: "The access code of the Lisbon depot is 70961.",
    31: "The doors of the Oslo laboratory are painted dark red.",
}


SIZES = HistoryOptions()


async def filled(turns: int = 40, options: HistoryOptions = SIZES) -> History:
    history = History(WordTokens(), HashEmbedder(), options)
    for turn in range(1, turns + 1):
        text = f"{FILLER}{FACTS.get(turn, '')} {FILLER}"
        await history.add(turn, text, "user" if turn % 2 else "assistant")
    return history


async def test_a_fact_is_recalled_with_its_turn_and_place() -> None:
    history = await filled()
    found = await history.recall("Which code opens the Rotterdam depot?", 150)
    assert 0 < found.tokens <= 150
    assert found.tokens == WordTokens().count(found.text)
    [passage] = [one for one in found.passages if FACTS[7] in one.text]
    assert (passage.turn, passage.role) == (7, "user")
    turn = f"{FILLER}{FACTS[7]} {FILLER}"
    assert turn[passage.start : passage.end] == passage.text
    assert f"[7 user] … {passage.text}" in found.text or f"… {passage.text} …" in found.text
    assert found.text.count("[7 user]") == 1


async def test_all_facts_of_a_question_are_recalled_in_their_order() -> None:
    history = await filled()
    query = (
        "What colour are the doors of the Oslo laboratory, what is the access code of the Lisbon depot "
        "and what is the access code of the Rotterdam depot?"
    )
    found = await history.recall(query, 450)
    assert all(fact in found.text for fact in FACTS.values())
    places = [(one.turn, one.start) for one in found.passages]
    assert places == sorted(places)
    assert found == await history.recall(query, 450)


async def test_turns_are_embedded_when_they_are_added() -> None:
    embedder = HashEmbedder()
    history = History(WordTokens(), embedder)
    await history.add(1, FILLER + FACTS[7])
    embedded = len(embedder.embedded)
    assert embedded == len(history) > 1
    await history.recall("Rotterdam", 100)
    assert len(embedder.embedded) == embedded
    await history.add(2, FACTS[19])
    assert len(embedder.embedded) == embedded + 1


async def test_passages_do_not_overlap_and_neighbours_are_joined() -> None:
    history = History(WordTokens(), HashEmbedder(), HistoryOptions(chunk_tokens=20, overlap_tokens=8))
    text = " ".join(f"Depot {n} has the code {1000 + n}." for n in range(60))
    await history.add(3, text)
    found = await history.recall("What are the codes of depot 10, depot 11 and depot 40?", 120)
    spans = [(one.start, one.end) for one in found.passages]
    assert all(a[1] < b[0] for a, b in itertools.pairwise(spans))
    assert all(text[a:b] == one.text for (a, b), one in zip(spans, found.passages, strict=True))
    assert found.passage_tokens == sum(one.tokens for one in found.passages) < found.tokens
    whole = await history.recall("code", 10_000)
    assert [one.text for one in whole.passages] == [text]
    assert whole.passage_tokens == history.tokens
    assert whole.text == f"[3] {text}"


@given(
    budget=st.integers(0, 400), query=st.sampled_from(["Rotterdam", "the code of the Oslo depot", "?", ""])
)
@settings(max_examples=60, deadline=None)
async def test_no_budget_is_passed(budget: int, query: str) -> None:
    history = await filled(12)
    found = await history.recall(query, budget)
    assert found.tokens <= budget or not found.passages
    assert found.tokens == WordTokens().count(found.text)


async def test_memory_is_bounded_and_what_is_forgotten_is_counted() -> None:
    history = await filled(40, HistoryOptions(most_tokens=5000))
    everything = WordTokens()
    total = sum(everything.count(f"{FILLER}{FACTS.get(turn, '')} {FILLER}") for turn in range(1, 41))
    assert history.tokens <= 5000
    assert history.tokens + history.forgotten_tokens == total
    assert "48213" not in (await history.recall("What is the access code of the Rotterdam depot?", 400)).text
    assert "dark red" in (await history.recall("What colour are the doors of the Oslo lab?", 400)).text


async def test_a_history_does_not_depend_on_what_it_has_forgotten() -> None:
    small = HistoryOptions(most_tokens=3000)
    forgetful = await filled(40, small)
    first = 40 - 3000 // WordTokens().count(f"{FILLER} {FILLER}")
    fresh = History(WordTokens(), HashEmbedder(), small)
    for turn in range(first, 41):
        text = f"{FILLER}{FACTS.get(turn, '')} {FILLER}"
        await fresh.add(turn, text, "user" if turn % 2 else "assistant")
    query = "What colour are the doors of the Oslo laboratory?"
    assert (await forgetful.recall(query, 200)).text == (await fresh.recall(query, 200)).text


async def test_empty_turns_and_an_empty_history_are_no_error() -> None:
    history = History(WordTokens(), HashEmbedder())
    assert (await history.recall("anything", 100)).passages == ()
    await history.add(1, "")
    await history.add(1, " \n")
    assert len(history) == 0 and history.forgotten_tokens == 1
    await history.add(2, "A fact.")
    assert (await history.recall("fact", 100)).text == "[2] A fact."
    with pytest.raises(ValueError, match="turn 1 comes after turn 2"):
        await history.add(1, "late")
