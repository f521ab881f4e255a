"""Facts to hide, their distractors, and the questions that ask for them."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

__all__ = ["DEPTHS", "Fact", "Hidden", "Language", "Question", "Split", "hidden_facts", "questions"]

Split = Literal["development", "evaluation"]
Language = Literal["en", "zh"]

DEPTHS: Final = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Places of needles, as shares of the haystack."""

_AT_EACH: Final = 5
_DISTRACTORS: Final = 4
_TRIPLES: Final = 10  # questions for three facts, half of them of one form
_FORMS: Final = Path(__file__).with_name("forms.toml")
_MONTHS: Final = (
    "January February March April May June July August September October November December".split()
)


@dataclass(frozen=True, slots=True)
class Fact:
    """A statement of one value.

    Attributes:
        kind: its form.
        where: the place that it is about.
        value: what is to be remembered; no other fact of the haystack has it.
        sentence: the statement, of one sentence or two.
    """

    kind: str
    where: str
    value: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Hidden:
    """A needle with its distractors: statements of the same form about other places, one of them in the same city."""

    fact: Fact
    depth: float
    distractors: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the facts it asks for: one, or three from different depths.

    Attributes:
        text: the question.
        needed: the facts.
    """

    text: str
    needed: tuple[Fact, ...]

    @property
    def answers(self) -> tuple[str, ...]:
        """The values that answer it."""
        return tuple(one.value for one in self.needed)


def hidden_facts(split: Split, language: Language, seed: str) -> list[Hidden]:
    """Returns 25 needles, five at each depth, with four distractors each. Every value is there once."""
    draw = random.Random(f"deepwell:context:{split}:{language}:{seed}")  # noqa: S311 - a seeded draw, not a secret
    source = _forms(split, language)
    values = _Values(draw, source, language)
    used: set[tuple[str, str]] = set()
    # 8 forms and 5 depths: the needles of one form lie at different depths.
    forms = draw.sample(source["forms"], len(source["forms"]))
    found: list[Hidden] = []
    for number in range(len(DEPTHS) * _AT_EACH):
        form = forms[number % len(forms)]
        kind, (site, other_site) = form["kind"], form["sites"]
        cities = [city for city in source["cities"] if (kind, city) not in used]
        city, *others = draw.sample(cities, _DISTRACTORS)
        used |= {(kind, one) for one in (city, *others)}
        places = [(city, site), *((one, site) for one in others), (city, other_site)]
        fact, *distractors = (_fact(form, values, _where(one, place, language)) for one, place in places)
        found.append(Hidden(fact, DEPTHS[number % len(DEPTHS)], tuple(distractors)))
    return found


def questions(split: Split, language: Language, seed: str) -> list[Question]:
    """Returns a question for each needle, half of them reworded, then ten that ask for three facts from different depths."""
    draw = random.Random(f"deepwell:context:asked:{split}:{language}:{seed}")  # noqa: S311
    hidden = hidden_facts(split, language, seed)
    forms = {form["kind"]: form for form in _forms(split, language)["forms"]}
    found: list[Question] = []
    for number, one in enumerate(hidden):
        wording = forms[one.fact.kind]["reworded" if number % 2 else "question"]
        found.append(Question(wording.format(where=one.fact.where), (one.fact,)))
    alike = [group for group in _triples(hidden, draw) if len({one.fact.kind for one in group}) == 1]
    mixed = [group for group in _triples(hidden, draw) if len({one.fact.kind for one in group}) == 3]
    for group in [*_spread(alike, _TRIPLES // 2), *_spread(mixed, _TRIPLES - _TRIPLES // 2)]:
        facts = tuple(one.fact for one in group)
        found.append(Question(_asking(facts, forms, language), facts))
    return found


def _triples(hidden: Sequence[Hidden], draw: random.Random) -> Iterator[tuple[Hidden, ...]]:
    """Yields groups of three needles at different depths, in a drawn order."""
    pool = [
        (a, b, c)
        for at, a in enumerate(hidden)
        for after, b in enumerate(hidden[at + 1 :], at + 1)
        for c in hidden[after + 1 :]
        if len({a.depth, b.depth, c.depth}) == 3
    ]
    draw.shuffle(pool)
    yield from pool


def _spread(groups: Sequence[tuple[Hidden, ...]], count: int) -> list[tuple[Hidden, ...]]:
    """Returns groups that share as few facts as can be, the first ones in order."""
    seen: dict[str, int] = {}
    found: list[tuple[Hidden, ...]] = []
    while len(found) < count:
        best = min(
            (one for one in groups if one not in found),
            key=lambda group: sum(seen.get(one.fact.value, 0) for one in group),
        )
        found.append(best)
        for one in best:
            seen[one.fact.value] = seen.get(one.fact.value, 0) + 1
    return found


def _asking(facts: Sequence[Fact], forms: dict[str, dict[str, Any]], language: Language) -> str:
    if len({one.kind for one in facts}) == 1:
        places = [one.where for one in facts]
        joined = f"{places[0]}、{places[1]}和{places[2]}" if language == "zh" else ", ".join(places[:2])
        if language == "en":
            joined += f" and {places[2]}"
        return forms[facts[0].kind]["several"].format(where=joined)
    asked = [forms[one.kind]["question"].format(where=one.where) for one in facts]
    if language == "zh":
        return "，".join(one.removesuffix("？") for one in asked) + "？"
    parts = [one.removesuffix("?") for one in asked]
    parts = [parts[0], *(part[0].lower() + part[1:] for part in parts[1:])]
    return f"{parts[0]}, {parts[1]}, and {parts[2]}?"


def _fact(form: dict[str, Any], values: _Values, where: str) -> Fact:
    value = values.drawn(form["value"])
    sentence = form["sentence"].format(where=where, Where=where[0].upper() + where[1:], value=value)
    return Fact(form["kind"], where, value, sentence)


def _where(city: str, site: str, language: Language) -> str:
    return f"{city}{site}" if language == "zh" else f"the {city} {site}"


class _Values:
    """Draws values, each once."""

    def __init__(self, draw: random.Random, source: dict[str, Any], language: Language) -> None:
        self._draw = draw
        self._source = source
        self._language = language
        self._seen: set[str] = set()

    def drawn(self, sort: str) -> str:
        while (value := self._made(sort)) in self._seen:
            pass
        self._seen.add(value)
        return value

    def _made(self, sort: str) -> str:
        draw, source, chinese = self._draw, self._source, self._language == "zh"
        if sort == "code":
            return str(draw.randrange(10_000, 100_000))
        if sort == "line":
            return str(draw.randrange(100, 1000))
        if sort == "amount":
            return str(draw.randrange(100_000, 1_000_000))
        if sort == "date":
            day, month, year = draw.randrange(1, 29), draw.randrange(12), draw.randrange(1950, 2020)
            return f"{year}年{month + 1}月{day}日" if chinese else f"{day} {_MONTHS[month]} {year}"
        if sort == "name":
            surname, given = draw.choice(source["surnames"]), draw.choice(source["given"])
            return surname + given if chinese else f"{given} {surname}"
        if sort == "colour":
            shade, colour = draw.choice(source["shades"]), draw.choice(source["colours"])
            return shade + colour if chinese else f"{shade} {colour}"
        first, second = draw.sample(source["words"], 2)
        return first + second if chinese else f"{first}-{second}"


@cache
def _forms(split: Split, language: Language) -> dict[str, Any]:
    return tomllib.loads(_FORMS.read_text(encoding="utf-8"))[split][language]
