"""The bodies of `/v1/audit`."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["AuditEntry", "AuditEntryList", "AuditFinding", "AuditVerification"]


class AuditFinding(Struct):
    """A place of a text that a detector found."""

    rule: str
    layer: str | None
    span: list[int]  # first character, and the one behind the last
    category: str | None
    action: str | None
    score: float | None


class AuditEntry(Struct, tag_field="object", tag="audit.entry"):
    """An entry of the audit trail. Null: the entry does not say."""

    id: str
    at: float  # Unix seconds
    event: str  # decision, prune, erase, export, policy or gap
    decision: str | None
    layer: str | None
    route: str | None
    model: str | None
    findings: list[AuditFinding]
    policy_hash: str | None
    user: str | None  # pseudonym of the end user
    request_id: str | None
    hash: str


class AuditEntryList(Struct, tag_field="object", tag="list"):
    """A page of entries, the newest first."""

    data: list[AuditEntry]
    first_id: str | None
    last_id: str | None
    has_more: bool


class AuditVerification(Struct, tag_field="object", tag="audit.verification"):
    """The result of a verification."""

    holds: bool
    entries: int
    seconds: float
    error: str | None  # the first problem
