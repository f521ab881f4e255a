"""The requests of `/v1/labelling/projects`."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deepwell.server.families.pages import PageQuery
from deepwell.server.http.schema import Strict, crossed

__all__ = [
    "MAX_BYTES",
    "MAX_CLASSES",
    "MAX_ITEMS",
    "LabelRequest",
    "LabellingProjectRequest",
    "NextQuery",
    "ProjectsQuery",
]

MAX_ITEMS: Final = 50_000
MAX_BYTES: Final = 64 << 20
MAX_CLASSES: Final = 50

# PostgreSQL keeps no NUL; line breaks and other controls have no place in a button.
ClassName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
_Name = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00]*$")]


class LabellingProjectRequest(Strict):
    """Makes a project of the records of a file."""

    file_id: str = Field(
        description="A file that was uploaded: JSON lines in OpenAI's chat shape, ShareGPT, Alpaca, or "
        'with the field "text".'
    )
    classes: list[ClassName] = Field(
        min_length=2,
        max_length=MAX_CLASSES,
        description="Names of the classes. Labels of the file must be among them.",
    )
    name: _Name | None = Field(None, description="Name for people; unset: that of the file.")
    strategy: Literal["margin", "entropy", "random"] = Field(
        "margin",
        description="Which texts to ask about first: those that the learner is least sure of, or any.",
    )

    @model_validator(mode="after")
    def _different(self) -> LabellingProjectRequest:
        if len(set(self.classes)) < len(self.classes):
            raise crossed("classes", "two classes have the same name: give each its own")
        return self


class LabelRequest(Strict):
    """Labels one text, or skips it."""

    index: int = Field(
        ge=0, lt=MAX_ITEMS, description="Place of the text in the file, as the list of next texts has it."
    )
    label: ClassName | None = Field(None, description="Its class; left out with `skip`.")
    skip: bool = Field(False, description="Puts the text behind all others.")

    @model_validator(mode="after")
    def _one(self) -> LabelRequest:
        if self.skip == (self.label is not None):
            raise crossed("label", "send either a label, or skip: true")
        return self


class NextQuery(BaseModel):
    """Number of texts to ask about."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(10, ge=1, le=100)


class ProjectsQuery(PageQuery):
    """A page of projects."""
