"""The requests of `/v1/prompts`, and the parameter `prompt` of a response."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from deepwell.dialogue.prompts.content import Industry, PromptLanguage
from deepwell.dialogue.prompts.text import (
    ID_PATTERN,
    MAX_MESSAGES,
    MAX_TEXT,
    MAX_VARIABLES,
    MAX_VERSION,
    NAME_PATTERN,
    Role,
)
from deepwell.server.http.schema import Strict, kind_of, unsupported

__all__ = [
    "CurrentRequest",
    "PromptReference",
    "PromptRequest",
    "VersionPageQuery",
    "VersionRequest",
]

_MAX_VALUE = 1 << 20  # characters of a variable's value
_Text = Annotated[str, Field(max_length=MAX_TEXT)]
_Line = Annotated[str, Field(max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")]
_Name = Annotated[str, Field(pattern=NAME_PATTERN)]
_Number = Annotated[int, Field(ge=1, le=MAX_VERSION)]
_Version = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$")]


def _value(value: Any) -> Any:
    """Returns the text of a variable: a string, or an object of type `input_text`."""
    if not isinstance(value, dict):
        return value
    if (kind := kind_of(value)) in ("input_image", "input_file"):
        raise unsupported(f"variables of type {kind} are not supported: send text, and the file in input")
    if kind == "input_text" and set(value) == {"type", "text"}:  # pyright: ignore[reportUnknownArgumentType]
        return value["text"]  # pyright: ignore[reportUnknownVariableType]
    return value  # pyright: ignore[reportUnknownVariableType]


_Value = Annotated[
    Annotated[str, Field(max_length=_MAX_VALUE)],
    BeforeValidator(_value, json_schema_input_type=str | dict[str, str]),
]


class PromptReference(Strict):
    """A stored prompt, with the values of its variables."""

    id: Annotated[str, Field(max_length=256)]
    version: Annotated[str, Field(max_length=64)] | None = Field(
        None, description="Number of the version; left out: the current one."
    )
    variables: Annotated[dict[str, _Value], Field(max_length=MAX_VARIABLES)] | None = Field(
        None, description="A text for each variable of the prompt, and for nothing else."
    )


class MessageText(Strict):
    """One message, with variables."""

    role: Role
    content: _Text


class ExampleText(Strict):
    """One use of the prompt, for people who read it."""

    input: _Text
    answer: _Text
    variables: Annotated[dict[_Name, _Text], Field(max_length=MAX_VARIABLES)] = Field(
        default_factory=dict[str, str]
    )


class VersionRequest(Strict):
    """`POST /v1/prompts/{id}/versions`: a further version. Its text is the whole text."""

    instructions: _Text = Field("", description="System message, with variables as {{name}}.")
    messages: Annotated[list[MessageText], Field(max_length=MAX_MESSAGES)] = Field(
        default_factory=list[MessageText],
        description="Further messages, in front of a request's input, with variables as {{name}}.",
    )
    variables: Annotated[dict[_Name, _Line], Field(max_length=MAX_VARIABLES)] = Field(
        default_factory=dict[str, str], description="The purpose of each variable, by name."
    )
    purpose: _Line = Field("", description="One sentence on the use of the prompt.")
    language: PromptLanguage | None = None
    industry: Industry | None = None
    license: Annotated[_Line, Field(max_length=100)] = Field("", description="SPDX identifier.")
    example: ExampleText | None = None
    version: _Number | None = Field(
        None, description="Number of the version, above all others; left out: the next one."
    )
    current: bool = Field(True, description="Whether requests without a version get this one from now on.")


class PromptRequest(VersionRequest):
    """`POST /v1/prompts`: a prompt with its first version."""

    id: Annotated[str, Field(pattern=ID_PATTERN)] | None = Field(
        None, description="Id of the prompt; left out: a random one."
    )


class CurrentRequest(Strict):
    """`POST /v1/prompts/{id}`: makes a version the current one."""

    version: _Version = Field(description="Number of the version that requests without one get.")


class VersionPageQuery(BaseModel):
    """A page of the versions of a prompt, the newest first."""

    model_config = ConfigDict(extra="forbid")

    after: _Version | None = Field(None, description="The last version of the page before.")
    limit: int = Field(20, ge=1, le=100)
