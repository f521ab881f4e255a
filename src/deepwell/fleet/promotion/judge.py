"""The decision about a canary: counts of votes in, a verdict with its numbers out. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Literal

from deepwell.errors import InvalidRequest
from deepwell.fleet.promotion.sequential import Counts, log_evidence_of_gain, log_evidence_of_loss

__all__ = ["Arms", "Plan", "Verdict", "decide", "plan_of"]

_DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Plan:
    """Terms of a sequential test. They are fixed when a roll-out starts.

    Attributes:
        alpha: largest probability of rolling back a candidate that is no worse, and of promoting one that is worse by `margin`.
        margin: difference of approval that would still be accepted, in shares of the users.
        most_users: users of the candidate after whom an undecided roll-out ends.
        most_days: days after which it does.
    """

    alpha: float = 0.05
    margin: float = 0.05
    most_users: int = 5000
    most_days: float = 30.0

    def __post_init__(self) -> None:
        """Checks the terms.

        Raises:
            InvalidRequest: no test can have them.
        """
        if not (0 < self.alpha < 1 and 0 < self.margin < 1 and self.most_users >= 1 and self.most_days > 0):
            raise InvalidRequest(
                f"a roll-out cannot be judged by alpha {self.alpha:g}, margin {self.margin:g}, {self.most_users} users "
                f"and {self.most_days:g} days",
                fix="alpha and margin lie between 0 and 1; users and days are positive",
            )

    def to_json(self) -> dict[str, Any]:
        """Returns the terms as the ledger has them."""
        return asdict(self)


def plan_of(told: Mapping[str, Any]) -> Plan:
    """Returns the terms that the ledger tells."""
    return Plan(**{one.name: told[one.name] for one in fields(Plan) if one.name in told})


@dataclass(frozen=True, slots=True)
class Arms:
    """Voters on both sides of a roll-out, each with one vote.

    Attributes:
        unknown: votes for answers whose requests named nobody, so that no side is known.
        unverified: votes for answers that the server did not keep, or without a key. Neither counts.
    """

    current: Counts = field(default_factory=Counts)
    candidate: Counts = field(default_factory=Counts)
    unknown: int = 0
    unverified: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision about a canary, its reason and its numbers."""

    action: Literal["promote", "roll_back", "wait"]
    reason: str
    numbers: Mapping[str, Any]


def decide(arms: Arms, plan: Plan, age_ms: int) -> Verdict:
    """Decides about a canary of a certain age. It may be asked after every vote."""
    loss = log_evidence_of_loss(arms.current, arms.candidate)
    gain = log_evidence_of_gain(arms.current, arms.candidate, plan.margin)
    needed = math.log(1 / plan.alpha)
    numbers: dict[str, Any] = {
        "current": {"users": arms.current.users, "good": arms.current.good},
        "candidate": {"users": arms.candidate.users, "good": arms.candidate.good},
        "log_evidence_worse": round(loss, 6),
        "log_evidence_not_worse": round(gain, 6),
        "needed": round(needed, 6),
        "days": round(age_ms / _DAY_MS, 3),
    }
    if arms.unknown:
        numbers["votes_without_user"] = arms.unknown
    if arms.unverified:
        numbers["votes_unverified"] = arms.unverified
    if loss >= needed:
        return Verdict("roll_back", f"fewer users approve: {_shares(arms)}", numbers)
    if gain >= needed:
        said = f"approval is not lower by {100 * plan.margin:g} points: {_shares(arms)}"
        return Verdict("promote", said, numbers)
    if arms.candidate.users >= plan.most_users or age_ms >= plan.most_days * _DAY_MS:
        said = f"undecided after {arms.candidate.users} users and {age_ms / _DAY_MS:.1f} days, so the current model stays"
        return Verdict("roll_back", said, numbers)
    return Verdict("wait", "the votes do not decide yet", numbers)


def _shares(arms: Arms) -> str:
    now, then = arms.candidate, arms.current
    return (
        f"{100 * now.share:.1f} % of {now.users} users with the candidate, "
        f"{100 * then.share:.1f} % of {then.users} with the current model"
    )
