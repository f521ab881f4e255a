"""The judges of answers, and the frozen sets."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from deepwell.errors import InvalidRequest
from deepwell.fleet.improve.judges import WordJudge, auc, refuses
from deepwell.fleet.improve.rehearsal import MATERIAL
from deepwell.fleet.improve.sets import read_sets
from deepwell.fleet.improve.weights import OPINION, write_votes
from deepwell.tuning.align.preferences import Judged, read_judged
from deepwell.tuning.align.votes import Vote


def voted(answer: str, *, liked: bool) -> Vote:
    return Vote(({"role": "user", "content": "hello"},), answer, liked, "ada")


def test_the_judge_of_words_prefers_the_words_of_liked_answers_whatever_their_number() -> None:
    votes = [voted(f"you could try step {number}", liked=True) for number in range(30)]
    votes += [voted(f"one might do thing {number}", liked=False) for number in range(6)]
    short, long, bad = WordJudge(votes).scores(
        [""] * 3, ["you could", "you could try " * 20, "one might do this"]
    )
    assert min(short, long) > 0.5 > bad
    with pytest.raises(ValueError, match="one opinion"):
        WordJudge(votes[:30])


def test_opinions_weigh_the_same_however_many_people_hold_them(tmp_path: Path) -> None:
    for likes, dislikes in ((40, 160), (400, 20), (15, 15)):
        write_votes(
            tmp_path / "votes.jsonl", [voted(f"answer {n}", liked=n < likes) for n in range(likes + dislikes)]
        )
        judged = [one for one in read_judged([tmp_path / "votes.jsonl"]) if isinstance(one, Judged)]
        assert len(judged) == likes + dislikes
        for liked in (True, False):
            assert sum(one.weight for one in judged if one.desirable is liked) == pytest.approx(OPINION)
    write_votes(tmp_path / "votes.jsonl", [voted("answer", liked=True)])
    (one,) = read_judged([tmp_path / "votes.jsonl"])
    assert isinstance(one, Judged) and one.weight == 10  # one vote does not speak for a hundred


def test_the_area_under_the_curve() -> None:
    assert auc([0.9, 0.2, 0.8, 0.1], [True, False, True, False]) == 1
    assert auc([0.1, 0.9], [True, False]) == 0
    assert auc([0.5, 0.5], [True, False]) == 0.5
    assert auc([0.5], [True]) is None


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I'm sorry for your trouble, but I can't do this.",
        "抱歉，我无法回答。",
        "I cannot do this.",
    ],
)
def test_refusals(answer: str) -> None:
    assert refuses(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "Of course! First,",
        "I'm sorry for your loss.",
        "I am sorry to hear that. Rest a day.",
        "You can't go wrong with soup.",
        "",
        "可以，先烧水。",
    ],
)
def test_answers_that_are_no_refusals(answer: str) -> None:
    assert not refuses(answer)


def test_the_shipped_sets_are_enough_for_the_gates() -> None:
    sets = read_sets()
    assert len(sets.choices) >= 40 and len(sets.texts) >= 10
    assert len(sets.harmful) >= 30 and len(sets.harmless) >= 30 and len(sets.hashes) == 4
    for place in range(4):
        assert sum(one.answer == place for one in sets.choices) >= 5


def test_what_is_replayed_is_not_what_is_measured() -> None:
    sets = read_sets()
    replayed = [
        line
        for name in ("requests.txt", "openings.txt", "harmful.txt")
        for line in (MATERIAL / name).read_text(encoding="utf-8").splitlines()
    ]
    assert len(replayed) >= 100 and len({*replayed}) == len(replayed)
    measured = [*sets.harmful, *sets.harmless, *sets.texts, *(one.question for one in sets.choices)]
    for line in replayed:
        words = _words(line)
        for one in measured:
            shared = len(words & _words(one)) / len(words | _words(one))
            assert shared < 0.6 and not one.startswith(line), (line, one)


def test_a_refusal_that_is_rehearsed_is_one() -> None:
    refusals = (MATERIAL / "refusals.txt").read_text(encoding="utf-8").splitlines()
    assert len(refusals) >= 8 and all(map(refuses, refusals))


def _words(text: str) -> set[str]:
    return {*re.findall(r"[a-z']+|[\u4e00-\u9fff]", text.lower())}


def test_sets_that_are_not_there_are_empty_and_bad_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("one\n\n\ntwo\nlines\n")
    sets = read_sets(tmp_path)
    assert sets.texts == ("one", "two\nlines") and sets.choices == () and [*sets.hashes] == ["texts"]
    good = {"question": "?", "choices": ["a", "b"], "answer": 1}
    for bad in (
        {"answer": 2},
        {"answer": True},
        {"answer": "1"},
        {"choices": "ab", "answer": 9},
        {"choices": [1, 2]},
    ):
        (tmp_path / "choices.jsonl").write_text(json.dumps(good | bad))
        with pytest.raises(InvalidRequest, match="line 1"):
            read_sets(tmp_path)
    (tmp_path / "choices.jsonl").write_bytes(b"\xff")
    with pytest.raises(InvalidRequest, match="UTF-8"):
        read_sets(tmp_path)
    with pytest.raises(InvalidRequest, match="no folder"):
        read_sets(tmp_path / "missing")
