"""Features from real models on the engine, and texts that one writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deepwell.llm import LLM
from deepwell.tuning.data.active.engine_features import choice_log_likelihoods, embedding_vectors
from deepwell.tuning.data.active.features import DenseFeatures, features_apart
from deepwell.tuning.data.active.learner import SoftmaxRegression
from deepwell.tuning.data.augment.rewriters import Paraphrase
from deepwell.tuning.data.augment.translators import answers_of

SPORT = ("The striker scored two goals in the final.", "The coach praised his team after the match.")
MONEY = ("The bank raised its interest rate.", "Shares fell after the profit warning.")


@pytest.fixture(scope="module")
def writer(smollm2_path: Path) -> Iterator[LLM]:
    with LLM(smollm2_path, threads=1) as opened:
        yield opened


def test_embeddings_tell_topics_apart_without_a_shared_word(minilm_path: Path) -> None:
    with LLM(minilm_path, threads=1) as model:
        drawn, measured = features_apart(
            [*SPORT, *MONEY],
            ["The goalkeeper was injured.", "Investors sold their stocks.", "goal " * 2000],
            lambda texts: embedding_vectors(model, texts),
        )
    assert isinstance(drawn, DenseFeatures)
    fitted = SoftmaxRegression(2).fit(drawn, range(4), [0, 0, 1, 1])
    assert fitted.probabilities(measured).argmax(axis=1)[:2].tolist() == [0, 1]


def test_likelihoods_compare_each_text_with_none(writer: LLM) -> None:
    found = choice_log_likelihoods(writer, [*SPORT, *MONEY, ""], ("sports", "business"))
    assert found.shape == (5, 2) and np.isfinite(found).all()
    assert found[4] == pytest.approx(np.zeros(2), abs=1e-3)
    lead = found[:, 0] - found[:, 1]
    assert lead[:2].min() > lead[2:4].max()  # sport is likelier behind sport


def test_an_answer_without_an_end_is_none(writer: LLM) -> None:
    asked = [[{"role": "user", "content": "Write a long story about a dragon."}]]
    assert answers_of(writer, asked, [""], temperature=0, seed=None) == [""]  # 64 tokens are not enough


def test_paraphrases_are_greedy_first_and_then_drawn_by_their_seed(writer: LLM) -> None:
    texts = ["The train was late again.", "The food was good."]
    first = Paraphrase(writer, seed=3)
    assert first.rewrite(texts) == Paraphrase(writer, seed=9).rewrite(texts)
    assert first.rewrite(texts, number=1) == Paraphrase(writer, seed=3).rewrite(texts, number=1)
    assert first.rewrite(texts[1:], number=1) == first.rewrite(texts, number=1)[1:]
