"""Written questions on the LibreOffice help, with the passage and the pattern of the right answer, and far questions."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from deepwell.errors import DeepwellError

__all__ = [
    "DEVELOPMENT_SHA256",
    "HELD_SHA256",
    "AnswerQuestion",
    "development_answers",
    "held_answers",
    "normalised",
]

HELD_SHA256 = "21d1fce8eb1c54a85cd2795eb5a8bfdd66f17b4a77a5d95b202003e6b6cf019f"
"""Digest of the questions that are measured. They were frozen before any answer was made to them."""

DEVELOPMENT_SHA256 = "be240e0be69f8437111e6cdd824bf0f46c995adb31c38d4c3f767378ab9be5c8"
"""Digest of the questions on which thresholds and prompts were chosen. Their passages lie on other pages."""

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class AnswerQuestion:
    """A question in the language of its passage.

    Attributes:
        language: of question, passage and answer.
        gold: id of the passage that answers it; see `HelpPassage`. Empty: the help does not answer it.
        question: its text.
        pattern: regular expression that a right answer matches once it is `normalised`; empty for a far question.
    """

    language: Literal["en", "zh"]
    gold: str
    question: str
    pattern: str

    def is_answered(self, text: str) -> bool:
        """Returns whether a text holds the right answer. It says nothing of the rest of the text."""
        return bool(self.pattern) and re.search(self.pattern, normalised(text)) is not None


def held_answers() -> list[AnswerQuestion]:
    """Returns 103 covered questions, 51 of them English, and 50 far ones in each language.

    Raises:
        DeepwellError: the file of questions has been changed.
    """
    return _read("held.tsv", HELD_SHA256)


def development_answers() -> list[AnswerQuestion]:
    """Returns 65 covered questions and 25 far ones in each language, on other pages than those of `held_answers`.

    Raises:
        DeepwellError: the file of questions has been changed.
    """
    return _read("development.tsv", DEVELOPMENT_SHA256)


def normalised(text: str) -> str:
    """Returns a text in lower case, with one form of each character, one space between words, and no marks of citations."""
    plain = re.sub(r"\[\d+\]", "", unicodedata.normalize("NFKC", text))
    return " ".join(plain.lower().split())


def _read(name: str, digest: str) -> list[AnswerQuestion]:
    data = (_HERE / name).read_bytes()
    if sha256(data).hexdigest() != digest:
        raise DeepwellError(f"{name} is not the frozen set", fix="restore it from the repository")
    rows = [line.split("\t") for line in data.decode("utf-8").splitlines()]
    return [
        AnswerQuestion("zh" if language == "zh" else "en", gold, question, pattern)
        for language, gold, question, pattern in rows
    ]
