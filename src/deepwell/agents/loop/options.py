"""`LoopOptions`: the limits of one turn and one call, and the one switch of the checks."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LoopOptions"]


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """Options of a run.

    Attributes:
        checks: whether the loop helps the model: it explains failed calls, and asks again about answers that look wrong.
        turn_tokens: most tokens that the model writes in one turn.
        call_timeout_s: seconds that one call may take.
        output_characters: characters of a result that the model reads; the rest is cut, and the result says so.
        parallel: reading calls of one turn that run beside each other.
        guidance: whether a run with checks leads a model that goes round. Its short prompts hold results in the
            user's message, so it is off where a guard reads the messages of tools.
        most_stalls: turns in a row that bring nothing new, after which a run with checks ends.
    """

    checks: bool = True
    turn_tokens: int = 1024
    call_timeout_s: float = 60.0
    output_characters: int = 8000
    parallel: int = 4
    most_stalls: int = 5
    guidance: bool = True
