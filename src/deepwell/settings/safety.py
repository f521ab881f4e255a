"""Settings of safety: the policy of the guard."""

from __future__ import annotations

from pydantic import Field

from deepwell.settings.section import Section

__all__ = ["SafetySettings"]


class SafetySettings(Section):
    """The section of safety: the policy of the guard."""

    guard: str | None = Field(
        None,
        description="Policy of the guard that reads requests and answers: open, standard, strict, cn-public, or a YAML file.",
    )
