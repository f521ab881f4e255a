"""The requests of `POST /v1/chat/completions`: messages, tools and formats, as OpenAI documents them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from deepwell.dialogue.tools import ANY_OBJECT, FunctionTool, ToolChoice, allowed, json_format
from deepwell.engine.protocol import Grammar
from deepwell.errors import InvalidRequest
from deepwell.server.attachments.schema import Attaching, ChatPart, joined_text
from deepwell.server.families.chat.audio_schema import AudioBack, AudioOutput
from deepwell.server.families.generation_schema import MAX_ALTERNATIVES, GenerationRequest
from deepwell.server.http.schema import (
    MAX_ENTRIES,
    Metadata,
    Strict,
    counted,
    crossed,
    either,
    only_values,
    refuse,
    unsupported,
)
from deepwell.server.routing.wording import AUTO

__all__ = [
    "CHOICE_TYPES",
    "FORMAT_TYPES",
    "ROLES",
    "ChatMessage",
    "ChatRequest",
    "FunctionSpec",
    "JsonSchemaSpec",
    "ResponseFormat",
    "ToolCallSpec",
    "ToolChoiceSpec",
    "ToolSpec",
    "choose",
]

ROLES = ("system", "developer", "user", "assistant", "tool")
CHOICE_TYPES = ("function", "allowed_tools")
FORMAT_TYPES = ("text", "json_object", "json_schema")
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


def _only_function(kind: Any) -> Any:
    if kind != "function":
        raise unsupported(f"tools of type {kind!r} are not supported: use 'function'")
    return kind


OnlyFunction = Annotated[Literal["function"], BeforeValidator(_only_function)]


class FunctionSpec(Strict):
    """A function's signature."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolSpec(Strict):
    """A tool that the model may call."""

    type: OnlyFunction
    function: FunctionSpec

    def tool(self) -> FunctionTool:
        """Returns the tool as the rest of the server uses it."""
        spec = self.function
        return FunctionTool(spec.name, spec.description or "", spec.parameters or {}, bool(spec.strict))


class FunctionName(Strict):
    """A function, by name."""

    name: str


class NamedTool(Strict):
    """A tool, by name."""

    type: OnlyFunction
    function: FunctionName


class AllowedTools(Strict):
    """Some of the tools."""

    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(min_length=1, max_length=128)


class ToolChoiceObject(Strict):
    """One function, or some of the tools."""

    type: Annotated[Literal["function", "allowed_tools"], only_values("a tool_choice of type", *CHOICE_TYPES)]
    function: FunctionName | None = None
    allowed_tools: AllowedTools | None = None

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        named, some = self.function is not None, self.allowed_tools is not None
        if (named, some) != (self.type == "function", self.type == "allowed_tools"):
            raise PydanticCustomError("tool_choice", "tool_choice needs what its type names, and no more")
        return self


if TYPE_CHECKING:
    ToolChoiceSpec = Literal["none", "auto", "required"] | ToolChoiceObject
else:
    ToolChoiceSpec = either(Literal["none", "auto", "required"], ToolChoiceObject)


def choose(
    tools: list[ToolSpec] | None, choice: str | ToolChoiceObject | None
) -> tuple[tuple[FunctionTool, ...], ToolChoice]:
    """Returns the tools to offer, and which of them must be called."""
    offered = tuple(spec.tool() for spec in tools or ())
    match choice:
        case None:
            return offered, "auto"
        case ToolChoiceObject(function=FunctionName(name=name)):
            return offered, (name,)
        case ToolChoiceObject(allowed_tools=AllowedTools(mode=mode, tools=some)):
            return allowed(offered, [tool.function.name for tool in some], mode)
        case "none" | "required":
            return offered, choice
        case _:
            return offered, "auto"


class CalledFunction(Strict):
    """The function that was called, and its arguments."""

    name: str
    arguments: str


class ToolCallSpec(Strict):
    """A call that the assistant made.

    `index` is its place in the list, as the pieces of a stream number it. Clients that join those pieces, such as Open WebUI,
    send it back.
    """

    id: str = Field(min_length=1, max_length=256)
    type: OnlyFunction
    function: CalledFunction
    index: int | None = Field(None, ge=0, exclude=True)


class JsonSchemaSpec(Strict):
    """A format given by a JSON schema; it holds with `strict` or without."""

    name: Name
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Strict):
    """The format of the text of an answer."""

    type: Annotated[Literal["text", "json_object", "json_schema"], only_values("the format", *FORMAT_TYPES)]
    json_schema: JsonSchemaSpec | None = None

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise PydanticCustomError(
                "response_format", "json_schema belongs to type 'json_schema', which needs it"
            )
        return self

    def grammar(self) -> Grammar | None:
        """Returns the format as a grammar, or None for any text."""
        if self.json_schema is not None:
            return json_format(self.json_schema.schema_ or {"type": "object"})
        return ANY_OBJECT if self.type == "json_object" else None


if TYPE_CHECKING:
    Content = str | list[ChatPart]
else:
    Content = either(str, list[ChatPart])
_Parts = Annotated[list[dict[str, Any]], Field(max_length=MAX_ENTRIES)]


class ChatMessage(Attaching):
    """One turn. The parts of a content that is text alone are joined."""

    role: Annotated[
        Literal["system", "developer", "user", "assistant", "tool"], only_values("the role", *ROLES)
    ]
    content: Annotated[
        Content | None, BeforeValidator(joined_text, json_schema_input_type=str | _Parts | None)
    ] = None
    name: Annotated[Any, refuse("names of participants are not supported: put the name into the content")] = (
        None
    )
    tool_calls: Annotated[list[ToolCallSpec] | None, BeforeValidator(counted)] = Field(None, max_length=128)
    tool_call_id: str | None = None
    # Fields of an assistant message in a response, accepted so that the message can be sent back as it came.
    reasoning_content: str | None = None
    refusal: Annotated[Any, refuse("refusals are not supported")] = None
    annotations: Annotated[Any, refuse("annotations are not supported", [])] = None
    audio: AudioBack | None = Field(
        None, description="A spoken answer, by its id: its text is kept for an hour."
    )
    images: Annotated[list[dict[str, Any]] | None, BeforeValidator(counted)] = Field(
        None,
        description="Accepted: pictures of an answer that is sent back. The content beside them tells of them.",
    )
    function_call: Annotated[Any, refuse("functions are deprecated: use tool_calls")] = None

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        assistant = self.role == "assistant"
        if self.tool_calls and not assistant:
            raise PydanticCustomError("tool_calls", "tool_calls belong to assistant messages")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise PydanticCustomError("tool_call_id", "tool_call_id belongs to tool messages, which need it")
        if self.reasoning_content is not None and not assistant:
            raise PydanticCustomError("reasoning_content", "reasoning_content belongs to assistant messages")
        if (self.audio is not None or self.images is not None) and not assistant:
            raise PydanticCustomError("audio", "audio and images belong to assistant messages")
        if self.content is None and not self.tool_calls and self.audio is None and not self.images:
            raise PydanticCustomError("content", "content is missing")
        if isinstance(self.content, list) and self.role != "user":
            raise crossed("content", f"only messages of users have attachments: send text as {self.role}")
        return self

    @property
    def text(self) -> str | None:
        """The content.

        Raises:
            InvalidRequest: it has attachments, which have not become text.
        """
        if isinstance(self.content, list):
            raise InvalidRequest.of("attachment_elsewhere", param="messages")
        return self.content

    def plain(self) -> dict[str, Any]:
        """Returns the message as `Dialogue` takes it."""
        message: dict[str, Any] = {"role": self.role, "content": self.text}
        if self.content is None and not self.tool_calls:
            message["content"] = ""  # of pictures alone, or spoken: `recalled` finds its text
        if self.tool_calls:
            message["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        if self.reasoning_content is not None:
            message["reasoning_content"] = self.reasoning_content
        return message


class ChatRequest(GenerationRequest):
    """`POST /v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_ENTRIES)
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
    modalities: list[Literal["text", "audio"]] | None = Field(None, min_length=1, max_length=2)
    audio: AudioOutput | None = None
    prediction: Annotated[Any, refuse("predicted outputs are not supported: leave prediction out")] = None
    web_search_options: Annotated[Any, refuse("web search is not supported: leave it out")] = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    chat_template_kwargs: dict[str, bool | int | str] | None = Field(
        None, max_length=16, description="vLLM's; switches of the model's chat template."
    )
    verbosity: Annotated[Any, refuse("verbosity is not supported: ask in the messages")] = None
    moderation: Annotated[Any, refuse("moderation is not supported yet: leave it out")] = None
    store: bool | None = None
    prompt_cache_options: Annotated[Any, refuse("prefixes are always cached: leave it out")] = None
    # Harmless labels, which change nothing about the answer.
    metadata: Metadata | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    @model_validator(mode="after")
    def _chat_coherent(self) -> Self:
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise crossed(
                "max_tokens", "max_tokens and max_completion_tokens differ: send max_completion_tokens alone"
            )
        self._check_audio()
        if self.top_logprobs is not None and not self.logprobs:
            raise crossed("top_logprobs", "top_logprobs needs logprobs: true")
        if self.structured_outputs is not None and self.response_format is not None:
            raise crossed("structured_outputs", "structured_outputs and response_format exclude each other")
        return self

    def _check_audio(self) -> None:
        if self.speaks and self.audio is None:
            raise crossed("audio", "modalities with audio need audio: send its voice and format")
        if self.audio is None:
            return
        if not self.speaks and self.model != AUTO:
            raise crossed("audio", 'audio needs modalities: ["text", "audio"]')
        if self.stream and self.audio.format != "pcm16":
            raise crossed("audio.format", "a stream carries pcm16 alone: send pcm16, or leave out stream")
        if not self.speaks:
            return
        if (self.n or 1) > 1:
            raise crossed("n", "one answer is spoken: leave n out")
        if self.logprobs:
            raise crossed("logprobs", "a spoken answer has no log probabilities: leave logprobs out")
        if self.response_format is not None and self.response_format.type != "text":
            raise crossed("response_format", "a spoken answer is text: leave response_format out")
        if self.structured_outputs is not None:
            raise crossed("structured_outputs", "a spoken answer is text: leave structured_outputs out")

    @property
    def speaks(self) -> bool:
        """Tells whether the request asks for a spoken answer."""
        return "audio" in (self.modalities or ())

    @property
    def limit(self) -> int | None:
        """The most tokens to generate; `None`: what is left of the context."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """The number of alternatives to give log probabilities for; `None`: no log probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None
