"""`Budget`: how much a run may use, and what it has used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deepwell.errors import InvalidRequest

__all__ = ["Budget", "Limit", "Spent"]

Limit = Literal["turns", "calls", "tokens", "seconds"]


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that a run may use.

    Attributes:
        turns: answers of the model.
        calls: calls of tools, those made again after a crash included.
        tokens: tokens that the model reads and writes, over all turns.
        seconds: time that the run is at work; waiting for a person does not count.
    """

    turns: int = 20
    calls: int = 40
    tokens: int = 200_000
    seconds: float = 900.0

    def __post_init__(self) -> None:
        """Checks the limits.

        Raises:
            InvalidRequest: one is not above 0.
        """
        for name in ("turns", "calls", "tokens", "seconds"):
            value = getattr(self, name)
            if not value > 0:  # NaN as well
                raise InvalidRequest(
                    f"a budget of {value} {name} lets nothing be done",
                    fix=f"give more for {name}",
                    param=f"budget.{name}",
                )


@dataclass(slots=True)
class Spent:
    """The use of a run so far, and the size of the newest prompt, which the next one will at least have."""

    turns: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    context_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that the model has read and written."""
        return self.prompt_tokens + self.completion_tokens

    def reached(self, budget: Budget) -> Limit | None:
        """Returns the first limit that leaves no room for another turn."""
        if self.seconds >= budget.seconds:
            return "seconds"
        if self.turns >= budget.turns:
            return "turns"
        # The next prompt repeats the last one, so a turn that cannot fit is not begun.
        if self.tokens + self.context_tokens >= budget.tokens:
            return "tokens"
        return None

    def shown(self) -> str:
        """Returns what was used, in words."""
        return f"{self.turns} turns, {self.calls} calls, {self.tokens} tokens, {self.seconds:.1f} s"
