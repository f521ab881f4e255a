"""Contracts of the scorers of sentences."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.knowledge.hashing import HashEmbedder

from deepwell import AsyncLLM
from deepwell.knowledge.context.likelihood import LikelihoodScorer, ModelLikelihoods
from deepwell.knowledge.context.scores import CascadeScorer, EmbeddingScorer, FusedScorer, LexicalScorer
from deepwell.knowledge.context.terms import coverage, facets_of, terms_of

TEXTS = [
    "The access code of the Rotterdam depot is 48213.",
    "The access code of the Lisbon depot is 70961.",
    "The boundary layer is thin.",
    "鹿特丹仓库的门禁密码是48213。",
]


class CountedLikelihoods:
    """The likelihood of a question is the number of its letters that stand in the passage. `asked` counts pairs."""

    def __init__(self) -> None:
        self.asked = 0

    async def mean_logprobs(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        self.asked += len(pairs)
        return [-1.0 + sum(word in prompt for word in target.split()) for prompt, target in pairs]


async def test_words_count_by_their_rarity_in_the_text_itself() -> None:
    scorer = LexicalScorer()
    found = await scorer.score(["Which code opens the depot in Rotterdam?", "仓库的密码"], TEXTS)
    assert found.shape == (2, 4)
    assert found.min() >= 0 and found.max() <= 1
    assert found[0].argmax() == 0
    assert found[0, 1] > found[0, 2]
    assert found[1].argmax() == 3
    assert (
        found == await scorer.score(["Which code opens the depot in Rotterdam?", "仓库的密码"], TEXTS)
    ).all()


def test_a_long_text_of_short_sentences_is_counted_in_little_memory() -> None:
    count = 20_000
    words = [f"word{number}" for number in range(600)]
    texts = [Counter([words[number % 600], words[number * 7 % 600]]) for number in range(count)]
    queries = [Counter(words), Counter(words[:3])]
    tracemalloc.start()
    try:
        found = coverage(queries, texts)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < count * len(words) * 8  # of all counts at once, in float64
    assert found.shape == (2, count)
    # However many texts there are, the same neighbours and the same frequencies give the same coverage.
    assert np.allclose(found[:, 4200:7800], found[:, 8400:12000], rtol=1e-12)


def test_words_of_every_script_count() -> None:
    assert terms_of("Straße, Москва и 東京タワー")
    covered = coverage([terms_of("где Москва")], [terms_of("Paris is big"), terms_of("Москва большая")])
    assert covered[0, 1] > covered[0, 0] == 0
    assert coverage([terms_of("")], [terms_of("word")]).tolist() == [[0.0]]
    assert coverage([terms_of("word")], []).shape == (1, 0)


def test_a_fact_behind_a_long_sentence_counts_as_much_as_one_by_itself() -> None:
    # The manual's list does not end as a sentence does: the fact is in one piece with it.
    manual = "See as(1), elfedit(1), gdb(1), ld(1), nm(1), objcopy(1), objdump(1), patchelf(1), strip(1) and ld.so(8)"
    fact = "The guest network of the Fresno library has the password candle."
    others = ["Chapter ten is about the colours of the pages, the length of the lines, and their order."] * 8
    query = [terms_of("What is the password of the guest network of the Fresno library?")]

    def score(text: str) -> float:
        return float(coverage(query, [terms_of(one) for one in [*others, text]])[0, -1])

    assert score(f"{manual} {fact}") >= 0.9 * score(fact)


def test_a_question_that_was_asked_before_covers_nothing() -> None:
    query = "What is the code of the Rotterdam depot?"
    texts = [
        "What is the code of the Rotterdam depot?",
        "48213.",
        "The code of the Rotterdam depot is 48213.",
        "Rain.",
    ]
    covered = coverage([terms_of(query)], [terms_of(one) for one in texts])[0]
    assert covered[0] == 0.0
    assert covered[2] > covered[1] > 0.0


@pytest.mark.parametrize(
    ("query", "parts"),
    [
        ("What is the code of the Oslo depot?", []),
        (
            "What are the codes of the Oslo depot, the Lima office and the Bern lab?",
            ["What are the codes of the Oslo depot", "the Lima office", "the Bern lab"],
        ),
        ("Who leads it? When did it open?", ["Who leads it", "When did it open"]),
        (
            "杭州仓库、苏州码头和南京展厅的密码分别是多少？",
            ["杭州仓库", "苏州码头", "南京展厅的密码分别是多少"],
        ),
        # What it is about, and what it asks.
        ("杭州仓库买的烤箱，序列号是什么？", []),
        ("In the Oslo depot, what number has the safe?", []),
        ("杭州仓库的密码是什么，谁管理它？", ["杭州仓库的密码是什么", "谁管理它"]),
        ("Name the owner, the lessee and the date.", ["Name the owner", "the lessee", "the date"]),
    ],
)
def test_a_question_falls_into_the_facts_that_it_asks_for(query: str, parts: list[str]) -> None:
    assert facets_of(query) == (query, *parts)


async def test_vectors_of_sentences_are_computed_once() -> None:
    embedder = HashEmbedder()
    scorer = FusedScorer(embedder)
    first = await scorer.score(["access code of the Rotterdam depot"], TEXTS)
    assert first[0].argmax() == 0
    again = await scorer.score(["access code of the Rotterdam depot"], [*TEXTS, TEXTS[0], "A new one."])
    assert embedder.embedded == [*TEXTS, "A new one."]
    assert again.shape == (1, 6)


async def test_only_the_best_by_words_are_embedded() -> None:
    embedder = HashEmbedder()
    await FusedScorer(embedder, most=2).score(["access code of the Rotterdam depot"], TEXTS)
    assert embedder.embedded == TEXTS[:2]
    assert (await EmbeddingScorer(embedder).score(["a"], [])).shape == (1, 0)


async def test_likelihoods_are_contrasted_with_no_passage() -> None:
    model = CountedLikelihoods()
    gains = await LikelihoodScorer(model).gains(["Rotterdam code", "boundary"], TEXTS)
    assert gains.tolist() == [[2, 1, 0, 0], [0, 0, 1, 0]]
    assert model.asked == 2 * (len(TEXTS) + 1)


async def test_the_costly_scorer_is_asked_about_the_best_alone() -> None:
    model = CountedLikelihoods()
    cascade = CascadeScorer(LexicalScorer(), LikelihoodScorer(model), most=2)
    found = await cascade.score(["Rotterdam depot code"], TEXTS)
    assert model.asked == 3
    assert found[0].argmax() == 0
    assert min(found[0, :2]) >= 0.5 >= max(found[0, 2:])
    assert (await cascade.score(["x"], [])).shape == (1, 0)


@pytest.fixture
async def smollm2(smollm2_path: Path) -> AsyncIterator[AsyncLLM]:
    async with AsyncLLM(smollm2_path, context=512) as opened:
        yield opened


async def test_a_model_finds_the_question_likelier_behind_its_answer(smollm2: AsyncLLM) -> None:
    scorer = LikelihoodScorer(ModelLikelihoods(smollm2))
    texts = ["The boundary layer is thin.", "The access code of the Rotterdam depot is 48213."]
    gains = await scorer.gains(["What is the access code of the Rotterdam depot?"], texts)
    assert gains[0, 1] > max(gains[0, 0], 0)
    assert np.isfinite(gains).all()
