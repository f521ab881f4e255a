"""`Story`: versions, roll-outs and aliases, as the entries of the ledger tell them. Nothing else says what they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from deepwell.storage.registry.ledger import Entry, LedgerChanged

__all__ = ["AliasState", "Outcome", "Rollout", "State", "Story", "Version", "told"]

Outcome = Literal["promoted", "rolled_back", "aborted"]
State = Literal["canary", "promoted", "rolled_back", "aborted"]


@dataclass(frozen=True, slots=True)
class Version:
    """A version of the model behind an alias. Its id is `ALIAS#NUMBER`.

    Attributes:
        model: the name by which servers know it: a model, or an adapter.
        artefact: folder or file that it was made as.
        parents: what it was trained from: ids of versions, names of models.
        data: SHA-256 of each data set, by name.
        gates: the newest report of its gates.
    """

    id: str
    alias: str
    number: int
    model: str
    at_ms: int
    by: str
    artefact: str = ""
    artefact_sha256: str = ""
    parents: tuple[str, ...] = ()
    data: Mapping[str, str] = field(default_factory=dict[str, str])
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    metrics: Mapping[str, Any] = field(default_factory=dict[str, Any])
    gates: Mapping[str, Any] | None = None

    @property
    def passed(self) -> bool | None:
        """Returns whether its gates let it pass; None: they did not see it."""
        return None if self.gates is None else self.gates.get("passed") is True


@dataclass(frozen=True, slots=True)
class Rollout:
    """One roll-out of a version.

    Attributes:
        current: the model that the alias meant before.
        candidate: the model of the version.
        share: share of the users that get the candidate, 0 to 1.
        plan: the terms of the sequential test.
        numbers: what the decision that ended it was made by.
    """

    id: str
    alias: str
    version: str
    current: str
    candidate: str
    share: float
    state: State
    started_ms: int
    started_by: str
    plan: Mapping[str, Any]
    ended_ms: int | None = None
    ended_by: str = ""
    reason: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class AliasState:
    """An alias: the model that it means, and the candidate that some users get."""

    model: str
    candidate: str | None = None
    share: float | None = None
    rollout: str | None = None


@dataclass(slots=True)
class Story:
    """The story that a number of entries tell. Versions and roll-outs by id, in order; aliases by name."""

    versions: dict[str, Version] = field(default_factory=dict[str, Version])
    rollouts: dict[str, Rollout] = field(default_factory=dict[str, Rollout])
    aliases: dict[str, AliasState | None] = field(default_factory=dict[str, "AliasState | None"])

    def open_rollout(self, alias: str) -> Rollout | None:
        """Returns the roll-out of an alias that has not ended."""
        return next(
            (one for one in self.rollouts.values() if one.alias == alias and one.state == "canary"), None
        )

    def versions_of(self, alias: str) -> list[Version]:
        """Returns the versions of an alias, the oldest first."""
        return [one for one in self.versions.values() if one.alias == alias]


def told(entries: Iterable[Entry]) -> Story:
    """Returns what entries tell.

    Raises:
        LedgerChanged: one tells of something that none before it told of.
    """
    story = Story()
    for entry in entries:
        try:
            _TELL[entry.event](story, entry)
        except (KeyError, TypeError) as error:
            raise LedgerChanged(f"entry {entry.sequence} tells no story: {error!r}") from None
    return story


def _version(story: Story, entry: Entry) -> None:
    told = entry.fields
    story.versions[told["version"]] = Version(
        told["version"],
        entry.alias,
        told["number"],
        told["model"],
        entry.at_ms,
        entry.by,
        told.get("artefact", ""),
        told.get("artefact_sha256", ""),
        tuple(told.get("parents", ())),
        told.get("data", {}),
        told.get("config", {}),
        told.get("metrics", {}),
    )


def _gates(story: Story, entry: Entry) -> None:
    id = entry.fields["version"]
    story.versions[id] = replace(story.versions[id], gates=entry.fields["report"])


def _start(story: Story, entry: Entry) -> None:
    told = entry.fields
    story.rollouts[told["rollout"]] = Rollout(
        told["rollout"],
        entry.alias,
        told["version"],
        told["model"],
        told["candidate"],
        told["share"],
        "canary",
        entry.at_ms,
        entry.by,
        told.get("plan", {}),
        reason=told.get("reason", ""),
    )
    story.aliases[entry.alias] = AliasState(told["model"], told["candidate"], told["share"], told["rollout"])


def _end(story: Story, entry: Entry) -> None:
    told = entry.fields
    state: Any = entry.event
    story.rollouts[told["rollout"]] = replace(
        story.rollouts[told["rollout"]],
        state=state,
        ended_ms=entry.at_ms,
        ended_by=entry.by,
        reason=told.get("reason", ""),
        numbers=told.get("numbers", {}),
    )
    story.aliases[entry.alias] = AliasState(told["model"])


def _set(story: Story, entry: Entry) -> None:
    story.aliases[entry.alias] = AliasState(entry.fields["model"])


def _remove(story: Story, entry: Entry) -> None:
    story.aliases[entry.alias] = None


_TELL = {
    "version": _version,
    "gates": _gates,
    "canary": _start,
    "promoted": _end,
    "rolled_back": _end,
    "aborted": _end,
    "alias": _set,
    "reverted": _set,
    "alias_removed": _remove,
}
