"""`finish`: computes the pieces of a work that are not kept yet, and returns the keys of all in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from deepwell.fleet.pieces.kept import KeptPieces
from deepwell.fleet.pieces.piece import Executor, Facts, Piece, Recipe, Tally, piece_of

__all__ = ["Finished", "finish"]


@dataclass(frozen=True, slots=True)
class Finished:
    """A work of which every piece is finished.

    Attributes:
        facts: the version, weights and kernels of the machine that was asked first.
    """

    facts: Facts
    tally: Tally
    kept: KeptPieces
    keys: tuple[str, ...]

    def results(self) -> Iterator[bytes]:
        """Yields the results in the order of the payloads."""
        for key in self.keys:
            yield self.kept.result(key)


def finish(
    executor: Executor,
    recipe: Recipe,
    payloads: Iterable[bytes],
    kept: KeptPieces,
    advance: Callable[[int], None] = lambda _: None,
) -> Finished:
    """Computes what is left of a work. It may be broken off at any time and called again: finished pieces are kept.

    Args:
        payloads: the pieces' payloads; they are read as the work goes on.
        advance: is told the index of each piece that has ended, in any order.

    Raises:
        DeepwellError: a piece cannot be computed; those that are finished stay kept.
        OSError: a result cannot be written.
    """
    facts, tally = executor.facts(recipe), Tally()
    keys: list[str] = []
    places: dict[str, list[int]] = {}  # of the pieces under way; equal payloads are computed once

    def missing() -> Iterator[Piece]:
        for index, payload in enumerate(payloads):
            piece = piece_of(recipe, facts, payload)
            keys.append(piece.key)
            if piece.key in places:
                places[piece.key].append(index)
            elif kept.has(piece.key):
                tally.pieces += 1
                tally.kept += 1
                advance(index)
            else:
                places[piece.key] = [index]
                yield piece

    for key, result in executor.run(recipe, missing(), tally):
        kept.keep(key, result)
        for index in places.pop(key):
            tally.pieces += 1
            advance(index)
    return Finished(facts, tally, kept, tuple(keys))
