"""`slide`: the recent turns that a growing conversation keeps whole, so that what the model reads changes seldom.

NOTE: stability. The prefix cache serves a turn if the prompt begins as that of the turn before. Turns are therefore forgotten
in strides, as a window slides: nothing moves until the recent turns, with the passages in front of their questions, exceed
their share of the room. Then the oldest go until half of the share is left, and the passages of earlier questions go with them.
Both
follow from the conversation alone: the same conversation has the same prompt, whatever a server has seen before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Recent", "slide"]


@dataclass(frozen=True, slots=True)
class Recent:
    """The turns that stay.

    Attributes:
        first: number of the first of them.
        since: number of the first turn whose question came behind the last slide. It, and those behind it, keep their passages.
        tokens: tokens of the turns, and of the passages that they may have.
    """

    first: int
    since: int
    tokens: int


def slide(turns: Sequence[int], notes: Sequence[int], most: int) -> Recent:
    """Returns what a conversation keeps after its turns came one by one.

    Args:
        turns: tokens of each turn.
        notes: tokens that the passages in front of each turn's question may have; they have some once a turn is forgotten.
        most: tokens that may stay before the oldest turns go.
    """
    first = since = held = 0
    for number, tokens in enumerate(turns):
        held += tokens + (notes[number] if first else 0)
        if held <= most:
            continue
        held = sum(turns[first : number + 1])
        while first <= number and held > most // 2:
            held -= turns[first]
            first += 1
        since = number + 1
    return Recent(first, since, held)
