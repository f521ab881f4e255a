"""`Story`: versions, roll-outs and aliases, as the entries of the ledger tell them. Nothing else says what they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from deepwell.storage.registry.ledger import Entry, ledger_changed

__all__ = ["AliasState", "Kind", "Outcome", "Rollout", "State", "Steps", "Story", "Version", "told"]

Kind = Literal["canary", "blue_green"]
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
class Steps:
    """The shares that a deployment gives a candidate, one after the other.

    Attributes:
        kind: `blue_green` switches all users at once, in the one step that it has.
        shares: 0 to 1, each larger than the one before; the last is 1.
        hold_seconds: time that each share is held before the next, while its figures are looked at.
    """

    kind: Kind
    shares: tuple[float, ...]
    hold_seconds: float

    def to_json(self) -> dict[str, Any]:
        """Returns the steps as fields of the entry that starts a roll-out."""
        return {"kind": self.kind, "steps": list(self.shares), "hold_seconds": self.hold_seconds}


@dataclass(frozen=True, slots=True)
class Rollout:
    """One roll-out of a version.

    Attributes:
        current: the model that the alias meant before.
        candidate: the model of the version.
        share: share of the users that get the candidate, 0 to 1; of a roll-out that has ended, the last one.
        plan: the terms of the sequential test.
        numbers: what the decision that ended it was made by.
        tenants: tenants whose votes decide; empty: all.
        steps: the shares that a deployment takes; None: the share was given once.
        shares: every share with its time in milliseconds, the first of the start.
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
    tenants: tuple[str, ...] = ()
    steps: Steps | None = None
    shares: tuple[tuple[int, float], ...] = ()

    def share_at(self, at_ms: int) -> float:
        """Returns the share of the users that got the candidate at a time; before the start, that of the start."""
        share = self.shares[0][1] if self.shares else self.share
        for began_ms, then in self.shares:
            if began_ms > at_ms:
                break
            share = then
        return share


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
            raise ledger_changed(
                f"entry {entry.sequence} tells no story: {error!r}",
                f"第 {entry.sequence} 条前后不符：{error!r}",
            ) from None
    return story


def _version(story: Story, entry: Entry) -> None:
    told = entry.fields
    id = _text(told, "version")
    story.versions[id] = Version(
        id,
        entry.alias,
        _whole(told, "number"),
        _text(told, "model"),
        entry.at_ms,
        entry.by,
        _text(told, "artefact", ""),
        _text(told, "artefact_sha256", ""),
        tuple(_texts(told, "parents")),
        _object(told, "data"),
        _object(told, "config"),
        _object(told, "metrics"),
    )


def _gates(story: Story, entry: Entry) -> None:
    id, report = _text(entry.fields, "version"), _object(entry.fields, "report")
    for one in report.get("gates") or ():
        if not isinstance(one["passed"], bool) or not isinstance(one["name"] + one["reason"], str):
            raise TypeError("a gate has no name, no result or no reason")
    story.versions[id] = replace(story.versions[id], gates=report)


def _start(story: Story, entry: Entry) -> None:
    told = entry.fields
    id, model, candidate = _text(told, "rollout"), _text(told, "model"), _text(told, "candidate")
    plan, share = _object(told, "plan"), _number(told, "share")
    for name in plan:
        _number(plan, name)
    story.rollouts[id] = Rollout(
        id,
        entry.alias,
        _text(told, "version"),
        model,
        candidate,
        share,
        "canary",
        entry.at_ms,
        entry.by,
        plan,
        reason=_text(told, "reason", ""),
        tenants=tuple(_texts(told, "tenants")),
        steps=_steps(told),
        shares=((entry.at_ms, share),),
    )
    story.aliases[entry.alias] = AliasState(model, candidate, share, id)


def _steps(told: Mapping[str, Any]) -> Steps | None:
    if "steps" not in told:
        return None
    kind, shares = _text(told, "kind"), told["steps"]
    if kind not in ("canary", "blue_green") or not isinstance(shares, list) or not shares:
        raise TypeError("the steps are none")
    given: list[Any] = shares  # pyright: ignore[reportUnknownVariableType]
    found = tuple(_number({"share": one}, "share") for one in given)
    return Steps("canary" if kind == "canary" else "blue_green", found, _number(told, "hold_seconds"))


def _step(story: Story, entry: Entry) -> None:
    id, share = _text(entry.fields, "rollout"), _number(entry.fields, "share")
    before = story.rollouts[id]
    if before.state != "canary":
        raise TypeError("a roll-out that has ended takes a step")
    shares = (*before.shares, (entry.at_ms, share))
    story.rollouts[id] = replace(before, share=share, shares=shares)
    story.aliases[entry.alias] = AliasState(before.current, before.candidate, share, id)


def _end(story: Story, entry: Entry) -> None:
    told = entry.fields
    state: Any = entry.event
    id = _text(told, "rollout")
    story.rollouts[id] = replace(
        story.rollouts[id],
        state=state,
        ended_ms=entry.at_ms,
        ended_by=entry.by,
        reason=_text(told, "reason", ""),
        numbers=_object(told, "numbers"),
    )
    story.aliases[entry.alias] = AliasState(_text(told, "model"))


def _set(story: Story, entry: Entry) -> None:
    story.aliases[entry.alias] = AliasState(_text(entry.fields, "model"))


def _remove(story: Story, entry: Entry) -> None:
    story.aliases[entry.alias] = None


_TELL = {
    "version": _version,
    "gates": _gates,
    "canary": _start,
    "step": _step,
    "promoted": _end,
    "rolled_back": _end,
    "aborted": _end,
    "alias": _set,
    "reverted": _set,
    "alias_removed": _remove,
}


def _text(told: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = told[name] if default is None else told.get(name, default)
    if not isinstance(value, str):
        raise TypeError(f"{name} is no text")
    return value


def _texts(told: Mapping[str, Any], name: str) -> list[str]:
    values: Any = told.get(name, [])
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values):  # pyright: ignore[reportUnknownVariableType]
        raise TypeError(f"{name} is no list of texts")
    return values  # pyright: ignore[reportUnknownVariableType]


def _object(told: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Returns an object; entries do not hold empty ones."""
    value: Any = told.get(name, {})
    if not isinstance(value, dict):
        raise TypeError(f"{name} is no object")
    return value  # pyright: ignore[reportUnknownVariableType]


def _number(told: Mapping[str, Any], name: str) -> float:
    value = told[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is no number")
    return value


def _whole(told: Mapping[str, Any], name: str) -> int:
    value = _number(told, name)
    if not isinstance(value, int):
        raise TypeError(f"{name} is no whole number")
    return value
