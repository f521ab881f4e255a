"""Engines for processes of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.server.fakes import FakeEngine


def echo(progress: Callable[[int, int], None]) -> FakeEngine:
    """Repeats prompts, and takes any adapter."""
    return FakeEngine()


def patient(progress: Callable[[int, int], None], *, folder: str) -> FakeEngine:
    """Repeats prompts, once the gates that they name are open."""
    from tests.faults.batch_server import PatientEngine  # imports a whole server

    engine = PatientEngine()
    engine.folder = Path(folder)
    return engine
