"""The requests of `POST /v1/embeddings`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from deepwell.dialogue.text import InputType
from deepwell.server.families.generation_schema import Prompt, SentPrompts, prompts_of
from deepwell.server.http.schema import Strict, crossed

__all__ = [
    "MAX_INPUTS",
    "EmbeddingRequest",
]

MAX_INPUTS = 2048  # per request, as with OpenAI


_read = prompts_of("input", MAX_INPUTS)


def _inputs(value: Any) -> list[Prompt]:
    inputs = _read(value)
    if "" in inputs:
        raise PydanticCustomError("input", "an input must not be empty")
    return inputs


class EmbeddingRequest(Strict):
    """`POST /v1/embeddings`."""

    model: str
    input: Annotated[list[Prompt], BeforeValidator(_inputs, json_schema_input_type=SentPrompts)]
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

    @model_validator(mode="after")
    def _known_tokens(self) -> Self:
        if self.tokenizer == self.model or all(isinstance(one, str) for one in self.input):
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
