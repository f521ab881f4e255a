"""The requests of `/v1/organization/usage`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from deepwell.server.http.schema import crossed, unsupported

__all__ = ["UsageQuery"]

_LATEST_S = 253_402_300_800  # the year 10000
_GROUPS = ("model", "api_key_id")


def _hours_or_days(width: object) -> object:
    if width == "1m":
        raise unsupported("usage is kept by the hour: use bucket_width '1h' or '1d'")
    return width


def _known_groups(given: object) -> object:
    names = given if isinstance(given, list) else [given]
    for name in names:
        if name in ("project_id", "user_id", "batch", "service_tier"):
            raise unsupported(f"usage is not kept by {name}: group by {' or '.join(_GROUPS)}")
    return names


_Groups = Annotated[list[Literal["model", "api_key_id"]], BeforeValidator(_known_groups)]
_Names = Annotated[list[str], Field(max_length=100)]


class UsageQuery(BaseModel):
    """A page of buckets. A bucket of a day begins at midnight, UTC."""

    model_config = ConfigDict(extra="forbid")

    start_time: int = Field(ge=0, le=_LATEST_S, description="Unix seconds, included.")
    end_time: int | None = Field(
        None, ge=0, le=_LATEST_S, description="Unix seconds, excluded. Without it: now."
    )
    bucket_width: Annotated[Literal["1h", "1d"], BeforeValidator(_hours_or_days)] = "1d"
    group_by: _Groups = Field([], max_length=8, description="What to tell apart. Without it: nothing.")
    models: _Names = Field([], description="Models to count. Without it: all.")
    api_key_ids: _Names = Field([], description="Keys to count. Without it: all.")
    # The official SDKs put brackets behind the names of lists.
    bracketed_groups: _Groups = Field(
        [], max_length=8, alias="group_by[]", description="The same as `group_by`."
    )
    bracketed_models: _Names = Field([], alias="models[]", description="The same as `models`.")
    bracketed_keys: _Names = Field([], alias="api_key_ids[]", description="The same as `api_key_ids`.")
    limit: int | None = Field(
        None, ge=1, le=168, description="Buckets of a page. Without it 7 days or 24 hours; at most 31 or 168."
    )
    page: str | None = Field(None, description="`next_page` of the page before.")

    @property
    def groups(self) -> set[str]:
        """The properties by which results are told apart."""
        return {*self.group_by, *self.bracketed_groups}

    @property
    def wanted_models(self) -> set[str]:
        """The models to count; empty: all."""
        return {*self.models, *self.bracketed_models}

    @property
    def wanted_keys(self) -> set[str]:
        """The ids of the keys to count; empty: all."""
        return {*self.api_key_ids, *self.bracketed_keys}

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.bucket_width == "1d" and (self.limit or 0) > 31:
            raise crossed("limit", "a page has at most 31 days: send a smaller limit")
        return self
