"""The pool, the stop rule and learning curves."""

from __future__ import annotations

import numpy as np
import pytest

from deepwell.tuning.data.active.curve import Curve, Labelled, simulate, simulate_arms
from deepwell.tuning.data.active.features import HashedFeatures
from deepwell.tuning.data.active.pool import Pool
from deepwell.tuning.data.active.stopping import StopRule, kappa

WORDS = (("goal", "match", "team", "coach"), ("bank", "rate", "profit", "share"))


def topics(count: int, seed: int) -> tuple[list[str], list[int]]:
    """Texts of two topics, some of which have few words of their own."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count).tolist()
    texts = [
        " ".join([*rng.choice(WORDS[label], rng.integers(1, 4)), *rng.choice(["the", "of", "a", "and"], 4)])
        for label in labels
    ]
    return texts, labels


def test_the_first_rows_are_random_and_then_the_learner_chooses():
    texts, labels = topics(80, 0)
    pool = Pool(HashedFeatures(texts), 2, seed=1, start=6)
    first = pool.choose("margin", 6)
    assert len(set(first)) == 6 and pool.model is None
    assert first != Pool(HashedFeatures(texts), 2, seed=2, start=6).choose("margin", 6)
    for row in first:
        pool.label(row, labels[row])
    following = pool.choose("margin", 5)
    assert pool.model is not None and not set(following) & set(first)
    margins = np.sort(pool.probabilities(), axis=1)
    unsure = margins[:, 1] - margins[:, 0]
    others = [row for row in range(80) if row not in first and row not in following]
    assert unsure[following].max() <= unsure[others].min() + 1e-6


def test_one_class_alone_fits_no_learner():
    pool = Pool(HashedFeatures(["a", "b", "c"]), 2, start=2)
    pool.label(0, 1)
    pool.label(1, 1)
    assert pool.choose("margin", 3) == [2] and pool.model is None
    assert pool.probabilities().tolist() == [[0.5, 0.5]] * 3


def test_skipped_rows_come_last_and_can_be_taken_back():
    pool = Pool(HashedFeatures(["a", "b", "c"]), 2)
    pool.skip(1)
    assert pool.ranking("random")[-1] == 1
    pool.label(1, 0)
    assert sorted(pool.ranking("random")) == [0, 2] and pool.labels == {1: 0}
    pool.skip(1)  # what is labelled is not skipped
    assert pool.labels == {1: 0}
    pool.forget(1)
    assert sorted(pool.ranking("random")) == [0, 1, 2] and pool.labels == {}


def test_kappa_is_agreement_beyond_chance():
    one = np.array([0, 0, 1, 1])
    assert kappa(one, one) == 1
    assert kappa(one, np.array([0, 1, 0, 1])) == pytest.approx(0)
    assert kappa(one, np.array([1, 1, 0, 0])) == pytest.approx(-1)
    assert kappa(np.zeros(4, np.int64), np.zeros(4, np.int64)) == 1


def test_the_stop_rule_wants_three_stable_rounds_and_thirty_labels():
    stable, other = np.array([0, 1] * 50), np.array([1, 0] * 50)
    rule = StopRule()
    assert [rule.observe(stable, labels) for labels in (20, 40, 60)] == [False] * 3
    assert rule.observe(stable, 80)
    assert not rule.observe(other, 100)
    early = StopRule()
    assert [early.observe(stable, 25) for _ in range(6)] == [False] * 6
    assert early.observe(stable, 30)


def test_a_curve_counts_labels_from_the_start_to_the_budget():
    texts, labels = topics(120, 0)
    held_out = topics(200, 1)
    features = HashedFeatures(texts)
    pool = Labelled(features, labels)
    measured = Labelled(features.transform(held_out[0]), held_out[1])
    told: list[int] = []
    curve = simulate(
        pool,
        measured,
        "margin",
        classes=2,
        seeds=(0, 1),
        start=4,
        batch=4,
        budget=20,
        tell=lambda: told.append(1),
    )
    assert curve.budgets == (4, 8, 12, 16, 20) and curve.accuracy.shape == (2, 5) and told == [1, 1]
    assert curve.mean[-1] > curve.mean[0]
    again = simulate(pool, measured, "margin", classes=2, seeds=(0, 1), start=4, batch=4, budget=20)
    assert np.array_equal(again.accuracy, curve.accuracy)


def test_the_random_arm_is_always_beside():
    texts, labels = topics(60, 0)
    features = HashedFeatures(texts)
    data = Labelled(features, labels)
    arms = simulate_arms(data, data, ("entropy",), classes=2, seeds=(0,), budget=20)
    assert list(arms) == ["entropy", "random"]


def test_held_out_texts_choose_nothing():
    """The rows that are asked about, seen through the labels that are read, are the same for any held-out set."""
    texts, labels = topics(100, 0)
    features = HashedFeatures(texts)

    class Asked(list):
        def __init__(self):
            super().__init__(labels)
            self.rows: list[int] = []

        def __getitem__(self, row):
            self.rows.append(row)
            return super().__getitem__(row)

    seen = []
    for seed in (1, 2):
        held_out = topics(50, seed)
        asked = Asked()
        simulate(
            Labelled(features, asked),
            Labelled(features.transform(held_out[0]), held_out[1]),
            "margin",
            classes=2,
            seeds=(0,),
            budget=40,
        )
        seen.append(asked.rows)
    assert seen[0] == seen[1] and len(seen[0]) == len(set(seen[0])) == 40


def test_curves_are_compared_at_the_same_labels():
    one = Curve("margin", (10, 30, 50), np.array([[0.5, 0.8, 0.9], [0.7, 0.8, 1.0]]), (50, None))
    other = Curve("random", (10, 30, 50), np.array([[0.9, 0.79, 0.93], [0.9, 0.79, 0.93]]), (None, None))
    assert one.labels_to(0.8) == 30 and one.labels_to(0.99) is None
    assert one.least_lead(other) == pytest.approx(0.01)  # at 10 labels it does not count
    assert one.to_json() == {
        "strategy": "margin",
        "labels": [10, 30, 50],
        "accuracy": [0.6, 0.8, 0.95],
        "stops": [50, None],
    }
