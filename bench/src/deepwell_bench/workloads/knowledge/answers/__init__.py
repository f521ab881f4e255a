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
    "FORMER_SHA256",
    "HELD_SHA256",
    "PARAPHRASED_SHA256",
    "AnswerQuestion",
    "development_answers",
    "development_sets",
    "held_answers",
    "normalised",
]

HELD_SHA256 = "3fada746b8afe29939cf017079c125d2b742ea53ac4356aed07ae26d3eb2082e"
"""Digest of the questions that are measured. They and the passages that answer them were frozen before any answer was made.

Passages were drawn in the order of `random.Random(20261127).shuffle` over those of at least 40 English characters, taken as
`help_passages` lists them, from pages that hold no passage of an earlier question and outside the reference of Basic; the first
of each page, places 0, 2, 4 ... for English and 1, 3, 5 ... for Chinese. Read in that order, 52 of each language (up to places
300 and 429) became questions: passages that state a definite fact, where no other passage was found to say otherwise.
Questions are worded as users ask: 53 in the help's own terms (names of commands, options, functions), 51 in other words. The
other passages that answer a question were found by reading its nearest neighbours and those of its passage, by words and by
vectors of `e5_small` over all passages of the language. Some of them give the answer only together with the heading above.
"""

PARAPHRASED_SHA256 = "b7332ff10bf41e5a80c37eec9f7042614bb12f17051f635897df4ffe01d93b29"
"""Digest of questions that were measured later in November 2026, and have served development since. They ask in free words,
where those of the other files of development repeat their passage's.

Pages were drawn in the order of `random.Random(20261126).shuffle` over paragraphs of 60 to 400 English characters, from pages
that no earlier question touches and outside the reference of Basic; one paragraph a page, English and Chinese by turns. The
first 52 of each language that state a fact with a short answer became questions, in other words than the paragraph's. The
other passages that answer a question were found by reading those that share most words with its passage or with it.
"""

FORMER_SHA256 = "ec59134b62f215e915983e163bcb24c8c2091f1c8e0f6128c7644538ed416701"
"""Digest of the questions that were measured once, in November 2026, and have served development since."""

DEVELOPMENT_SHA256 = "ccb67c0aa6d7456a6421a79263a2fd8670e94039c1913a7decc6ab2fe6d07376"
"""Digest of the first questions on which thresholds and prompts were chosen."""

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class AnswerQuestion:
    """A question in the language of its passage.

    Attributes:
        language: of question, passage and answer.
        golds: ids of the passages that answer it, the one that it was written from first; see `HelpPassage`. Empty: the help
            does not answer it.
        question: its text.
        pattern: regular expression that a right answer matches once it is `normalised`; empty for a far question.
    """

    language: Literal["en", "zh"]
    golds: tuple[str, ...]
    question: str
    pattern: str

    def is_answered(self, text: str) -> bool:
        """Returns whether a text holds the right answer. It says nothing of the rest of the text."""
        return bool(self.pattern) and re.search(self.pattern, normalised(text)) is not None


def held_answers() -> list[AnswerQuestion]:
    """Returns 52 covered questions and 50 far ones in each language.

    Raises:
        DeepwellError: the file of questions has been changed.
    """
    return _read("held.tsv", HELD_SHA256)


def development_answers() -> list[AnswerQuestion]:
    """Returns 136 covered questions and 125 far ones in each language, those of `development_sets`.

    Raises:
        DeepwellError: a file of questions has been changed.
    """
    return [one for questions in development_sets().values() for one in questions]


def development_sets() -> dict[str, list[AnswerQuestion]]:
    """Returns the questions of development by the set that they were written for.

    The sets were written at different times and word their questions differently, so that what is fitted on two of them can
    be tried on the third. The passages that they were written from lie on other pages than those of `held_answers`.

    Raises:
        DeepwellError: a file of questions has been changed.
    """
    return {
        "development": _read("development.tsv", DEVELOPMENT_SHA256),
        "former": _read("former.tsv", FORMER_SHA256),
        "paraphrased": _read("paraphrased.tsv", PARAPHRASED_SHA256),
    }


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
        AnswerQuestion("zh" if language == "zh" else "en", tuple(golds.split()), question, pattern)
        for language, golds, question, pattern in rows
    ]
