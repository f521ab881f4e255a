"""Pairs of questions that differ in the one word that counts: polarity, numbers, names, directions; in English and
Chinese.

Each family of `swaps.toml` swaps one kind of thing in several sentences, filled from word lists. The second question of
a pair is then put politely, or briefly, or otherwise, so that rules which fold turns of phrase have their chance to
fold too much.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Family", "Pair", "families", "paraphrase_pairs", "swap_pairs"]

FAMILIES = Path(__file__).with_name("swaps.toml")
PARAPHRASES = Path(__file__).with_name("paraphrases.txt")

_TONES = {
    "en": (
        *("{whole}", "{lower}", "Please tell me: {whole}", "Could you tell me {bare}?", "Hi, {lower}"),
        *(
            "{whole} Thanks!",
            "I want to know {bare}",
            "Hello there, {whole}",
            "{lower} please",
            "Do you know {bare}?",
        ),
    ),
    "zh": (
        *("{whole}", "请问{whole}", "你好，{whole}", "{bare}", "请告诉我{whole}"),
        *("我想知道{bare}", "{bare}呢？", "麻烦问一下，{whole}", "{whole}谢谢"),
    ),
}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two questions: a swap, whose answers differ, or a paraphrase, whose answers do not (`family` "paraphrase").

    `held_out`: written after the gate, so that this cannot have been fitted to it.
    """

    family: str
    language: str  # "en" | "zh"
    held_out: bool
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of swap: `opposites` ("on/off"), two words of `two`, or two of `turned` that change places."""

    name: str
    language: str
    held_out: bool
    templates: Sequence[str]
    opposites: Sequence[str] = ()
    two: Sequence[str] = ()
    turned: Sequence[str] = ()
    fillers: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])

    def draw(self, rng: random.Random) -> tuple[str, str]:
        """Returns two questions that differ in the swap alone."""
        template = rng.choice(self.templates)
        same = {name: rng.choice(words) for name, words in self.fillers.items()}
        if self.turned:
            a, b = rng.sample(self.turned, 2)
            return template.format(a=a, b=b), template.format(a=b, b=a)
        if self.two:
            one, other = rng.sample(self.two, 2)
        else:
            one, other = rng.choice(self.opposites).split("/")
            if rng.random() < 0.5:
                one, other = other, one
        return template.format(s=one, **same), template.format(s=other, **same)


def families() -> list[Family]:
    """Returns every family of `swaps.toml`."""
    data = tomllib.loads(FAMILIES.read_text(encoding="utf-8"))
    lists: dict[str, list[str]] = data["lists"]

    def words(given: str | list[str]) -> list[str]:
        return lists[given] if isinstance(given, str) else given

    return [
        Family(
            name=row["name"],
            language=row["language"],
            held_out=row["held_out"],
            templates=row["templates"],
            opposites=row.get("opposites", ()),
            two=words(row.get("two", [])),
            turned=words(row.get("turned", [])),
            fillers={name: words(which) for name, which in row.get("fillers", {}).items()},
        )
        for row in data["family"]
    ]


def swap_pairs(each: int, *, seed: int = 0) -> list[Pair]:
    """Returns `each` different pairs of every family, fewer where it does not have as many."""
    pairs: list[Pair] = []
    for number, family in enumerate(families()):
        rng = random.Random(f"{seed} {number} {family.name}")  # noqa: S311 - to be repeated, not kept secret
        found: dict[tuple[str, str], None] = {}
        for _ in range(each * 20):
            first, second = family.draw(rng)
            found[first, _in_a_tone(second, family.language, rng)] = None
            if len(found) == each:
                break
        pairs += [Pair(family.name, family.language, family.held_out, *texts) for texts in found]
    return pairs


def _in_a_tone(text: str, language: str, rng: random.Random) -> str:
    """Returns the same question, put politely, or briefly, or otherwise."""
    bare = text.rstrip("?？")
    lower = text[0].lower() + text[1:]
    if language == "en":
        bare = bare[0].lower() + bare[1:]
    return rng.choice(_TONES[language]).format(whole=text, lower=lower, bare=bare)


def paraphrase_pairs() -> list[Pair]:
    """Returns every question of `paraphrases.txt` with each of its other wordings."""
    pairs: list[Pair] = []
    for line in PARAPHRASES.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            language, first, *others = (part.strip() for part in line.split("|"))
            pairs += [Pair("paraphrase", language, True, first, other) for other in others]
    return pairs
