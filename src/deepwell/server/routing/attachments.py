"""The seam to what is attached to a message: its kinds, and the transcripts of its recordings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["attached_kinds", "transcripts_of"]


def attached_kinds(message: Any) -> Sequence[str]:
    """Returns the kinds of what is attached to a message of a request: `audio`, `image`."""
    kinds = [str(getattr(one, "kind", "")) for one in _attached(message)]
    return [kind for kind in dict.fromkeys(kinds) if kind in ("audio", "image")]


def transcripts_of(message: Any) -> Sequence[str]:
    """Returns what is said in the recordings that are attached to a message."""
    found = (getattr(one, "transcript", None) for one in _attached(message))
    return [text for text in found if isinstance(text, str)]


def _attached(message: Any) -> Iterable[Any]:
    return getattr(message, "attachments", None) or ()
