"""The body of `/v1/guard`."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["GuardRule", "GuardState", "LabelState"]


class GuardRule(Struct):
    """A rule of the policy: a detector, one of its rules, or a category, with the action on what it finds."""

    detector: str
    action: str
    min_score: float


class LabelState(Struct):
    """Labels of generated content."""

    enabled: bool
    producer: str  # code of the service in the metadata; empty: none


class GuardState(Struct, tag_field="object", tag="guard"):
    """The policy in force for a tenant. Without a guard, everything but `enabled` is null or empty."""

    enabled: bool
    name: str | None
    version: int | None  # of the policy's format
    hash: str | None
    input: list[GuardRule]
    context: list[GuardRule]
    output: list[GuardRule]
    on_failure: str | None  # the strictest of the three layers
    labels: LabelState
    missing: list[str]  # lists of terms that the policy names, and that were not fetched
