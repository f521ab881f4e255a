"""The requests of the Responses API."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from deepwell.server.families.responses.item_schema import ItemInput
from deepwell.server.http.schema import (
    MAX_ENTRIES,
    TAG_MARK,
    Metadata,
    Strict,
    crossed,
    kind_of,
    only_values,
    refuse,
    unsupported,
)

__all__ = [
    "CHOICE_TYPES",
    "ENCRYPTED",
    "FORMAT_TYPES",
    "INCLUDES",
    "LOGPROBS",
    "AllowedTools",
    "InputItemsQuery",
    "InputTokensRequest",
    "ListQuery",
    "Metadata",
    "ResponseRequest",
    "RetrieveQuery",
]

LOGPROBS, ENCRYPTED = "message.output_text.logprobs", "reasoning.encrypted_content"
INCLUDES = (LOGPROBS, ENCRYPTED)
CHOICE_TYPES = ("function", "allowed_tools")
FORMAT_TYPES = ("text", "json_object", "json_schema")
_NO_BUILT_IN = "there are no built-in tools and no images here: leave it out"
Include = Annotated[
    Literal["message.output_text.logprobs", "reasoning.encrypted_content"],
    only_values("the include", *INCLUDES, instead=_NO_BUILT_IN),
]


def _input(value: Any) -> Any:
    return [{"type": "message", "role": "user", "content": value}] if isinstance(value, str) else value


def _conversation(value: Any) -> Any:
    return {"id": value} if isinstance(value, str) else value


class ConversationId(Strict):
    """A conversation, by its id."""

    id: str


class ReasoningOptions(Strict):
    """The effort that a model is to spend on thinking."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: Annotated[Any, refuse("reasoning is returned whole: leave summary out", "auto")] = None
    generate_summary: Annotated[Any, refuse("reasoning is returned whole: leave it out", "auto")] = None
    context: Annotated[Any, refuse("the chat template decides: leave context out", "auto")] = None
    mode: Annotated[Any, refuse("there is one mode: leave it out", "standard")] = None


class TextFormat(Strict):
    """The format that the text must have."""

    type: Annotated[Literal["text", "json_object", "json_schema"], only_values("the format", *FORMAT_TYPES)]
    name: str | None = Field(None, max_length=64)
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.type == "json_schema" and (self.schema_ is None or self.name is None):
            raise PydanticCustomError("format", "a format of type json_schema needs a name and a schema")
        if self.type != "json_schema" and (self.schema_ is not None or self.name is not None):
            raise PydanticCustomError("format", "name and schema need a format of type json_schema")
        return self


class TextOptions(Strict):
    """Options of the text: its format and length."""

    format: TextFormat | None = None
    verbosity: Annotated[Any, refuse("verbosity is not supported: ask in the input")] = None


def _tool_type(value: Any) -> Any:
    if value != "function":
        raise PydanticCustomError(
            "unsupported",
            "tools of type {kind} are not supported: declare functions, and run them yourself",
            {"kind": repr(value)},
        )
    return value


class ToolSpec(Strict):
    """A function that the model may call."""

    type: Annotated[Literal["function"], BeforeValidator(_tool_type)]
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    allowed_callers: Annotated[Any, refuse("only the model calls: leave allowed_callers out", ["direct"])] = (
        None
    )
    defer_loading: Annotated[Any, refuse("tools are all shown: leave defer_loading out", False)] = None
    output_schema: Annotated[Any, refuse("outputs are not checked: leave output_schema out")] = None


class NamedTool(Strict):
    """The one function that must be called."""

    type: Literal["function"]
    name: str


class AllowedTool(Strict):
    """A function, by name."""

    type: Annotated[Literal["function"], BeforeValidator(_tool_type)]
    name: str


class AllowedTools(Strict):
    """Some of the tools."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[AllowedTool] = Field(min_length=1, max_length=128)


def _choice_kind(value: Any) -> str:
    if isinstance(value, str):
        return f"{TAG_MARK}mode"
    return TAG_MARK + (kind_of(value) or "function")


def _choice_known(value: Any) -> Any:
    kind = kind_of(value)
    if kind and kind not in CHOICE_TYPES:
        raise unsupported(
            f"a tool_choice of type {kind!r} is not supported: send 'function' or 'allowed_tools'"
        )
    return value


class StreamOptions(Strict):
    """Options of a stream: the parts that it carries besides its events."""

    include_obfuscation: Annotated[Any, refuse("stream obfuscation is not supported", False)] = None


class _Prompted(Strict):
    """The parameters that become the prompt, which the counting of tokens and an answer share."""

    input: Annotated[
        list[ItemInput],
        BeforeValidator(_input, json_schema_input_type=str | list[ItemInput]),
        Field(max_length=MAX_ENTRIES),
    ] = Field(default_factory=list[ItemInput])
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: Annotated[
        ConversationId | None,
        BeforeValidator(_conversation, json_schema_input_type=str | ConversationId | None),
    ] = None
    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None
    tools: list[ToolSpec] | None = Field(None, max_length=128)
    tool_choice: (
        Annotated[
            Annotated[Literal["none", "auto", "required"], Tag(f"{TAG_MARK}mode")]
            | Annotated[NamedTool, Tag(f"{TAG_MARK}function")]
            | Annotated[AllowedTools, Tag(f"{TAG_MARK}allowed_tools")],
            Discriminator(_choice_kind),
            BeforeValidator(_choice_known),
        ]
        | None
    ) = None
    parallel_tool_calls: bool | None = None
    truncation: Annotated[
        Any, refuse("nothing is ever cut: shorten the input, or leave truncation out", "disabled")
    ] = None

    @model_validator(mode="after")
    def _one_history(self) -> Self:
        if self.previous_response_id is not None and self.conversation is not None:
            raise crossed(
                "previous_response_id",
                "previous_response_id and conversation exclude each other: send one",
            )
        return self


class InputTokensRequest(_Prompted):
    """`POST /v1/responses/input_tokens`."""

    model: str | None = None
    personality: Annotated[Any, refuse("personalities are not supported: say it in instructions")] = None


class ResponseRequest(_Prompted):
    """`POST /v1/responses`."""

    model: str
    background: bool | None = None
    include: list[Include] | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    metadata: Metadata | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    max_tool_calls: Annotated[Any, refuse("there are no built-in tools: leave max_tool_calls out")] = None
    prompt: Annotated[Any, refuse("prompt templates are not stored here: send the input itself")] = None
    moderation: Annotated[Any, refuse("moderation is not supported yet: leave it out")] = None
    context_management: Annotated[Any, refuse("nothing is ever compacted: leave it out", [])] = None
    background_options: Annotated[Any, refuse("background work begins at once: leave it out")] = None
    access_programs: Annotated[Any, refuse("access programs are not supported: leave it out")] = None
    image: Annotated[Any, refuse("images are not supported: leave image out")] = None
    multi_agent: Annotated[Any, refuse("one model answers: leave multi_agent out")] = None
    prompt_cache_options: Annotated[Any, refuse("prefixes are always cached: leave it out")] = None
    # Harmless labels, which change nothing about the answer.
    user: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    client_metadata: dict[str, Any] | None = Field(
        None, max_length=64, description="Codex's labels of a turn. They change nothing about the answer."
    )

    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="As of chat completions.")
    top_k: int | None = Field(None, ge=-1, description="vLLM's; 0 or -1: off.")
    min_p: float | None = Field(None, ge=0, le=1, description="vLLM's.")
    repetition_penalty: float | None = Field(None, gt=0, le=10, description="vLLM's.")

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise crossed("stream_options", "stream_options needs stream: true")
        if self.background and self.store is False:
            raise crossed("background", "background needs store: true, or nobody could fetch it")
        if (
            not self.input
            and not self.instructions
            and not self.previous_response_id
            and not self.conversation
        ):
            raise crossed("input", "there is nothing to answer: send input")
        if self.top_logprobs and LOGPROBS not in (self.include or ()):
            raise crossed("top_logprobs", f"top_logprobs needs include: ['{LOGPROBS}']")
        return self


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class IncludeQuery(_Query):
    """A part that an answer may include. The server never leaves one out."""

    include: list[Include] | None = None
    include_: list[Include] | None = Field(None, alias="include[]")


class ListQuery(IncludeQuery):
    """One page of a list."""

    after: str | None = Field(None, description="The last id of the page before.")
    limit: int = Field(20, ge=1, le=100)
    order: Literal["asc", "desc"] = "desc"


_BETA = "Accepted: the SDK's `client.beta.responses` sends it. It changes nothing."


class InputItemsQuery(ListQuery):
    """`GET /v1/responses/{id}/input_items`."""

    beta: bool = Field(False, description=_BETA)


class RetrieveQuery(IncludeQuery):
    """`GET /v1/responses/{id}`."""

    beta: bool = Field(False, description=_BETA)
    stream: bool = False
    starting_after: int | None = Field(None, ge=0, description="The last sequence_number that arrived.")
    include_obfuscation: bool = Field(False, description="Must be false: nothing is obfuscated.")
