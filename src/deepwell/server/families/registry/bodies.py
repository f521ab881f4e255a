"""The bodies of `/v1/registry`, `/v1/rollouts` and `/v1/improvements`."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

__all__ = [
    "Deployment",
    "DeploymentGate",
    "DeploymentList",
    "DeploymentReplica",
    "DeploymentRollout",
    "DeploymentSlot",
    "Gate",
    "GateReport",
    "Improvement",
    "ImprovementList",
    "ImprovementRound",
    "LedgerEntry",
    "LedgerEntryList",
    "LedgerVerification",
    "RegistryAlias",
    "RegistryAliasList",
    "RegistryVersion",
    "RegistryVersionList",
    "RolloutBody",
    "RolloutList",
    "RolloutSide",
    "RolloutVotes",
]


class RegistryAlias(Struct, tag_field="object", tag="registry.alias"):
    """An alias with its place in the registry. `undo` is the model that a revert would bring back; null: none."""

    id: str
    model: str
    changed_at: int
    changed_by: str
    candidate: str | None
    share: float | None
    rollout: str | None
    versions: int
    undo: str | None


class RegistryAliasList(Struct, tag_field="object", tag="list"):
    """A page of aliases."""

    data: list[RegistryAlias]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Gate(Struct):
    """The result of one gate. Its bars are among the numbers; one that JSON cannot hold is a text."""

    name: str
    passed: bool
    reason: str
    numbers: dict[str, float | str]


class GateReport(Struct):
    """The results of all gates."""

    passed: bool
    gates: list[Gate]


class RegistryVersion(Struct, tag_field="object", tag="registry.version"):
    """A version of the model behind an alias. `gates` is null for one that no gate saw; `now` is `serves`, `canary` or null."""

    id: str
    alias: str
    number: int
    model: str
    created_at: float
    created_by: str
    now: str | None
    parents: list[str]
    artefact: str
    artefact_sha256: str
    data: dict[str, str]
    config: dict[str, Any]
    metrics: dict[str, Any]
    gates: GateReport | None


class RegistryVersionList(Struct, tag_field="object", tag="list"):
    """A page of versions."""

    data: list[RegistryVersion]
    first_id: str | None
    last_id: str | None
    has_more: bool


class LedgerEntry(Struct, tag_field="object", tag="registry.entry"):
    """An entry of the ledger. `words` says in one sentence what `fields` tell."""

    id: str
    sequence: int
    at: float
    event: str
    alias: str
    by: str
    words: str
    fields: dict[str, Any]
    hash: str


class LedgerEntryList(Struct, tag_field="object", tag="list"):
    """A page of entries, the newest first unless asked otherwise."""

    data: list[LedgerEntry]
    first_id: str | None
    last_id: str | None
    has_more: bool


class LedgerVerification(Struct, tag_field="object", tag="registry.verification"):
    """The result of verifying the ledger, with its newest entry as `SEQUENCE:HASH`."""

    holds: bool
    entries: int
    head: str
    problems: list[str]


class RolloutSide(Struct):
    """One side of a roll-out: its model, the users who voted, and those of them who approve."""

    model: str
    users: int
    good: int


class RolloutVotes(Struct):
    """The votes, and what the sequential test makes of them.

    `low` and `high` bound the difference of approval, candidate - current, however often one looks. The logarithm of the
    evidence decides when it reaches `evidence_needed`. `action` is `promote`, `roll_back` or `wait`.
    """

    current: RolloutSide
    candidate: RolloutSide
    without_user: int
    unverified: int
    low: float
    high: float
    evidence_worse: float
    evidence_not_worse: float
    evidence_needed: float
    days: float
    action: str
    reason: str


class RolloutBody(Struct, tag_field="object", tag="rollout"):
    """A roll-out. `votes` are those of now while `state` is `canary`, else those that it ended with; null: none were noted."""

    id: str
    alias: str
    version: str
    current: str
    candidate: str
    share: float
    state: str
    started_at: float
    started_by: str
    ended_at: float | None
    ended_by: str
    reason: str
    plan: dict[str, Any]
    votes: RolloutVotes | None


class RolloutList(Struct, tag_field="object", tag="list"):
    """A page of roll-outs, the newest first unless asked otherwise."""

    data: list[RolloutBody]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ImprovementRound(Struct):
    """A round: from votes to a candidate that was promoted or refused. `outcome` is null while it is under way."""

    number: int
    model: str
    stage: str
    outcome: str | None
    reason: str
    votes: dict[str, int]
    version: str | None
    rollout: str | None
    at: float | None
    gates: GateReport | None


class Improvement(Struct, tag_field="object", tag="improvement"):
    """The improvement of an alias: its votes, of which those with consent may be trained on, and its rounds, newest first."""

    id: str
    up: int
    down: int
    consent: int
    problem: str | None
    rounds: list[ImprovementRound]


class ImprovementList(Struct, tag_field="object", tag="list"):
    """The improvements of all aliases."""

    data: list[Improvement]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeploymentReplica(Struct):
    """A process or container of a deployment."""

    name: str
    state: str
    restarts: int


class DeploymentSlot(Struct):
    """The replicas of one release. `role` is `current`, `candidate`, `retiring`, `draining`, `stopping` or `free`."""

    name: str
    role: str
    release: str | None
    replicas: list[DeploymentReplica]


class DeploymentGate(Struct):
    """The finding of a gate by now: figures of both sides, and the largest difference that it lets pass."""

    name: str
    current: float | None
    candidate: float | None
    bound: float
    holds: bool


class DeploymentRollout(Struct):
    """The roll-out of a deployment. `next` says in words what it waits for; `steps` is null where votes or an order end it."""

    id: str
    version: str
    share: float
    steps: list[float] | None
    held_seconds: float | None
    next: str
    gates: list[DeploymentGate]


class Deployment(Struct, tag_field="object", tag="deployment"):
    """A deployment whose supervisor runs on this machine. Before it serves, `url` and `model` are null."""

    id: str
    alias: str
    grade: str | None
    started_at: float
    url: str | None
    model: str | None
    front: DeploymentReplica | None
    slots: list[DeploymentSlot]
    rollout: DeploymentRollout | None


class DeploymentList(Struct, tag_field="object", tag="list"):
    """The deployments of this machine."""

    data: list[Deployment]
    first_id: str | None
    last_id: str | None
    has_more: bool
