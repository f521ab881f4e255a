"""The kinds of what is attached to a message."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["attached_kinds"]


def attached_kinds(message: Any) -> Sequence[str]:
    """Returns the kinds of what is attached to a message of a request: `audio`, `image`."""
    kinds = [str(getattr(one, "kind", "")) for one in _attached(message)]
    return [kind for kind in dict.fromkeys(kinds) if kind in ("audio", "image")]


def _attached(message: Any) -> Iterable[Any]:
    return getattr(message, "attachments", None) or ()
