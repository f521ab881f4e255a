"""A conversation that goes on keeps the beginning of its prompt, whatever the process remembers of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.knowledge.hashing import HashEmbedder
from tests.server.fakes import make_codec

from deepwell.dialogue.text import Codec
from deepwell.knowledge.context.fitting.fit import FitModel, Fitted, Fitter, Recalling
from deepwell.knowledge.context.fitting.memories import Memories, MemoryKey
from deepwell.knowledge.context.fitting.policy import FitOptions
from deepwell.knowledge.context.fitting.recent import slide

ROOM = 4_000
QUESTIONS = (
    "Who keeps the lighthouse?",
    "When does ferry 12 sail?",
    "What is the gate code?",
    "Which pier has timber?",
)
OPTIONS = FitOptions(part_tokens=300)  # a token is a byte here
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return make_codec(tmp_path_factory.mktemp("tokenizer"))


def talk(turns: int) -> list[dict[str, str]]:
    found = [SYSTEM]
    for number in range(turns):
        fact = f"Ferry {number} sails at {number % 24} o'clock from the {number}th pier with timber and salt."
        if number == 5:
            fact = "The keeper of the lighthouse is Brigita. The gate code is 48213."
        found += [{"role": "user", "content": fact}, {"role": "assistant", "content": f"Noted {number}."}]
    return found


class Reader:
    """Fits conversations with one memory, and keeps what it was asked."""

    def __init__(self, codec: Codec) -> None:
        self.codec, self.memories = codec, Memories()
        self.embedder: Any = HashEmbedder()

    def fit(self, messages: Sequence[Any]) -> Fitted:
        async def render(some: Sequence[Any]) -> list[int]:
            return self.codec.encode_chat(some)

        recalling = Recalling(self.memories, MemoryKey("", "toy"), self.embedder)
        fitter = Fitter(FitModel(self.codec, render, ROOM), ROOM, recalling=recalling, options=OPTIONS)
        return asyncio.run(fitter.fit(messages, self.codec.encode_chat(messages), "auto"))


def follows(codec: Codec, before: Fitted, answer: dict[str, str], after: Fitted) -> bool:
    """Returns whether a prompt begins with all of the one before and its answer."""
    said = codec.encode_chat([*before.messages, answer], add_generation_prompt=False)
    return codec.encode_chat(after.messages)[: len(said)] == said


def test_a_turn_follows_the_one_before_until_turns_are_forgotten(codec: Codec) -> None:
    reader, messages = Reader(codec), talk(150)
    stays: list[bool] = []
    gone: list[int] = []
    before: Fitted | None = None
    for number in range(30):
        messages.append({"role": "user", "content": f"{QUESTIONS[number % 4]} This is question {number}."})
        fitted = reader.fit(messages)
        assert fitted.ledger.mechanism == "retrieve"
        gone.append(len(messages) - len(fitted.messages))
        if before is not None:
            stays.append(follows(codec, before, messages[-2], fitted))
        before = fitted
        messages.append({"role": "assistant", "content": "It is so."})
    moved = [later > earlier for earlier, later in pairwise(gone)]
    assert sorted(gone) == gone
    assert stays == [not one for one in moved]
    assert 1 <= sum(moved) <= 10


def test_what_was_recalled_is_not_recalled_again(codec: Codec) -> None:
    reader, messages = Reader(codec), talk(150)
    found: list[Fitted] = []
    for _ in range(3):
        messages.append({"role": "user", "content": "Who keeps the lighthouse at the gate?"})
        found.append(reader.fit(messages))
        messages.append({"role": "assistant", "content": "Brigita does."})
    last = codec.decode(codec.encode_chat(found[-1].messages))
    assert last.count("The keeper of the lighthouse is Brigita.") == 1
    assert found[-1].messages[-1]["content"] == "Who keeps the lighthouse at the gate?"


def test_the_prompt_does_not_depend_on_what_is_remembered(codec: Codec) -> None:
    warm, messages = Reader(codec), talk(150)
    for number in range(8):
        messages.append({"role": "user", "content": f"{QUESTIONS[number % 4]} And {number}?"})
        fitted = warm.fit(messages)
        assert Reader(codec).fit(messages) == fitted
        messages.append({"role": "assistant", "content": "It is so."})


def test_a_history_is_embedded_once(codec: Codec) -> None:
    reader, messages = Reader(codec), talk(150)
    reader.fit([*messages, {"role": "user", "content": QUESTIONS[0]}])
    first = len(reader.embedder.embedded)
    assert first > 100
    reader.fit([*messages, {"role": "user", "content": QUESTIONS[1] + " " + "Think of the salt. " * 120}])
    reader.fit([*messages, {"role": "user", "content": QUESTIONS[2]}])  # it forgets less than the one before
    texts = reader.embedder.embedded
    assert len(texts) == len(set(texts))


@given(st.lists(st.tuples(st.integers(1, 400), st.integers(0, 120)), max_size=60), st.integers(1, 2_000))
def test_sliding(turns: list[tuple[int, int]], most: int) -> None:
    sizes, notes = [one for one, _ in turns], [note for _, note in turns]
    found = slide(sizes, notes, most)
    assert 0 <= found.first <= len(turns) and found.tokens <= most
    assert sum(sizes[found.first :]) <= found.tokens
    shorter = slide(sizes[:-1], notes[:-1], most)
    assert shorter.first <= found.first
    if found.since < len(turns):  # the last turn did not move anything
        assert (shorter.first, shorter.since) == (found.first, found.since)
