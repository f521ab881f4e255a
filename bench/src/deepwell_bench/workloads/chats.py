"""Chats of mixed lengths, a tenth of which are left in the middle."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["FEWEST", "LONGEST", "MOST", "SHORTEST", "Work", "work_of"]

SHORTEST, LONGEST = 16, 160  # tokens of a prompt, before the chat template
FEWEST, MOST = 64, 192  # tokens of an answer
LEAVE = 0.1  # of the clients hang up in the middle
SEED = 64


@dataclass(frozen=True, slots=True)
class Work:
    """One request of the load. `leave`: the client hangs up after so many events; 0: it stays."""

    prompt: tuple[int, ...]
    max_tokens: int
    leave: int


def work_of(text: Sequence[int], count: int) -> list[Work]:
    """Returns `count` different requests: prompts and answers of mixed lengths, a tenth of which are left in the middle."""
    draw = random.Random(SEED)  # noqa: S311
    found: list[Work] = []
    for _ in range(count):
        length = draw.randint(SHORTEST, LONGEST)
        start = draw.randrange(len(text) - length)
        answer = draw.randint(FEWEST, MOST)
        leave = draw.randint(1, answer // 2) if draw.random() < LEAVE else 0
        found.append(Work(tuple(text[start : start + length]), answer, leave))
    return found
