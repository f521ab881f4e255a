"""Protocols of what a round of improvement needs from elsewhere: votes, training, measurement, servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from deepwell.fleet.promotion.gates import GateReport, GateResult
from deepwell.tuning.align.votes import Curated, Vote

__all__ = ["Collector", "Measure", "Parts", "Publisher", "Rehearsal", "Say", "Trainer"]

Say = Callable[[dict[str, Any]], None]
"""Receives the events of a round: objects with `event`."""


class Collector(Protocol):
    """Finds the votes that may be used."""

    async def __call__(self) -> list[Vote]:
        """Returns all of them, in the order of their arrival."""
        ...


class Trainer(Protocol):
    """Trains an adapter."""

    async def __call__(self, folder: Path, say: Say) -> Path:
        """Runs the configuration in `config.json` of a folder to its end, and returns the folder of the adapter in it.

        Called again for the same folder, it goes on where it was, or returns at once.
        """
        ...


class Rehearsal(Protocol):
    """Writes what a training sees besides votes."""

    def __call__(self, base: str, replay: Path, judged: Path) -> None:
        """Writes conversations and texts of the base's own, and judged answers; `replay` is the last to be there. Blocks."""
        ...


class Measure(Protocol):
    """Measures a candidate beside the current model."""

    def measure(
        self,
        base: str,
        current: Path | None,
        candidate: Path,
        curated: Curated,
        say: Say,
        known: Sequence[GateResult] = (),
    ) -> GateReport:
        """Returns the report of the gates, each of which `say` receives as soon as it is measured. Blocks.

        Args:
            known: results of a measurement of the same that was interrupted; they are not measured again.
        """
        ...


class Publisher(Protocol):
    """Makes servers serve an adapter."""

    async def __call__(self, name: str, folder: Path) -> None:
        """Returns once every server that answers for the alias serves the adapter.

        Raises:
            DeepwellError: one does not; the fix says how to make it.
        """
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """All of them. Without `rehearsal`, a training sees votes alone."""

    collect: Collector
    train: Trainer
    measure: Measure
    publish: Publisher
    rehearsal: Rehearsal | None = None
