"""Reads the written questions about the LibreOffice help, each with the passage in the other language that answers it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from deepwell.errors import DeepwellError

__all__ = ["QUESTIONS_SHA256", "HelpQuestion", "development_questions", "help_questions"]

QUESTIONS_SHA256 = "9eadcbccfe6ab3cb14d3665461a5d6522252e8e5f9bfa08889425c66314bf262"
"""Digest of the 200 questions. They were frozen before any search was measured on them."""

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class HelpQuestion:
    """A question as a user of the software would ask it.

    Attributes:
        id: its number, such as `zh-001`.
        language: language of the question. The gold passage is read in the other one.
        question: its text.
        gold: id of the passage that answers it; see `HelpPassage`.
    """

    id: str
    language: Literal["en", "zh"]
    question: str
    gold: str

    @property
    def gold_language(self) -> Literal["en", "zh"]:
        """The language in which the passage counts."""
        return "zh" if self.language == "en" else "en"


def help_questions() -> list[HelpQuestion]:
    """Returns 100 Chinese questions on English passages and 100 English ones on Chinese passages.

    The passages were drawn by a seed from those of at least 60 English characters. Passages that nobody would ask about,
    such as bare references, were skipped.

    Raises:
        DeepwellError: the file of questions has been changed.
    """
    data = (_HERE / "help_questions.jsonl").read_bytes()
    if sha256(data).hexdigest() != QUESTIONS_SHA256:
        raise DeepwellError(
            "help_questions.jsonl is not the frozen set", fix="restore it from the repository"
        )
    return _read(data)


def development_questions() -> list[HelpQuestion]:
    """Returns 58 other questions, on which choices of the search are made."""
    return _read((_HERE / "help_questions_development.jsonl").read_bytes())


def _read(data: bytes) -> list[HelpQuestion]:
    return [HelpQuestion(**json.loads(line)) for line in data.decode("utf-8").splitlines()]
