"""The requests of `/v1/audit`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["EntriesQuery"]

_LATEST_S = 253_402_300_800  # the year 10000


class EntriesQuery(BaseModel):
    """A page of the audit trail, the newest entries first."""

    model_config = ConfigDict(extra="forbid")

    after: str | None = Field(None, description="The last id of the page before.")
    limit: int = Field(20, ge=1, le=100)
    decision: Literal["allow", "flag", "redact", "block"] | None = None
    since: float | None = Field(None, ge=0, le=_LATEST_S, description="Unix seconds of the earliest events.")
    until: float | None = Field(
        None, ge=0, le=_LATEST_S, description="Unix seconds before which events happened."
    )
