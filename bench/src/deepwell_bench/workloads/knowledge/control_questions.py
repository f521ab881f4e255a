"""Closed questions of common knowledge, which no medical classification helps to answer."""

from __future__ import annotations

import random
from collections.abc import Iterator

from deepwell_bench.workloads.knowledge.icd_questions import ClosedQuestion

__all__ = ["control_questions"]

_CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Japan": "Tokyo", "China": "Beijing",
    "Russia": "Moscow", "Egypt": "Cairo", "Greece": "Athens", "Portugal": "Lisbon", "Poland": "Warsaw", "Austria": "Vienna",
    "Ireland": "Dublin", "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki", "Denmark": "Copenhagen",
    "Canada": "Ottawa", "Cuba": "Havana", "Peru": "Lima", "Kenya": "Nairobi", "Thailand": "Bangkok", "Hungary": "Budapest",
    "Belgium": "Brussels", "Argentina": "Buenos Aires", "Turkey": "Ankara", "Iran": "Tehran", "Iraq": "Baghdad",
    "Chile": "Santiago", "South Korea": "Seoul",
}  # fmt: skip
_OPPOSITES = {
    "hot": "cold", "big": "small",
    "up": "down", "fast": "slow", "light": "dark", "happy": "sad", "early": "late", "rich": "poor",
    "strong": "weak", "open": "closed", "full": "empty", "young": "old", "wet": "dry", "loud": "quiet", "hard": "soft",
    "near": "far", "high": "low", "clean": "dirty", "cheap": "expensive", "thick": "thin",
}  # fmt: skip
_PLURALS = {
    "mouse": "mice", "child": "children", "goose": "geese", "man": "men", "woman": "women", "ox": "oxen", "person": "people",
    "leaf": "leaves", "knife": "knives", "city": "cities", "box": "boxes", "wolf": "wolves", "baby": "babies", "bus": "buses",
    "potato": "potatoes",
}  # fmt: skip
_FACTS = {
    "Is ice frozen water?": "yes", "Is the sun a planet?": "no", "Do birds lay eggs?": "yes", "Do fish live in water?": "yes",
    "Is a square round?": "no", "Does a week have seven days?": "yes", "Can a dog read a newspaper?": "no",
    "Is the Pacific an ocean?": "yes", "Is Python a programming language?": "yes", "Is gold a metal?": "yes",
    "Does a triangle have four sides?": "no", "Is winter the hottest season?": "no", "Is a car an animal?": "no",
    "Is the moon made of cheese?": "no", "Is Africa a continent?": "yes", "Does a year have twelve months?": "yes",
    "Do cats have wings?": "no", "Is snow black?": "no", "Is a rose a flower?": "yes", "Is a whale a bird?": "no",
    "Does the heart pump blood?": "yes", "Are the lungs used for breathing?": "yes", "Is the femur a bone of the hand?": "no",
    "Does a healthy adult have two kidneys?": "yes", "Is the skin an organ?": "yes", "Does the stomach store memories?": "no",
}  # fmt: skip


def control_questions() -> list[ClosedQuestion]:
    """Returns 121 questions: capitals, opposites, plurals, sums, and yes/no questions, six of them on the body."""
    return [
        ClosedQuestion(f"control-{number:03}", "control", question, choices, answer)
        for number, (question, choices, answer) in enumerate(_all(), 1)
    ]


def _all() -> Iterator[tuple[str, tuple[str, ...], str]]:
    draw = random.Random(7)  # noqa: S311 - a seeded draw, not a secret
    for table, text in (
        (_CAPITALS, "What is the capital of {}?"),
        (_OPPOSITES, "What is the opposite of {}?"),
        (_PLURALS, "What is the plural of {}?"),
    ):
        for asked, answer in table.items():
            others = draw.sample([one for one in table.values() if one != answer], 3)
            yield text.format(asked), _shuffled([answer, *others], draw), answer
    for _ in range(30):
        first, second = draw.randint(2, 49), draw.randint(2, 49)
        total = first + second
        wrong = draw.sample([total - 10, total - 2, total - 1, total + 1, total + 2, total + 10], 3)
        yield (
            f"What is {first} + {second}?",
            _shuffled([str(one) for one in (total, *wrong)], draw),
            str(total),
        )
    for question, answer in _FACTS.items():
        yield question, ("yes", "no"), answer


def _shuffled(choices: list[str], draw: random.Random) -> tuple[str, ...]:
    return tuple(draw.sample(choices, len(choices)))
