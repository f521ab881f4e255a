"""Patterns of paths: `*` and `?` stay within a name, `**` crosses folders, a pattern without `/` fits a name anywhere."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["Patterns"]


class Patterns:
    """Patterns of which one has to fit. Paths use `/` and have none in front."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._expressions = [re.compile(_expression(pattern)) for pattern in patterns]

    def __bool__(self) -> bool:
        return bool(self._expressions)

    def fit(self, path: str) -> bool:
        """Returns True if one of the patterns fits the whole path, or a folder above it."""
        return any(expression.fullmatch(path) for expression in self._expressions)


def _expression(pattern: str) -> str:
    """Returns the regular expression of a pattern."""
    pattern = pattern.strip().lstrip("/")
    anchored = "/" in pattern.rstrip("/")
    parts: list[str] = [] if anchored else ["(?:[^/]+/)*"]
    for piece in re.findall(r"\*\*/|\*+|\?|[^*?]+", pattern.rstrip("/")):
        if piece == "**/":
            parts.append("(?:[^/]+/)*")
        elif piece == "**":
            parts.append(".*")
        elif piece.startswith("*"):
            parts.append("[^/]*")
        elif piece == "?":
            parts.append("[^/]")
        else:
            parts.append(re.escape(piece))
    return f"(?s:{''.join(parts)}(?:/.*)?)"
