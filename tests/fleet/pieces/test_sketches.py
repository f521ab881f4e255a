"""Sketches that are computed piece by piece are those that are computed at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.fleet.pieces import sketches
from deepwell.fleet.pieces.kept import KeptPieces
from deepwell.fleet.pieces.local import LocalExecutor
from deepwell.fleet.pieces.sketches import SpreadSketcher, texts_of, texts_payload
from deepwell.tuning.data.minhash import sketch
from deepwell.tuning.data.near_duplicates import near_duplicates

# JSON may have lone surrogates, which no UTF-8 has.
TEXTS = st.lists(st.text(st.characters(codec=None), max_size=30), max_size=12)


@given(texts=TEXTS)
def test_texts_survive_the_way(texts: list[str]) -> None:
    assert texts_of(texts_payload(texts)) == texts


@pytest.mark.parametrize("size", [1, 3, 100])
def test_pieces_give_the_same_sketches(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketches, "_TEXTS", size)
    texts = ["", "one two three four five six", "一二三四五六七", "\ud800 odd", "!?"] + [
        f"the number {number} is one of many numbers" for number in range(20)
    ]
    advanced: list[int] = []
    spread = SpreadSketcher(LocalExecutor(), KeptPieces(tmp_path / "p"))
    made, wanted = spread(texts, 5, advanced.append), sketch(texts, 5)
    for name in ("keys", "rows", "sequences", "filled"):
        assert np.array_equal(getattr(made, name), getattr(wanted, name))
    assert sum(advanced) == len(texts)
    assert spread.tally.pieces == -(-len(texts) // size)


def test_near_duplicates_are_the_same(tmp_path: Path) -> None:
    texts = [f"{word} walked down the long road to the old town in the rain" for word in ("he", "she", "he")]
    spread = SpreadSketcher(LocalExecutor(), KeptPieces(tmp_path / "p"))
    assert near_duplicates(texts, 0.6, sketcher=spread) == near_duplicates(texts, 0.6)


def test_no_texts_have_no_sketches(tmp_path: Path) -> None:
    made = SpreadSketcher(LocalExecutor(), KeptPieces(tmp_path / "p"))([], 5, lambda _: None)
    assert made.keys.shape[1] == 0
