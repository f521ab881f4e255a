"""Common words and short phrases that are learnt without a voice: WordNet's in English, jieba's in Chinese."""

from __future__ import annotations

import re
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Final

from deepwell.errors import MissingDependency
from deepwell.models.store.debian import debian_members, debian_package

__all__ = ["chinese_words", "english_phrases"]

_SHOWABLE: Final = frozenset("05 06 08 13 15 17 18 20 25".split())
"""WordNet's files of nouns that name what can be seen."""

_WORD: Final = re.compile(r"[a-z][a-z'-]{2,}(?:_[a-z'-]{2,})?")
_PHRASE: Final = re.compile(r"[A-Za-z][A-Za-z ',-]{9,41}")
_HAN: Final = re.compile(r"[\u4e00-\u9fff]{2,4}")
_LONGEST: Final = 9
"""Letters of the longest word for a thing that is taken though WordNet's texts do not use it."""

_CHINESE: Final = 16_000
_PHRASES: Final = 14_000


def english_phrases(packages: Path) -> list[str]:
    """Returns WordNet's words that are in use or name things, and its short definitions and examples, always the same."""
    used: set[str] = set()
    words: dict[str, None] = {}
    phrases: dict[str, None] = {}
    for name, data in debian_members(debian_package("wordnet-base", packages)):
        lines = data.decode("latin-1").splitlines()
        if name.endswith("/cntlist.rev"):
            used |= {line.partition("%")[0] for line in lines}
        elif re.search(r"/wordnet/data\.(noun|verb|adj)$", name):
            for line in lines:
                if not line.startswith(" "):
                    _read(line, words, phrases)
    found = [word for word in (*words, *sorted(used - set(words))) if _WORD.fullmatch(word)]
    kept = [word for word in found if word in used or (word in words and len(word) <= _LONGEST)]
    chosen = sorted(phrases, key=lambda text: sha256(text.encode()).digest())[:_PHRASES]
    return [*(word.replace("_", " ") for word in kept), *chosen]


def _read(line: str, words: dict[str, None], phrases: dict[str, None]) -> None:
    """Takes the words for things, the definitions and the examples of one line of WordNet's data."""
    head, _, gloss = line.partition(" | ")
    fields = head.split()
    if fields[2] == "n" and fields[1] in _SHOWABLE:
        words |= dict.fromkeys(fields[4 : 4 + 2 * int(fields[3], 16) : 2])
    parts = (part.strip(' "') for part in gloss.split("; "))
    phrases |= dict.fromkeys(part for part in parts if _PHRASE.fullmatch(part) and " " in part)


def chinese_words() -> list[str]:
    """Returns jieba's most frequent words of two to four characters."""
    try:
        dictionary = files("jieba").joinpath("dict.txt").read_text("utf-8")
    except ModuleNotFoundError as error:
        raise MissingDependency.of("speech_extra_missing", package="jieba") from error
    rows = (line.split(" ") for line in dictionary.splitlines())
    counted = [(-int(row[1]), row[0]) for row in rows if _HAN.fullmatch(row[0])]
    return [word for _, word in sorted(counted)[:_CHINESE]]
