"""`Request`: one simulated request, from its arrival to its last token."""

from __future__ import annotations

from typing import Final

__all__ = ["ALONE", "Request"]

ALONE: Final = -1  # conversation of a request that belongs to none


class Request:
    """One request. Times are seconds since the start; a time below 0 has not come.

    Attributes:
        prompt: tokens of the whole prompt, those that requests share at its beginning included.
        answer: tokens of the answer, at least 1.
        hit_s: seconds in which a cache of answers answers it; below 0: none has it.
        cached: tokens of the prompt that the prefix cache had.
        drawn: tokens of the answer so far.
        known: tokens that the engine must compute before it draws the next one.
        computed: those of them that it has.
        held: tokens of the KV cache that it has taken, without those of its steps since it decodes.
        last_step: number of the engine's step that draws its last token; below 0: it does not decode.
    """

    __slots__ = (
        "answer",
        "arrived",
        "cached",
        "computed",
        "conversation",
        "decodes_since",
        "drawn",
        "ended",
        "first",
        "held",
        "hit_s",
        "known",
        "last_step",
        "number",
        "prompt",
        "rejected",
        "replica",
        "started",
        "user",
    )

    def __init__(
        self,
        arrived: float,
        prompt: int,
        answer: int,
        *,
        conversation: int = ALONE,
        user: int = -1,
        hit_s: float = -1.0,
    ) -> None:
        self.arrived = arrived
        self.prompt = prompt
        self.answer = answer
        self.conversation = conversation
        self.user = user
        self.hit_s = hit_s
        self.number = 0
        self.replica = -1
        self.started = -1.0
        self.first = -1.0
        self.ended = -1.0
        self.cached = 0
        self.drawn = 0
        self.known = prompt
        self.computed = 0
        self.held = 0
        self.last_step = -1
        self.decodes_since = 0
        self.rejected = False
