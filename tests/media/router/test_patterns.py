"""Wordings: each is documented, speaks for a known intent, and takes time in proportion to the text."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from deepwell.media.router.classifier import INTENTS
from deepwell.media.router.features import ATTACHED
from deepwell.media.router.patterns import find_wordings, wordings

MOST_REPEATED = 400
parser: Any = importlib.import_module("re._parser")


def test_each_wording_is_documented_and_speaks_for_something_known() -> None:
    for one in wordings():
        assert one.about and one.intent in (*INTENTS, "several")
        assert one.attached in ("", *ATTACHED)
        assert not (one.sure and one.against)


def repeats(tree: Any) -> list[int]:
    """Upper bounds of all repetitions of an expression."""
    found: list[int] = []
    for operator, argument in tree:
        if operator in (parser.MAX_REPEAT, parser.MIN_REPEAT):
            found.append(int(argument[1]))
            found += repeats(argument[2])
        elif operator is parser.BRANCH:
            for branch in argument[1]:
                found += repeats(branch)
        elif operator is parser.SUBPATTERN:
            found += repeats(argument[3])
        elif operator in (parser.ASSERT, parser.ASSERT_NOT):
            found += repeats(argument[1])
    return found


def test_repetitions_are_bounded() -> None:
    for one in wordings():
        assert max(repeats(parser.parse(one.expression.pattern)), default=0) <= MOST_REPEATED, one.name


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("Draw a fat orange cat", "image"),
        ("please sketch me a boat", "image"),
        ("画一只黑猫", "image"),
        ("Read this aloud: good morning", "speech"),
        ("朗读：早上好", "speech"),
    ],
)
def test_commands_are_found(text: str, intent: str) -> None:
    assert any(one.wording.sure and one.wording.intent == intent for one in find_wordings(text))


@pytest.mark.parametrize(
    "text",
    [
        "how do I draw a cat?",
        "Draw up a contract",
        "what conclusion would you draw?",
        "画蛇添足是什么意思",
        'Translate "draw a cat" into French',
        "Read between the lines for me",
        "i want to learn to draw hands",
    ],
)
def test_what_only_sounds_like_a_command_is_no_sure_one(text: str) -> None:
    sure = [
        one for one in find_wordings(text) if one.wording.sure and one.wording.intent in ("image", "speech")
    ]
    against = [one for one in find_wordings(text) if one.wording.against]
    assert not sure or against


def test_a_change_to_an_image_needs_an_image() -> None:
    names = {one.wording.name for one in find_wordings("Remove the lamp post", ["image"])}
    assert "edit" in names
    assert "edit" not in {one.wording.name for one in find_wordings("Remove the lamp post")}
