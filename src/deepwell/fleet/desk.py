"""`Desk`: the server's `RolloutDesk`, over the roll-outs of its database and the folders of its loops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import InvalidRequest
from deepwell.fleet.improve.state import BY, Round, StateFile, folders_in
from deepwell.fleet.promotion.arms import arms_of
from deepwell.fleet.promotion.check import check_ledger
from deepwell.fleet.promotion.judge import Arms, decide, plan_of
from deepwell.fleet.promotion.rollout import Rollouts
from deepwell.fleet.promotion.sequential import Counts, difference_interval
from deepwell.fleet.promotion.words import in_words
from deepwell.server.context import ServerContext
from deepwell.server.rollouts import Check, LoopState, RoundState, StartTerms, VoteCounts, Votes
from deepwell.settings import Settings
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Database
from deepwell.storage.registry.ledger import Entry
from deepwell.storage.registry.story import Rollout, Story, Version
from deepwell.storage.safety.anchors import Anchors
from deepwell.storage.tables import feedback

__all__ = ["Desk", "attach_desk"]


def attach_desk(context: ServerContext, settings: Settings) -> ServerContext:
    """Lets a server decide about roll-outs, and returns it."""
    root = settings.adapter_dir or settings.state_dir

    def running() -> Mapping[str, Mapping[str, Any]]:
        from deepwell.fleet.deploy.machine import running_deployments

        return running_deployments(settings)

    context.rollouts = Desk(lambda: context.state.database, Anchors.of(settings), root, running)
    return context


class Desk:
    """Decides about roll-outs, and knows the loop.

    Args:
        database: returns the database, which a server may make late.
        root: the folder that loops lie in, unless `--folder` named others, which nobody knows here.
        running: returns what the deployments tell that run on this machine, by name.
    """

    def __init__(
        self,
        database: Callable[[], Database],
        anchors: Anchors | None,
        root: Path,
        running: Callable[[], Mapping[str, Mapping[str, Any]]] = dict,
    ) -> None:
        self._running = running
        self._database = database
        self._anchors = anchors
        self._root = root

    @property
    def _rollouts(self) -> Rollouts:
        return Rollouts(self._database(), self._anchors)

    async def votes(self, rollout: Rollout) -> Votes | None:
        """Returns the votes on a roll-out: as they are while it is under way, else as they were; None: nobody noted them."""
        if rollout.state == "canary":
            arms = await arms_of(self._database(), rollout)
            ended_ms = int(shared_time() * 1000)
        else:
            arms, ended_ms = _noted(rollout.numbers), rollout.ended_ms or rollout.started_ms
        if arms is None:
            return None
        # Two bisections of some hundred evaluations: for a thread, because a page shows many roll-outs.
        return await asyncio.to_thread(_judged, rollout, arms, max(ended_ms - rollout.started_ms, 0))

    async def start(self, version: str, by: str, terms: StartTerms) -> Rollout:
        """Gives a version to a share of the users of its alias, in steps where a deployment of it runs."""
        from deepwell.fleet.deploy.stepped import steps_of

        alias = version.rpartition("#")[0]
        deployed = next((one for one in await self.deployments() if one.get("alias") == alias), None)
        shares = None if terms.steps is None else ",".join(f"{100 * one:g}" for one in terms.steps)
        steps = steps_of(deployed, shares, terms.hold_s, terms.kind)
        return await self._rollouts.start(version, by, share=terms.share, ungated=terms.ungated, steps=steps)

    async def deployments(self) -> Sequence[Mapping[str, Any]]:
        """Returns what the supervisors of deployments on this machine tell, by name."""
        found = await asyncio.to_thread(self._running)
        return [one for _, one in sorted(found.items()) if one.get("name")]

    async def promote(self, rollout: Rollout, by: str, reason: str) -> Rollout:
        """Gives the candidate to all users, whatever the votes say."""
        return await self._rollouts.promote(rollout.alias, by, reason, rollout.id)

    async def abort(self, rollout: Rollout, by: str, reason: str) -> Rollout:
        """Gives all users the model of before."""
        return await self._rollouts.abort(rollout.alias, by, reason, rollout.id)

    async def revert(self, alias: str, by: str, reason: str) -> str:
        """Undoes the newest promotion of an alias, and returns the model that it means again."""
        return (await self._rollouts.revert(alias, by, reason)).model

    def in_words(self, entry: Entry) -> str:
        """Returns what an entry of the ledger tells, in one sentence."""
        return in_words(entry)

    async def check(self) -> Check:
        """Verifies the ledger."""
        found = await asyncio.to_thread(check_ledger, self._database(), self._anchors)
        return Check(found.head.sequence, found.head.hash, found.problems)

    async def loops(self) -> Sequence[LoopState]:
        """Returns the loops of all aliases that have one, by alias."""
        story = await self._rollouts.registry.story()
        states = await asyncio.to_thread(self._states)
        names = {*states, *(one.alias for one in story.versions.values() if one.by == BY)}
        votes = await self._database().read(_votes_by_model)
        return [
            _loop(alias, story, states.get(alias), votes.get(alias, _NO_VOTES)) for alias in sorted(names)
        ]

    def stages(self) -> Mapping[str, str]:
        """Returns the stages of the rounds under way, by alias."""
        states = self._states()
        return {
            alias: one.stage
            for alias, one in states.items()
            if isinstance(one, Round) and one.stage != "ended"
        }

    def _states(self) -> dict[str, Round | str | None]:
        """Returns the newest round of each loop; a text: the reason for which its state cannot be read."""
        found: dict[str, Round | str | None] = {}
        for alias, folder in folders_in(self._root).items():
            try:
                state = StateFile(folder).read()
            except (InvalidRequest, OSError) as error:
                found[alias] = str(error)
            else:
                found[alias] = None if state is None else state.round
        return found


_NO_VOTES: Mapping[str, int] = {"up": 0, "down": 0, "consent": 0}


def _noted(numbers: Mapping[str, Any]) -> Arms | None:
    """Returns the counts that a decision was made by; None: it was made without."""
    try:
        sides = [Counts(int(numbers[side]["users"]), int(numbers[side]["good"])) for side in _SIDES]
        return Arms(
            sides[0],
            sides[1],
            int(numbers.get("votes_without_user", 0)),
            int(numbers.get("votes_unverified", 0)),
        )
    except (KeyError, TypeError, ValueError):
        return None


_SIDES = ("current", "candidate")


def _judged(rollout: Rollout, arms: Arms, age_ms: int) -> Votes:
    plan = plan_of(rollout.plan)
    verdict = decide(arms, plan, age_ms)
    low, high = difference_interval(arms.current, arms.candidate, plan.alpha)
    numbers = verdict.numbers
    return Votes(
        VoteCounts(arms.current.users, arms.current.good),
        VoteCounts(arms.candidate.users, arms.candidate.good),
        arms.unknown,
        arms.unverified,
        low,
        high,
        numbers["log_evidence_worse"],
        numbers["log_evidence_not_worse"],
        numbers["needed"],
        numbers["days"],
        verdict.action,
        verdict.reason,
    )


def _votes_by_model(connection: Connection) -> dict[str, dict[str, int]]:
    columns = feedback.c
    query = sa.select(columns.model, columns.rating, columns.consent, sa.func.count()).group_by(
        columns.model, columns.rating, columns.consent
    )
    found: dict[str, dict[str, int]] = {}
    for model, rating, consent, count in connection.execute(query):
        counts = found.setdefault(model or "", dict(_NO_VOTES))
        counts[rating] += count
        counts["consent"] += count if consent else 0
    return found


def _loop(alias: str, story: Story, state: Round | str | None, votes: Mapping[str, int]) -> LoopState:
    """Returns a loop. Rounds of before are told by the ledger alone: a state file knows the newest one."""
    versions = [one for one in story.versions_of(alias) if one.by == BY]
    rounds = [_of_version(one, story) for one in versions]
    problem = state if isinstance(state, str) else ""
    if isinstance(state, Round):
        mine = _of_state(state, next((one for one in versions if one.id == state.version), None))
        rounds = [one for one in rounds if one.model != state.model]
        rounds.append(mine)
    return LoopState(alias, votes, rounds, problem)


def _of_state(state: Round, version: Version | None) -> RoundState:
    return RoundState(
        state.number,
        state.model,
        state.stage,
        state.outcome or "",
        state.reason,
        state.votes,
        state.version,
        state.rollout,
        0 if version is None else version.at_ms,
    )


def _of_version(version: Version, story: Story) -> RoundState:
    rollout = next((one for one in reversed(story.rollouts.values()) if one.version == version.id), None)
    stage, outcome, reason = "register", "", ""
    if version.passed is False:
        stage, outcome = "ended", "refused"
        gates: Any = version.gates or {}
        reason = "; ".join(
            f"{one['name']}: {one['reason']}" for one in gates.get("gates") or () if not one["passed"]
        )
    elif rollout is not None:
        ended = rollout.state != "canary"
        stage, outcome = ("ended", rollout.state) if ended else ("canary", "")
        reason = rollout.reason if ended else ""
    elif version.passed:
        stage = "serve"
    votes = {
        name.removeprefix("votes_"): int(one)
        for name, one in version.metrics.items()
        if name.startswith("votes_") and isinstance(one, int | float)
    }
    id = "" if rollout is None else rollout.id
    return RoundState(
        version.number, version.model, stage, outcome, reason, votes, version.id, id, version.at_ms
    )
