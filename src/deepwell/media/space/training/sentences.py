"""Sentences that are said for training: frames and words of `sentences.txt`, dealt to three parts that share no frame."""

from __future__ import annotations

import random
import re
from functools import cache
from importlib.resources import files
from typing import Final, Literal

__all__ = ["Language", "Part", "sentences_of"]

Language = Literal["en", "zh"]
Part = Literal["train", "development", "held-out"]

_PARTS: Final[tuple[Part, ...]] = ("train", "development", "train", "held-out", "train")
_TRIES: Final = 8
_SLOT: Final = re.compile(r"\{([a-z]+)2?\}")


def sentences_of(language: Language, part: Part, count: int, seed: int = 0) -> list[str]:
    """Returns `count` different sentences of a part, the same for the same seed. No frame is in two parts."""
    frames, words = _read()[language]
    own = [frame for place, frame in enumerate(frames) if _PARTS[place % len(_PARTS)] == part]
    draw = random.Random(f"{language} {part} {seed}")  # noqa: S311
    found: dict[str, None] = {}
    decks: dict[str, list[str]] = {}
    place = tries = 0
    while len(found) < count:
        before = len(found)
        found[_filled(own[place % len(own)], words, decks, draw)] = None
        tries = 0 if len(found) > before else tries + 1
        if not tries or tries == _TRIES:  # a frame with few words has been filled in every way
            place, tries = place + 1, 0
    return list(found)


def _filled(frame: str, words: dict[str, list[str]], decks: dict[str, list[str]], draw: random.Random) -> str:
    """Returns a frame with words. Words of a slot are dealt as cards are, so that each comes equally often."""

    def word(match: re.Match[str]) -> str:
        deck = decks.setdefault(match[1], [])
        if not deck:
            deck += words[match[1]]
            draw.shuffle(deck)
        return deck.pop()

    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", _SLOT.sub(word, frame))
    return text[0].upper() + text[1:]


@cache
def _read() -> dict[str, tuple[list[str], dict[str, list[str]]]]:
    """Returns the frames and the words of the slots, by language."""
    found: dict[str, tuple[list[str], dict[str, list[str]]]] = {}
    language = slot = ""
    data = files("deepwell.media.space.training").joinpath("sentences.txt").read_text("utf-8")
    for line in filter(None, data.split("\n")):
        if line.startswith("["):
            language = line.strip("[]")
            found[language] = [], {}
        elif line.startswith("= "):
            slot = line[2:]
        elif slot == "frames" and not line.startswith("#"):
            found[language][0].append(line)
        elif not line.startswith("#"):
            found[language][1][slot] = line.split("|")
    return found
