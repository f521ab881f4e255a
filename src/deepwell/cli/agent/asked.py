"""`Runs`: what the command line asks of runs, wherever they are done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

__all__ = ["AskedRun", "Runs", "Tell"]

Tell = Callable[[dict[str, Any]], None]
"""Is told of each step as it comes."""


@dataclass(frozen=True, slots=True)
class AskedRun:
    """A run as the command line asks for it. `tools`: None takes all that can be used."""

    task: str
    model: str
    tools: Sequence[str] | None
    folder: Path | None
    knowledge: str | None
    instructions: str | None
    turns: int
    calls: int
    tokens: int
    seconds: float
    checks: bool
    temperature: float
    seed: int | None


class Runs(Protocol):
    """Begins runs and looks at them. Runs, steps and tools are as the API shows them."""

    where: str

    def start(self, asked: AskedRun, tell: Tell) -> dict[str, Any]: ...

    def follow(self, id: str, tell: Tell) -> dict[str, Any]: ...

    def decide(self, id: str, call_ids: Sequence[str] | None, reason: str, *, is_approved: bool) -> None: ...

    def get(self, id: str) -> dict[str, Any]: ...

    def steps(self, id: str) -> list[dict[str, Any]]: ...

    def list(self, status: str | None, limit: int) -> list[dict[str, Any]]: ...

    def cancel(self, id: str) -> dict[str, Any]: ...

    def tools(self) -> list[dict[str, Any]]: ...

    def close(self) -> None: ...
