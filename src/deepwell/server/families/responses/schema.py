"""The requests of the Responses and Conversations APIs."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from deepwell.server.http.schema import TAG_MARK, Metadata, Strict, kind_of, only_kinds, refuse

__all__ = [
    "FunctionCallInput",
    "FunctionOutputInput",
    "InputTokensRequest",
    "ItemInput",
    "ListQuery",
    "MessageInput",
    "Metadata",
    "ReasoningInput",
    "ResponseRequest",
    "RetrieveQuery",
]

MAX_ITEMS = 2048  # per request
Include = Literal["message.output_text.logprobs"]


Id = Annotated[str, Field(min_length=1, max_length=64)]


class TextPart(Strict):
    """A piece of a message, of whoever wrote it."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: Annotated[Any, refuse("annotations are not supported", [])] = None
    logprobs: Any = None  # accepted because responses carry them: they say nothing to the model


class RefusalPart(Strict):
    """A refusal that is sent back."""

    type: Literal["refusal"]
    refusal: str


def _part_kind(value: Any) -> str:
    return f"{TAG_MARK}refusal" if kind_of(value) == "refusal" else f"{TAG_MARK}text"


Part = Annotated[
    Annotated[TextPart, Tag(f"{TAG_MARK}text")] | Annotated[RefusalPart, Tag(f"{TAG_MARK}refusal")],
    Discriminator(_part_kind),
    only_kinds("content parts", "input_text", "output_text", "text", "refusal"),
]


def _parts(value: Any) -> Any:
    return [{"type": "input_text", "text": value}] if isinstance(value, str) else value


Status = Literal["in_progress", "completed", "incomplete"] | None


class MessageInput(Strict):
    """A turn of the conversation."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[list[Part], BeforeValidator(_parts, json_schema_input_type=str | list[Part])]
    id: Id | None = None
    status: Status = None
    phase: Literal["commentary", "final_answer"] | None = None


class FunctionCallInput(Strict):
    """A call that the model made before."""

    type: Literal["function_call"]
    call_id: str = Field(min_length=1, max_length=256)
    name: str = Field(min_length=1, max_length=128)
    arguments: str
    id: Id | None = None
    status: Status = None
    caller: Annotated[Any, refuse("callers are not supported: leave caller out")] = None
    namespace: Annotated[Any, refuse("namespaces are not supported: leave namespace out")] = None


class FunctionOutputInput(Strict):
    """The result of a function."""

    type: Literal["function_call_output"]
    call_id: str = Field(min_length=1, max_length=256)
    output: Annotated[list[Part], BeforeValidator(_parts, json_schema_input_type=str | list[Part])]
    id: Id | None = None
    status: Status = None


class ReasoningPart(Strict):
    """A piece of reasoning."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningInput(Strict):
    """Reasoning of an earlier answer; the chat template decides what the model sees of it again."""

    type: Literal["reasoning"]
    id: Id | None = None
    summary: list[ReasoningPart] = Field(default_factory=list[ReasoningPart])
    content: list[ReasoningPart] | None = None
    status: Status = None
    encrypted_content: Annotated[Any, refuse("encrypted reasoning cannot be read here: leave it out")] = None


def _item_kind(value: Any) -> str:
    return TAG_MARK + (kind_of(value) or "message")


ItemInput = Annotated[
    Annotated[MessageInput, Tag(f"{TAG_MARK}message")]
    | Annotated[FunctionCallInput, Tag(f"{TAG_MARK}function_call")]
    | Annotated[FunctionOutputInput, Tag(f"{TAG_MARK}function_call_output")]
    | Annotated[ReasoningInput, Tag(f"{TAG_MARK}reasoning")],
    Discriminator(_item_kind),
    only_kinds("items", "message", "function_call", "function_call_output", "reasoning", default="message"),
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

    type: Literal["text", "json_object", "json_schema"]
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


def _choice_kind(value: Any) -> str:
    return TAG_MARK + ("mode" if isinstance(value, str) else "named")


class StreamOptions(Strict):
    """Options of a stream: the parts that it carries besides its events."""

    include_obfuscation: Annotated[Any, refuse("stream obfuscation is not supported", False)] = None


class _Prompted(Strict):
    """The parameters that become the prompt, which the counting of tokens and an answer share."""

    input: Annotated[
        list[ItemInput],
        BeforeValidator(_input, json_schema_input_type=str | list[ItemInput]),
        Field(max_length=MAX_ITEMS),
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
            | Annotated[NamedTool, Tag(f"{TAG_MARK}named")],
            Discriminator(_choice_kind),
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
            raise PydanticCustomError(
                "history", "previous_response_id and conversation exclude each other: send one"
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
    prompt_cache_options: Annotated[Any, refuse("prefixes are always cached: leave it out")] = None
    # Harmless labels, which change nothing about the answer.
    user: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="As of chat completions.")
    top_k: int | None = Field(None, ge=-1, description="vLLM's; 0 or -1: off.")
    min_p: float | None = Field(None, ge=0, le=1, description="vLLM's.")
    repetition_penalty: float | None = Field(None, gt=0, le=10, description="vLLM's.")

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("stream_options", "stream_options needs stream: true")
        if self.background and self.store is False:
            raise PydanticCustomError("background", "background needs store: true, or nobody could fetch it")
        if (
            not self.input
            and not self.instructions
            and not self.previous_response_id
            and not self.conversation
        ):
            raise PydanticCustomError("input", "there is nothing to answer: send input")
        if self.top_logprobs and "message.output_text.logprobs" not in (self.include or ()):
            raise PydanticCustomError(
                "top_logprobs", "top_logprobs needs include: ['message.output_text.logprobs']"
            )
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


class RetrieveQuery(IncludeQuery):
    """`GET /v1/responses/{id}`."""

    stream: bool = False
    starting_after: int | None = Field(None, ge=0, description="The last sequence_number that arrived.")
    include_obfuscation: bool = Field(False, description="Must be false: nothing is obfuscated.")
