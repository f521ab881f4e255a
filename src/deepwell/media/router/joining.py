"""Joins requests for one thing each, so that the classifier sees more requests for several than anybody wrote."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from deepwell.media.router.classifier import Intent
from deepwell.media.router.labelled import Labelled

__all__ = ["JOINS", "Join", "joined"]

JOINS: Final = 1500
"""Joins of the shipped weights."""

_LINKS: Final = {
    "en": (". ", " and ", ", then ", ". also ", " + ", "; ", ", and ", ". And ", ", plus "),
    "zh": ("，", "。", "，然后", "，再", "；", " ", "，顺便", "。另外", "，还有"),
}
# Pairs of intents, the frequent ones several times. Two for the same thing teach that two clauses are not two wishes.
_PAIRS: Final[tuple[tuple[Intent, Intent, int], ...]] = (
    ("chat", "image", 4),
    ("image", "chat", 3),
    ("chat", "speech", 4),
    ("speech", "chat", 2),
    ("image", "speech", 4),
    ("speech", "image", 2),
    ("transcription", "chat", 3),
    ("transcription", "speech", 2),
    ("transcription", "image", 2),
    ("chat", "chat", 3),
    ("image", "image", 2),
)
_SHORTEST: Final = 4
_LONGEST: Final = 140
_TRIES: Final = 40
_KEPT_CAPITAL: Final = frozenset({"I", "I'd", "I'm"})


@dataclass(frozen=True, slots=True)
class Join:
    """A request that is made of two, and the places of these."""

    request: Labelled
    first: int
    second: int


def joined(requests: Sequence[Labelled], count: int = JOINS, *, seed: int = 5) -> list[Join]:
    """Returns requests that are made of two of the given ones; fewer where too few fit."""
    rng = random.Random(seed)  # noqa: S311 -- examples, no secrets
    groups = dict[tuple[Intent, str], list[int]]()
    for place, one in enumerate(requests):
        if len(one.intents) == 1 and one.language in _LINKS and _SHORTEST <= len(one.text) <= _LONGEST:
            groups.setdefault((one.intents[0], one.language), []).append(place)
    found: list[Join] = []
    for _ in range(_TRIES * count):
        if len(found) == count:
            break
        [(before, behind, _)] = rng.choices(_PAIRS, [often for _, _, often in _PAIRS])
        language = rng.choice(sorted(_LINKS))
        firsts, seconds = groups.get((before, language)), groups.get((behind, language))
        if not firsts or not seconds:
            continue
        first, second = rng.choice(firsts), rng.choice(seconds)
        text = _text(requests[first], requests[second], rng.choice(_LINKS[language]))
        if first != second and text:
            both = requests[first].intents + requests[second].intents
            one = Labelled(text, tuple(dict.fromkeys(both)), language, requests[first].attached)
            found.append(Join(one, first, second))
    return found


def _text(first: Labelled, second: Labelled, link: str) -> str:
    """Returns the text of both; empty where they do not fit: content behind a colon has no end, and the second of two has
    nothing attached."""
    begin, end = first.text.rstrip(".。!！ "), second.text
    heard = "audio" in first.attached
    if second.attached or heard != (first.intents[0] == "transcription"):
        return ""
    if min(len(begin), len(end)) < _SHORTEST or {*":：\n"} & {*begin} or "\n" in end:
        return ""
    if begin[-1] in "?？…,，":
        return f"{begin} {end}"
    small = second.language == "en" and not link.startswith(".") and end.split(" ")[0] not in _KEPT_CAPITAL
    return begin + link + (end[0].lower() + end[1:] if small else end)
