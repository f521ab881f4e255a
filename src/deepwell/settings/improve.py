"""Settings of the loop that improves a served model by its users' votes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from deepwell.settings.section import Section

__all__ = ["ImproveSettings"]

_Listed = Annotated[list[str], NoDecode]


class ImproveSettings(Section):
    """The section of the loop that improves a served model by its users' votes."""

    improve: bool = Field(
        False,
        description="Whether the server improves its main model by the votes of its users while it runs.",
    )
    improve_alias: str | None = Field(
        None,
        description="Alias whose model improves; unset: the main model's name with @prod, which is made if it is missing.",
    )
    improve_interval_s: float = Field(
        600, ge=1, description="Seconds between looks for votes, and for the next step of a round under way."
    )
    improve_least_new: int = Field(50, ge=1, description="New votes that start another round.")
    improve_share: float = Field(
        0.1, gt=0, lt=1, description="Share of the users who get a candidate before it is promoted."
    )
    improve_tenants: _Listed = Field(
        default_factory=lambda: ["local"],
        min_length=1,
        description="Tenants whose votes train and decide about a candidate; `local` is a server without keys.",
    )

    @field_validator("improve_tenants", mode="before")
    @classmethod
    def _split_tenants(cls, value: Any) -> Any:
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value
