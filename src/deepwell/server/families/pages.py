"""Pages of lists in OpenAI's shape: the query that asks for one, and the names of its first and last object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["PageQuery", "ends_of"]


class _Named(Protocol):
    @property
    def id(self) -> str: ...


class PageQuery(BaseModel):
    """A page of a list."""

    model_config = ConfigDict(extra="forbid")

    after: str | None = Field(None, description="The last id of the page before.")
    limit: int = Field(20, ge=1, le=100)
    order: Literal["asc", "desc"] = "desc"


def ends_of(data: Sequence[_Named]) -> tuple[str | None, str | None]:
    """Returns the ids of the first and the last object of a page; None if it is empty."""
    return (data[0].id, data[-1].id) if data else (None, None)
