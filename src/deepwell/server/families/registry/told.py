"""The API's description of what the ledger tells. An entry that somebody damaged is no reason for a 500."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar, cast

from deepwell.errors import InvalidRequest
from deepwell.server.families.pages import PageQuery
from deepwell.server.families.registry.bodies import (
    Gate,
    GateReport,
    Improvement,
    ImprovementRound,
    LedgerEntry,
    RegistryVersion,
    RolloutBody,
    RolloutSide,
    RolloutVotes,
)
from deepwell.server.rollouts import LoopState, Votes
from deepwell.storage.registry.ledger import Entry
from deepwell.storage.registry.story import Rollout, Story, Version

__all__ = ["entry_body", "gates_body", "improvement_body", "page_in_memory", "rollout_body", "version_body"]


class _Named(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_Named)


def page_in_memory(found: Sequence[T], query: PageQuery) -> tuple[list[T], bool]:
    """Returns a page of objects that are in order, the oldest first, and whether more follow.

    Raises:
        InvalidRequest: `after` names none of them.
    """
    rows = list(found) if query.order == "asc" else list(reversed(found))
    begin = 0
    if query.after is not None:
        begin = 1 + next((place for place, one in enumerate(rows) if one.id == query.after), -1)
        if not begin:
            raise InvalidRequest(
                f"'after' names {query.after[:64]!r}, which is not in this list",
                fix="use the last id of the page before",
                param="after",
            )
    end = begin + query.limit
    return rows[begin:end], len(rows) > end


def version_body(version: Version, story: Story) -> RegistryVersion:
    """Returns a version. `now` follows from what the ledger tells of its alias."""
    alias = story.aliases.get(version.alias)
    now = None
    if alias is not None and version.model in (alias.model, alias.candidate):
        now = "serves" if version.model == alias.model else "canary"
    return RegistryVersion(
        version.id,
        version.alias,
        version.number,
        version.model,
        version.at_ms / 1000,
        version.by,
        now,
        [str(one) for one in version.parents],
        version.artefact,
        version.artefact_sha256,
        {name: str(one) for name, one in version.data.items()},
        dict(version.config),
        dict(version.metrics),
        gates_body(version.gates),
    )


def gates_body(report: Mapping[str, Any] | None) -> GateReport | None:
    """Returns a report of gates; what is none is left out."""
    if report is None:
        return None
    told: Any = report.get("gates")
    gates = [cast("dict[str, Any]", one) for one in told if isinstance(one, dict)] if told else []
    return GateReport(
        report.get("passed") is True,
        [
            Gate(
                str(one.get("name", "")),
                one.get("passed") is True,
                str(one.get("reason", "")),
                _numbers(one.get("numbers")),
            )
            for one in gates
        ],
    )


def rollout_body(rollout: Rollout, votes: Votes | None) -> RolloutBody:
    """Returns a roll-out with its votes."""
    return RolloutBody(
        rollout.id,
        rollout.alias,
        rollout.version,
        rollout.current,
        rollout.candidate,
        rollout.share,
        rollout.state,
        rollout.started_ms / 1000,
        rollout.started_by,
        None if rollout.ended_ms is None else rollout.ended_ms / 1000,
        rollout.ended_by,
        rollout.reason,
        dict(rollout.plan),
        None if votes is None else _votes_body(rollout, votes),
    )


def entry_body(entry: Entry, words: str) -> LedgerEntry:
    """Returns an entry of the ledger."""
    return LedgerEntry(
        f"entry_{entry.sequence}",
        entry.sequence,
        entry.at_ms / 1000,
        entry.event,
        entry.alias,
        entry.by,
        words,
        dict(entry.fields),
        entry.hash,
    )


def improvement_body(loop: LoopState, story: Story) -> Improvement:
    """Returns the improvement of an alias, the newest round first, with the gates of each candidate."""

    def gates(version: str) -> GateReport | None:
        found = story.versions.get(version)
        return None if found is None else gates_body(found.gates)

    rounds = [
        ImprovementRound(
            one.number,
            one.model,
            one.stage,
            one.outcome or None,
            one.reason,
            dict(one.votes),
            one.version or None,
            one.rollout or None,
            one.at_ms / 1000 if one.at_ms else None,
            gates(one.version),
        )
        for one in reversed(loop.rounds)
    ]
    votes = loop.votes
    return Improvement(loop.alias, votes["up"], votes["down"], votes["consent"], loop.problem or None, rounds)


def _votes_body(rollout: Rollout, votes: Votes) -> RolloutVotes:
    current, candidate = votes.current, votes.candidate
    return RolloutVotes(
        RolloutSide(rollout.current, current.users, current.good),
        RolloutSide(rollout.candidate, candidate.users, candidate.good),
        votes.unknown,
        votes.unverified,
        votes.low,
        votes.high,
        votes.evidence_worse,
        votes.evidence_not_worse,
        votes.needed,
        votes.days,
        votes.action,
        votes.reason,
    )


def _numbers(told: Any) -> dict[str, float | str]:
    if not isinstance(told, dict):
        return {}
    found = cast("dict[str, Any]", told)
    return {
        name: one if isinstance(one, int | float) and math.isfinite(one) else str(one)
        for name, one in found.items()
    }
