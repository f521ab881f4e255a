"""The requests of `POST /v1/embeddings`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from deepwell.server.families.generation_schema import Prompt, SentPrompts, prompts_of
from deepwell.server.http.schema import Strict

__all__ = [
    "MAX_INPUTS",
    "EmbeddingRequest",
]

MAX_INPUTS = 2048  # per request, as with OpenAI


class EmbeddingRequest(Strict):
    """`POST /v1/embeddings`."""

    model: str
    input: Annotated[
        list[Prompt], BeforeValidator(prompts_of("input", MAX_INPUTS), json_schema_input_type=SentPrompts)
    ]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1)
    user: str | None = None
