"""The requests of `POST /v1/completions`."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from deepwell.server.families.generation_schema import (
    MAX_ALTERNATIVES,
    MAX_CHOICES,
    GenerationRequest,
    Prompt,
    SentPrompts,
    prompts_of,
)
from deepwell.server.http.schema import crossed, refuse

__all__ = [
    "CompletionRequest",
]


class CompletionRequest(GenerationRequest):
    """`POST /v1/completions`."""

    prompt: Annotated[
        list[Prompt], BeforeValidator(prompts_of("prompt", MAX_CHOICES), json_schema_input_type=SentPrompts)
    ]
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_ALTERNATIVES)
    suffix: Annotated[Any, refuse("filling in before a suffix is not supported: leave suffix out", "")] = None
    best_of: Annotated[Any, refuse("best_of is not supported: use n, and choose yourself", 1)] = None

    @model_validator(mode="after")
    def _completion_coherent(self) -> Self:
        if self.max_tokens == 0 and not self.echo:
            raise crossed("max_tokens", "max_tokens 0 needs echo: true, or there is nothing to return")
        if len(self.prompt) * (self.n or 1) > MAX_CHOICES:
            raise crossed("prompt", f"prompts times n must be at most {MAX_CHOICES}: split the request")
        return self
