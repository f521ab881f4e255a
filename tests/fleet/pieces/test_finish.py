"""Pieces are finished once, kept, and their results come in order, whatever breaks in between."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.fleet.pieces.finish import finish
from deepwell.fleet.pieces.kept import KeptPieces, folder_for
from deepwell.fleet.pieces.local import LocalExecutor
from deepwell.fleet.pieces.piece import Facts, Piece, Recipe, Tally, piece_of


@dataclass(frozen=True)
class Reverse:
    """Reverses payloads, of which `broken` cannot be."""

    broken: bytes = b"\xff"
    weights: str = "w"

    def spec(self) -> dict[str, str | int | float | bool | None]:
        return {"kind": "reverse"}

    def open(self) -> _Reversing:
        return _Reversing(self)


class _Reversing:
    def __init__(self, recipe: Reverse) -> None:
        self._recipe = recipe
        self.facts = Facts("1", recipe.weights)

    def run(self, payload: bytes) -> bytes:
        if payload == self._recipe.broken:
            raise DeepwellError("it cannot be reversed", fix="leave it out")
        return payload[::-1]

    def close(self) -> None: ...


class Shuffling(LocalExecutor):
    """Computes pieces in some other order, and counts them."""

    computed = 0

    def run(self, recipe: Recipe, pieces: Iterable[Piece], tally: Tally) -> Iterator[tuple[str, bytes]]:
        many = list(pieces)
        random.Random(7).shuffle(many)
        for one in super().run(recipe, many, tally):
            self.computed += 1
            yield one


@given(payloads=st.lists(st.binary(max_size=3), max_size=30))
def test_results_come_in_the_order_of_the_payloads(
    payloads: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    payloads = [one for one in payloads if one != b"\xff"]
    told: list[int] = []
    executor = Shuffling()
    done = finish(
        executor, Reverse(), payloads, KeptPieces(tmp_path_factory.mktemp("kept") / "p"), told.append
    )
    assert list(done.results()) == [one[::-1] for one in payloads]
    assert sorted(told) == list(range(len(payloads)))
    assert done.tally.pieces == len(payloads)
    assert executor.computed == len(set(payloads))  # equal ones are computed once


def test_a_run_that_was_broken_off_goes_on(tmp_path: Path) -> None:
    kept, payloads = KeptPieces(tmp_path / "p"), [b"ab", b"cd", b"!", b"ef"]
    with pytest.raises(DeepwellError, match="cannot be reversed"):
        finish(LocalExecutor(), Reverse(broken=b"!"), payloads, kept)
    executor = Shuffling()
    done = finish(executor, Reverse(), payloads, kept)
    assert (executor.computed, done.tally.kept) == (2, 2)
    assert list(done.results()) == [b"ba", b"dc", b"!", b"fe"]


def test_a_broken_piece_is_computed_again(tmp_path: Path) -> None:
    kept = KeptPieces(tmp_path / "p")
    done = finish(LocalExecutor(), Reverse(), [b"ab"], kept)
    (path,) = (tmp_path / "p").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InvalidRequest, match="not as it was written"):
        list(done.results())
    again = finish(LocalExecutor(), Reverse(), [b"ab"], kept)
    assert (again.tally.kept, list(again.results())) == (0, [b"ba"])


def test_pieces_of_other_weights_are_not_taken(tmp_path: Path) -> None:
    kept = KeptPieces(tmp_path / "p")
    finish(LocalExecutor(), Reverse(), [b"ab"], kept)
    assert finish(LocalExecutor(), Reverse(weights="other"), [b"ab"], kept).tally.kept == 0


def test_keys_tell_everything_apart_that_results_depend_on() -> None:
    facts = [Facts("1"), Facts("2"), Facts("1", "w"), Facts("1", "", "int4")]
    keys = {piece_of(Reverse(), fact, payload).key for fact in facts for payload in (b"", b"a")}
    assert len(keys) == 8
    assert (
        piece_of(Reverse(), Facts("1", kernels="avx2"), b"").key in keys
    )  # results are checked to be equal there


def test_only_pieces_are_removed(tmp_path: Path) -> None:
    kept = KeptPieces(folder_for(tmp_path / "out.jsonl"))
    kept.remove()  # there is none
    finish(LocalExecutor(), Reverse(), [b"ab"], kept)
    own = folder_for(tmp_path / "out.jsonl") / "notes.txt"
    own.write_text("mine")
    kept.remove()
    assert [path.name for path in own.parent.iterdir()] == ["notes.txt"]
    own.unlink()
    kept.remove()
    assert not own.parent.exists()
