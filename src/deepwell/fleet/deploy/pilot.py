"""`Pilot`: drives a roll-out where others keep the replicas running, such as in a mesh: by the ledger, step by step.

It is what the supervisor of the other grades does with traffic, without its processes: the ledger says what is wanted, the
figures of both sides decide, and whoever carries the traffic is told the share. It may be ended and started at any time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Literal

from deepwell.errors import InvalidRequest
from deepwell.fleet.deploy.analysis import Figures, GateFinding
from deepwell.fleet.deploy.declaration import Gates
from deepwell.fleet.deploy.driver import Decision, Driver
from deepwell.fleet.promotion.rollout import Rollouts
from deepwell.storage.registry.story import Rollout

__all__ = ["Pilot", "Scrape", "Shift", "write_decision"]

Scrape = Callable[[Literal["current", "candidate"]], Awaitable[Mapping[str, Figures]]]
"""Returns the counters of the replicas of a side as they are now, by process."""

Shift = Callable[[float, str], Awaitable[None]]
"""Tells the mesh the share of the candidate, and the id of the roll-out by which users are drawn."""

_SIDES: Final[tuple[Literal["current", "candidate"], ...]] = ("current", "candidate")


class Pilot:
    """Drives the roll-outs of one alias. What it last told the mesh stands until the ledger says something else.

    Args:
        current: model that the mesh's replicas of the current release serve.
        by: author of its entries in the ledger.
    """

    def __init__(
        self,
        alias: str,
        rollouts: Rollouts,
        gates: Gates,
        scrape: Scrape,
        shift: Shift,
        *,
        current: str,
        by: str,
    ) -> None:
        self._current = current
        self._alias = alias
        self._rollouts = rollouts
        self._gates = gates
        self._scrape = scrape
        self._shift = shift
        self._by = by
        self._driver: Driver | None = None
        self._told: tuple[float, str] | None = None

    @property
    def findings(self) -> Sequence[GateFinding]:
        """Findings of the gates by now; none while nothing is rolled out."""
        return () if self._driver is None else self._driver.findings

    @property
    def held_s(self) -> float | None:
        """Seconds for which the share was held; None: nothing is rolled out."""
        return None if self._driver is None else round(self._driver.held_s, 1)

    async def tick(self) -> Decision:
        """Brings the mesh to what the ledger says, looks at the figures, and takes the next step if they let it."""
        story = await self._rollouts.registry.trusted_story(self._alias)
        rollout = story.open_rollout(self._alias)
        if rollout is None:
            self._driver = None
            state = story.aliases.get(self._alias)
            promoted = state is not None and state.model != self._current
            await self._tell(1.0 if promoted else 0.0, "" if self._told is None else self._told[1])
            return Decision("hold", "no roll-out is under way")
        await self._tell(rollout.share, rollout.id)
        if self._driver is None or self._driver.rollout != rollout.id:
            self._driver = Driver(rollout, self._gates)
        for side in _SIDES:
            self._driver.see(side, await self._scrape(side))
        decision = self._driver.decide(rollout)
        await write_decision(self._rollouts, rollout, decision, self._by)
        return decision

    async def _tell(self, share: float, rollout: str) -> None:
        if self._told != (share, rollout):
            await self._shift(share, rollout)
            self._told = (share, rollout)


async def write_decision(rollouts: Rollouts, rollout: Rollout, decision: Decision, by: str) -> str:
    """Writes a decision into the ledger, and returns why it could not be: somebody else ended the roll-out meanwhile."""
    numbers = decision.numbers or {}
    try:
        if decision.action == "step":
            await rollouts.registry.step(
                rollout.alias, decision.share, by, rollout=rollout.id, numbers=numbers
            )
        elif decision.action != "hold":
            outcome: Literal["promoted", "aborted"] = (
                "promoted" if decision.action == "promote" else "aborted"
            )
            await rollouts.registry.end(
                rollout.alias,
                outcome,
                by,
                reason=decision.reason[:500],
                numbers=numbers,
                rollout=rollout.id,
            )
    except InvalidRequest as error:
        return error.message
    return ""
