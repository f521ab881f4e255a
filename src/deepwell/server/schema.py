"""The requests the server reads: OpenAI's parameters, a few of vLLM's, and a plain refusal for the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from deepwell.server.schema_base import Metadata, Strict, refuse
from deepwell.server.schema_chat import (
    ChatMessage,
    ResponseFormat,
    StructuredOutputs,
    ToolChoiceSpec,
    ToolSpec,
)

__all__ = [
    "MAX_CHOICES",
    "ChatMessage",
    "ChatRequest",
    "CompletionRequest",
    "EmbeddingRequest",
    "GenerationRequest",
    "LoadAdapterRequest",
    "StreamOptions",
    "UnloadAdapterRequest",
]

MAX_CHOICES = 128  # of one request, over all its prompts: each is a sequence in the engine
MAX_INPUTS = 2048  # of one embeddings request, as OpenAI has it
MAX_ALTERNATIVES = 20

Prompt = str | list[int]
_Inputs = str | list[str] | list[int] | list[list[int]]  # as they are sent


def _stop(value: Any) -> Any:
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list) and any(item == "" for item in cast("list[Any]", value)):
        raise PydanticCustomError("stop", "a stop sequence must not be empty")
    return [] if value is None else value


def _bias(value: Any) -> Any:
    """JSON object keys are strings; the engine counts tokens."""
    if not isinstance(value, dict):
        return {} if value is None else value
    try:
        return {int(key): bias for key, bias in cast("dict[str, Any]", value).items()}
    except ValueError:
        raise PydanticCustomError("bias", "keys must be token ids") from None


def _is_tokens(value: list[Any]) -> bool:
    return all(type(item) is int and item >= 0 for item in value)


def _inputs(noun: str, most: int) -> Callable[[Any], list[Prompt]]:
    """A string, a list of strings, token ids, or a list of token id lists, as a list of prompts."""

    def read(value: Any) -> list[Prompt]:
        if isinstance(value, str):
            return [value]
        if not isinstance(value, list) or not value:
            raise PydanticCustomError(
                "prompt",
                "{noun} must be a string, a list of strings, or token ids, and not empty",
                {"noun": noun},
            )
        items = cast("list[Any]", value)
        if _is_tokens(items):
            return [items]
        if len(items) > most:
            raise PydanticCustomError(
                "prompt", "at most {most} {noun}s a request", {"most": most, "noun": noun}
            )
        if all(isinstance(item, str) for item in items):
            return items
        if all(isinstance(item, list) and item and _is_tokens(cast("list[Any]", item)) for item in items):
            return items
        raise PydanticCustomError(
            "prompt",
            "a list of {noun}s must hold strings only, or non-empty lists of token ids only",
            {"noun": noun},
        )

    return read


class StreamOptions(Strict):
    """What a stream carries besides text."""

    include_usage: bool = False
    include_obfuscation: Annotated[Any, refuse("stream obfuscation is not supported", False)] = None


class GenerationRequest(Strict):
    """What chat and plain completions share."""

    model: str
    max_tokens: int | None = Field(None, ge=0)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[
        list[str], BeforeValidator(_stop, json_schema_input_type=str | list[str] | None), Field(max_length=4)
    ] = Field(default_factory=list[str])
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: Annotated[
        dict[int, Annotated[float, Field(ge=-100, le=100)]],
        BeforeValidator(_bias, json_schema_input_type=dict[str, float] | None),
        Field(max_length=1024),
    ] = Field(default_factory=dict[int, float])
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    top_k: int | None = Field(None, ge=-1, description="vLLM's; 0 or -1: off.")
    min_p: float | None = Field(None, ge=0, le=1, description="vLLM's.")
    repetition_penalty: float | None = Field(None, gt=0, le=10, description="vLLM's.")
    min_tokens: int | None = Field(None, ge=0, description="vLLM's.")
    ignore_eos: bool | None = Field(None, description="vLLM's.")
    stop_token_ids: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, max_length=64, description="vLLM's."
    )
    structured_outputs: StructuredOutputs | None = Field(None, description="vLLM's.")

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("stream_options", "stream_options needs stream: true")
        if self.structured_outputs is not None and (self.ignore_eos or self.min_tokens):
            raise PydanticCustomError(
                "structured_outputs", "structured_outputs goes with neither ignore_eos nor min_tokens"
            )
        return self


class ChatRequest(GenerationRequest):
    """`POST /v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_ALTERNATIVES)

    response_format: ResponseFormat | None = None
    tools: list[ToolSpec] | None = Field(None, max_length=128)
    tool_choice: ToolChoiceSpec | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[Any, refuse("functions are deprecated: use tools", [])] = None
    function_call: Annotated[Any, refuse("functions are deprecated: use tool_choice", "none", "auto")] = None
    modalities: Annotated[Any, refuse("only text comes out: leave modalities out", ["text"])] = None
    audio: Annotated[Any, refuse("audio is not supported: leave it out")] = None
    prediction: Annotated[Any, refuse("predicted outputs are not supported: leave prediction out")] = None
    web_search_options: Annotated[Any, refuse("web search is not supported: leave it out")] = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    chat_template_kwargs: dict[str, bool | int | str] | None = Field(
        None, max_length=16, description="vLLM's; switches of the model's chat template."
    )
    verbosity: Annotated[Any, refuse("verbosity is not supported: ask in the messages")] = None
    moderation: Annotated[Any, refuse("moderation is not supported yet: leave it out")] = None
    store: bool | None = None
    # Harmless: labels that change nothing about the answer.
    metadata: Metadata | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    @model_validator(mode="after")
    def _chat_coherent(self) -> Self:
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise PydanticCustomError(
                "max_tokens", "max_tokens and max_completion_tokens differ: send max_completion_tokens alone"
            )
        if self.top_logprobs is not None and not self.logprobs:
            raise PydanticCustomError("top_logprobs", "top_logprobs needs logprobs: true")
        if self.structured_outputs is not None and self.response_format is not None:
            raise PydanticCustomError(
                "structured_outputs", "structured_outputs and response_format exclude each other"
            )
        return self

    @property
    def limit(self) -> int | None:
        """Tokens to generate at most; `None`: what is left of the context."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """`None`: no log probabilities; n: those of n alternatives."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(GenerationRequest):
    """`POST /v1/completions`."""

    prompt: Annotated[
        list[Prompt], BeforeValidator(_inputs("prompt", MAX_CHOICES), json_schema_input_type=_Inputs)
    ]
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_ALTERNATIVES)
    suffix: Annotated[Any, refuse("filling in before a suffix is not supported: leave suffix out", "")] = None
    best_of: Annotated[Any, refuse("best_of is not supported: use n, and choose yourself", 1)] = None

    @model_validator(mode="after")
    def _completion_coherent(self) -> Self:
        if self.max_tokens == 0 and not self.echo:
            raise PydanticCustomError(
                "max_tokens", "max_tokens 0 needs echo: true, or there is nothing to return"
            )
        if len(self.prompt) * (self.n or 1) > MAX_CHOICES:
            raise PydanticCustomError(
                "prompt", "prompts times n must be at most {most}: split the request", {"most": MAX_CHOICES}
            )
        return self


class EmbeddingRequest(Strict):
    """`POST /v1/embeddings`."""

    model: str
    input: Annotated[
        list[Prompt], BeforeValidator(_inputs("input", MAX_INPUTS), json_schema_input_type=_Inputs)
    ]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1)
    user: str | None = None


class LoadAdapterRequest(Strict):
    """`POST /v1/load_lora_adapter`, with vLLM's names."""

    lora_name: str
    lora_path: str
    load_inplace: bool | None = None  # a loaded name is always swapped


class UnloadAdapterRequest(Strict):
    """`POST /v1/unload_lora_adapter`, with vLLM's names."""

    lora_name: str
    lora_int_id: Annotated[Any, refuse("adapters have no numbers: leave lora_int_id out")] = None
