"""Files of feedback: lines that are none are named, and ratings come back as votes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deepwell.storage.database import Database, Tenant
from deepwell.storage.feedback import FeedbackStore, StoredFeedback, voter_of
from deepwell.tuning.align.feedback import collect_votes_of, line_of, preference_line, read_feedback, vote_of
from deepwell.tuning.align.votes import CurationLimits, curate
from deepwell.tuning.data.records import BadRecord

SAID = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def read(path: Path, *lines: Any) -> list[StoredFeedback | BadRecord]:
    path.write_text("".join(one if isinstance(one, str) else json.dumps(one) + "\n" for one in lines))
    return list(read_feedback([path]))


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ("{broken\n", ""),
        ("[1]\n", ""),
        ('{"rating": "up", "target_id": "\\ud83d"}\n', ""),
        ('{"rating": "up", "target_id": "a", "messages": ' + "[" * 200 + "]" * 200 + "}\n", ""),
        ({"rating": "up"}, "target_id"),
        ({"rating": "sideways", "target_id": "a"}, "rating"),
        ({"target_id": "a"}, "rating"),
        ({"rating": "up", "target_id": "a b"}, "target_id"),
        ({"rating": "up", "target_id": "x" * 129}, "target_id"),
        ({"rating": "up", "target_id": "a", "reason": "nul \0"}, "reason"),
        ({"rating": "up", "target_id": "a", "stars": 5}, "stars"),
        ({"rating": "up", "target_id": "a", "consent": 1}, "consent"),
        ({"rating": "up", "target_id": "a", "voter": "lin"}, "voter"),
        ({"rating": "up", "target_id": "a", "created_at": -1}, "created_at"),
        ({"rating": "up", "messages": [{"role": "user", "content": "q"}]}, "messages[0].role"),
        ({"rating": "up", "messages": [{"role": "villain", "content": "q"}]}, "messages[0].role"),
        ({"rating": "up", "messages": [{"role": "assistant", "content": "x" * 300_000}]}, "messages"),
    ],
)
def test_a_line_that_is_no_feedback_is_named(tmp_path: Path, wrong: Any, where: str) -> None:
    good = {"rating": "up", "target_id": "a"}
    first, bad, last = read(tmp_path / "f.jsonl", good, wrong, good)
    assert isinstance(first, StoredFeedback) and isinstance(last, StoredFeedback)
    assert isinstance(bad, BadRecord) and bad.line == 2 and bad.field.startswith(where)


def test_a_line_without_a_target_has_that_of_its_conversation(tmp_path: Path) -> None:
    lines = [{"label": True, "messages": SAID}, {"rating": "down", "messages": SAID}]
    first, second = read(tmp_path / "f.jsonl", *lines)
    assert isinstance(first, StoredFeedback) and isinstance(second, StoredFeedback)
    assert first.target_id == second.target_id and first.voter == second.voter
    assert (first.rating, second.rating, first.consent, first.source) == ("up", "down", False, "import")
    assert line_of(second)["messages"] == SAID


def test_a_rating_is_a_vote() -> None:
    stored = StoredFeedback("fb_1", "x", "down", 1, messages=json.dumps(SAID), correction=" a ", voter="v")
    vote = vote_of(stored)
    assert (vote.prompt, vote.answer, vote.desirable, vote.user) == ((SAID[0],), "a", False, "v")
    assert preference_line(vote) is None  # what is the same is no correction
    thumb = vote_of(StoredFeedback("fb_1", "x", "up", 1))
    question = vote_of(StoredFeedback("fb_1", "x", "up", 1, messages=json.dumps(SAID[:1])))
    assert (thumb.prompt, thumb.answer) == (question.prompt, question.answer) == ((), "")


@pytest.mark.parametrize(
    "first",
    [
        {"role": "villain", "content": "q"},
        {"role": ["user"], "content": "q"},
        {"content": "q"},
        {"role": "user", "content": 5},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]},
        {"role": "assistant", "content": None, "tool_calls": "abc"},
        {"role": "assistant", "tool_calls": [{"function": 5}]},
        {"role": "user", "content": "q", "more": json.loads("[" * 150 + "]" * 150)},
    ],
)
def test_a_conversation_that_is_no_chat_is_no_vote(first: dict[str, Any]) -> None:
    vote = vote_of(StoredFeedback("fb_1", "x", "up", 1, messages=json.dumps([first, SAID[1]])))
    assert (vote.prompt, vote.answer) == ((), "")


def test_votes_of_different_keys_stay_apart(tmp_path: Path) -> None:
    made = [StoredFeedback(f"fb_{n}", "x", "up", 1, voter=voter_of(None, f"key_{n}")) for n in range(2)]
    found = read(tmp_path / "f.jsonl", *map(line_of, made))
    assert [one.voter for one in found if isinstance(one, StoredFeedback)] == [one.voter for one in made]


async def test_a_user_of_one_tenant_has_no_vote_in_another(tmp_path: Path) -> None:
    """Both tenants name a user ada: the second one takes neither her vote nor her share."""
    database, texts = Database.open(tmp_path / "deepwell.db"), json.dumps(SAID)
    store, given = FeedbackStore(database), StoredFeedback("fb_0", "x", "up", 1, messages=texts, consent=True)
    given = replace(given, end_user="ada", voter=voter_of("ada"))
    await store.put(Tenant("acme"), given)
    await store.put(Tenant("acme"), replace(given, id="fb_1", end_user="lin", voter=voter_of("lin")))
    await store.put(Tenant("mallory"), replace(given, id="fb_2", rating="down", created_at=2))
    votes = await collect_votes_of(database, [Tenant("acme"), Tenant("mallory"), Tenant("acme")])
    database.close()
    assert len(votes) == len({one.user for one in votes}) == 3
    curated = curate(votes, CurationLimits(held_out_share=0, max_user_share=1))
    [kept] = curated.train
    assert kept.desirable and "replaced" not in curated.report.dropped, "two of three users like it"
