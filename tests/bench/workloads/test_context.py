"""Contracts of the haystacks: what is hidden where, what is asked, and that the evaluation is frozen."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from deepwell.errors import DeepwellError
from deepwell.knowledge.sentences import sentence_spans
from deepwell_bench.workloads.context import haystacks
from deepwell_bench.workloads.context.facts import DEPTHS, Language, Split, hidden_facts, questions
from deepwell_bench.workloads.context.haystacks import HAYSTACKS, haystack, identity_of
from deepwell_bench.workloads.context.judging import f1, holds

SPLITS: tuple[Split, ...] = ("development", "evaluation")
LANGUAGES: tuple[Language, ...] = ("en", "zh")


def words(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_needles_lie_at_five_depths_among_four_distractors(split: Split, language: Language) -> None:
    found = hidden_facts(split, language, "a")
    assert Counter(one.depth for one in found) == dict.fromkeys(DEPTHS, 5)
    facts = [fact for one in found for fact in (one.fact, *one.distractors)]
    assert len(facts) == 125
    assert len({one.value for one in facts}) == len({one.sentence for one in facts}) == 125
    for one in found:
        assert len(one.distractors) == 4
        assert {other.kind for other in one.distractors} == {one.fact.kind}
        assert one.fact.where not in {other.where for other in one.distractors}
    assert found == hidden_facts(split, language, "a") != hidden_facts(split, language, "b")


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_ten_questions_need_three_facts_from_different_depths(split: Split, language: Language) -> None:
    depth = {one.fact.value: one.depth for one in hidden_facts(split, language, "a")}
    asked = questions(split, language, "a")
    assert Counter(len(one.needed) for one in asked) == {1: 25, 3: 10}
    assert len({one.text for one in asked}) == 35
    for one in asked:
        assert len({depth[value] for value in one.answers}) == len(one.needed)
        assert all(fact.where in one.text or fact.where.split(" ", 1)[-1] in one.text for fact in one.needed)
        assert not any(holds(one.text, value) for value in one.answers)
    alike = [one for one in asked if len(one.needed) == 3 and len({fact.kind for fact in one.needed}) == 1]
    assert len(alike) == 5


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_splits_share_no_form_and_no_place(language: Language) -> None:
    first, second = (
        {
            (fact.where, fact.value)
            for one in hidden_facts(split, language, "a")
            for fact in (one.fact, *one.distractors)
        }
        for split in SPLITS
    )
    assert not {where for where, _ in first} & {where for where, _ in second}
    kinds = [
        {
            one.fact.sentence.replace(one.fact.where, "").replace(one.fact.value, "")
            for one in hidden_facts(split, language, "a")
        }
        for split in SPLITS
    ]
    assert not kinds[0] & kinds[1]


@pytest.mark.parametrize("split", SPLITS)
def test_a_haystack_has_its_length_and_its_facts_in_place(split: Split) -> None:
    found = haystack("abstracts", split, 6000, words)
    assert 5800 <= words(found.text) <= 6000
    assert len(found.hidden) == 25 and len(set(found.values)) == 125
    for one in found.hidden:
        for fact in (one.fact, *one.distractors):
            assert found.text.count(fact.sentence) == 1
        assert abs(found.text.index(one.fact.sentence) / len(found.text) - one.depth) < 0.1
    turns = found.turns(800)
    assert "".join(turns) == found.text
    assert all(
        any(fact.sentence in turn for turn in turns)
        for one in found.hidden
        for fact in (one.fact, *one.distractors)
    )
    sentences = [found.text[a:b] for a, b in sentence_spans(found.text)]
    alone = [one.fact.sentence for one in found.hidden if one.fact.sentence.count(". ") == 0]
    assert set(alone) <= set(sentences)


def test_a_haystack_that_is_too_short_for_its_facts_is_refused() -> None:
    with pytest.raises(DeepwellError, match="500 tokens do not hold the facts"):
        haystack("abstracts", "development", 500, words)


def test_the_evaluation_is_the_frozen_one(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = tomllib.loads((Path(haystacks.__file__).parent / "frozen.toml").read_text(encoding="utf-8"))
    assert frozen.keys() == HAYSTACKS.keys()
    # The other sources are fetched; this one is in the repository.
    assert identity_of("abstracts", "evaluation") == frozen["abstracts"]["sha256"]
    assert identity_of("abstracts", "development") != frozen["abstracts"]["sha256"]
    haystacks._check.cache_clear()
    monkeypatch.setattr(haystacks, "identity_of", lambda name, split: "other")
    with pytest.raises(DeepwellError, match="not the frozen one"):
        haystack("abstracts", "evaluation", 6000, words)
    haystacks._check.cache_clear()


@pytest.mark.parametrize(
    ("answer", "value", "is_there"),
    [
        ("The code is 48213.", "48213", True),
        ("The code is 148213.", "48213", False),
        ("It is 482,130 crowns.", "482130", True),
        ("It opened on March 14, 1987.", "14 March 1987", True),
        ("It opened on the 14th of March 1987.", "14 March 1987", True),
        ("It opened on 4 March 1987.", "14 March 1987", False),
        ("They are Dark Gray.", "dark grey", True),
        ("amber breeze", "amber-breeze", True),
        ("密码是48213。", "48213", True),
        ("于1987年3月14日启用", "1987年3月14日", True),
        ("于1987年3月14日启用", "1987年3月1日", False),
    ],
)
def test_answers_are_judged_by_their_values(answer: str, value: str, *, is_there: bool) -> None:
    assert holds(answer, value) is is_there


def test_f1_counts_missing_and_wrong_values() -> None:
    wanted, others = ["11111", "22222", "33333"], ["11111", "22222", "33333", "44444", "55555"]
    assert f1("11111, 22222 and 33333", wanted, others) == 1
    assert f1("11111 and 22222", wanted, others) == pytest.approx(0.8)
    assert f1("11111, 22222, 44444", wanted, others) == pytest.approx(2 / 3)
    assert f1("44444", wanted, others) == 0
