"""The load of an application: one system prompt for all, and questions that come again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from deepwell.cli.bench.load import Asked

__all__ = ["CAPACITY", "CYCLE", "Repeating", "repeating_load"]

SYSTEM_TOKENS = 512  # instructions and examples that every request of one application begins with
QUESTIONS = (16, 32, 64, 128)  # tokens
ANSWERS = (32, 48, 64)  # tokens
CYCLE = len(QUESTIONS) * len(ANSWERS)  # requests in which every pair comes once: any cycle is a fair sample
REPEATED = 8  # from the second cycle on, one request in so many is one that came before
SEED = 5
CAPACITY = SYSTEM_TOKENS + max(QUESTIONS) + max(ANSWERS)


@dataclass(frozen=True, slots=True)
class Repeating:
    """A load as applications make it: one system prompt, questions, some of them asked before."""

    requests: tuple[Asked, ...]
    distinct: int  # different requests among them


def repeating_load(ids: Sequence[int], count: int, number: int, *, shared: bool = True) -> Repeating:
    """Returns the `number`-th load of `count` requests; with `shared` False of equal lengths, but with nothing in common."""
    draw = random.Random(SEED * 1000 + number)  # noqa: S311
    room = len(ids) - CAPACITY
    # Of another round's texts nothing may be left in a cache: each begins elsewhere.
    system = tuple(ids[(number * 7919) % room :][:SYSTEM_TOKENS])
    requests: list[Asked] = []
    distinct = 0
    for index in range(count):
        if shared and index >= CYCLE and index % REPEATED == REPEATED - 1:
            # Of a cycle before, and of the same lengths: every cycle stays a fair sample.
            requests.append(requests[draw.choice(range(index % CYCLE, index, CYCLE))])
            continue
        distinct += 1
        length, answer = QUESTIONS[index % len(QUESTIONS)], ANSWERS[index // len(QUESTIONS) % len(ANSWERS)]
        start = draw.randrange(room)
        question = tuple(ids[start : start + length])
        head = system if shared else tuple(ids[draw.randrange(room) :][:SYSTEM_TOKENS])
        requests.append(Asked(head + question, answer))
    return Repeating(tuple(requests), distinct)
