"""`Released`: a piece of a stream that may leave, with the decision about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from deepwell.safety.findings import ACTIONS, Action, Decision

__all__ = ["Released", "at_most", "joined", "together"]


@dataclass(frozen=True, slots=True)
class Released:
    """A piece of the stream that may leave.

    Attributes:
        text: the piece, redacted.
        decision: the decision about what was found since the last piece, its spans those of the whole stream; None if
            nothing was.
        ended: True if the decision blocks. Nothing leaves the stream behind `text`.
    """

    text: str
    decision: Decision | None = None
    ended: bool = False


def joined(pieces: Sequence[Released]) -> Released:
    """Returns the pieces as one, of which only the last can have ended. The decision is the strictest, with all findings."""
    decisions = [piece.decision for piece in pieces if piece.decision is not None]
    ended = bool(pieces) and pieces[-1].ended
    return Released(
        "".join(piece.text for piece in pieces), together(decisions) if decisions else None, ended
    )


def together(decisions: Sequence[Decision]) -> Decision:
    """Returns the strictest of one or more decisions, with the findings of all."""
    if len(decisions) == 1:
        return decisions[0]
    return replace(
        max(decisions, key=lambda decision: ACTIONS.index(decision.action)),
        findings=tuple(one for decision in decisions for one in decision.findings),
        failed=tuple(dict.fromkeys(name for decision in decisions for name in decision.failed)),
    )


def at_most(most: Action, decision: Decision) -> Decision:
    """Returns a decision none of whose actions is stricter than one."""
    findings = tuple((finding, _laxer(most, action)) for finding, action in decision.findings)
    return replace(decision, action=_laxer(most, decision.action), findings=findings)


def _laxer(one: Action, other: Action) -> Action:
    return ACTIONS[min(ACTIONS.index(one), ACTIONS.index(other))]
