"""Curation of votes: every vote is accounted for, users stay apart, and no single user decides."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.errors import InvalidRequest
from deepwell.tuning.align.votes import DROP_REASONS, Curated, CurationLimits, Vote, curate, is_held_out

OPEN = CurationLimits(max_user_share=1.0, max_user_share_held_out=1.0, held_out_share=0.0)


def vote(question: str, answer: str, user: str, desirable: bool = True, **more: Any) -> Vote:
    return Vote(({"role": "user", "content": question},), answer, desirable, user, **more)


def many(user: str, count: int, desirable: bool = True) -> list[Vote]:
    return [vote(f"{user} asks {n}", f"{user} hears {n}", user, desirable) for n in range(count)]


def dropped(found: Curated) -> dict[str, int]:
    return dict(found.report.dropped)


votes = st.builds(
    vote,
    st.sampled_from(["why", "who is it", "", "what is the boiling point of water at sea level"]),
    st.sampled_from(["yes", "no", " ", "it is one hundred degrees, as everybody knows", "?"]),
    st.sampled_from(["", *"abcdefgh"]),
    st.booleans(),
)


@given(
    st.lists(votes, max_size=40),
    st.integers(1, 5),
    st.sampled_from([0.1, 0.25, 0.5, 1.0]),
    st.sampled_from([0.0, 0.3, 0.9]),
)
def test_every_vote_is_accounted_for_and_no_user_is_in_two_parts(
    given_votes: list[Vote], most: int, share: float, held_out: float
) -> None:
    limits = CurationLimits(most, share, min(1, 2 * share), held_out)
    found = curate(given_votes, limits)
    kept = [*found.train, *found.held_out]
    told = found.to_json()
    assert told["read"] == len(given_votes) == len(kept) + told["dropped"]
    assert told["train"]["votes"] + told["held_out"]["votes"] == told["kept"] == len(kept)
    assert set(told["dropped_by_reason"]) <= set(DROP_REASONS)
    assert {one.user for one in found.train}.isdisjoint(one.user for one in found.held_out)
    assert all(is_held_out(one.user, held_out) for one in found.held_out)
    prompts = [{one.prompt[0]["content"] for one in part} for part in (found.train, found.held_out)]
    assert prompts[0].isdisjoint(prompts[1])
    for part, greatest in ((found.train, share), (found.held_out, min(1, 2 * share))):
        counts = Counter(one.user for one in part)
        assert all(count <= min(most, greatest * len(part) + 1e-9) for count in counts.values())
    assert curate(given_votes, limits) == found


def test_a_later_vote_of_a_user_on_an_answer_replaces_an_earlier_one() -> None:
    found = curate([vote("q", "a", "lin"), vote("q", "a ", "lin", desirable=False)], OPEN)
    assert [one.desirable for one in found.train] == [False] and dropped(found) == {"replaced": 1}


def test_users_are_counted_by_heads() -> None:
    said = "water boils at one hundred degrees at the level of the sea"
    liked = [vote("q", said, user) for user in "abc"]
    spam = [vote("q", said.replace(" ", "  " * n), "spam", desirable=False) for n in range(1, 20)]
    found = curate([*spam, *liked], OPEN)
    assert [(one.user, one.desirable) for one in found.train] == [("a", True)]
    assert dropped(found) == {"outvoted": 19, "duplicate": 2}
    torn = curate([*liked[:1], *spam], OPEN)
    assert not torn.train and dropped(torn) == {"disputed": 20}


def test_near_duplicates_need_both_a_prompt_and_an_answer_that_are_alike() -> None:
    long = (
        "The boiling point of water depends on the pressure of the air around it, which falls with height. "
        * 4
    )
    same = [vote(long + "Say yes or no.", one, user) for one, user in (("yes", "a"), ("no", "b"))]
    assert len(curate(same, OPEN).train) == 2
    near = [vote("why", long, "a"), vote("why", long + "Indeed.", "b")]
    assert dropped(curate(near, OPEN)) == {"duplicate": 1}
    assert len(curate([vote("why", long, "a"), vote("how", long, "b")], OPEN).train) == 2


def test_one_user_has_a_limited_number_and_share() -> None:
    others = [one for user in "abcdefgh" for one in many(user, 5)]
    found = curate(
        [*many("spam", 900, desirable=False), *others], CurationLimits(100, 0.2, held_out_share=0.0)
    )
    counts = Counter(one.user for one in found.train)
    assert counts["spam"] == 10  # a fifth of 50
    assert dropped(found) == {"user_limit": 800, "user_share": 90}
    assert [one.answer for one in found.train][:2] == ["spam hears 890", "spam hears 891"]  # the newest
    alone = curate(many("spam", 900), CurationLimits(held_out_share=0.0))
    assert not alone.train and alone.report.dropped.total() == 900


def test_no_user_judges_alone() -> None:
    users = [f"user {n}" for n in range(40)]
    out = [user for user in users if is_held_out(user, 0.2)][:3]
    lone = curate(many(out[0], 50))
    assert not lone.held_out and dropped(lone) == {"user_share": 50}
    three = curate([*many(out[0], 50), *many(out[1], 3), *many(out[2], 2)], CurationLimits())
    assert Counter(one.user for one in three.held_out) == {out[0]: 5, out[1]: 3, out[2]: 2}


def test_a_flood_takes_no_answer_from_others() -> None:
    shared = [vote("q", "a", "spam"), vote("q", "a", "lin")]
    found = curate([*many("spam", 50), *shared, *many("ada", 3)], OPEN)
    assert [one.user for one in found.train if one.answer == "a"] == ["lin"]


def test_votes_of_unknown_users_are_those_of_one() -> None:
    found = curate(
        [*many("", 50), *many("a", 5), *many("b", 5)], CurationLimits(100, 0.5, held_out_share=0.0)
    )
    assert Counter(one.user for one in found.train) == {"": 10, "a": 5, "b": 5}


def test_a_held_out_prompt_is_not_trained_on() -> None:
    limits = CurationLimits(max_user_share=1.0, max_user_share_held_out=1.0, held_out_share=0.5)
    users = [f"user {n}" for n in range(20)]
    out = next(user for user in users if is_held_out(user, 0.5))
    trained = next(user for user in users if not is_held_out(user, 0.5))
    found = curate([vote("why so", "because", trained), vote("Why so?", "nobody knows", out)], limits)
    assert not found.train and [one.user for one in found.held_out] == [out]
    assert dropped(found) == {"held_out_prompt": 1}


def test_the_salt_decides_who_is_held_out() -> None:
    users = [f"user {n}" for n in range(2000)]
    parts = [[user for user in users if is_held_out(user, 0.2, salt)] for salt in ("", "other")]
    assert parts[0] != parts[1] and all(340 < len(part) < 460 for part in parts)
    assert set(parts[0]) < {
        user for user in users if is_held_out(user, 0.4)
    }  # a greater share holds out more


def test_unusable_votes_are_named() -> None:
    system = Vote(({"role": "system", "content": "Be kind."},), "a", True, "lin", source="fb_1")
    found = curate([Vote((), "a", True, "lin"), system, vote("q", " \n", "lin")], OPEN)
    assert dropped(found) == {"no_prompt": 2, "no_answer": 1}
    assert [(one.line, one.source) for one in found.report.examples["no_prompt"]] == [(1, ""), (2, "fb_1")]


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_votes_per_user": 0},
        {"max_user_share": 0},
        {"max_user_share": 1.1},
        {"max_user_share_held_out": 0},
        {"held_out_share": 1},
        {"min_similarity": 0},
    ],
)
def test_limits_have_ranges(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        CurationLimits(**wrong)
    assert refused.value.param == next(iter(wrong))
