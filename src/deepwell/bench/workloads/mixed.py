"""The mixed load: prompts of real text, 32 to 1,500 tokens long, with answers of 32 to 128 tokens."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path

from deepwell.bench.workloads.text import text_tokens

__all__ = ["CLIENTS", "LONGEST", "Asked", "mixed_load"]

CLIENTS = 16
SHORTEST, LONGEST = 32, 1500  # tokens of prompt
FEWEST, MOST = 32, 128  # tokens of answer
SEED = 16


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of the load."""

    prompt: tuple[int, ...]
    max_tokens: int


def mixed_load(model: Path, count: int, number: int, *, longest: int = LONGEST) -> list[Asked]:
    """Returns the `number`-th list of `count` requests.

    Lengths of prompts are log-uniform: many short ones, a few long ones that make most of the work. The lists
    differ only in where the text is cut, so that rounds do equal work; no two
    prompts of a run begin alike.
    """
    ids = text_tokens(model)
    draw = random.Random(SEED)  # noqa: S311
    lengths = [round(math.exp(draw.uniform(math.log(SHORTEST), math.log(longest)))) for _ in range(count)]
    answers = [draw.randint(FEWEST, MOST) for _ in range(count)]
    # Cuts at multiples of a stride that shares no factor with the text's length visit every start once.
    room = len(ids) - LONGEST
    stride = next(s for s in range(room // 3, room) if math.gcd(s, room) == 1)
    starts = [(number * count + index) * stride % room for index in range(count)]
    return [
        Asked(ids[start : start + length], answer)
        for start, length, answer in zip(starts, lengths, answers, strict=True)
    ]
