"""`Driver`: the steps of a roll-out, by the ledger's state and the analysis. It decides; the supervisor moves traffic."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deepwell.fleet.deploy.analysis import Counted, Figures, GateFinding, judge_gates
from deepwell.fleet.deploy.declaration import Gates
from deepwell.fleet.deploy.evaluation import Evaluated
from deepwell.storage.registry.story import Rollout, Steps

__all__ = ["Decision", "Driver"]


@dataclass(frozen=True, slots=True)
class Decision:
    """The next thing to do: nothing (`hold`), another `share`, all users and the end of it, or the end without."""

    action: Literal["hold", "step", "promote", "abort"]
    reason: str = ""
    share: float = 0.0
    numbers: Mapping[str, Any] | None = None


class Driver:
    """Decides about one roll-out, from the time when its candidate is ready. After a restart there is a new one.

    Args:
        clock: monotonic seconds.
    """

    def __init__(
        self, rollout: Rollout, gates: Gates, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rollout = rollout.id
        self.evaluated: Evaluated | None = None
        self._gates = gates
        self._clock = clock
        self._sides = {"current": Counted(), "candidate": Counted()}
        self._share = rollout.share
        self._since = clock()
        self._before = Figures()  # of the candidate, when this share began

    def see(self, side: Literal["current", "candidate"], figures: Mapping[str, Figures]) -> None:
        """Takes the counters of the processes of a side, by process."""
        for who, now in figures.items():
            self._sides[side].see(who, now)

    @property
    def findings(self) -> Sequence[GateFinding]:
        """Findings of the gates by now, over the whole roll-out."""
        return judge_gates(self._gates, self._sides["current"].total, self._sides["candidate"].total)

    @property
    def held_s(self) -> float:
        """Seconds for which this share was held."""
        return self._clock() - self._since

    def decide(self, rollout: Rollout) -> Decision:
        """Returns what is to be done now."""
        if rollout.share != self._share:
            self._share, self._since = rollout.share, self._clock()
            self._before = self._sides["candidate"].total
        if self.evaluated is not None and not self.evaluated.holds:
            return Decision("abort", self.evaluated.words, numbers=self.numbers)
        failed = [one for one in self.findings if not one.holds]
        if failed and self._sides["candidate"].total.seen >= min(self._gates.least_requests, 5):
            return Decision("abort", "; ".join(one.words for one in failed), numbers=self.numbers)
        steps = rollout.steps
        if steps is None:
            return Decision("hold", "its share was given once: votes or an order end it")
        if self._gates.evaluation is not None and self.evaluated is None:
            return Decision("hold", "the evaluation is under way")
        return self._next(rollout, steps)

    def _next(self, rollout: Rollout, steps: Steps) -> Decision:
        first = rollout.share == 0
        wait = 0.0 if first and steps.kind == "canary" else steps.hold_seconds
        if (left := wait - self.held_s) > 0:
            return Decision("hold", f"the next step is in {left:.0f} s")
        seen = self._sides["candidate"].total.since(self._before)
        if not first and seen.seen < self._gates.least_requests:
            missing = self._gates.least_requests - seen.seen
            needed = "1 more answer" if missing <= 1 else f"{missing:.0f} more answers"
            return Decision("hold", f"users have to get {needed} of the candidate before it goes on")
        share = next((one for one in steps.shares if one > rollout.share), None)
        if share is None:
            return Decision("promote", "all steps were taken, and the gates hold", numbers=self.numbers)
        return Decision("step", share=share, numbers=self.numbers)

    @property
    def numbers(self) -> dict[str, Any]:
        """Returns what a decision is made by, for the ledger."""
        sides = {name: int(one.total.seen) for name, one in self._sides.items()}
        found: dict[str, Any] = {"requests": sides, "gates": {one.name: one.facts() for one in self.findings}}
        if self.evaluated is not None:
            found["evaluation"] = {"right": self.evaluated.right, "asked": self.evaluated.asked}
        return found
