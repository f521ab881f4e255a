"""The requests of `/v1/files`."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from deepwell.server.http.multipart import BINARY, form_schema
from deepwell.server.http.schema import Strict

__all__ = ["FORM_OF_FILE", "MAX_LIFE_S", "MIN_LIFE_S", "PURPOSES", "ExpiresAfter", "FilesQuery", "Purpose"]

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
PURPOSES: tuple[str, ...] = get_args(Purpose)
MIN_LIFE_S, MAX_LIFE_S = 3600, 30 * 24 * 3600


class ExpiresAfter(Strict):
    """The time for which a file is kept."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=MIN_LIFE_S, le=MAX_LIFE_S)


class FilesQuery(BaseModel):
    """A page of files."""

    model_config = ConfigDict(extra="forbid")

    purpose: str | None = None
    after: str | None = Field(None, description="The last id of the page before.")
    limit: int = Field(10_000, ge=1, le=10_000)
    order: Literal["asc", "desc"] = "desc"


FORM_OF_FILE = form_schema(
    {
        "file": BINARY,
        "purpose": {"type": "string", "enum": list(PURPOSES)},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer", "minimum": MIN_LIFE_S, "maximum": MAX_LIFE_S},
    },
    ["file", "purpose"],
)
