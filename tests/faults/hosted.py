"""Engines for processes of their own."""

from __future__ import annotations

from collections.abc import Callable

from tests.server.fakes import FakeEngine


def echo(progress: Callable[[int, int], None]) -> FakeEngine:
    """Repeats prompts, and takes any adapter."""
    return FakeEngine()
