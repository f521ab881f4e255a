"""`Curves`: the progress of a training as lists of jobs show it, with the curves of its losses or rewards."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from deepwell.storage.clock import shared_time

__all__ = ["Curves"]

_MOST_POINTS = 200  # of a curve


class Curves:
    """The state of a training so far. Points get fewer as they get many: every second one is left out.

    Attributes:
        total: number of steps; 0: not known.
        finish_at: Unix time at which the training is expected to end.
    """

    def __init__(self) -> None:
        self.total = 0
        self.finish_at: int | None = None
        self._done = 0
        self._tokens_per_second: float | None = None
        self._series: dict[str, list[tuple[int, float]]] = {}

    @classmethod
    def of(cls, progress: str | None) -> Curves:
        """Goes on with the progress of an earlier claim."""
        found = cls()
        told: Any = None if progress is None else msgspec.json.decode(progress)
        if isinstance(told, dict):
            found._done, found.total = int(told.get("done", 0)), int(told.get("total", 0))
            found._series = {
                str(name): [(int(x), float(y)) for x, y in points]
                for name, points in told.get("series", {}).items()
            }
        return found

    @property
    def begun(self) -> bool:
        """True if a step was made."""
        return self._done > 0

    def step(self, step: int, event: dict[str, Any]) -> None:
        """Takes one step's event."""
        self._done, self.total = step, int(event.get("steps") or self.total)
        left, speed = event.get("seconds_left"), event.get("tokens_per_second")
        if isinstance(left, int | float) and math.isfinite(left):
            self.finish_at = int(shared_time() + left)
        if isinstance(speed, int | float) and math.isfinite(speed):
            self._tokens_per_second = round(float(speed), 1)

    def point(self, series: str, step: int, value: float) -> None:
        """Adds a point to a curve."""
        self._series[series] = _added(self._series.get(series, []), step, value)

    def progress(self, *, ended: bool = False) -> str:
        """Returns the progress as JSON."""
        told: dict[str, Any] = {
            "done": self.total if ended and self.total else self._done,
            "total": self.total,
            "unit": "steps",
            "step": "trained" if ended else "training",
            "series": self._series,
        }
        if self._tokens_per_second is not None:
            told["tokens_per_second"] = self._tokens_per_second
        return msgspec.json.encode(told).decode()


def _added(points: list[tuple[int, float]], step: int, value: float) -> list[tuple[int, float]]:
    """Returns the points with one more; those of steps that are computed again go."""
    kept = [one for one in points if one[0] < step]
    if len(kept) >= _MOST_POINTS:
        kept = kept[::2]
    return [*kept, (step, round(value, 5))]
