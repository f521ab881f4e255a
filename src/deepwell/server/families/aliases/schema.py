"""The requests of `/v1/aliases`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from deepwell.server.http.schema import Strict

__all__ = ["AliasRequest", "AliasesQuery", "ChangesQuery"]


class AliasRequest(Strict):
    """Makes a name mean a model."""

    name: str = Field(min_length=1, max_length=128)
    model: str = Field(min_length=1, max_length=256)


class AliasesQuery(BaseModel):
    """A page of aliases."""

    model_config = ConfigDict(extra="forbid")

    after: str | None = Field(None, description="The last id of the page before.")
    limit: int = Field(20, ge=1, le=100)
    order: Literal["asc", "desc"] = "asc"


class ChangesQuery(AliasesQuery):
    """A page of the changes of an alias."""

    order: Literal["asc", "desc"] = "desc"
