"""The requests of `/v1/catalog`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from deepwell.server.http.schema import Strict

__all__ = ["CatalogQuery", "LookRequest", "PlanQuery", "PullRequest"]


class CatalogQuery(BaseModel):
    """A page of the catalog."""

    model_config = ConfigDict(extra="forbid")

    after: str | None = Field(None, description="The last id of the page before.")
    limit: int = Field(100, ge=1, le=100)
    order: Literal["asc", "desc"] = "asc"


class PlanQuery(BaseModel):
    """The options of a memory plan. Those that are left out are the server's own."""

    model_config = ConfigDict(extra="forbid")

    precision: Literal["auto", "int8", "int4", "int4-full", "bf16", "fp16", "fp32"] | None = None
    context: int | None = Field(None, ge=1, le=1 << 24, description="Tokens that a sequence may hold.")


class PullRequest(Strict):
    """Fetches a model of the catalog."""

    model: str = Field(min_length=1, max_length=96)


class LookRequest(Strict):
    """Looks for new revisions of all models of the store. It has no fields."""
