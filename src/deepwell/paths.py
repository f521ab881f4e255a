"""Paths as people write them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

__all__ = ["user_path"]


def user_path(text: str | Path) -> Path:
    """Returns the path with `~` and `~NAME` replaced by that home; unchanged where such a home is unknown."""
    path = Path(text)
    with suppress(RuntimeError):
        return path.expanduser()
    return path
