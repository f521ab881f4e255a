"""The review of licence texts: names are masked, passages keep every word, and both sides weigh in a decision."""

from __future__ import annotations

import numpy as np
import pytest
from examples.contracts import evaluate, heads, reading
from examples.contracts.data import CATEGORIES, TERMS, masked
from examples.contracts.passages import MOST_CHARACTERS, passages
from examples.contracts.review import NAMES, by_model, review
from hypothesis import given
from hypothesis import strategies as st

from deepwell.agents.rules import Decision, RuleSet, Step

MIT_LIKE = (
    "Permission is hereby granted, free of charge, to any person to deal in the software without restriction. "
    "The above copyright notice shall be included in all copies. The software is provided as is, without warranty."
)


@pytest.fixture(scope="module")
def rules():
    with RuleSet.load(reading.RULES) as found:
        yield found


def test_names_titles_and_addresses_are_masked() -> None:
    text = "Frobnicator Public License, Version 2.0\nhttps://example.com/l\n\n"
    text += "The Frobnicator Foundation lets you use the GNU tools."
    found = masked(text, ["Frobnicator Public License", "Frobnicator Foundation"])
    assert not any(one in found for one in ("Frobnicator", "GNU", "example.com", "Version"))
    assert "lets you use" in found


@given(st.text(alphabet=st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=3000))
def test_passages_are_short_and_keep_every_word(text: str) -> None:
    found = passages(text)
    assert all(0 < len(one) <= MOST_CHARACTERS for one in found)
    assert {one for one in text.split() if one.isalnum() and len(one) < 100} <= set(" ".join(found).split())


def sources(decision: Decision, step: Step) -> list[str]:
    """Passages that a step rests on, through the steps before it."""
    inner = [one for fact in step.facts for before in decision.why(fact) for one in sources(decision, before)]
    return [fact.source for fact in step.facts if fact.source] + inner


def test_rules_alone_name_what_they_found(rules: RuleSet) -> None:
    found = review(rules, MIT_LIKE)
    assert {"include-copyright", "no-warranty", "Permissive"} <= found.labels
    for fact in found.decision.derived_by("found"):
        (step, *_) = found.decision.why(fact)
        assert step.rule and step.said("zh") != step.said("en")
        assert any(sources(found.decision, step))


def test_a_model_that_is_sure_wins_over_words_and_one_that_is_not_loses(rules: RuleSet) -> None:
    sure = dict.fromkeys(CATEGORIES, 0.01) | {"Commercial": 0.91}
    unsure = dict.fromkeys(CATEGORIES, 0.08) | {"Commercial": 0.14, "Permissive": 0.12}
    assert "Commercial" in review(rules, MIT_LIKE, sure).labels
    assert "Permissive" in review(rules, MIT_LIKE, unsure).labels


def test_rights_in_patents_are_not_granted_and_denied_at_once(rules: RuleSet) -> None:
    scores = dict.fromkeys(TERMS, 0.1) | {"patent-grant": 0.97, "no-patent-grant": 0.9}
    found = review(rules, "Nothing.", scores)
    assert "patent-grant" in found.labels and "no-patent-grant" not in found.labels


def test_the_model_alone_takes_the_likeliest_category() -> None:
    scores = dict.fromkeys(NAMES.values(), 0.0) | {"no-warranty": 0.6, "CLA": 0.3}
    assert by_model(scores) == {"no-warranty", "CLA"}


def test_heads_learn_what_is_linear() -> None:
    points = np.random.default_rng(0).normal(size=(80, 3))
    truth = (points[:, :1] > 0).astype(float)
    assert ((heads.labels_of(heads.fit_labels(points, truth, 0.001), points) > 0.5) == truth).mean() > 0.95
    three = np.eye(3)[points.argmax(axis=1)]
    assert (
        heads.one_of(heads.fit_one_of(points, three, 0.001), points).argmax(axis=1) == points.argmax(axis=1)
    ).mean() > 0.95


def test_figures_of_a_system() -> None:
    items = [
        evaluate.Judged("a", frozenset("xy"), frozenset("x")),
        evaluate.Judged("b", frozenset("x"), frozenset("xz")),
    ]
    assert evaluate.micro(items) == pytest.approx(2 * 2 / 6)
    counts = evaluate.counts_of(items)
    assert (counts["x"].f1, counts["y"].f1, counts["z"].f1) == (1.0, 0.0, 0.0)
    low, high = evaluate.interval([items], lambda f1: f1[0])
    assert low <= evaluate.micro(items) <= high
