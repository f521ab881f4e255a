"""robots.txt: which paths of a host a crawler may read (RFC 9309).

`urllib.robotparser` takes the first rule that fits and knows no wildcards; the RFC asks for the longest one, with `*` and `$`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import quote, unquote_to_bytes

__all__ = ["EVERYTHING", "NOTHING", "Robots", "parse_robots"]

MAX_BYTES = 500 * 1024
"""The least that RFC 9309 (section 2.5) asks a crawler to read, and the most that is read here."""

_MAX_DELAY_S = 60.0


@dataclass(frozen=True, slots=True)
class Robots:
    """The rules for one crawler.

    Attributes:
        rules: patterns of paths with True for those that may be read; the longest that fits decides.
        delay_s: least seconds between two requests, at most 60.
    """

    rules: tuple[tuple[str, bool], ...] = ()
    delay_s: float = 0.0

    def allow(self, target: str) -> bool:
        """Returns True if a path with its query may be read. `/robots.txt` always may."""
        target = _normal(target or "/")
        if target == "/robots.txt":
            return True
        best, allowed = -1, True
        for pattern, allows in self.rules:
            # Of two rules of one length, the one that allows holds.
            if (len(pattern) > best or (len(pattern) == best and allows)) and _fits(pattern, target):
                best, allowed = len(pattern), allows
        return allowed


EVERYTHING = Robots()
NOTHING = Robots(rules=(("/", False),))


@dataclass(slots=True)
class _Group:
    agents: list[str] = field(default_factory=list)
    rules: list[tuple[str, bool]] = field(default_factory=list)
    delay_s: float = 0.0
    closed: bool = False  # a rule came: the next user-agent line opens another group


def parse_robots(text: str, agent: str) -> Robots:
    """Returns the rules of a robots.txt for a crawler: of the groups that name it, else of those for `*`.

    Args:
        agent: product token of the crawler, without a version.
    """
    groups: list[_Group] = []
    for name, value in _lines(text):
        if name == "user-agent":
            if not groups or groups[-1].closed:
                groups.append(_Group())
            groups[-1].agents.append(value.lower())
            continue
        if not groups:
            continue
        group = groups[-1]
        if name in ("allow", "disallow"):
            group.closed = True
            if value:
                group.rules.append((_normal(value), name == "allow"))
        elif name == "crawl-delay":
            group.closed = True
            if re.fullmatch(r"\d{1,6}(\.\d{1,6})?", value):
                group.delay_s = min(float(value), _MAX_DELAY_S)
    named = [group for group in groups if agent.lower() in group.agents]
    chosen = named or [group for group in groups if "*" in group.agents]
    return Robots(
        rules=tuple(rule for group in chosen for rule in group.rules),
        delay_s=max((group.delay_s for group in chosen), default=0.0),
    )


def _lines(text: str) -> Iterator[tuple[str, str]]:
    for line in text.removeprefix("\ufeff").splitlines():
        name, colon, value = line.partition("#")[0].partition(":")
        if colon:
            name = name.strip().lower()
            value = value.strip()
            yield name, re.split(r"[/\s]", value)[0] if name == "user-agent" else value


def _normal(target: str) -> str:
    """Returns a path in one spelling: what may stand unescaped does, the rest is percent-encoded."""
    return quote(unquote_to_bytes(target), safe="/?&=*$:@!'(),;+~%[]")


def _fits(pattern: str, target: str) -> bool:
    """Returns True if a pattern fits the beginning of a path. Greedy on the left: linear, whatever the pattern."""
    whole = pattern.endswith("$")
    pieces = (pattern[:-1] if whole else pattern).split("*")
    if not target.startswith(pieces[0]):
        return False
    at = len(pieces[0])
    if len(pieces) == 1:
        return at == len(target) or not whole
    for piece in pieces[1:-1]:
        at = target.find(piece, at)
        if at < 0:
            return False
        at += len(piece)
    last = pieces[-1]
    if whole:
        return target.endswith(last) and len(target) - len(last) >= at
    return target.find(last, at) >= 0
