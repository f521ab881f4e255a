"""A simulated user: prompts on many subjects, hidden rules of what an answer should be like, and votes with noise.

The subjects are split by the hash of their names, so no prompt about a held-out subject is trained on. Rules look at the first
words of an answer alone: two of them cannot tell a long answer from a short one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from deepwell.errors import DeepwellError

__all__ = ["HELD_OUT_SHA256", "RULES", "Rule", "SimulatedVote", "frozen_prompts", "votes"]

_SUBJECTS: Final = tuple(
    """sleep|breakfast|a small garden|learning the piano|bicycles|saving money|winter walks|a first job|public libraries|rain
|old maps|cheese|a noisy neighbour|learning to swim|a long train ride|houseplants|chess|tea|moving to another town|stars
    |a broken phone|writing letters|bread|volcanoes|a shy cat|running|birthday presents|rivers|photography|folding paper
    |honey bees|a messy desk|learning a language|salt|bridges|camping|a job interview|the moon|soup|clouds|dancing|wool
    |an exam next week|coffee|lighthouses|a new puppy|painting a room|trees in the city|headaches|sailing|museums|a sore back
    |apples|night trains|drawing|friendship|mountain weather|a borrowed book|cooking rice|owls|meeting new people|glass
    |island holidays|a flat tyre|choosing a laptop|snow|singing|old photographs|a healthy lunch|time zones|knitting|whales
    |a quiet weekend|learning to code|potatoes|windmills|saying no|the desert|fireflies|a small kitchen""".replace(
        "\n", ""
    ).split("|")
)
_FRAMES: Final = (
    "Tell me something about {}.",
    "I have a question about {}. Where should I start?",
    "What would you say about {}?",
    "Could you help me with {}?",
    "Give me one idea about {}.",
)
_HELD_OUT_SHARE: Final = 0.35
HELD_OUT_SHA256: Final = "04c3823d6c2f3683c8278e1214d3c9907c92f40b9d3636dec04e542b5499b875"
"""SHA-256 of the sorted held-out prompts, frozen before anything was trained."""
_SECOND_PERSON: Final = {"you", "your", "you're", "you'll", "you've"}
_WORDS: Final = 12


@dataclass(frozen=True, slots=True)
class Rule:
    """A preference of a user, which whoever trains does not know.

    Attributes:
        likes: tells whether an answer is liked.
        by_length: whether the rule is about the length.
    """

    name: str
    likes: Callable[[str], bool]
    by_length: bool = False


def _opening(answer: str) -> list[str]:
    return re.findall(r"[\w']+", answer.lower())[:_WORDS]


def _first_sentence(answer: str) -> str:
    return re.split(r"[.!?\n]", answer.strip(), maxsplit=1)[0]


RULES: Final = (
    Rule("short_first_sentence", lambda answer: len(_first_sentence(answer).split()) <= 9, by_length=True),
    Rule("early_comma", lambda answer: "," in answer[:60]),
    Rule("addresses_reader", lambda answer: bool(_SECOND_PERSON & {*_opening(answer)})),
)


@dataclass(frozen=True, slots=True)
class SimulatedVote:
    """A vote of a simulated user, with the fields that training uses.

    Attributes:
        honest: whether it says what the rule says; noise has turned the others round.
    """

    prompt: tuple[dict[str, Any], ...]
    answer: str
    desirable: bool
    user: str
    honest: bool
    correction: str | None = None


def frozen_prompts() -> tuple[list[str], list[str]]:
    """Returns the prompts to train on and those held out.

    Raises:
        DeepwellError: the held-out ones are not the frozen ones.
    """
    subjects = sorted(
        {" ".join(one.split()) for one in _SUBJECTS}, key=lambda one: _digest(f"deepwell:votes\0{one}")
    )
    count = round(len(subjects) * _HELD_OUT_SHARE)
    held, trained = (
        [frame.format(one) for one in part for frame in _FRAMES]
        for part in (subjects[:count], subjects[count:])
    )
    if _digest("\n".join(sorted(held))) != HELD_OUT_SHA256:
        raise DeepwellError(
            "the held-out prompts of the simulated votes are not the frozen ones",
            fix="restore bench/workloads/tuning from the repository",
        )
    return trained, held


def votes(
    prompts: Sequence[str], answers: Sequence[str], rule: Rule, *, noise: float, seed: int, users: int = 20
) -> list[SimulatedVote]:
    """Returns a vote on each answer, by a rule, of which a share is turned round.

    Args:
        noise: share of the votes that say the opposite, exactly, whichever they are.
    """
    draw = random.Random(seed)  # noqa: S311 - a draw, not a secret
    turned = {*draw.sample(range(len(answers)), round(noise * len(answers)))}
    return [
        SimulatedVote(
            ({"role": "user", "content": prompt},),
            answer,
            rule.likes(answer) != (place in turned),
            f"user-{draw.randrange(users)}",
            place not in turned,
        )
        for place, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
