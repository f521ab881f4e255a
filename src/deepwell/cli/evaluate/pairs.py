"""`deepwell evaluate pairs` and `ratings`: answers of two models for people to compare, and what they said."""

from __future__ import annotations

__all__ = ["pairs", "ratings"]


def pairs() -> None:
    """Make pairs."""


def ratings() -> None:
    """Print ratings."""
