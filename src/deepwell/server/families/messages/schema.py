"""The requests and bodies of Anthropic's Messages API."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, WithJsonSchema, model_validator

from deepwell.server.attachments.schema import Attachment
from deepwell.server.http.schema import (
    MAX_ENTRIES,
    TAG_MARK,
    Strict,
    counted,
    crossed,
    kind_of,
    only_kinds,
    refuse,
    unsupported,
)

__all__ = [
    "AssistantBlock",
    "CountTokensRequest",
    "ImageBlock",
    "MessagesRequest",
    "TextBlock",
    "ThinkingBlock",
    "ToolResultBlock",
    "ToolUseBlock",
    "UserBlock",
]

MAX_STOPS = 16
# Coding tools send this edit of the context, which edits nothing.
_KEEP_THINKING = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}


class CacheControl(Strict):
    """A place at which to cache a prefix. Prefixes are always cached, so this changes nothing."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextBlock(Strict):
    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: Annotated[Any, refuse("citations are not supported: leave them out", [])] = None


class ImageSource(Strict):
    """The bytes of an image in base64, its address, or the id of an uploaded file."""

    type: Literal["base64", "url", "file"]
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"] | None = None
    data: str | None = Field(None, min_length=1)
    url: str | None = Field(None, min_length=1)
    file_id: str | None = Field(None, min_length=1, max_length=64)

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        named = {"base64": self.data, "url": self.url, "file": self.file_id}
        if [key for key, value in named.items() if value is not None] != [self.type]:
            raise crossed("type", "a source needs what its type names (data, url or file_id), and no more")
        return self


class ImageBlock(Strict):
    type: Literal["image"]
    source: ImageSource
    cache_control: CacheControl | None = None

    def attachment(self) -> Attachment:
        """Returns the block as the rest of the server uses it."""
        own = self.source
        return Attachment("image", own.data, own.url, own.file_id)


class ToolUseBlock(Strict):
    type: Literal["tool_use"]
    id: str = Field(min_length=1, max_length=256)
    name: str = Field(min_length=1, max_length=128)
    input: dict[str, Any]
    cache_control: CacheControl | None = None
    caller: Annotated[Any, refuse("only the model calls: leave caller out", {"type": "direct"})] = None


def _text_blocks(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else counted(value)


_Most = Field(max_length=MAX_ENTRIES)
Texts = Annotated[
    list[TextBlock],
    BeforeValidator(_text_blocks, json_schema_input_type=str | Annotated[list[TextBlock], _Most]),
]


ResultTexts = Annotated[
    list[Annotated[TextBlock, only_kinds("parts of a tool's result", "text")]],
    BeforeValidator(_text_blocks, json_schema_input_type=str | Annotated[list[TextBlock], _Most]),
]


class ToolResultBlock(Strict):
    type: Literal["tool_result"]
    tool_use_id: str = Field(min_length=1, max_length=256)
    content: ResultTexts = Field(default_factory=list[TextBlock])
    is_error: bool | None = None
    cache_control: CacheControl | None = None


class ThinkingBlock(Strict):
    type: Literal["thinking"]
    thinking: str
    signature: str = ""


def _kind(value: Any) -> str:
    return TAG_MARK + kind_of(value)


UserBlock = Annotated[
    Annotated[TextBlock, Tag(f"{TAG_MARK}text")]
    | Annotated[ImageBlock, Tag(f"{TAG_MARK}image")]
    | Annotated[ToolResultBlock, Tag(f"{TAG_MARK}tool_result")],
    Discriminator(_kind),
    only_kinds("blocks of users", "text", "image", "tool_result"),
]
AssistantBlock = Annotated[
    Annotated[TextBlock, Tag(f"{TAG_MARK}text")]
    | Annotated[ToolUseBlock, Tag(f"{TAG_MARK}tool_use")]
    | Annotated[ThinkingBlock, Tag(f"{TAG_MARK}thinking")],
    Discriminator(_kind),
    only_kinds("blocks of the assistant", "text", "tool_use", "thinking"),
]


class UserMessage(Strict):
    role: Literal["user"]
    content: Annotated[
        list[UserBlock],
        BeforeValidator(_text_blocks, json_schema_input_type=str | Annotated[list[UserBlock], _Most]),
    ]


class AssistantMessage(Strict):
    role: Literal["assistant"]
    content: Annotated[
        list[AssistantBlock],
        BeforeValidator(_text_blocks, json_schema_input_type=str | Annotated[list[AssistantBlock], _Most]),
    ]


def _role(value: Any) -> str:
    return TAG_MARK + kind_of(value, "role")


Turn = Annotated[
    Annotated[UserMessage, Tag(f"{TAG_MARK}user")] | Annotated[AssistantMessage, Tag(f"{TAG_MARK}assistant")],
    Discriminator(_role),
    only_kinds("messages", "user", "assistant", key="role"),
]


def _custom(value: Any) -> Any:
    if value not in (None, "custom"):
        raise unsupported(f"tools of type {value!r} are not supported: declare tools, and run them yourself")
    return value


class Tool(Strict):
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    input_schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None
    type: Annotated[Literal["custom"] | None, BeforeValidator(_custom)] = None
    cache_control: CacheControl | None = None
    allowed_callers: Annotated[Any, refuse("only the model calls: leave allowed_callers out", ["direct"])] = (
        None
    )
    defer_loading: Annotated[Any, refuse("tools are all shown: leave defer_loading out", False)] = None
    input_examples: Annotated[Any, refuse("put examples into the description", [])] = None
    eager_input_streaming: Annotated[Any, refuse("inputs always stream: leave it out", True, False)] = None


class ToolChoice(Strict):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Strict):
    type: Annotated[
        Literal["disabled", "adaptive"],
        BeforeValidator(
            lambda kind: (
                _raise("a budget of thoughts cannot be kept: use 'adaptive'") if kind == "enabled" else kind
            )
        ),
    ]
    display: Literal["summarized", "omitted"] | None = None
    budget_tokens: Annotated[Any, refuse("a budget of thoughts cannot be kept: leave it out")] = None


def _raise(reason: str) -> Any:
    raise unsupported(reason)


class JsonFormat(Strict):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Strict):
    format: JsonFormat | None = None
    effort: Annotated[Any, refuse("the effort of this model cannot be set: leave it out", "high")] = None


class Labels(Strict):
    user_id: str | None = Field(None, max_length=512)


class CountTokensRequest(Strict):
    """`POST /v1/messages/count_tokens`: all that becomes the prompt."""

    model: str
    messages: list[Turn] = Field(min_length=1, max_length=MAX_ENTRIES)
    system: Texts = Field(default_factory=list[TextBlock])
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None


def _no_thread(value: Any) -> Any:
    if value is None:
        return None
    # SDKs that begin a thread by themselves go on without one if the error carries this code.
    raise unsupported(
        "threads are not kept here: send the whole conversation without thread",
        error_code="thread_unsupported_request",
    )


class MessagesRequest(CountTokensRequest):
    """`POST /v1/messages`."""

    thread: Annotated[
        Any,
        BeforeValidator(
            _no_thread,
            json_schema_input_type=Annotated[
                Any,
                WithJsonSchema({"enum": [None], "description": "Otherwise refused: threads are not kept."}),
            ],
        ),
    ] = None
    container: Annotated[Any, refuse("there are no containers here: leave container out")] = None
    context_management: Annotated[
        Any, refuse("nothing is ever compacted: leave it out", {"edits": []}, _KEEP_THINKING)
    ] = None
    fallbacks: Annotated[Any, refuse("one model answers: leave fallbacks out", [])] = None
    inference_geo: Annotated[Any, refuse("the server runs where it is: leave inference_geo out")] = None
    mcp_servers: Annotated[Any, refuse("tools are run by you: leave mcp_servers out", [])] = None
    speed: Annotated[Any, refuse("there is one speed: leave speed out", "standard")] = None

    max_tokens: int = Field(ge=1)
    stop_sequences: list[Annotated[str, Field(min_length=1)]] | None = Field(None, max_length=MAX_STOPS)
    stream: bool | None = None
    temperature: float | None = Field(None, ge=0, le=1)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0)
    # Harmless labels, which change nothing about the answer.
    metadata: Labels | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
