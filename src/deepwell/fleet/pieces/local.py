"""`LocalExecutor`: computes pieces in this process, one after another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from deepwell.fleet.pieces.piece import Facts, Opened, Piece, Recipe, Tally

__all__ = ["LocalExecutor"]


class LocalExecutor:
    """Computes pieces in this process. The last recipe stays open until another is asked for, or until `close`."""

    def __init__(self) -> None:
        self._recipe: Recipe | None = None
        self._opened: Opened | None = None

    def facts(self, recipe: Recipe) -> Facts:
        """Opens a recipe and returns its facts."""
        return self._open(recipe).facts

    def run(self, recipe: Recipe, pieces: Iterable[Piece], tally: Tally) -> Iterator[tuple[str, bytes]]:
        """Yields the key and the result of each piece, in order."""
        opened = self._open(recipe)
        for piece in pieces:
            result = opened.run(piece.payload)
            tally.kernels.add(opened.facts.kernels)
            yield piece.key, result

    def close(self) -> None:
        """Closes the recipe that is open."""
        opened, self._opened, self._recipe = self._opened, None, None
        if opened is not None:
            opened.close()

    def _open(self, recipe: Recipe) -> Opened:
        if self._opened is None or self._recipe != recipe:
            self.close()
            self._opened = recipe.open()
            self._recipe = recipe
        return self._opened
