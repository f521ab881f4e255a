"""Contracts of the conversations that session adapters are measured on."""

from __future__ import annotations

import pytest

from deepwell.errors import DeepwellError
from deepwell_bench.workloads.context import sessions
from deepwell_bench.workloads.context.sessions import FACTS, SESSIONS, session


def words(text: str) -> int:
    return len(text.split())


def test_facts_are_told_first_and_asked_for_one_by_one() -> None:
    found = session(0, "development", 2_000, words)
    told, later = "\n".join(found.told), "\n".join(found.later)
    assert len(found.questions) == FACTS == len({one.answers for one in found.questions})
    for question in found.questions:
        [fact] = question.needed
        assert told.count(fact.sentence) == 1 and fact.sentence not in later
        assert question.answers[0] not in question.text
    assert 2_000 <= words(later) < 2_200
    assert [one["role"] for one in found.messages[:4]] == ["user", "assistant"] * 2


def test_sessions_share_no_facts() -> None:
    facts = [
        question.needed[0].sentence
        for number in (0, 3, 6)
        for question in session(number, "development", 100, words).questions
    ]
    assert len(set(facts)) == len(facts)
    assert SESSIONS == 20


def test_the_evaluation_is_the_frozen_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions._check.cache_clear()
    monkeypatch.setattr(sessions, "sessions_identity", lambda split: "other")
    with pytest.raises(DeepwellError, match="not the frozen ones"):
        session(0, "evaluation", 100, words)
    sessions._check.cache_clear()
