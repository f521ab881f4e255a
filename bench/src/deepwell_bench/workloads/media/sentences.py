"""Sentences that are read aloud: 50 in Chinese and 50 in English, written for this and frozen by their hash."""

from __future__ import annotations

from hashlib import sha256
from importlib.resources import files
from typing import Final

from deepwell.errors import InvalidFile

__all__ = ["SHA256", "edits", "spoken_sentences"]

SHA256: Final = "76727cb7f3436f3a6d98990584113bfac56329935b40d99110841dd27f0fff87"


def spoken_sentences() -> dict[str, list[str]]:
    """Returns the sentences by language, "zh" and "en".

    Raises:
        InvalidFile: the file is not the frozen one.
    """
    data = files("deepwell_bench.workloads.media").joinpath("sentences.txt").read_bytes()
    if sha256(data).hexdigest() != SHA256:
        raise InvalidFile(
            "sentences.txt is not the frozen one", fix="restore it, or freeze it anew in sentences.py"
        )
    lines = data.decode("utf-8").split("\n")
    chinese = [line for line in lines if line and not line.isascii()]
    return {"zh": chinese, "en": [line for line in lines if line and line.isascii()]}


def edits(said: list[str], heard: list[str]) -> int:
    """Returns the least number of items to replace, leave out and add that turns one list into the other (Levenshtein 1966)."""
    row = list(range(len(heard) + 1))
    for place, one in enumerate(said, 1):
        last, row[0] = row[0], place
        for column, other in enumerate(heard, 1):
            last, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, last + (one != other))
    return row[-1]
