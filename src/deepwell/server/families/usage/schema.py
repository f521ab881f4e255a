"""The requests of `/v1/organization/usage`."""

from __future__ import annotations

from collections.abc import Set
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from deepwell.server.http.schema import crossed, unsupported
from deepwell.storage.usage import MediaPlace, UsagePlace

__all__ = ["ImagesUsageQuery", "UsageQuery"]

_LATEST_S = 253_402_300_800  # the year 10000


def _hours_or_days(width: object) -> object:
    if width == "1m":
        raise unsupported("usage is kept by the hour: use bucket_width '1h' or '1d'")
    return width


def _known_groups(*known: str) -> BeforeValidator:
    """Refuses properties of OpenAI's that are not kept, by name."""

    def check(given: object) -> object:
        names = given if isinstance(given, list) else [given]
        for name in names:
            if name in ("project_id", "user_id", "batch", "service_tier"):
                raise unsupported(f"usage is not kept by {name}: group by {' or '.join(known)}")
        return names

    return BeforeValidator(check)


_Groups = Annotated[list[Literal["model", "api_key_id"]], _known_groups("model", "api_key_id")]
_ImageGroups = Annotated[
    list[Literal["model", "api_key_id", "size", "source"]],
    _known_groups("model", "api_key_id", "size", "source"),
]
_Sources = list[Literal["image.generation", "image.edit", "image.variation"]]
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
    def groups(self) -> Set[str]:
        """The properties by which results are told apart."""
        return {*self.group_by, *self.bracketed_groups}

    def wants(self, place: UsagePlace | MediaPlace) -> bool:
        """Returns whether a row is to be counted. An empty list of models or keys wants all."""
        models = {*self.models, *self.bracketed_models}
        keys = {*self.api_key_ids, *self.bracketed_keys}
        return (not models or place.model in models) and (not keys or place.key_id in keys)

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.bucket_width == "1d" and (self.limit or 0) > 31:
            raise crossed("limit", "a page has at most 31 days: send a smaller limit")
        return self


class ImagesUsageQuery(UsageQuery):
    """A page of buckets of images."""

    group_by: _ImageGroups = Field([], max_length=8, description="What to tell apart. Without it: nothing.")  # pyright: ignore[reportIncompatibleVariableOverride]
    bracketed_groups: _ImageGroups = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        [], max_length=8, alias="group_by[]", description="The same as `group_by`."
    )
    sizes: _Names = Field([], description="Sizes to count. Without it: all.")
    sources: _Sources = Field([], max_length=8, description="Operations to count. Without it: all.")
    bracketed_sizes: _Names = Field([], alias="sizes[]", description="The same as `sizes`.")
    bracketed_sources: _Sources = Field(
        [], max_length=8, alias="sources[]", description="The same as `sources`."
    )

    def wants(self, place: UsagePlace | MediaPlace) -> bool:
        """Returns whether a row is to be counted. An empty list of sizes or sources wants all."""
        assert isinstance(place, MediaPlace)
        sizes = {*self.sizes, *self.bracketed_sizes}
        sources = {*self.sources, *self.bracketed_sources}
        return (
            super().wants(place)
            and (not sizes or place.size in sizes)
            and (not sources or place.source in sources)
        )
