"""The requests of `POST /v1/embeddings`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from deepwell.dialogue.text import InputType
from deepwell.errors import InvalidRequest
from deepwell.server.families.embeddings.part_schema import Input, SentInputs, check_parts, has_parts
from deepwell.server.families.generation_schema import Prompt, prompts_of
from deepwell.server.http.schema import Strict, crossed

__all__ = [
    "MAX_INPUTS",
    "EmbeddingRequest",
]

MAX_INPUTS = 2048  # per request, as with OpenAI


_read = prompts_of("input", MAX_INPUTS)


def _inputs(value: Any) -> list[Any]:
    if has_parts(value):
        return check_parts(value, MAX_INPUTS)
    inputs = _read(value)
    if "" in inputs:
        raise PydanticCustomError("input", "an input must not be empty")
    return inputs


def _is_tokens(value: Sequence[Any]) -> bool:
    return isinstance(value[0], int)


class EmbeddingRequest(Strict):
    """`POST /v1/embeddings`."""

    model: str
    input: Annotated[list[Input], BeforeValidator(_inputs, json_schema_input_type=SentInputs)] = Field(
        description="Texts or their token ids. The model `deepwell-space` also takes parts: texts, pictures as data URLs and"
        " recordings. A list of parts becomes one vector, with the weight of each in `gates`."
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1)
    user: str | None = None
    input_type: InputType | None = Field(
        None,
        description="What the input is: the model's own prompt for queries, or for passages (documents), is put in front of"
        " every text. Nothing is put there without it, or if the model has no prompts.",
    )
    tokenizer: str | None = Field(
        None,
        description="Needed with token ids: the model whose tokenizer made them, which must be this one.",
    )

    def prompts(self) -> list[Prompt]:
        """Returns the inputs as texts and token ids.

        Raises:
            InvalidRequest: there are others among them.
        """
        found = [
            one for one in self.input if isinstance(one, str) or (isinstance(one, list) and _is_tokens(one))
        ]
        if len(found) < len(self.input):
            raise InvalidRequest.of("embedding_parts_model", name=self.model, param="input")
        return cast("list[Prompt]", found)

    @model_validator(mode="after")
    def _known_tokens(self) -> Self:
        if self.tokenizer == self.model or not any(
            isinstance(one, list) and _is_tokens(one) for one in self.input
        ):
            return self
        if self.tokenizer is None:
            raise crossed(
                "input",
                "token ids mean something to one tokenizer alone: send text (LangChain: check_embedding_ctx_length=False), "
                f"or say that these are the model's own with tokenizer: {self.model!r}",
            )
        raise crossed(
            "tokenizer", f"the model {self.model!r} reads no other tokenizer's ids: send text, or its own ids"
        )
