"""`Rollouts`: starts roll-outs of versions that their gates let pass, and ends them by the votes of users or by order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deepwell.errors import InvalidRequest
from deepwell.fleet.promotion.arms import arms_of
from deepwell.fleet.promotion.gates import GateReport
from deepwell.fleet.promotion.judge import Arms, Plan, Verdict, decide, plan_of
from deepwell.storage.aliases import Alias
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Database
from deepwell.storage.registry.ledger import Ledger, LedgerChanged
from deepwell.storage.registry.store import NewVersion, RegistryStore
from deepwell.storage.registry.story import Rollout, Steps, Version
from deepwell.storage.safety.anchors import Anchors

__all__ = ["Rollouts", "Status"]


@dataclass(frozen=True, slots=True)
class Status:
    """A roll-out, and what the votes say of it by now."""

    rollout: Rollout
    arms: Arms
    verdict: Verdict


class Rollouts:
    """Roll-outs of one database. `anchors` remember the head of the ledger; None: nothing does.

    Args:
        clock_ms: Unix time in milliseconds.
    """

    def __init__(
        self,
        database: Database,
        anchors: Anchors | None = None,
        *,
        clock_ms: Callable[[], int] = lambda: int(shared_time() * 1000),
    ) -> None:
        self._database = database
        self._clock_ms = clock_ms
        self.registry = RegistryStore(database, Ledger(database, anchors))

    async def register(
        self, alias: str, version: NewVersion, by: str, report: GateReport | None = None
    ) -> Version:
        """Adds a version of an alias, with what its gates say of it."""
        made = await self.registry.register(alias, version, by)
        if report is not None:
            made = await self.registry.gate(made.id, report.to_json(), by)
        return made

    async def start(
        self,
        version: str,
        by: str,
        *,
        share: float = 0.1,
        plan: Plan | None = None,
        ungated: str = "",
        tenants: Sequence[str] = (),
        steps: Steps | None = None,
    ) -> Rollout:
        """Gives a `share` of the users of an alias one of its versions.

        Args:
            tenants: tenants whose votes decide; empty: all.
            steps: shares that a deployment gives one after the other; the first `share` is 0 then.

        Raises:
            NotFound: there is no such version, or no such alias.
            InvalidRequest: another roll-out is under way, the alias means this model already, or the gates refused it.
        """
        terms = (plan or Plan()).to_json()
        first = share if steps is None else 0.0
        return await self.registry.start(
            version, first, terms, by, ungated=ungated, tenants=tenants, steps=steps
        )

    async def status(self, alias: str) -> Status | None:
        """Returns the roll-out of an alias that is under way, with its votes; None: there is none.

        Raises:
            LedgerChanged: the ledger does not hold.
        """
        rollout = (await self.registry.trusted_story(alias)).open_rollout(alias)
        if rollout is None:
            return None
        arms = await arms_of(self._database, rollout)
        age_ms = max(self._clock_ms() - rollout.started_ms, 0)
        return Status(rollout, arms, decide(arms, plan_of(rollout.plan), age_ms))

    async def judge(self, alias: str, by: str = "votes") -> Status:
        """Ends the roll-out of an alias if the votes decide; else leaves it. Safe to call at any time, by several processes.

        Raises:
            InvalidRequest: no roll-out is under way, or another process ended it meanwhile.
        """
        status = await self.status(alias)
        if status is None:
            raise InvalidRequest.of("rollout_none", alias=alias)
        verdict = status.verdict
        if verdict.action == "wait":
            return status
        ended = await self.registry.end(
            alias,
            "promoted" if verdict.action == "promote" else "rolled_back",
            by,
            reason=verdict.reason,
            numbers=verdict.numbers,
            rollout=status.rollout.id,
        )
        return Status(ended, status.arms, verdict)

    async def promote(self, alias: str, by: str, reason: str = "", rollout: str | None = None) -> Rollout:
        """Gives the candidate to all users, whatever the votes say by now; the ledger has what they say.

        Args:
            rollout: id of the roll-out that is meant; None: the one that is under way.

        Raises:
            InvalidRequest: no roll-out is under way, or another one than is meant.
        """
        status = await self.status(alias)
        numbers = {} if status is None else status.verdict.numbers
        return await self.registry.end(alias, "promoted", by, reason=reason, numbers=numbers, rollout=rollout)

    async def abort(self, alias: str, by: str, reason: str = "", rollout: str | None = None) -> Rollout:
        """Gives all users the current model again.

        Args:
            rollout: id of the roll-out that is meant; None: the one that is under way.

        Raises:
            InvalidRequest: no roll-out is under way, or another one than is meant.
        """
        try:
            status = await self.status(alias)
        except LedgerChanged:  # which keeps nobody from ending a roll-out
            status = None
        numbers = {} if status is None else status.verdict.numbers
        return await self.registry.end(alias, "aborted", by, reason=reason, numbers=numbers, rollout=rollout)

    async def revert(self, alias: str, by: str, reason: str = "") -> Alias:
        """Undoes the newest promotion of an alias.

        Raises:
            InvalidRequest: a roll-out is under way, or nothing was promoted since the alias was set.
        """
        return await self.registry.revert(alias, by, reason=reason)
