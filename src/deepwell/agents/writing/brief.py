"""Briefs of product texts, and what of one a text keeps."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from deepwell.errors import InvalidRequest

__all__ = ["TOLERANCE", "Brief", "Measured", "folded", "length_of", "measure", "read_briefs"]

TOLERANCE = 0.1
"""Share of the wanted length by which a text may be shorter or longer."""

_Term = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class Brief(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An order for a product text.

    Attributes:
        id: name of the brief.
        language: language of the text.
        product: name of the product.
        facts: what may be said of it.
        style: manner of the text, in words of its language.
        length: wanted length: characters without white space in Chinese, words in English.
        required: terms that the text must contain, each as it is written.
        forbidden: terms that it must not contain, in whatever case or width.
    """

    id: str
    language: Literal["zh", "en"]
    product: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    facts: tuple[_Term, ...]
    style: Annotated[str, msgspec.Meta(max_length=40)]
    length: Annotated[int, msgspec.Meta(ge=20, le=400)]
    required: tuple[_Term, ...] = ()
    forbidden: tuple[_Term, ...] = ()

    def forbidden_in(self, text: str) -> tuple[str, ...]:
        """Returns the forbidden terms that a text has."""
        flat = folded(text, self.language)
        return tuple(term for term in self.forbidden if folded(term, self.language) in flat)

    def checked(self) -> Brief:
        """Returns the brief itself.

        Raises:
            InvalidRequest: its terms contradict each other, or do not fit into its length.
        """
        for term in self.required:
            if bad := self.forbidden_in(term):
                raise InvalidRequest(
                    f"brief {self.id!r} requires {term!r} and forbids {bad[0]!r}",
                    fix="leave out one of the two terms",
                )
        if (needed := sum(length_of(one, self.language) for one in self.required)) > self.length * 0.8:
            raise InvalidRequest(
                f"the required terms of brief {self.id!r} take {needed} of {self.length}",
                fix="raise the length or require fewer terms",
            )
        return self


@dataclass(frozen=True, slots=True)
class Measured:
    """The parts of a brief that a text keeps.

    Attributes:
        length: its length, in the brief's unit.
        missing: required terms that it lacks.
        forbidden: forbidden terms that it has.
        in_length: whether the length is within `TOLERANCE` of the brief's.
    """

    length: int
    missing: tuple[str, ...]
    forbidden: tuple[str, ...]
    in_length: bool

    @property
    def kept(self) -> bool:
        """True if length and terms are as the brief wants them."""
        return self.in_length and not self.missing and not self.forbidden


def measure(brief: Brief, text: str) -> Measured:
    """Returns what a text keeps of a brief."""
    length = length_of(text, brief.language)
    return Measured(
        length,
        tuple(term for term in brief.required if folded(term, "en") not in folded(text, "en")),
        brief.forbidden_in(text),
        abs(length - brief.length) <= TOLERANCE * brief.length,
    )


def length_of(text: str, language: str) -> int:
    """Returns the characters of a Chinese text without white space, or the words of an English one."""
    return len("".join(text.split())) if language == "zh" else len(text.split())


def folded(text: str, language: str) -> str:
    """Returns a text in which case and width make no difference (NFKC, casefold), nor the amount of white space.

    In Chinese there is none left: a term is found in whatever way it is broken.
    """
    return ("" if language == "zh" else " ").join(unicodedata.normalize("NFKC", text).casefold().split())


def read_briefs(path: Path) -> Sequence[Brief]:
    """Returns the briefs of a file of JSON lines, or the one brief of a JSON file.

    Raises:
        InvalidRequest: a line is no brief, or its terms contradict each other.
    """
    briefs = list[Brief]()
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            briefs.append(msgspec.json.decode(line.encode(), type=Brief).checked())
        except msgspec.ValidationError as error:
            raise InvalidRequest(
                f"line {number} of {path} is no brief: {error}",
                fix="compare it with examples/content/briefs.jsonl",
            ) from None
    return briefs
