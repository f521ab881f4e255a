"""The requests of `POST /v1/moderations`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from deepwell.server.http.schema import Strict

__all__ = ["MAX_INPUTS", "MODEL", "ModerationRequest"]

MAX_INPUTS = 2048
"""The most inputs of a request, as many as it may have inputs to embed."""

MODEL = "deepwell-moderation"
"""Name of the model that moderates."""

_ALIASES = ("omni-moderation-", "text-moderation-")


class TextPart(Strict):
    """A part of an input."""

    type: Literal["text"]
    text: str


def _part(value: Any) -> Any:
    if isinstance(value, dict) and value.get("type") == "image_url":
        raise PydanticCustomError(
            "input", "images cannot be moderated: there is no model for them; send the text parts alone"
        )
    return value


def _model(value: Any) -> Any:
    if isinstance(value, str) and value != MODEL and not value.startswith(_ALIASES):
        raise PydanticCustomError(
            "model", f"there is one model for moderation: use {MODEL!r}, or leave model out"
        )
    return value


Part = Annotated[TextPart, BeforeValidator(_part)]


def _inputs(value: Any) -> Any:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and not value:
        raise PydanticCustomError("input", "input must not be empty")
    if isinstance(value, list) and len({isinstance(one, str) for one in value}) > 1:
        raise PydanticCustomError("input", "input is a string, a list of strings, or a list of parts")
    return value


Sent = str | list[str] | list[TextPart]


class ModerationRequest(Strict):
    """`POST /v1/moderations`."""

    input: Annotated[
        list[Annotated[str, Field()]] | list[Part],
        BeforeValidator(_inputs, json_schema_input_type=Sent),
        Field(
            max_length=MAX_INPUTS,
            description="A text, or a list of texts with a result each; or the parts of one input, with one result.",
        ),
    ]
    model: Annotated[str | None, BeforeValidator(_model, json_schema_input_type=str | None)] = Field(
        None, description=f"`{MODEL}`. OpenAI's names, such as `omni-moderation-latest`, stand for it."
    )

    @property
    def texts(self) -> list[str]:
        """The texts that get a result each. The parts of one input are one text."""
        texts = [one for one in self.input if isinstance(one, str)]
        return texts or ["\n".join(one.text for one in self.input if isinstance(one, TextPart))]
