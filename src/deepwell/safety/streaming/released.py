"""`Released`: a piece of a stream that may leave, with the decision about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deepwell.safety.findings import ACTIONS, Decision

__all__ = ["Released", "joined"]


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
    decision = decisions[0] if decisions else None
    if len(decisions) > 1:
        strictest = max(decisions, key=lambda decision: ACTIONS.index(decision.action))
        decision = Decision(
            strictest.action,
            strictest.layer,
            tuple(one for decision in decisions for one in decision.findings),
            strictest.policy,
            tuple(dict.fromkeys(name for decision in decisions for name in decision.failed)),
        )
    ended = bool(pieces) and pieces[-1].ended
    return Released("".join(piece.text for piece in pieces), decision, ended)
