"""Clues: words of a task call for the tool that can do it, and plain words for none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.agents.tools import Clues
from deepwell.agents.tools.clues import (
    arithmetic_clues,
    document_clues,
    listing_clues,
    path_clues,
    searching_clues,
    table_clues,
)

PATHS = ["plans/garden.txt", "计划/花园.txt", "note.md"]
NAMES, VALUES = ["trees", "height", "name"], ["Red Maple", "oak", "老槐树街", "T-17"]


@pytest.mark.parametrize(
    ("task", "numbers", "is_sure"),
    [
        ("What is 12 * 7?", ("12", "7"), True),
        ("Add up the amounts.", (), True),
        ("两地相差 1,200 公里，走了 300 公里", ("1200", "300"), True),
        ("A bed takes 3.5 hours.", ("3.5",), False),
        ("Who planted it?", (), False),
        ("What stands in plans/17.txt?", (), False),
    ],
)
def test_arithmetic(task: str, numbers: tuple[str, ...], is_sure: bool) -> None:
    found = arithmetic_clues(task)
    assert (found.mentions, found.weight > 0.55) == (numbers, is_sure)


@pytest.mark.parametrize(
    ("task", "mentions", "reads", "searches", "lists"),
    [
        ("Read plans/garden.txt.", ("plans/garden.txt",), True, False, False),
        ("garden.txt 里写了什么？", ("plans/garden.txt",), True, False, False),
        ("计划/花园.txt里写了什么？", ("计划/花园.txt",), True, False, False),
        ("Some file tells of roses. Who waters them?", (), True, True, False),
        ("Which file tells of roses?", (), False, True, False),
        ("有一个文件写到玫瑰，多少钱？", (), True, True, False),
        ("How many files are there?", (), False, False, True),
        ("Read old/plans/garden.txt.bak", (), False, False, False),
        ("Who waters the roses?", (), False, False, False),
    ],
)
def test_files(task: str, mentions: tuple[str, ...], reads: bool, searches: bool, lists: bool) -> None:
    assert path_clues(task, PATHS).mentions == mentions
    found = (path_clues(task, PATHS), searching_clues(task, PATHS), listing_clues(task))
    assert tuple(one.weight > 0.5 for one in found) == (reads, searches, lists)


@pytest.mark.parametrize(
    ("task", "is_sure"),
    [
        ("What do the rules say about bonfires?", True),
        ("按规定，几点关门？", True),
        ("When does the garden close?", True),
        ("Who waters the roses?", False),
    ],
)
def test_documents(task: str, is_sure: bool) -> None:
    assert (document_clues(task, "the statutes of a garden club").weight > 0.5) == is_sure


@pytest.mark.parametrize(
    ("task", "weight", "mentions"),
    [
        ("How many trees does the database have?", 0.9, ()),
        ("How old is the red maple?", 0.9, ("Red Maple",)),
        ("老槐树街上有几棵？", 0.9, ("老槐树街",)),
        ("Where does T-17 stand?", 0.9, ("T-17",)),
        ("What height do trees reach?", 0.5, ()),
        ("Is oak hard?", 0.0, ()),
    ],
)
def test_tables(task: str, weight: float, mentions: tuple[str, ...]) -> None:
    assert table_clues(task, NAMES, VALUES) == Clues(weight, mentions)


@given(st.text(max_size=300), st.lists(st.text(max_size=20), max_size=5))
def test_any_text_has_clues_within_bounds(task: str, known: list[str]) -> None:
    finders: list[Callable[[], Clues]] = [
        lambda: arithmetic_clues(task),
        lambda: document_clues(task, " ".join(known)),
        lambda: path_clues(task, known),
        lambda: searching_clues(task, known),
        lambda: listing_clues(task),
        lambda: table_clues(task, known, known),
    ]
    assert all(0.0 <= find().weight <= 1.0 for find in finders)
