"""The catalogue of messages: errors of the first hour with their fixes, and texts of the terminal, in English and Chinese.

`catalogue.toml` has one table a message. A table with a `topic` is an error and a paragraph of the page on
troubleshooting; one without is a text alone. Both languages have the same placeholders.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal

__all__ = [
    "Entry",
    "Language",
    "Note",
    "catalogue",
    "chinese_settings",
    "language",
    "nearest",
    "preferred_language",
    "render",
    "say",
]

Language = Literal["en", "zh"]

_VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")


@dataclass(frozen=True, slots=True)
class Entry:
    """One message of the catalogue.

    Attributes:
        message: what happened, or the text.
        fix: what to do about it; empty for a text.
        topic: section of the page on troubleshooting; empty for a text.
        example: a command or request that meets the error.
    """

    key: str
    message: str
    message_zh: str
    fix: str = ""
    fix_zh: str = ""
    topic: str = ""
    example: str = ""

    def texts(self, language: Language) -> tuple[str, str]:
        """Returns the message and the fix in a language, with their placeholders."""
        return (self.message_zh, self.fix_zh) if language == "zh" else (self.message, self.fix)


@cache
def catalogue() -> Mapping[str, Entry]:
    """Returns all messages by their key, in the order of the file."""
    text = files("deepwell.messages").joinpath("catalogue.toml").read_text(encoding="utf-8")
    return {key: Entry(key, **fields) for key, fields in tomllib.loads(text).items()}


@cache
def chinese_settings() -> Mapping[str, Mapping[str, str]]:
    """Returns the Chinese descriptions of the settings by section and name; the English ones stand in their declarations."""
    text = files("deepwell.messages").joinpath("settings.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def language(environ: Mapping[str, str] | None = None) -> Language:
    """Returns the language of the terminal: Chinese where `LC_ALL`, `LC_MESSAGES` or `LANG`, the first that is set, says so."""
    environ = os.environ if environ is None else environ
    chosen = next((value for name in _VARIABLES if (value := environ.get(name))), "")
    return "zh" if chosen.lower().startswith("zh") else "en"


def preferred_language(accept_language: str) -> Language:
    """Returns the language that an `Accept-Language` header prefers. English if it names neither (RFC 9110, section 12.5.4)."""
    best: tuple[float, Language] = (0.0, "en")
    for part in accept_language[:1000].split(","):
        tag, _, parameter = part.strip().partition(";")
        name, _, number = parameter.strip().partition("=")
        try:
            weight = float(number) if name.strip() == "q" else 1.0
        except ValueError:
            continue
        spoken: Language | None = (
            "zh" if tag.lower().startswith("zh") else "en" if tag.lower().startswith("en") else None
        )
        if spoken and weight > best[0]:
            best = weight, spoken
    return best[1]


def render(key: str, language: Language, values: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the message and the fix of a key in a language.

    Raises:
        KeyError: the catalogue has no such key, or a placeholder has no value.
    """
    message, fix = catalogue()[key].texts(language)
    return message.format_map(values), fix.format_map(values)


def say(key: str, **values: Any) -> str:
    """Returns a text in the language of the terminal."""
    return render(key, language(), values)[0]


@dataclass(frozen=True, slots=True)
class Note:
    """A text of the catalogue with its values, for whoever decides later in which language it is said."""

    key: str
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def said(self, chosen: Language | None = None) -> str:
        """Returns the text in a language; None: that of the terminal."""
        return render(self.key, chosen or language(), self.values)[0]


def nearest(word: str, candidates: Iterable[str], min_ratio: float = 0.6) -> str:
    """Returns the candidate that is spelt most like the word, or an empty string if none is near."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    found = difflib.get_close_matches(word.lower(), by_lower, 1, min_ratio)
    return by_lower[found[0]] if found else ""
