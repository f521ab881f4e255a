"""`Patterns`: phrases of prompt injection, jailbreak, prompt leaks and exfiltration, and code that attacks its interpreter."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

from deepwell.safety.findings import Finding
from deepwell.safety.matching import PatternSet, merged
from deepwell.safety.normalise import Normalised

__all__ = ["PatternRule", "Patterns", "shipped_patterns"]

_GAP = "[^a-z0-9]{0,3}"


@dataclass(frozen=True, slots=True)
class PatternRule:
    """One expression over folded text.

    Attributes:
        name: the rule is `patterns.` and this name; several expressions may share it.
        category: `injection`, `jailbreak` or `script`.
        pattern: expression in RE2's syntax.
        score: certainty of a match.
    """

    name: str
    category: str
    pattern: str
    score: float


@cache
def shipped_patterns() -> Sequence[PatternRule]:
    """Returns the rules of `data/patterns.toml`."""
    text = files("deepwell.safety").joinpath("data", "patterns.toml").read_text(encoding="utf-8")
    tables: dict[str, Any] = tomllib.loads(text)
    parts: dict[str, str] = tables.pop("parts")
    return [
        PatternRule(entry["name"], category, _expanded(pattern, parts), entry["score"])
        for category, entries in tables.items()
        for entry in entries
        for pattern in entry["patterns"]
    ]


class Patterns:
    """Finds what the rules describe in every reading of a text. The rule of a finding is `patterns.` and the rule's name."""

    name = "patterns"

    def __init__(self, rules: Sequence[PatternRule] | None = None) -> None:
        self.rules = shipped_patterns() if rules is None else rules

    @cached_property
    def _patterns(self) -> PatternSet:
        return PatternSet([rule.pattern for rule in self.rules])

    def scan(self, text: Normalised) -> list[Finding]:
        """Returns the matches of all rules in all readings."""
        found: list[Finding] = []
        for view in text.views:
            for number, start, end in self._patterns.matches(view.text):
                rule = self.rules[number]
                found.append(
                    Finding(
                        f"patterns.{rule.name}",
                        rule.category,
                        *view.span(start, end),
                        rule.score,
                        view.name,
                    )
                )
        return merged(found)


def _expanded(pattern: str, parts: dict[str, str]) -> str:
    """Returns a pattern with its parts in place, and spaces as gaps between words.

    A space inside a class of characters, and one that is optional or repeated, stays.
    """
    whole = re.sub(r"\{([^\d{}][^{}]*)\}", lambda match: parts.get(match[1], match[0]), pattern)
    out: list[str] = []
    in_class = False
    for at, character in enumerate(whole):
        escaped = at > 0 and whole[at - 1] == "\\" and not (at > 1 and whole[at - 2] == "\\")
        if character == "[" and not escaped:
            in_class = True
        elif character == "]" and not escaped:
            in_class = False
        if character == " " and not in_class and whole[at + 1 : at + 2] not in ("?", "*", "+", "{"):
            out.append(_GAP)
        else:
            out.append(character)
    return "".join(out)
