"""`Recipe`, `Opened` and `Executor`: what is done with every piece of a work, and where it is done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Protocol

import msgspec

__all__ = ["Executor", "Facts", "Opened", "Piece", "Recipe", "Tally", "piece_of"]

_DIGEST_BYTES = 20


@dataclass(frozen=True, slots=True)
class Facts:
    """The things that the results of a piece depend on, beside the recipe and the piece.

    Attributes:
        version: version of Deepwell.
        weights: hash of the model's packed weights; empty: the recipe has no model.
        precision: precision of the weights.
        kernels: kernel table, such as `avx512vnni`; a model's answers are the same on one table.
        memory_bytes: memory that one process needs for the model; 0: it has none.
    """

    version: str
    weights: str = ""
    precision: str = ""
    kernels: str = ""
    memory_bytes: int = 0

    def same_results(self, other: Facts) -> bool:
        """Returns whether the results under both are equal, kernels apart."""
        mine = (self.version, self.weights, self.precision)
        return mine == (other.version, other.weights, other.precision)


class Opened(Protocol):
    """A recipe that is ready to work, with its model, if it has one."""

    @property
    def facts(self) -> Facts:
        """The version, the weights and the kernels that it works with."""
        ...

    def run(self, payload: bytes) -> bytes:
        """Returns the result of a piece, which depends on the recipe, the facts and the payload alone."""
        ...

    def close(self) -> None:
        """Frees the model."""
        ...


class Recipe(Protocol):
    """The work that is done with every piece: a small frozen dataclass of plain values, which travels between machines."""

    def spec(self) -> dict[str, str | int | float | bool | None]:
        """Returns every value that the results depend on."""
        ...

    def open(self) -> Opened:
        """Makes ready to work in this process.

        Raises:
            DeepwellError: a model is missing, or does not fit.
        """
        ...


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a work.

    Attributes:
        key: digest of the recipe, the facts and the payload; equal keys have equal results.
    """

    key: str
    payload: bytes


@dataclass(slots=True)
class Tally:
    """Counts of a work.

    Attributes:
        pieces: all pieces that have ended.
        kept: the pieces among them that an earlier run had finished.
        retried: the pieces that were computed again because their process or machine was lost.
        nodes: the machines that finished pieces.
        kernels: the kernel tables that finished pieces.
    """

    pieces: int = 0
    kept: int = 0
    retried: int = 0
    nodes: set[str] = field(default_factory=set[str])
    kernels: set[str] = field(default_factory=set[str])

    @classmethod
    def sum_of(cls, tallies: Iterable[Tally]) -> Tally:
        """Returns the counts of several works."""
        total = cls()
        for one in tallies:
            total.pieces += one.pieces
            total.kept += one.kept
            total.retried += one.retried
            total.nodes |= one.nodes
            total.kernels |= one.kernels
        return total


class Executor(Protocol):
    """Computes pieces: in this process, or on the machines of a cluster."""

    def facts(self, recipe: Recipe) -> Facts:
        """Opens a recipe and returns its facts.

        Raises:
            DeepwellError: it cannot be opened.
        """
        ...

    def run(self, recipe: Recipe, pieces: Iterable[Piece], tally: Tally) -> Iterator[tuple[str, bytes]]:
        """Yields the key and the result of each piece, in any order.

        Raises:
            DeepwellError: a piece cannot be computed.
        """
        ...

    def close(self) -> None:
        """Ends what works."""
        ...


def piece_of(recipe: Recipe, facts: Facts, payload: bytes) -> Piece:
    """Returns the piece of a payload."""
    about = {
        "recipe": recipe.spec(),
        "version": facts.version,
        "weights": facts.weights,
        "precision": facts.precision,
    }
    digest = blake2b(msgspec.json.encode(about, order="deterministic"), digest_size=_DIGEST_BYTES)
    digest.update(b"\n")
    digest.update(payload)
    return Piece(digest.hexdigest(), payload)
