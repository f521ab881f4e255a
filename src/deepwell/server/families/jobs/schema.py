"""The queries of `/v1/jobs`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["JobsQuery"]


class JobsQuery(BaseModel):
    """A page of jobs."""

    model_config = ConfigDict(extra="forbid")

    kind: str | None = Field(None, min_length=1, max_length=32, description="Jobs of this kind alone.")
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"] | None = None
    after: str | None = Field(None, description="The last id of the page before.")
    limit: int = Field(20, ge=1, le=100)
    order: Literal["asc", "desc"] = "desc"
