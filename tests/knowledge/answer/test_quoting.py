"""Which passage is quoted: the one that most likely answers, if it is far enough ahead, and what a writer says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from tests.knowledge.answer.fakes import FakeWriter, WordEmbedder, passage

from deepwell.errors import EngineUnavailable
from deepwell.knowledge.answer.decline import quotable
from deepwell.knowledge.answer.features import Features
from deepwell.knowledge.answer.quoting import (
    LEAD,
    READ,
    WRITERS,
    Quoting,
    WriterCalibration,
    choose,
    gains_of,
    lead_of,
)
from deepwell.knowledge.documents import Passage

QUESTION = "Which key opens the door?"
BY_COSINE = Quoting(
    {"en": (10.0, 0, 0, 0, 0, 0, 1.0)}, {"en": (0.0, 0, 0, 0, 0, 0, 0, 1.0, -0.5)}
)  # sure if the lead is 0.5 at least


class Reader(FakeWriter):
    """Finds the question the likelier, the more of its words the prompt has; counts what it is asked at once."""

    name = "reader"

    async def choose(self, messages: Sequence[Mapping[str, str]], choices: Sequence[str]) -> list[float]:
        await super().choose(messages, choices)
        held = set(messages[0]["content"].lower().split())
        return [sum(1.0 if word in held else -1.0 for word in one.lower().split()) for one in choices]


def features(cosine: float) -> Features:
    return Features(cosine, 0, 0, 0, 0, 1, "en")


def test_the_first_is_quoted_if_it_leads() -> None:
    shown = [passage("One.", 1), passage("Two.", 2)]
    sure = choose(shown, [features(0.8), features(0.9)], [0, 0], BY_COSINE)
    assert (sure.at, sure.lead, sure.sure) == (1, pytest.approx(1.0), pytest.approx(0.5))
    assert choose(shown, [features(0.88), features(0.9)], [0, 0], BY_COSINE).sure < 0


def test_what_a_writer_says_counts() -> None:
    shown = [passage("One.", 1), passage("Two.", 2)]
    assert choose(shown, [features(0.8), features(0.9)], [2, 0], BY_COSINE).at == 0


def test_passages_with_the_same_words_are_no_rivals() -> None:
    copies = [passage("The same key.", 1), passage("The same key!", 2)]
    assert lead_of(copies, [1.0, 1.0], 0) == LEAD
    assert lead_of([*copies, passage("Another door.", 3)], [1.0, 1.0, 0.25], 0) == 0.75
    assert lead_of([passage("One.", 1), passage("Two.", 2)], [99.0, 0.0], 0) == LEAD


async def test_a_gain_is_the_likelihood_that_a_passage_adds_to_a_token() -> None:
    writer = Reader()
    gains = await gains_of(QUESTION, [passage("Which key opens it"), passage("Blue sky")], writer)
    assert gains is not None
    assert gains[0] > gains[1] == 0
    assert len(writer.chosen) == 3  # with each, and with none


async def test_a_passage_beyond_the_context_is_not_read() -> None:
    writer = Reader(context=150)
    assert await gains_of(QUESTION, [passage("word " * 150)], writer) is None
    assert writer.chosen == []


async def test_a_writer_that_fails_says_why() -> None:
    class Busy(Reader):
        async def choose(self, messages: Sequence[Mapping[str, str]], choices: Sequence[str]) -> list[float]:
            raise EngineUnavailable("no engine")

    with pytest.raises(EngineUnavailable):
        await gains_of(QUESTION, [passage("One.")], Busy())


def found() -> list[Passage]:
    return [passage(f"Key {name} opens the door.", key) for key, name in enumerate("ABCDEFGH", 1)]


async def test_only_measured_writers_read_and_only_the_first_passages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    embedder, writer = WordEmbedder(), Reader()
    embedder.name = "e5-small-q4"
    await quotable(QUESTION, found(), writer, embedder)
    assert writer.chosen == []
    always = Quoting({"en": (0.0,) * 6 + (1.0,)}, {"en": (0.0,) * 8 + (1.0,)})
    monkeypatch.setitem(WRITERS, "reader", WriterCalibration(True, always))
    assert await quotable(QUESTION, found(), writer, embedder)
    assert len(writer.chosen) == READ + 1
    embedder.name = "unknown"
    await quotable(QUESTION, found(), writer, embedder)
    assert len(writer.chosen) == READ + 1


async def test_without_a_relevant_passage_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    always = Quoting({"en": (0.0,) * 7}, {"en": (0.0,) * 8 + (1.0,)})
    monkeypatch.setitem(WRITERS, "reader", WriterCalibration(True, always))
    embedder, writer = WordEmbedder(), Reader()
    embedder.name = "e5-small-q4"
    assert await quotable(QUESTION, [passage("Blue sky over the sea.")], writer, embedder) == []
    assert await quotable(QUESTION, [], writer, embedder) == []
    assert writer.chosen == []
