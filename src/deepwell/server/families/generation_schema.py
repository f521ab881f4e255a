"""The parameters that chat and plain completions share: OpenAI's, a few of vLLM's, and plain refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Self, cast

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from deepwell.dialogue.model import SamplingOptions
from deepwell.dialogue.tools import ANY_OBJECT
from deepwell.engine.protocol import Grammar
from deepwell.server.http.schema import Strict, crossed, either, refuse

__all__ = [
    "MAX_ALTERNATIVES",
    "MAX_CHOICES",
    "GenerationRequest",
    "Prompt",
    "StreamOptions",
    "StructuredOutputs",
    "prompts_of",
    "stop_strings",
]

MAX_CHOICES = 128  # per request, over all its prompts: each is a sequence in the engine
MAX_ALTERNATIVES = 20

Prompt = str | list[int]
SentPrompts = str | list[str] | list[int] | list[list[int]]  # as clients send them


def stop_strings(value: Any) -> Any:
    """Returns stop strings as a list: none, one or several of them as clients send them.

    Raises:
        PydanticCustomError: one is empty.
    """
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list) and any(item == "" for item in cast("list[Any]", value)):
        raise PydanticCustomError("stop", "a stop sequence must not be empty")
    return [] if value is None else value


def _bias(value: Any) -> Any:
    """Turns keys into token ids: keys of JSON objects are strings."""
    if not isinstance(value, dict):
        return {} if value is None else value
    try:
        return {int(key): bias for key, bias in cast("dict[str, Any]", value).items()}
    except ValueError:
        raise PydanticCustomError("bias", "keys must be token ids") from None


def _is_tokens(value: list[Any]) -> bool:
    return all(type(item) is int and item >= 0 for item in value)


def prompts_of(noun: str, most: int) -> Callable[[Any], list[Prompt]]:
    """Returns a validator that makes a list of prompts of a string, strings, token ids, or lists of token ids."""

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


if TYPE_CHECKING:
    JsonSource = str | dict[str, Any]
else:
    JsonSource = either(str, dict[str, Any])


class StructuredOutputs(Strict):
    """vLLM's formats: one of a JSON schema, any JSON object, a regular expression, a choice, and a Lark grammar."""

    json_: JsonSource | None = Field(None, alias="json")
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = Field(None, min_length=1, max_length=1024)
    grammar: str | None = None

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        given = (self.json_, self.json_object or None, self.regex, self.choice, self.grammar)
        if sum(value is not None for value in given) != 1:
            raise PydanticCustomError("structured_outputs", "give exactly one format")
        return self

    def compiled(self) -> Grammar:
        """Returns the format as a grammar."""
        if self.json_ is not None:
            source = self.json_ if isinstance(self.json_, str) else json.dumps(self.json_, ensure_ascii=False)
            return Grammar("json_schema", source)
        if self.regex is not None:
            return Grammar("regex", self.regex)
        if self.choice is not None:
            options = " | ".join(json.dumps(option, ensure_ascii=False) for option in self.choice)
            return Grammar("lark", f"start: {options}\n")
        return Grammar("lark", self.grammar) if self.grammar is not None else ANY_OBJECT


class StreamOptions(Strict):
    """Options of a stream: the parts that it carries besides text."""

    include_usage: bool = False
    include_obfuscation: Annotated[Any, refuse("stream obfuscation is not supported", False)] = None


class GenerationRequest(Strict):
    """The parameters that chat and plain completions share."""

    model: str
    max_tokens: int | None = Field(None, ge=0)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[
        list[str],
        BeforeValidator(stop_strings, json_schema_input_type=str | list[str] | None),
        Field(max_length=4),
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

    def sampling(self) -> SamplingOptions:
        """Returns the sampling parameters, as `ServedModel.sampling` takes them."""
        return SamplingOptions(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            logit_bias=self.logit_bias,
            seed=self.seed,
            min_tokens=self.min_tokens,
            stop_token_ids=self.stop_token_ids,
            ignore_eos=self.ignore_eos,
        )

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise crossed("stream_options", "stream_options needs stream: true")
        if self.structured_outputs is not None and (self.ignore_eos or self.min_tokens):
            raise crossed(
                "structured_outputs", "structured_outputs goes with neither ignore_eos nor min_tokens"
            )
        return self
