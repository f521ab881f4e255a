"""Figures on their way out: a table for people, one last line of JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["Outcome", "Report", "percentile", "rounded"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row of the benchmark table: `holds` is None where the figure has no bar."""

    name: str
    value: Mapping[str, Any]
    bar: str = ""
    holds: bool | None = None

    def line(self) -> str:
        """Returns the row as one line of JSON."""
        return json.dumps(
            {"name": self.name, "value": dict(self.value), "bar": self.bar, "holds": self.holds},
            ensure_ascii=False,
        )


def rounded(value: float, digits: int = 4) -> float:
    """Rounds to significant digits: more would claim a precision that no run has."""
    return float(f"{value:.{digits}g}")


def percentile(values: Sequence[float], share: float) -> float:
    """Returns the smallest value that at least `share` of them do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


class Report:
    """The output of a benchmark. With `as_json` nothing but the last line reaches stdout."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.console = Console(stderr=as_json, highlight=False)
        self._out = Console(highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Prints one line of context: the machine, the peer's build, what is being measured."""
        self.console.print(text, markup=False, soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Prints a table; every column but the first is right-aligned."""
        table = Table(title=title, title_justify="left")
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if number else "left")
        for row in rows:
            table.add_row(*(f"{cell:,.4g}" if isinstance(cell, float) else str(cell) for cell in row))
        self.console.print(table)

    def finish(self, outcome: Outcome) -> None:
        """Prints the last line."""
        self._out.print(outcome.line(), markup=False)
