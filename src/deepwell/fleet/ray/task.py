"""`run_piece`: the function that a process of a Ray cluster calls for every piece."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
from __future__ import annotations

from typing import Any

from deepwell.errors import DeepwellError
from deepwell.fleet.pieces.local import LocalExecutor
from deepwell.fleet.pieces.piece import Facts, Piece, Recipe, Tally

__all__ = ["Failed", "Worked", "look", "run_piece"]

# A process of the cluster works for one recipe after another, and loads a model once.
_executor = LocalExecutor()


class Worked:
    """The result of a piece, with the facts and the machine that it comes from."""

    def __init__(self, facts: Facts, node: str, result: bytes) -> None:
        self.facts = facts
        self.node = node
        self.result = result


class Failed:
    """A domain error, as plain values that travel between machines."""

    def __init__(self, message: str, fix: str, node: str) -> None:
        self.message = message
        self.fix = fix
        self.node = node


def look(recipe: Recipe) -> Worked | Failed:
    """Opens a recipe on a machine of the cluster and returns its facts."""
    try:
        return Worked(_executor.facts(recipe), _node(), b"")
    except DeepwellError as error:
        return Failed(error.message, error.fix, _node())


def run_piece(recipe: Recipe, payload: bytes) -> Worked | Failed:
    """Computes a piece on a machine of the cluster."""
    try:
        facts = _executor.facts(recipe)
        ((_, result),) = _executor.run(recipe, [Piece("", payload)], Tally())
    except DeepwellError as error:
        return Failed(error.message, error.fix, _node())
    return Worked(facts, _node(), result)


def _node() -> str:
    from ray import get_runtime_context

    context: Any = get_runtime_context()
    return str(context.get_node_id())
