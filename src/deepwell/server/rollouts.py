"""`RolloutDesk`: what routes ask of whoever decides about roll-outs. `fleet` stands above the server, so it is handed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from deepwell.storage.registry.ledger import Entry
from deepwell.storage.registry.story import Rollout

__all__ = ["Check", "LoopState", "RolloutDesk", "RoundState", "StartTerms", "VoteCounts", "Votes"]


@dataclass(frozen=True, slots=True)
class VoteCounts:
    """Users of one side who voted, and those who approve."""

    users: int
    good: int


@dataclass(frozen=True, slots=True)
class Votes:
    """The votes on a roll-out, and what the sequential test makes of them.

    Attributes:
        unknown: votes that name no user, and count for neither side.
        unverified: votes for no answer that the server kept, or without a key, which do not count.
        low, high: differences of approval, candidate - current, that the votes leave possible however often one looks.
        evidence_worse, evidence_not_worse, needed: logarithms of the evidence, and of what suffices for a decision.
        days: age of the roll-out.
    """

    current: VoteCounts
    candidate: VoteCounts
    unknown: int
    unverified: int
    low: float
    high: float
    evidence_worse: float
    evidence_not_worse: float
    needed: float
    days: float
    action: Literal["promote", "roll_back", "wait"]
    reason: str


@dataclass(frozen=True, slots=True)
class RoundState:
    """One round of the loop.

    Attributes:
        stage: the step that comes next; `ended`: none.
        outcome: empty while it is under way.
        votes: counts of the votes that it was made of.
        version, rollout: ids in the registry; empty: not yet.
        at_ms: time at which its version was registered; 0: not yet.
    """

    number: int
    model: str
    stage: str
    outcome: str = ""
    reason: str = ""
    votes: Mapping[str, int] = field(default_factory=dict[str, int])
    version: str = ""
    rollout: str = ""
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class LoopState:
    """The loop of one alias: its votes, and its rounds, the oldest first.

    Attributes:
        votes: counts of the votes for answers of the alias: `up`, `down`, and of these `consent`, which may be trained on.
        problem: a reason for which the state on the disk cannot be read; empty: there is none.
    """

    alias: str
    votes: Mapping[str, int]
    rounds: Sequence[RoundState]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of verifying the ledger: number and hash of its newest entry, and everything that is wrong."""

    entries: int
    head: str
    problems: Sequence[str]


@dataclass(frozen=True, slots=True)
class StartTerms:
    """Terms of a roll-out that begins; unset ones are those of the deployment's declaration.

    Attributes:
        share: share of the users where no deployment takes steps.
        steps: shares that a deployment gives one after the other.
        ungated: a reason for a version that its gates did not let pass.
    """

    share: float = 0.1
    steps: tuple[float, ...] | None = None
    hold_s: float | None = None
    kind: Literal["canary", "blue_green"] | None = None
    ungated: str = ""


class RolloutDesk(Protocol):
    """Decides about roll-outs, and knows the loop."""

    async def votes(self, rollout: Rollout) -> Votes | None:
        """Returns the votes on a roll-out: as they are while it is under way, else as they were; None: nobody noted them."""
        ...

    async def start(self, version: str, by: str, terms: StartTerms) -> Rollout:
        """Gives a version to a share of the users of its alias.

        Raises:
            NotFound: there is no such version, or no such alias.
            InvalidRequest: a roll-out is under way, the gates refused the version, or the steps do not rise to 1.
        """
        ...

    async def deployments(self) -> Sequence[Mapping[str, Any]]:
        """Returns what the supervisors of deployments on this machine tell, by name."""
        ...

    async def promote(self, rollout: Rollout, by: str, reason: str) -> Rollout:
        """Gives the candidate to all users, whatever the votes say.

        Raises:
            InvalidRequest: the roll-out has ended.
        """
        ...

    async def abort(self, rollout: Rollout, by: str, reason: str) -> Rollout:
        """Gives all users the model of before.

        Raises:
            InvalidRequest: the roll-out has ended.
        """
        ...

    async def revert(self, alias: str, by: str, reason: str) -> str:
        """Undoes the newest promotion of an alias, and returns the model that it means again.

        Raises:
            NotFound: there is no such alias.
            InvalidRequest: a roll-out is under way, or nothing was promoted since the alias was set.
        """
        ...

    def in_words(self, entry: Entry) -> str:
        """Returns what an entry of the ledger tells, in one sentence."""
        ...

    async def check(self) -> Check:
        """Verifies the ledger."""
        ...

    async def loops(self) -> Sequence[LoopState]:
        """Returns the loops of all aliases that have one, by alias."""
        ...

    def stages(self) -> Mapping[str, str]:
        """Returns the stages of the rounds under way, by alias. Reads small files alone."""
        ...
