"""Features, the base learner and the strategies of active learning."""

from __future__ import annotations

import numpy as np
import pytest

from deepwell.tuning.data.active.features import DenseFeatures, HashedFeatures, tokens_of
from deepwell.tuning.data.active.learner import SoftmaxRegression
from deepwell.tuning.data.active.strategies import ranked, uncertainty

TEXTS = ["the cat sat", "the cat ran", "a stock fell", "the stock rose", ""]


def rows(*numbers):
    return np.array(numbers, np.int64)


def dense(features: HashedFeatures) -> np.ndarray:
    """The products of all rows with each other, from the interface alone."""
    count = len(features)
    return features.scores(features.weights(rows(*range(count)), np.eye(count, dtype=np.float32)))


def test_words_of_both_scripts_are_tokens():
    assert list(tokens_of("The dog's café_2!")) == ["the", "dog's", "café", "2"]
    assert list(tokens_of("看 GPT4模型")) == ["看", "gpt4", "模", "型", "模型"]
    assert list(tokens_of("  \n ")) == []


def test_rows_have_unit_length_and_rare_words_count_more():
    features = HashedFeatures(TEXTS)
    gram = dense(features)
    assert np.diag(gram) == pytest.approx([1, 1, 1, 1, 0], abs=1e-5)  # an empty text has no features
    assert gram[0, 1] > gram[0, 3] > 0  # "the cat" is shared against "the" alone
    assert gram[0, 2] == 0


def test_products_are_the_same_by_every_way():
    features = HashedFeatures(TEXTS)
    gram = dense(features)
    assert features.gram(rows(3, 1, 4)) == pytest.approx(gram[np.ix_([3, 1, 4], [3, 1, 4])], abs=1e-6)
    other = features.transform(["the cat sat", "nobody knows"])
    assert len(other) == 2
    weights = features.weights(rows(0, 2), np.eye(2, dtype=np.float32))
    assert other.scores(weights) == pytest.approx(np.array([[1, 0], [0, 0]]), abs=1e-5)


def test_a_test_set_changes_nothing_of_the_features():
    features = HashedFeatures(TEXTS)
    before = dense(features)
    features.transform(["cat " * 50] * 100)
    assert np.array_equal(dense(features), before)


def test_dense_features_are_centred_and_scaled():
    vectors = np.array([[10, 0], [10, 2], [10, 4]], np.float32)
    features = DenseFeatures(vectors)
    assert features.gram(rows(1)) == pytest.approx(np.array([[0.0]]))
    assert np.mean(np.diag(features.gram(rows(0, 1, 2)))) == pytest.approx(1)
    assert features.transform(vectors).gram(rows(0, 2)) == pytest.approx(features.gram(rows(0, 2)))


def test_the_learner_is_at_the_minimum_of_its_loss():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(24, 6))
    labels = rng.integers(0, 3, 24)
    features = DenseFeatures(vectors)
    model = SoftmaxRegression(3, strength=2.0).fit(features, range(24), labels.tolist())
    inside = (vectors - vectors.mean(axis=0)) / np.sqrt(
        np.mean(np.sum((vectors - vectors.mean(axis=0)) ** 2, axis=1))
    )
    slope = inside.T @ (model.probabilities(features) - np.eye(3)[labels]) + model.weights / 2.0
    assert np.abs(slope).max() < 5e-3


def test_the_learner_tells_topics_apart():
    texts = ["goal match team", "team wins match", "bank rate profit", "profit of the bank"]
    features = HashedFeatures(texts)
    model = SoftmaxRegression(2).fit(features, [0, 1, 2, 3], [0, 0, 1, 1])
    unseen = features.transform(["the team lost a match", "rates of a bank"])
    assert model.probabilities(unseen).argmax(axis=1).tolist() == [0, 1]


def test_strategies_pick_the_known_rows():
    probabilities = np.array([[0.5, 0.5, 0.0], [0.4, 0.3, 0.3], [0.9, 0.1, 0.0], [0.98, 0.01, 0.01]])
    rng = np.random.default_rng(0)
    everything = rows(0, 1, 2, 3)
    assert ranked("margin", probabilities, everything, rng).tolist() == [0, 1, 2, 3]
    assert ranked("entropy", probabilities, everything, rng).tolist() == [1, 0, 2, 3]
    assert set(uncertainty("random", probabilities).tolist()) == {0.0}
    orders = {
        tuple(ranked("random", probabilities, everything, np.random.default_rng(seed))) for seed in range(9)
    }
    assert len(orders) > 3  # equal ones are shuffled
    assert ranked("margin", probabilities, rows(2, 3), rng).tolist() == [2, 3]
